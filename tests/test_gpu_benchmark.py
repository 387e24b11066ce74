"""The GPU's benchmark, tried out on the CPU: it measures, refuses what is wrong, and goes on."""

import json
from contextlib import nullcontext

import pytest
import torch

from benchmarks.engine import peers
from benchmarks.gpu import command, losses, tables, tiles, training
from benchmarks.gpu.clock import Clock

SMALL = ["--device", "cpu", "--seconds", "0.01", "--image-size", "16", "--pairs", "2"]
SMALL += ["--steps", "1", "--rows", "32", "--width", "8"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(losses, "PEERS", ("streaming", "dense"))
    monkeypatch.setattr(losses, "OURS", ("streaming",))
    monkeypatch.setattr(training, "STYLES", ("ours",))


def test_every_part_is_measured_once(tmp_path, monkeypatch, capsys):
    run = [*SMALL, "--out", str(tmp_path), "--case", "SupCon", "--case", "batch-hard"]
    assert command.main(run) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert set(kept) == {"machine", "ceilings", "parity", "losses", "training"}
    assert {(c["case"], c["peer"]) for c in kept["losses"]} == {
        (losses.PRODUCT, losses.PRODUCT),
        *((case, name) for case in ("SupCon", "batch-hard") for name in ("streaming", "dense")),
    }
    assert all(cell["ms"] > 0 for cell in kept["losses"])
    assert kept["training"]["ours"]["images_per_second"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert "### SupCon, M = 8, D = 8" in page and "### Training C19" in page
    assert (tmp_path / "gpu.png").stat().st_size > 1000
    for name in ("measure", "parity"):
        monkeypatch.setattr(losses, name, None)
    assert command.main(run) == 0
    assert json.loads((tmp_path / "gpu.json").read_text()) == kept


def test_a_loss_that_is_wrong_is_not_timed(tmp_path, monkeypatch):
    wrong = peers.CASES["SupCon"]._replace(ours=lambda: peers.sl.SupConLoss(temperature=0.2))
    monkeypatch.setitem(peers.CASES, "SupCon", wrong)
    run = [*SMALL, "--out", str(tmp_path), "--case", "SupCon", "--part", "parity"]
    assert command.main([*run, "--part", "losses"]) == 1
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert "streaming" not in {cell["peer"] for cell in kept["losses"]}


def test_no_time_no_figure(tmp_path):
    assert command.main([*SMALL, "--out", str(tmp_path), "--minutes", "0"]) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text()) if list(tmp_path.glob("*.json")) else {}
    assert not any(kept.get(part) for part in command.PARTS)
    assert "Measured" in (tmp_path / "gpu.md").read_text()


def test_what_cannot_fit_is_not_tried():
    size = {"case": "SupCon", "peer": "dense", "per_class": 8, "width": 128}
    known = {1: {**size, "rows": 1024, "failed": "out of memory"}}
    assert losses.hopeless(known, {**size, "rows": 4096}, 1e3) == "out of memory"
    assert losses.hopeless(known, {**size, "rows": 512}, 1e3) is None
    known = {1: {**size, "rows": 1024, "ms": 100.0}}
    assert losses.hopeless(known, {**size, "rows": 4096}, 1e3) == "would take 2 s"
    assert losses.hopeless(known, {**size, "rows": 2048}, 1e3) is None


def test_results_of_a_gpu_come_from_a_gpu(capsys):
    with pytest.raises(SystemExit):
        command.main(["--device", "cpu"])
    assert "needs an --out of its own" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert command.main([]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "finds no CUDA device" in line


def test_rounding_decides_nothing_about_parity():
    for x, labels in losses.undoubted():
        assert losses.doubt(x, labels).min() >= losses.NEAR
    x, labels = x[:, :1].contiguous(), labels
    x[labels == 0] = torch.tensor([[0.0], [0.25], [0.5], [0.875], [1.5]])
    x[labels != 0] = torch.linspace(90, 99, 505)[:, None]
    assert losses.doubt(x, labels)[labels == 0].min() > 0.01
    x[labels == 1] = torch.tensor([0.25 + losses.MARGIN + 1e-6])  # from 0.0, whose positive is 0.25
    assert losses.doubt(x, labels)[labels == 0].min() < losses.NEAR


# the others look for positives, which have to be somewhere
@pytest.mark.parametrize("name", ["batch-hard", "batch-all", "contrastive", "SupCon", "InfoNCE"])
def test_dense_peers_stay_on_the_device(name):
    x, labels = torch.zeros(8, 3, device="meta"), torch.zeros(8, device="meta")
    assert peers.CASES[name].dense(x, labels).device.type == "meta"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), KeyError("no such layout")])
