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
        with pytest.raises(SystemExit):
            command.main([])
        assert "finds no CUDA device" in capsys.readouterr().err


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
