"""The example that takes a verifier to ONNX, as a user runs it, on a tiny net and drawn photos."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import siameselib as sl
from siameselib.data import prepare, synthetic_faces
from siameselib.evaluation import Verifier

EXAMPLE = Path(__file__).parent.parent / "examples" / "lfw" / "to_onnx.py"
SIZE, PEOPLE, EACH = 8, 8, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photos a person, and a fitted model."""
    root = tmp_path_factory.mktemp("to_onnx")
    faces = synthetic_faces(people=PEOPLE, images_per_person=EACH, size=SIZE)
    for name, image in zip(faces.names, faces.images, strict=True):
        path = root / "faces" / name.rpartition("_")[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    torch.manual_seed(0)
    net = sl.C19(image_size=SIZE)
    with torch.no_grad():  # BatchNorm has to see something, or all embeddings are much the same
        for _ in range(30):
            net(prepare(torch.from_numpy(faces.images), SIZE))
    verifier = Verifier(net, size=SIZE)
    f = verifier.embed(faces.images)
    i, j = np.triu_indices(len(f), 1)
    verifier.fit(verifier.scores(f[i], f[j]), faces.labels[i] == faces.labels[j])
    verifier.save(root / "model.pt")
    for person in ("Person_0001", "Person_0002"):
        shutil.copytree(root / "faces" / person, root / "two" / person)
    return root


FEW = ("--calibrate", "8", "--pairs", "10", "--rounds", "1")


def test_scores_are_those_of_torch(folder):
    words = (folder / "model.pt", "--faces", folder / "faces", *FEW)
    done = subprocess.run([sys.executable, EXAMPLE, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout[done.stdout.index("{") :])
    photos = synthetic_faces(people=PEOPLE, images_per_person=EACH, size=SIZE).images
    verifier = Verifier.load(folder / "model.pt")
    expected, scores = verifier.embed(photos), {}
    for file in ("model.onnx", "model-int8.onnx"):
        session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
        f = torch.from_numpy(session.run(None, {"images": photos})[0])
        scores[file] = verifier.scores(f[::2], f[1::2])
        assert said["megabytes"][file] > 0
    wanted = verifier.scores(expected[::2], expected[1::2])
    np.testing.assert_allclose(scores["model.onnx"], wanted, atol=1e-5)
    assert np.ptp(wanted) > 0.1  # or nothing was compared
    np.testing.assert_allclose(scores["model-int8.onnx"], wanted, atol=0.1)
    assert said["difference"] < 1e-5
    names = ("PyTorch, 32 bits", "ONNX Runtime, 32 bits", "ONNX Runtime, 8 bits")
    gaps = [said[name]["largest_score_difference"] for name in names]
    assert gaps[0] == 0 and gaps[1] < 1e-5 < gaps[2] < 0.2
    assert said[names[0]]["auc"] == said[names[1]]["auc"]
    assert all(
        said[name]["milliseconds"] > 0 and 0 <= said[name]["accuracy"] <= 1 for name in names
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{}/nothing.pt", "--faces", "{}/faces"), "there is no file"),
        (("{}/model.pt", "--faces", "{}/nothing"), "nothing"),
        (("{}/model.pt", "--data", "{}/faces"), "holds no pairs"),
        (("{}/model.pt", "--faces", "{}/two"), "photos of four people or more"),
    ],
)
def test_what_is_missing_is_named(folder, words, message, capsys):
    spec = importlib.util.spec_from_file_location("to_onnx", EXAMPLE)
    to_onnx = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(to_onnx)
    assert to_onnx.main([*(word.format(folder) for word in words), *FEW]) == 1
    said, err = capsys.readouterr()
    assert not said and err.startswith("to_onnx.py: ") and message in err
