"""From what was measured on a GPU to a Markdown page and a picture."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.gpu import tiles
from benchmarks.gpu.losses import OURS, PEERS, PRODUCT
from siameselib.files import replacing

PROMISES = (  # case, rows, milliseconds, MiB; D = 128, M = 8
    ("batch-hard", 1 << 16, 2.3, 143),
    ("semi-hard", 1 << 16, 5.0, None),
    ("contrastive", 1 << 16, 4.5, None),
    ("batch-all", 1 << 16, 12.0, None),
    ("SupCon", 1 << 16, 6.5, None),
    ("batch-hard", 1 << 20, 600.0, None),
)

Cell = dict[str, Any]


def text(kept: dict[str, Any]) -> str:
    """Draw the page: device, ceilings, promises, parity, losses, training."""
    machine = kept.get("machine")
    if machine is None:
        return "Nothing was measured yet.\n"
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    lines = [
        f"Measured {machine['date']} on {machine['device']}, commit `{machine['commit']}`; "
        f"{versions}; clocks: {machine.get('clocks') or 'not known'}.",
    ]
    if "ceilings" in kept:
        copy, *products = kept["ceilings"].items()
        shown = ", ".join(f"{name.partition('_')[0]} {v:,.1f}" for name, v in products)
        lines += ["", f"Ceilings: copies {copy[1]:,.0f} GB/s; products in TFLOP/s: {shown}."]
    cells = kept.get("losses", [])
    if cells:
        lines += ["", *promises(cells)]
    parity = kept.get("parity", {})
    if parity:
        lines += ["", "Error as a share of what is allowed, against the dense form in float64:", ""]
        shown_parity = {k: v.get("missing") or f"{v['error']:.2f}" for k, v in parity.items()}
        lines += [f"- {name}: {what}" for name, what in shown_parity.items()]
    groups = defaultdict(list)
    for cell in cells:
        groups[cell["case"], cell["width"]].append(cell)
    for (case, width), group in groups.items():
        if case != PRODUCT:
            lines += ["", f"### {case}, M = {group[0]['per_class']}, D = {width}", ""]
            lines += table([*group, *groups[PRODUCT, width]])
    if kept.get("training"):
        lines += ["", *trained(kept)]
    if kept.get("tiles"):
        lines += tiles.table(kept["tiles"])
    return "\n".join(lines) + "\n"


def promises(cells: list[Cell]) -> list[str]:
    """Say what was promised, and the better of what our backends reached."""
    lines = ["| loss | B | ms | promised | MiB | promised |", "|---|---|---|---|---|---|"]
    for case, rows, ms, mib in PROMISES:
        found = [c for c in cells if (c["case"], c["rows"], c["width"]) == (case, rows, 128)]
        ours = [c for c in found if c["peer"] in OURS and "ms" in c]
        best = min(ours, key=lambda c: c["ms"], default=None)
        time = "not measured" if best is None else f"{best['ms']:.2f} ({best['peer']})"
        memory = "" if best is None or best["bytes"] is None else f"{best['bytes'] / 2**20:,.0f}"
        lines.append(f"| {case} | {rows:,} | {time} | {ms} | {memory} | {mib or ''} |")
    return lines


def table(cells: list[Cell]) -> list[str]:
    """Draw the sizes of one loss as rows and the peers as columns."""
    peers = [p for p in (*PEERS, PRODUCT) if any(c["peer"] == p for c in cells)]
    lines = ["| B | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for rows in sorted({cell["rows"] for cell in cells}):
        of_size = {cell["peer"]: cell for cell in cells if cell["rows"] == rows}
        shown = [_shown(of_size.get(name)) for name in peers]
        lines.append(f"| {rows:,} | " + " | ".join(shown) + " |")
    return lines


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if "ms" not in cell:
        return str(cell["failed"])
    what = f"{cell['ms']:,.2f} ms"
    if cell["bytes"] is not None:
        what += f", {cell['bytes'] / 2**20:,.0f} MiB"
    share = cell.get("share_of_ceiling")
    return what if share is None else f"{what}, {share:.0%}"


def trained(kept: dict[str, Any]) -> list[str]:
    """Draw the table of the training."""
    ceiling = kept.get("ceilings", {}).get("bf16_tflop_s")
    usual = kept["training"].get("usual")
    lines = ["### Training C19", "", "| style | images a second | times the usual | TFLOP/s |"]
    lines.append("|---|---|---|---|")
    for style, found in kept["training"].items():
        times = found["images_per_second"] / usual["images_per_second"] if usual else float("nan")
        share = f" ({found['tflop_s'] / ceiling:.0%} of bf16)" if ceiling else ""
        speed = f"{found['images_per_second']:,.0f}"
        lines.append(f"| {style} | {speed} | {times:.1f} | {found['tflop_s']:.1f}{share} |")
    return lines


def write(kept: dict[str, Any], folder: Path) -> None:
    """Write gpu.md and, if matplotlib is there, gpu.png."""
    with replacing(folder / "gpu.md") as temporary:
        temporary.write_text("# The engine on a GPU\n\n" + text(kept))
    if any("ms" in cell for cell in kept.get("losses", [])):
        try:
            import matplotlib
        except ImportError:
            print("no picture: matplotlib is not installed; --tables draws it elsewhere")
            return
        matplotlib.use("Agg")
        with replacing(folder / "gpu.png") as temporary:
            _draw(kept["losses"], temporary)


def _draw(cells: list[Cell], path: Path) -> None:
    from matplotlib import pyplot

    width = min(cell["width"] for cell in cells)
    chosen = [c for c in cells if c["width"] == width and "ms" in c]
    cases = [case for case in dict.fromkeys(c["case"] for c in cells) if case != PRODUCT]
    figure, axes = pyplot.subplots(
        1, len(cases), figsize=(2.6 * len(cases), 3.6), sharex=True, sharey=True, squeeze=False
    )
    for axis, case in zip(axes[0], cases, strict=True):
        for k, name in enumerate((*PEERS, PRODUCT)):
            points = sorted(
                (c["rows"], c["ms"])
                for c in chosen
                if c["peer"] == name and c["case"] in {case, PRODUCT}
            )
            if points:
                style = "k--" if name == PRODUCT else f"C{k}o-"
                axis.loglog(*zip(*points, strict=True), style, label=name, markersize=3)
        axis.set_title(case, fontsize=10)
        axis.set_xlabel("batch size")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("forward + backward, ms")
    handles = {}
    for axis in axes[0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=6, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
