"""The report of a run: what it says, and that it needs nothing but itself."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from siameselib import plot
from siameselib.report import report_page, verdict, write_report

RESULT = {
    "protocol": "lfw-view-1",
    "train_on": "pairs",
    "loss": "bce",
    "head": "interaction",
    "backbone": "c19",
    "image_size": 64,
    "epochs": 8,
    "seconds": 720.0,
    "n_pairs": 1000,
    "n_same": 500,
    "accuracy": 0.792,
    "accuracy_se": 0.0128,
    "threshold": 0.357,
    "auc": 0.87,
    "eer": 0.207,
    "d_prime": None,
    "validation_pairs": 400,
    "tar_at_far": {
        "0.1": {"value": 0.618, "text": "0.618"},
        "0.01": {"value": None, "text": "not measurable: 5 false accepts"},
    },
    "versions": {"torch": "2.13.0"},
    "command": "train.py --loss bce <&>",
}
HISTORY = [
    {"epoch": e, "loss": 0.7 - e / 20, "trivial": 0.69, "val_auc": 0.8, "val_accuracy": 0.79}
    for e in range(1, 6)
]
FINDINGS = [
    {"code": "pairs-few", "severity": "note", "seen": "200 pairs", "why": "noise", "do": "more"},
    {
        "code": "collapse",
        "severity": "critical",
        "seen": "std < 0.01 & falling",
        "why": "all alike",
        "do": "lower the rate",
        "page": "docs/doctor.md#collapse",
    },
]
EMPTY = {"area", "base", "br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """The tags, the texts and what lies around each; complains of a tag that is closed wrongly."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if data.strip() and "style" not in self.open:
            self.texts.append(data.strip())

    def cells(self):
        return dict(zip(self.texts, self.texts[1:], strict=False))


def png():
    import io

    data = io.BytesIO()
    plot.roc([1, 0], [1, 0]).savefig(data, format="png", dpi=20)
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run <1>"
    run.mkdir()
    (run / "result.json").write_text(json.dumps(RESULT))
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
    (run / "doctor.json").write_text(json.dumps({"findings": FINDINGS, "healthy": False}))
    for name in ("my-own", "training", "roc"):
        (run / f"{name}.png").write_bytes(png())
    return run


