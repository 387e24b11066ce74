"""The HTML page of a run: one file that can be kept, sent and opened anywhere."""

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from siameselib import _check
from siameselib.files import read_json, read_json_lines, replacing
from siameselib.report.verdict import check_run, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture: TypeAlias = "bytes | str | os.PathLike[str] | Figure"

# What a trainer draws, in the order in which it is looked at.
_PICTURES = {
    "training": ("Training", "The loss beside that of a net that has learnt nothing."),
    "distances": (
        "Scores and the threshold",
        "Same and different pairs. What lies on the wrong side of the line is judged wrongly.",
    ),
    "roc": ("ROC", "Every threshold is one point; the dot is where both errors are as frequent."),
    "det": ("DET", "The same, at low error rates. Dotted: fewer than ten errors stand behind it."),
    "reliability": (
        "Reliability",
        "How often a probability came true: on the diagonal it is right.",
    ),
    "neighbours": ("Nearest neighbours", "What the net finds most alike, among all test photos."),
    "false-accepts": ("Hardest false accepts", "Different people that the net takes for one."),
    "false-rejects": ("Hardest false rejects", "One person that the net takes for two."),
    "embeddings": ("Map of the embeddings", "Photos that the net finds alike lie close together."),
}
_FIGURES = {
    "protocol": "protocol",
    "n_pairs": "test pairs",
    "n_same": "of them same",
    "accuracy": "accuracy",
    "accuracy_se": "its standard error",
    "threshold": "threshold",
    "auc": "area under the ROC (AUC)",
    "eer": "equal error rate (EER)",
    "d_prime": "distance of both kinds of score, in spreads (d′)",
}
_RATES = {"accuracy": "accuracy", "far": "false-accept rate", "frr": "false-reject rate"}
_LEFT_OUT = {"tar_at_far", "folds", "rates", "versions"}
_SEVERITIES = ("critical", "warning", "note")
_LAST_EPOCHS = 200
_STYLE = """
:root { color-scheme: light; --ink: #1d1d1f; --soft: #5c5c61; --line: #d9d9de; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } .soft, figcaption { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 400; }
.verdict { border-left: 4px solid #0072B2; padding: .1rem 1rem; }
.verdict p { font-size: 1.2rem; margin: .3rem 0; } .verdict ul { margin: .3rem 0; }
.finding { border-left: 4px solid var(--line); padding: .3rem 0 .3rem 1rem; margin: .8rem 0; }
.finding.critical { border-color: #D55E00; } .finding.warning { border-color: #E69F00; }
.finding p { margin: .2rem 0; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; border: 1px solid var(--line); }
.pair { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.wide { grid-column: 1 / -1; } code { overflow-wrap: anywhere; } summary { cursor: pointer; }
@media print { body { margin: 0; max-width: none; font-size: 13px; }
  figure, .finding, tr { break-inside: avoid; } h2, h3, figcaption { break-after: avoid; }
  .pair { display: block; column-count: 2; } .wide { column-span: all; }
  img { max-height: 20cm; } }
"""
_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
) -> Path:
    """Put what a run left in its folder onto one page.

    Takes ``result.json``, and where they are there ``history.jsonl`` (one epoch a line),
    ``doctor.json`` (a list of findings, or an object with ``findings``) and every ``.png``.

    Args:
        folder: where the run wrote to.
        path: the page; ``report.html`` in the folder by default.
        title: instead of the protocol and the folder's name.

    Returns:
        The page.

    Raises:
        FileNotFoundError: There is no ``result.json`` in the folder.
        ValueError: A file is not what its name promises.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "result.json").write_text('{"protocol": "mine", "auc": 0.9}')
        >>> write_report(folder).name
        'report.html'
    """
    folder = _check.path("write_report", "folder", folder)
    if not (folder / "result.json").is_file():
        expected = "hold the result.json of a run"
        raise _check.refuse("write_report", "folder", expected, str(folder), FileNotFoundError)
    result = read_json("write_report", folder / "result.json")
    lines, doctor = folder / "history.jsonl", folder / "doctor.json"
    history = read_json_lines("write_report", lines) if lines.is_file() else []
    findings = read_json("write_report", doctor, (list, dict)) if doctor.is_file() else None
    if isinstance(findings, dict):
        findings = findings.get("findings", [])
    drawn = {file.stem: file for file in sorted(folder.glob("*.png"))}
    known = [name for name in _PICTURES if name in drawn]
    order = [*known, *(name for name in drawn if name not in _PICTURES)]
    page = report_page(
        result,
        history=history,
        findings=findings,
        pictures={name: drawn[name] for name in order},
        title=title or " · ".join(filter(None, [result.get("protocol"), folder.resolve().name])),
    )
    path = folder / "report.html" if path is None else _check.path("write_report", "path", path)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def report_page(
    result: Mapping[str, Any],
    *,
    history: Sequence[Mapping[str, Any]] = (),
    findings: Iterable[Mapping[str, Any]] | None = None,
    pictures: Mapping[str, Picture] | None = None,
    title: str = "Report",
) -> str:
    """Write figures, pictures and their meaning as one HTML page that fetches nothing.

    Args:
        result: the figures, as in `verdict`; everything else in it is listed as a setting.
        history: one mapping per epoch.
        findings: what a doctor found: ``code``, ``severity`` ("critical", "warning", "note"),
            ``seen``, ``why``, ``do``, and ``link`` or ``page``. None: no doctor was asked; empty:
            nothing found.
        pictures: by name. PNG bytes, a path to a PNG, or a matplotlib figure; the names that the
            trainer uses ("roc", "training" …) get their heading and an explanation.
        title: the heading.

    Returns:
        The page.

    Raises:
        ValueError: A picture is no PNG, or a finding's severity is unknown.
        TypeError: Figures, an epoch, a finding or the pictures are no mapping; a picture is of
            another kind.

    Example:
        >>> page = report_page({"auc": 0.9}, title="Mine")
        >>> "A same pair scores above a different pair with a chance of 90.0 %" in page
        True
    """
    check_run("report_page", result, history)
    if not isinstance(title, str):
        raise _check.refuse("report_page", "title", "be words", repr(title), TypeError)
    if findings is not None and not isinstance(findings, Iterable):
        expected = "be a list of findings, such as report.as_dict()['findings']"
        got = type(findings).__name__
        raise _check.refuse("report_page", "findings", expected, got, TypeError)
    if pictures is not None:
        _check.mapping("report_page", "pictures", pictures, '{"roc": "roc.png"}')
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subject(result))}</p>',
        *_words(verdict(result, history)),
        *([] if findings is None else _card(list(findings))),
        "<h2>Figures</h2>",
        _figures(result),
        *_folds(result.get("folds") or []),
        *_gallery(pictures or {}),
        *_epochs(history),
        *_settings(result),
    ]
    return _FRAME.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def _subject(result: Mapping[str, Any]) -> str:
    """What was trained, in a line."""
    size = result.get("image_size")
    words = [
        f"trained on {result['train_on']}" if "train_on" in result else "",
        f"loss {result['loss']}" if "loss" in result else "",
        f"head {result['head']}" if result.get("head") else "",
        f"{result.get('backbone', '')}{f' at {size} px' if size else ''}",
        f"{result['epochs']} epochs" if "epochs" in result else "",
        f"{result['seconds'] / 60:.0f} minutes" if "seconds" in result else "",
    ]
    return ", ".join(filter(None, words))


