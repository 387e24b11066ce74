"""Exported nets answer as the net itself does, for any batch size, without this library."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import siameselib as sl
from siameselib.evaluation import Verifier
from siameselib.export import (
    Embedder,
    export_onnx,
    export_program,
    load_weights,
    save_weights,
)


@pytest.fixture(scope="module")
def verifier():
    """A net whose BatchNorm has seen something, so that evaluation mode matters."""
    torch.manual_seed(0)
    net = sl.C19(image_size=8)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 3, 8, 8) + 1)
    return Verifier(net, size=8, zooms=(1, 1.1))


@pytest.fixture(scope="module")
def photos():
    return torch.randint(0, 256, (7, 8, 8, 3), dtype=torch.uint8)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("zooms", [(1,), (0.9, 1.1)])
def test_the_embedder_embeds_as_the_verifier(verifier, photos, metric, flip, zooms):
    other = Verifier(verifier.backbone, size=8, metric=metric, flip=flip, zooms=zooms)
    torch.testing.assert_close(Embedder(other)(photos), other.embed(photos), rtol=0, atol=0)


def test_programs_run_without_this_library(verifier, photos, tmp_path):
    path = export_program(Embedder(verifier), tmp_path / "a" / "net.pt2")
    torch.save(photos, tmp_path / "photos.pt")
    code = (
        "import sys, torch; net = torch.export.load(sys.argv[1]).module();"
        "photos = torch.load(sys.argv[2]); out = [net(photos[:k]) for k in (1, 7)];"
        "assert 'siameselib' not in sys.modules; torch.save(out, sys.argv[3])"
    )
    files = [str(path), str(tmp_path / "photos.pt"), str(tmp_path / "out.pt")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=tmp_path)
    one, seven = torch.load(tmp_path / "out.pt")
    expected = verifier.embed(photos)
    torch.testing.assert_close(one, expected[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(seven, expected, rtol=0, atol=1e-6)


def test_onnx_runs_without_torch(verifier, photos, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    verifier.backbone.train()
    assert export_onnx(Embedder(verifier), tmp_path / "net.onnx") <= 1e-5
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    expected = verifier.embed(photos).numpy()
    for k in (1, 2, 7):
        (found,) = session.run(None, {"images": photos[:k].numpy()})
        np.testing.assert_allclose(found, expected[:k], rtol=0, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_that_answers_differently_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (tmp_path / "net.onnx").write_bytes(b"the one before")
    monkeypatch.setattr("siameselib.export._difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"export_onnx: onnxruntime is nan away .* not written"):
        export_onnx(nn.Linear(3, 2), tmp_path / "net.onnx", torch.ones(2, 3))
    assert (tmp_path / "net.onnx").read_bytes() == b"the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_mode_of_the_module_stays(tmp_path):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    export_program(module, tmp_path / "net.pt2", torch.randn(4, 3))
    assert module.training
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    x = torch.randn(5, 3)
    torch.testing.assert_close(loaded(x), module.eval()(x))  # it was exported for evaluation


def test_weights_come_back(verifier, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    net = verifier.backbone.to(memory_format=torch.channels_last)
    path = save_weights(net, tmp_path / "net.safetensors")
    other = sl.C19(image_size=8)
    assert load_weights(other, path) is other
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert safetensors.load_file(path).keys() == net.state_dict().keys()


def test_tied_weights_come_back(tmp_path):
    pytest.importorskip("safetensors")
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    path = save_weights(tied, tmp_path / "tied.safetensors")
    assert torch.equal(
        load_weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path)[1].weight,
        tied[0].weight,
    )


SPOILT = {"cut": lambda data: data[:-20], "empty": lambda _: b"", "zip": lambda data: b"PK" + data}


@pytest.mark.parametrize("how", SPOILT)
def test_damaged_weights_are_refused(tmp_path, how):
    pytest.importorskip("safetensors")
    module = nn.Linear(3, 2)
    path = save_weights(module, tmp_path / "net.safetensors")
    path.write_bytes(SPOILT[how](path.read_bytes()))
    with pytest.raises(ValueError, match=r"must be a whole safetensors file, got .*net\.safeten"):
        load_weights(module, path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(3, 2, bias=False), "weights of this Linear, got .*, which has 'bias' too"),
        (nn.Sequential(nn.Linear(3, 2)), "which lacks '0.bias'"),
        (nn.Linear(4, 2), r"hold 'weight' of shape \(2, 4\), got \(2, 3\)"),
    ],
)
def test_weights_of_another_net_are_refused_whole(tmp_path, other, message):
    pytest.importorskip("safetensors")
    path = save_weights(nn.Linear(3, 2), tmp_path / "net.safetensors")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(other, path)
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_missing_file(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(FileNotFoundError, match="load_weights: path must exist"):
        load_weights(nn.Linear(3, 2), tmp_path / "nowhere")


@pytest.mark.parametrize("export", [export_onnx, export_program])
@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "be given for a module that is no Embedder"),
        (torch.ones(1, 3), r"hold two inputs or more, got \(1, 3\)"),
        (torch.tensor(1.0), "hold two inputs or more"),
    ],
)
def test_examples_of_one_are_refused(export, example, message, tmp_path):
    if export is export_onnx:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match=f"{export.__name__}: example must {message}"):
        export(nn.Linear(3, 2), tmp_path / "net", example)
    assert list(tmp_path.iterdir()) == []


NEEDS = {
    "onnxscript": lambda path: export_onnx(nn.Linear(3, 2), path, torch.ones(2, 3)),
    "safetensors.torch": lambda path: save_weights(nn.Linear(3, 2), path),
    "safetensors": lambda path: load_weights(nn.Linear(3, 2), path),
}


@pytest.mark.parametrize("missing", NEEDS)
def test_what_is_missing_is_named(missing, tmp_path, monkeypatch):
    if missing == "onnxscript":
        pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "siameselib\[export\]"'):
        NEEDS[missing](tmp_path / "net")
