"""The engine's benchmark: its dense forms are right, it measures, and it refuses what is wrong."""

import json

import pytest
import torch

from benchmarks.engine import cpu, peers, tables
from benchmarks.engine.worker import batch


@pytest.mark.parametrize("case", peers.CASES)
def test_every_peer_computes_the_same(case):
    errors = cpu.parity(case)
    assert "siameselib" in errors
    assert all(error <= 1 for error in errors.values()), errors


def test_batches_are_of_the_sizes_asked_for():
    x, labels = batch(50, 8, 6)
    assert x.shape == (50, 6) and torch.bincount(labels).tolist() == [8] * 6 + [2]
    torch.testing.assert_close(x.norm(dim=1), torch.ones(50))


def test_peers_are_measured_in_turn():
    cells = cpu.measure("SupCon", (128, 4, 8), ["siameselib", "dense"], 0.01, 1)
    assert [cell["peer"] for cell in cells] == ["siameselib", "dense"]
    for cell in cells:
        assert 0 < cell["seconds"] < 10 and cell["calls"] >= 3
        assert 0 <= cell["bytes"] < 1 << 30


def test_a_peer_that_is_killed_between_its_turns_is_said_to_have_failed():
    worker = cpu.Worker("SupCon", "dense", (128, 4, 8), 1)
    worker.run()
    assert worker.times
    worker.process.kill()
    worker.process.join()
    worker.run()
    assert worker.done(1e9)
    assert worker.end() == {"failed": "needs more than 16 GiB"}


def test_a_loss_that_is_wrong_is_not_timed(monkeypatch, tmp_path, capsys):
    wrong = peers.CASES["SupCon"]._replace(ours=lambda: peers.sl.SupConLoss(temperature=0.2))
    monkeypatch.setitem(peers.CASES, "SupCon", wrong)
    monkeypatch.setattr(cpu, "SIZES", (256,))
    assert cpu.main(["--case", "SupCon", "--out", str(tmp_path)]) == 1
    assert "SupCon: NOT TIMED" in capsys.readouterr().out
    assert not json.loads((tmp_path / "engine.json").read_text())["cells"]


def test_what_is_there_is_not_measured_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cpu, "SIZES", (64, 128))
    monkeypatch.setattr(cpu, "PEERS", ("siameselib", "dense"))
    run = ["--case", "NT-Xent", "--seconds", "0.01", "--threads", "1", "--rows", "64"]
    run += ["--out", str(tmp_path)]
    assert cpu.main(run) == 0
    first = (tmp_path / "engine.json").read_text()
    assert {cell["rows"] for cell in json.loads(first)["cells"]} == {64}
    assert (tmp_path / "engine.png").stat().st_size > 1000
    monkeypatch.setattr(cpu, "measure", None)
    assert cpu.main(run) == 0
    assert json.loads((tmp_path / "engine.json").read_text())["cells"] == json.loads(first)["cells"]


def cell(peer, seconds, mib, rows=256, case="NT-Xent"):
    size = {"rows": rows, "per_class": 8, "width": 128, "threads": 2}
    return {"case": case, "peer": peer, "seconds": seconds, "bytes": mib << 20, "calls": 3} | size


def test_promises_are_read_off_the_cells():
    ours, theirs = cell("siameselib", 0.001, 2), cell("pytorch-metric-learning", 2.0, 500)
    quicker = cell("dense", 0.0009, 2), cell("sentence-transformers", 0.0008, 2)
    lines = "\n".join(tables.promises([ours, theirs, *quicker]))
    assert "| NT-Xent | 256 | 2000.0 | 1000 | 1/250 | 1/100 |" in lines
    assert "NT-Xent at B = 256, M = 8, D = 128: 1.00 ms, dense 0.90 ms" in lines
    assert "D = 128: 1.00 ms, sentence-transformers 0.80 ms" in lines
    assert "| SupCon | 8,192 | not measured | 6 | not measured | 1/30 |" in lines


def test_the_summary_sets_them_side_by_side():
    ours, theirs = cell("siameselib", 0.001, 2), cell("pytorch-metric-learning", 2.0, 500)
    lines = tables.summary([ours, theirs])
    assert "| NT-Xent, 256 | 1.00 ms, 2 MiB | 2,000 ms, 500 MiB | 2000.0 | 1/250 |" in lines


def test_the_committed_pages_are_up_to_date():
    kept = json.loads((cpu.RESULTS / "engine.json").read_text())
    page = (cpu.RESULTS / "engine.md").read_text()
    assert page == "# The engine on the CPU\n\n" + tables.text(kept)
    assert not tables.in_page(kept, cpu.ROOT / "README.md", write=False)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (cell("dense", 30.0, 10), "would take 120 s or more"),
        (cell("dense", 1.0, 5 << 10), "would need 20 GiB or more"),
        ({"failed": "needs more than 16 GiB"}, "needs more than 16 GiB"),
        (cell("dense", 1.0, 10), None),
    ],
)
def test_what_a_peer_is_not_asked_to_do(before, message):
    cells = {("NT-Xent", 256, 8, 128, "dense"): before}
    assert cpu.too_long(cells, "NT-Xent", (512, 8, 128), "dense") == message