def _words(said: Sequence[str]) -> list[str]:
    """The verdict: its first sentence stands out."""
    if not said:
        return ["<p>There are no figures to speak of.</p>"]
    first, *others = map(escape, said)
    listed = f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in others)}</ul>"
    return [
        "<h2>In words</h2>",
        f'<div class="verdict"><p>{first}</p>{listed if others else ""}</div>',
    ]


def _card(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The doctor's findings, gravest first."""
    for finding in findings:
        _check.mapping("report_page", "each finding", finding, "report.findings[0].as_dict()")
        _check.choice("report_page", "severity", finding.get("severity"), _SEVERITIES)
    parts = ["<h2>What the doctor says</h2>"]
    if not findings:
        parts.append("<p>Nothing found.</p>")
    for finding in sorted(findings, key=lambda each: _SEVERITIES.index(each["severity"])):
        words = ("seen", "why", "do")
        lines = [f"<p><b>{w}:</b> {escape(str(finding[w]))}</p>" for w in words if finding.get(w)]
        more = str(finding.get("link") or finding.get("page") or "")
        if more.startswith(("https://", "http://")):
            lines.append(f'<p><a href="{escape(more)}">more</a></p>')
        elif more:
            lines.append(f'<p class="soft">more: {escape(more)}</p>')
        grave, code = escape(finding["severity"]), escape(str(finding.get("code", "")))
        head = f'<h3>{code} <span class="soft">({grave})</span></h3>'
        parts.append(f'<div class="finding {grave}">{head}{"".join(lines)}</div>')
    return parts


def _figures(result: Mapping[str, Any]) -> str:
    rows = [(name, result[key]) for key, name in _FIGURES.items() if result.get(key) is not None]
    rates = result.get("rates") or {}
    for rate, name in _RATES.items():
        found = rates.get(rate) or {}
        if {"low", "high"} <= found.keys():
            rows.append((f"{name}, 95 % interval", f"{found['low']:.4f} to {found['high']:.4f}"))
    for far, tar in (result.get("tar_at_far") or {}).items():
        rows.append((f"TAR at FAR {far}", tar["text"] if isinstance(tar, dict) else tar))
    return _table(rows)


def _folds(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    if not folds:
        return []
    names = ("accuracy", "auc", "eer", "n_pairs")
    rows = [(k, *(fold.get(name) for name in names)) for k, fold in enumerate(folds, 1)]
    return ["<h2>Folds</h2>", _table(rows, ("fold", *names))]


def _gallery(pictures: Mapping[str, Picture]) -> list[str]:
    if not pictures:
        return []
    parts = ["<h2>Pictures</h2>", '<div class="pair">']
    for name, picture in pictures.items():
        heading, words = _PICTURES.get(name, (name.replace("-", " "), ""))
        data = base64.b64encode(_png(name, picture)).decode()
        image = f'<img alt="{escape(heading)}" src="data:image/png;base64,{data}">'
        narrow = name in {"roc", "det", "training", "distances", "reliability"}
        parts.append(
            f"<figure{'' if narrow else ' class=wide'}><h3>{escape(heading)}</h3>"
            f"<figcaption>{escape(words)}</figcaption>{image}</figure>"
        )
    return [*parts, "</div>"]


def _png(name: str, picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        data = picture
    elif isinstance(picture, (str, os.PathLike)):
        if not Path(picture).is_file():
            expected, got = "be files that are there", f"{picture} for {name!r}"
            raise _check.refuse("report_page", "pictures", expected, got, FileNotFoundError)
        data = Path(picture).read_bytes()
    elif hasattr(picture, "savefig"):
        drawn = io.BytesIO()
        picture.savefig(drawn, format="png")
        data = drawn.getvalue()
    else:
        expected = "be PNG bytes, a path or a matplotlib figure"
        got = f"{type(picture).__name__} for {name!r}"
        raise _check.refuse("report_page", "pictures", expected, got, TypeError)
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        expected, got = "be PNG files", f"something else for {name!r}"
        raise _check.refuse("report_page", "pictures", expected, got)
    return data


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[str]:
    if not history:
        return []
    names = list(dict.fromkeys(name for line in history for name in line))
    shown = history[-_LAST_EPOCHS:]
    rows = [tuple(line.get(name) for name in names) for line in shown]
    what = f"{len(history)} epochs" if len(shown) == len(history) else f"last {len(shown)} epochs"
    return [f"<details><summary>{what}</summary>", _table(rows, names), "</details>"]


def _settings(result: Mapping[str, Any]) -> list[str]:
    rest = {k: v for k, v in result.items() if k not in _FIGURES.keys() | _LEFT_OUT}
    rows = [(k.replace("_", " "), v) for k, v in rest.items()]
    rows += (result.get("versions") or {}).items()
    if not rows:
        return []
    return ["<details open><summary>How it was made</summary>", _table(rows), "</details>"]


def _table(rows: Iterable[Sequence[Any]], names: Sequence[str] = ()) -> str:
    cells = [[_cell(value) for value in row] for row in rows]
    body = "".join(f"<tr><th>{a}</th>{''.join(f'<td>{c}</td>' for c in r)}</tr>" for a, *r in cells)
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
    return (
        f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(value if isinstance(value, str) else json.dumps(value))
