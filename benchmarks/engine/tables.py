"""From the cells that were measured to a Markdown page, a picture and the promised ratios."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import pages
from siameselib.files import replacing

PML = "pytorch-metric-learning"
PROMISES = (  # case, rows, times as fast as PML, part of its memory; at M = 8, D = 128
    ("batch-hard", 8192, 15, 15),
    ("batch-all", 1024, 50, 30),
    ("batch-all", 4096, 40, 30),
    ("semi-hard window", 4096, 30, 40),
    ("contrastive", 8192, 6, 20),
    ("SupCon", 8192, 6, 30),
    ("NT-Xent", 256, 1000, 100),
)
NOISE = 1.03
ACROSS = 6  # losses in a line of the picture
TIMES, SIZES = (0.3, 1e5), (0.5, 3e4)  # its axes, ms and MiB

Cell = dict[str, Any]


def text(kept: dict[str, Any]) -> str:
    """Draw the page: machine, promises, and one section a loss."""
    commits = sorted({f"`{cell['commit']}`" for cell in kept["cells"] if "commit" in cell})
    lines = [
        f"{measured(kept)} At {', '.join(commits) or 'no commit yet'}: engine.json says which cell "
        "at which.",
        "",
        "B rows a batch, M of each identity, D dimensions. Median of forward and backward, the "
        "peers in turns of 20 ms or one call, each in a process of its own; memory is how far the "
        "peak of the process grew. Batches of unit vectors in noisy clusters, margin 0.2, "
        "temperature 0.1; losses of classes have 10,000 of them. InfoNCE takes half of the rows "
        "against the other half.",
        "",
        "## What was promised",
        "",
        *promises(kept["cells"]),
    ]
    sections: dict[str, dict[tuple[int, int], list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in kept["cells"]:
        sections[cell["case"]][-cell["per_class"], cell["width"]].append(cell)
    for case, groups in sorted(sections.items(), key=lambda item: item[0].lower()):
        errors = ", ".join(f"{k} {v:.2f}" for k, v in kept["parity"][case].items())
        lines += ["", f"## {case}", "", f"Error as a share of what is allowed: {errors}."]
        for (per_class, width), cells in sorted(groups.items()):
            lines += ["", f"M = {-per_class}, D = {width}:", "", *table(cells)]
    return "\n".join(lines) + "\n"


def measured(kept: dict[str, Any]) -> str:
    """Say when, on what and with what."""
    machine = kept["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    return (
        f"Measured until {machine['date']} on {machine['processor']}, {machine['threads']} "
        f"threads; {versions}."
    )


def summary(cells: list[Cell]) -> str:
    """Draw the table of the README: one size a loss, ours beside PML."""
    found = _lookup(cells)
    lines = [
        f"| loss, rows | siameselib | {PML} | times as fast | part of the memory |",
        "|---|---|---|---|---|",
    ]
    for case, rows, *_ in PROMISES:
        ours, theirs = (found.get((case, rows, 8, 128, n)) for n in ("siameselib", PML))
        speed, part = _ratios(ours, theirs)
        shown = " | ".join([_shown(ours), _shown(theirs), speed, part])
        lines.append(f"| {case}, {rows:,} | {shown} |")
    return "\n".join(lines)


def _ratios(ours: Cell | None, theirs: Cell | None) -> tuple[str, str]:
    if ours is None or theirs is None or "seconds" not in ours or "seconds" not in theirs:
        return (missing := (theirs or {}).get("failed", "not measured")), missing
    part = theirs["bytes"] / max(ours["bytes"], 1 << 20)
    return f"{theirs['seconds'] / ours['seconds']:.1f}", f"1/{part:.0f}"


def promises(cells: list[Cell]) -> list[str]:
    """Say what was promised, and what was measured."""
    found = _lookup(cells)
    lines = [
        "| loss | B | times as fast as PML | promised | part of PML's memory | promised |",
        "|---|---|---|---|---|---|",
    ]
    for case, rows, speed, memory in PROMISES:
        ours, theirs = (found.get((case, rows, 8, 128, n)) for n in ("siameselib", PML))
        fast, part = _ratios(ours, theirs)
        lines.append(f"| {case} | {rows:,} | {fast} | {speed} | {part} | 1/{memory} |")
    slower = [
        f"{cell['case']} at B = {cell['rows']:,}, M = {cell['per_class']}, D = {cell['width']}: "
        f"{1e3 * cell['seconds']:.2f} ms, {name} {1e3 * other['seconds']:.2f} ms"
        for k, cell in found.items()
        if k[4] == "siameselib" and "seconds" in cell
        for name in (PML, "sentence-transformers", "dense")
        if (other := found.get((*k[:4], name))) and "seconds" in other
        if cell["seconds"] > NOISE * other["seconds"]
    ]
    lines += ["", "Slower than a peer by more than 3 %:", ""]
    lines += [f"- {each}" for each in slower] or ["- nothing"]
    return lines


def table(cells: list[Cell]) -> list[str]:
    """Draw the sizes of one loss as rows and the peers as columns."""
    peers = list(dict.fromkeys(cell["peer"] for cell in cells))
    lines = ["| B | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for rows in sorted({cell["rows"] for cell in cells}):
        of_size = {cell["peer"]: cell for cell in cells if cell["rows"] == rows}
        shown = [_shown(of_size.get(name)) for name in peers]
        lines.append(f"| {rows:,} | " + " | ".join(shown) + " |")
    return lines


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if "seconds" not in cell:
        return str(cell.get("failed") or cell["skipped"])
    time = 1e3 * cell["seconds"]
    digits = 2 if time < 10 else 1 if time < 100 else 0
    return f"{time:,.{digits}f} ms, {cell['bytes'] / 2**20:,.0f} MiB"


def _lookup(cells: list[Cell]) -> dict[Any, Cell]:
    names = ("case", "rows", "per_class", "width", "peer")
    return {tuple(cell[n] for n in names): cell for cell in cells}


def write(kept: dict[str, Any], folder: Path) -> None:
    """Write engine.md and engine.png."""
    pages.write_text(folder / "engine.md", "# The engine on the CPU\n\n" + text(kept))
    if kept["cells"]:
        with replacing(folder / "engine.png") as temporary:
            _draw(kept["cells"], temporary)


def in_page(kept: dict[str, Any], page: Path, *, write: bool = True) -> bool:
    """Put the summary into a page, or only look; tell whether it was out of date."""
    content = f"{measured(kept)}\n\n{summary(kept['cells'])}"
    return pages.update(page, "engine", content, write=write)


def _draw(cells: list[Cell], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = [c for c in cells if c["per_class"] == 8 and c["width"] == 128 and "seconds" in c]
    cases = list(dict.fromkeys(cell["case"] for cell in chosen))
    peers = [p for p in dict.fromkeys(c["peer"] for c in chosen) if p != "gemm"]
    lines = -(-len(cases) // ACROSS)
    figure, axes = pyplot.subplots(
        2 * lines, ACROSS, figsize=(2.6 * ACROSS, 5.2 * lines), sharex=True, squeeze=False
    )
    for place, axis in enumerate(axes[::2].flat):
        memory = axes[2 * (place // ACROSS) + 1, place % ACROSS]
        if place >= len(cases):
            axis.axis("off")
            memory.axis("off")
            continue
        for name in peers:
            of_peer = sorted(
                (c["rows"], 1e3 * c["seconds"], max(c["bytes"] / 2**20, 0.5))
                for c in chosen
                if c["case"] == cases[place] and c["peer"] == name
            )
            if of_peer:
                rows, times, sizes = zip(*of_peer, strict=True)
                style = {
                    "label": name,
                    "color": f"C{peers.index(name)}",
                    "marker": "o",
                    "markersize": 3,
                    "linewidth": 2.2 if name == "siameselib" else 1.2,
                }
                axis.loglog(rows, times, **style)
                memory.loglog(rows, sizes, **style)
        axis.set_title(cases[place], fontsize=10)
        memory.set_xlabel("batch size")
        for each, limits in ((axis, TIMES), (memory, SIZES)):
            each.set_ylim(*limits)
            each.grid(alpha=0.3)
            each.tick_params(labelbottom=True, labelsize=8)
        if place % ACROSS == 0:
            axis.set_ylabel("forward + backward, ms")
            memory.set_ylabel("extra memory, MiB")
    handles = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
