"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for an H100.

Triton reads TRITON_INTERPRET when a kernel is defined, so the tests of tests/interpreted have
processes of their own: ``TRITON_INTERPRET=1 python -m pytest tests/interpreted`` runs them alone.
The interpreter of Triton 3.6 works with NumPy before 2.4 only.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import siameselib as sl
from siameselib import kernels

FOLDER = Path(__file__).parent
INTERPRETED = sorted((FOLDER / "interpreted").glob("test_*.py"))


@pytest.mark.parametrize("file", INTERPRETED, ids=[file.stem for file in INTERPRETED])
def test_in_the_interpreter(file):
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, str(file)],
        cwd=FOLDER.parent,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not run.returncode, run.stdout + run.stderr
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout


def test_reasons(monkeypatch):
    monkeypatch.setattr(kernels, "TRITON", ("topk",))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.zeros(3, 2)
    assert kernels.unsupported("draw", "triton", x) == "there is no Triton kernel for draw"
    monkeypatch.setattr(kernels, "_INSTALLED", False)
    assert "triton is not installed" in kernels.unsupported("topk", "triton", x)
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    assert "on CUDA tensors, these are on cpu" in kernels.unsupported("topk", "triton", x)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.unsupported("topk", "triton", x) is None
    assert "in float32" in kernels.unsupported("topk", "triton", x.double())
    assert "these are on meta" in kernels.unsupported("topk", "triton", x.to("meta"))
    many = torch.zeros(1).expand(1 << 20, 1 << 10)
    assert "count entries in 32 bits, here are 1073741824" in kernels.unsupported(
        "topk", "triton", many
    )
    narrow = torch.zeros(1).expand(1 << 26, 1)  # 16 entries each, once filled up
    assert "here are 1073741824" in kernels.unsupported("topk", "triton", narrow)
    assert kernels.unsupported("topk", "streaming", x.double()) is None


def test_auto_takes_what_was_measured_to_win(monkeypatch):
    monkeypatch.setattr(kernels, "TRITON", ("topk",))
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.zeros(4096, 128)
    assert "topk" not in kernels._TRITON_WINS
    assert kernels.choose("topk", 4096, 4096, 128, x=x) == "streaming"
    monkeypatch.setattr(kernels, "_TRITON_WINS", {"topk": 4096})
    assert kernels.choose("topk", 4096, 4096, 128, x=x) == "triton"
    assert kernels.choose("topk", 4095, 4096, 128, x=x) == "streaming"
    assert kernels.choose("topk", 4096, 4096, 128, x=x.double()) == "streaming"
    assert sl.explain("topk", x).endswith("on cpu: triton, measured to be the quickest")


def test_precision_is_a_matter_of_the_context():
    assert kernels.precision() == "exact"
    with sl.use_backend("auto", precision="fast"):
        assert kernels.precision() == "fast"
        with sl.use_backend("auto"):
            assert kernels.precision() == "exact"
        assert kernels.precision() == "fast"
    assert kernels.precision() == "exact"
    message = "precision must be one of .* got 'low'"
    with pytest.raises(ValueError, match=message), sl.use_backend("auto", precision="low"):
        pass


def test_tiles_fit_the_shared_memory_of_the_device():
    tiles = pytest.importorskip("siameselib.kernels.tiles_triton", reason="triton is not installed")
    shape = tiles.Shape(128, 64, chunk=128, warps=8, stages=3)
    assert shape.fitted(128, 2, 227 * 1024) == shape
    assert shape.fitted(128, 2, 99 * 1024) == shape._replace(stages=3)
    assert shape.fitted(128, 2, 64 * 1024) == shape._replace(stages=1)
    assert shape.fitted(128, 2, 48 * 1024) == shape._replace(stages=1, columns=32)
    with pytest.raises(ValueError, match=r"smallest tiles take \d+ bytes .* this device has 33000"):
        shape.fitted(128, 2, 33000)