def test_one_file_that_needs_no_other(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    pictures = [values for tag, values in page.tags if tag == "img"]
    assert [values["alt"] for values in pictures] == ["Training", "ROC", "my own"]
    for values in pictures:
        start, data = values["src"].split(",")
        assert start == "data:image/png;base64"
        assert base64.b64decode(data) == png()
    links = [v for _, values in page.tags for k, v in values.items() if k in {"href", "src"}]
    assert all(link.startswith("data:") for link in links)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert [file.name for file in folder.glob(".*")] == []


def test_everything_is_on_it(folder):
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.texts[0] == "lfw-view-1 · run <1>" == page.texts[1]
    assert page.texts[2] == (
        "trained on pairs, loss bce, head interaction, c19 at 64 px, 8 epochs, 12 minutes"
    )
    for sentence in verdict(RESULT, HISTORY):
        assert sentence in page.texts
    cells = page.cells()
    assert cells["accuracy"] == "0.792"
    assert cells["TAR at FAR 0.01"] == "not measurable: 5 false accepts"
    assert cells["command"] == "train.py --loss bce <&>"
    assert cells["torch"] == "2.13.0"
    assert "5 epochs" in page.texts
    assert page.texts.index("collapse") < page.texts.index("pairs-few")  # the graver first
    assert "std < 0.01 & falling" in page.texts
    assert "more: docs/doctor.md#collapse" in page.texts


def test_what_is_not_there_is_left_out(tmp_path):
    (tmp_path / "result.json").write_text('{"protocol": "mine"}')
    page = Page(write_report(tmp_path, tmp_path / "a" / "b.html", title="T").read_text())
    assert (tmp_path / "a" / "b.html").is_file()
    assert "There are no figures to speak of." in page.texts
    for heading in ("What the doctor says", "Pictures", "Folds"):
        assert heading not in page.texts
    asked = Page(report_page({}, findings=[]))
    assert asked.texts[asked.texts.index("What the doctor says") + 1] == "Nothing found."


def test_links_lead_to_the_web_only():
    finding = {"code": "c", "severity": "note", "link": "https://example.org/a?b=1&c=2"}
    page = Page(report_page({}, findings=[finding]))
    assert ("a", {"href": "https://example.org/a?b=1&c=2"}) in page.tags
    page = Page(report_page({}, findings=[{**finding, "link": "javascript:alert(1)"}]))
    assert "a" not in [tag for tag, _ in page.tags]


def test_folds_and_intervals():
    folds = [{"accuracy": 0.8, "auc": 0.9, "eer": 0.2, "n_pairs": 600}] * 3
    result = {"accuracy": 0.8, "accuracy_se": 0.01, "n_pairs": 1800, "folds": folds}
    page = Page(report_page(result))
    assert (
        "80.0 % of 1,800 test pairs are judged correctly, ± 1.0 (standard error over 3 folds)."
        in (page.texts)
    )
    assert page.texts.count("600") == 3
    rates = {"accuracy": {"value": 0.8, "low": 0.76, "high": 0.84}, "far": None}
    page = Page(report_page({**RESULT, "rates": rates}))
    assert page.cells()["accuracy, 95 % interval"] == "0.7600 to 0.8400"
    assert any("is 76.0 % to 84.0 %" in text for text in page.texts)


def test_figures_are_drawn_into_the_page(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    figure = plot.roc([1, 0], [1, 0])
    page = report_page({}, pictures={"roc": figure, "a": tmp_path / "a.png", "b": png()})
    found = re.findall(r"base64,([^\"]+)", page)
    assert len(found) == 3
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)


SAID = {
    "guessing": ({"accuracy": 0.52, "n_same": 500}, [], "cannot be told apart from guessing"),
    "uneven": ({"accuracy": 0.792, "n_same": 200}, [], "guessing, which is right on 80.0 %"),
    "upside down": ({"auc": 0.2}, [], "upside down"),
    "threshold": ({"eer": 0.1}, [], "90.0 % would be right, 10.8 points more"),
    "not learnt": ({}, [{"loss": 0.69, "trivial": 0.69}], "It has not begun to learn."),
    "rising": ({}, [{"val_auc": a} for a in (0.6, 0.7, 0.75, 0.8)], "still rising (by 10.0 points"),
    "falling": ({}, [{"val_auc": a} for a in (0.6, 0.8, 0.75, 0.7)], "best in epoch 2 (80.0 %)"),
    "easy validation": ({}, [{"val_accuracy": 0.95}], "judged 15.8 points better than test pairs"),
    "measurable": (
        {"tar_at_far": {"0.01": {"value": 0.4}, "0.001": {"value": 0.2}}},
        [],
        "At a false-accept rate of 0.1 %, 20.0 % of the same pairs are accepted.",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_a_sentence_is_said_where_the_figures_carry_it(name):
    changed, history, words = SAID[name]
    assert words in " ".join(verdict({**RESULT, **changed}, history))
    if name != "measurable":
        assert words not in " ".join(verdict(RESULT, HISTORY))


def test_figures_that_are_no_numbers_are_not_spoken_of():
    broken = {"accuracy": float("nan"), "accuracy_se": 0.1, "auc": None, "eer": True}
    assert verdict(broken, [{"loss": float("inf"), "trivial": 1.0}]) == []
    Page(report_page(broken, history=[{"loss": float("inf")}]))


def test_few_pairs_make_no_news():
    """Two standard errors of both sets of pairs lie between chance and a difference."""
    few = {**RESULT, "validation_pairs": 20}
    assert verdict(few, [{"val_accuracy": 0.9}]) == verdict(few, [{"val_accuracy": 0.79}])


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda d: (d / "result.json").unlink(), FileNotFoundError, "must hold the result.json"),
        (lambda d: (d / "result.json").write_text("{"), ValueError, "result.json must be JSON"),
        (lambda d: (d / "result.json").write_text("[]"), ValueError, "a JSON object, got list"),
        (lambda d: (d / "history.jsonl").write_text("{}\nx"), ValueError, "history.jsonl must be"),
        (lambda d: (d / "roc.png").write_text("no"), ValueError, "PNG files, .* for 'roc'"),
        (
            lambda d: (d / "doctor.json").write_text('[{"code": "a", "severity": "bad"}]'),
            ValueError,
            "severity must be one of 'critical', 'warning', 'note', got 'bad'",
        ),
    ],
)
def test_bad_files_are_refused(folder, spoil, kind, message):
    write_report(folder)
    before = (folder / "report.html").read_bytes()
    spoil(folder)
    with pytest.raises(kind, match=message):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_picture_of_another_kind_is_refused():
    with pytest.raises(
        TypeError, match="PNG bytes, a path or a matplotlib figure, got int for 'a'"
    ):
        report_page({}, pictures={"a": 3})