def test_a_peer_that_breaks_stops_nothing(tmp_path, monkeypatch, error):
    def broken(x, labels):
        raise error

    monkeypatch.setitem(peers.CASES, "SupCon", peers.CASES["SupCon"]._replace(dense=broken))
    monkeypatch.setattr(losses, "parity", lambda *_: {"error": 0.5})
    run = [*SMALL, "--out", str(tmp_path), "--case", "SupCon", "--part", "parity"]
    assert command.main([*run, "--part", "losses"]) == 0
    cells = {c["peer"]: c for c in json.loads((tmp_path / "gpu.json").read_text())["losses"]}
    assert cells["dense"]["failed"] in {"out of memory", "KeyError: 'no such layout'"}
    assert cells["streaming"]["ms"] > 0


@pytest.mark.parametrize(
    ("ours", "why"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),  # no more than a compiler says
        (lambda: lambda x, labels: x.sum() * torch.nan, "finds NaN"),
    ],
)
def test_what_breaks_in_parity_is_not_timed(ours, why, tmp_path, monkeypatch):
    monkeypatch.setitem(peers.CASES, "SupCon", peers.CASES["SupCon"]._replace(ours=ours))
    assert losses.parity(Clock("cpu"), "SupCon", "streaming") == {"missing": why, "broken": True}
    run = [*SMALL, "--out", str(tmp_path), "--case", "SupCon", "--part", "parity"]
    assert command.main([*run, "--part", "losses"]) == 1
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert "streaming" not in {cell["peer"] for cell in kept["losses"]}


def test_small_batches_warn_of_large_ones():
    order = [(c["peer"], c["rows"]) for c in losses.cells(["SupCon"], [64, 8, 512], [128])]
    assert order[:4] == [
        (losses.PRODUCT, 64),
        ("streaming", 64),
        (losses.PRODUCT, 8),
        ("streaming", 8),
    ]
    assert [rows for name, rows in order if name == "dense"] == [8, 64, 512]


def test_promises_name_the_quicker_of_ours():
    cell = {"case": "SupCon", "rows": 1 << 16, "width": 128, "per_class": 8}
    cells = [cell | {"peer": "streaming", "ms": 9.0, "bytes": 5 << 20}]
    assert "| SupCon | 65,536 | 9.00 (streaming) | 6.5 | 5 |" in "\n".join(tables.promises(cells))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_what_the_call_took():
    found = Clock("cuda").measure(lambda: torch.empty(1 << 20, device="cuda"), 0.01)
    assert found["bytes"] == 4 << 20 and found["ms"] > 0


def test_tiles_are_tried_and_what_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "OURS", ("triton", "streaming"))
    monkeypatch.setattr(tiles, "shapes", lambda case, width: [(64, 64, width, 4, 2)])
    monkeypatch.setattr(tiles, "shaped", lambda case, shape: nullcontext())
    run = [*SMALL, "--out", str(tmp_path), "--part", "tiles", "--case", "batch-hard"]
    assert command.main(run) == 0
    (cell,) = json.loads((tmp_path / "gpu.json").read_text())["tiles"]
    assert cell["shape"] == [64, 64, 8, 4, 2] and "cannot run" in cell["failed"]
    assert "0 of 1 shapes ran" in (tmp_path / "gpu.md").read_text()
    cells = [cell | {"ms": 3.0}, cell | {"ms": 1.0, "shape": [8, 8, 8, 1, 1]}]
    assert tiles.table(cells)[5:7] == [
        "| 8 | 8 | 8 | 1 | 1 | 1.000 |",
        "| 64 | 64 | 8 | 4 | 2 | 3.000 |",
    ]
