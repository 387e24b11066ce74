"""The four starting points at toy size: each script runs, both ways, and prints its table."""

import gzip
import importlib
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "stuck_at_half"


@pytest.fixture(scope="module", autouse=True)
def on_path():
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(EXAMPLE))
    yield
    sys.path.remove(str(EXAMPLE))


def script(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def few():
    """Few small drawn faces in place of those that the scripts draw."""
    ground = script("ground")
    args = ground.options("", 1).parse_args(["--size", "32"])
    args.data = None
    return ground.load(args, people=40, pairs=40)


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + bytes(array)
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The four files of a toy MNIST: each class a bright square of its own."""
    folder, rng = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    for name, n in (("train", 600), ("t10k", 200)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        for k, label in enumerate(labels):
            images[k, 3 * (label // 2) : 3 * (label // 2) + 6, 14 * (label % 2) :] += 180
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return folder


class TestIdx:
    def test_reads_what_was_written_by_hand(self, tmp_path):
        file = tmp_path / "two"
        file.write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
        )
        assert script("mnist").read_idx(file).tolist() == [[[1, 2, 3], [4, 5, 255]]]

    def test_reads_gzip(self, tmp_path):
        file, labels = tmp_path / "labels.gz", np.array([7, 2, 1], np.uint8)
        file.write_bytes(gzip.compress(idx(labels)))
        assert script("mnist").read_idx(file).tolist() == [7, 2, 1]

    @pytest.mark.parametrize("data", [b"", b"\0\0\x0d\x01\0\0\0\0", b"\x89PNG\r\n\x1a\n"])
    def test_refuses_other_files(self, tmp_path, data):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(ValueError, match="not an idx file"):
            script("mnist").read_idx(tmp_path / "file")

    def test_refuses_a_file_cut_short(self, tmp_path):
        (tmp_path / "file").write_bytes(idx(np.zeros((3, 4), np.uint8))[:-1])
        with pytest.raises(ValueError, match="promises 12 numbers, got 11"):
            script("mnist").read_idx(tmp_path / "file")


def test_random_triplets_are_of_the_right_classes_and_reach_everybody():
    labels = torch.tensor([3, 1, 3, 2, 2, 1, 3, 3])
    a, p, n = script("mnist").RandomTriplets(labels).draw(20_000)
    assert (labels[a] == labels[p]).all()
    assert (labels[a] != labels[n]).all()
    pairs = torch.stack([a, p]).unique(dim=1).shape[1]
    assert pairs == 4**2 + 2**2 + 2**2
    of_a_two = n[a == 3].bincount(minlength=8).double()  # six others, equally often
    assert of_a_two[[3, 4]].sum() == 0
    assert (of_a_two[[0, 1, 2, 5, 6, 7]] / of_a_two.sum() - 1 / 6).abs().max() < 0.03


def test_shifts_move_by_at_most_a_pixel():
    image = torch.zeros(400, 28, 28, dtype=torch.uint8)
    image[:, 10, 20] = 9
    where = script("mnist").shifted(image).nonzero()
    assert where[:, 0].tolist() == list(range(400))
    found = {tuple(place) for place in (where[:, 1:] - torch.tensor([10, 20])).tolist()}
    assert found == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}


def test_mnist(digits, tmp_path, capsys):
    argv = f"--data {digits} --epochs 4 --written-epochs 2 --batch 64 --out {tmp_path}"
    found = script("mnist").main(argv.split())
    assert [row.what for row, _ in found][:2] == ["random triplets", "semi-hard"]
    assert found[1][1] == 1.0  # squares in five places are told apart
    assert found[1][0].accuracy > 0.95
    assert "| recall@1 |" in capsys.readouterr().out
    assert (tmp_path / "mnist-triplets.png").stat().st_size > 1000
    assert (tmp_path / "mnist-epoch-02.png").exists()


def test_the_net_is_the_tutorials():
    assert sum(p.numel() for p in script("mnist").make_net().parameters()) == 54_400


def test_keras_net(few, tmp_path, capsys, monkeypatch):
    keras = script("keras_net")
    monkeypatch.setattr(keras, "load", lambda args: few)
    monkeypatch.setattr(keras, "PEOPLE", 8)
    rows = keras.main(f"--epochs 1 --written-epochs 1 --out {tmp_path}".split())
    assert [row.mode for row in rows] == ["written"] * len(keras.WRITTEN) + ["cured"] * 2
    assert all(0 <= row.accuracy <= 1 and math.isfinite(row.loss) for row in rows)
    assert "chance: 0.500" in capsys.readouterr().out
    assert (tmp_path / "keras_net.png").exists()


def test_keras_contrastive_is_the_brier_score_at_margin_1():
    p, y = torch.rand(50), (torch.rand(50) < 0.5).float()
    expected = np.mean((p.numpy() - y.numpy()) ** 2)
    assert script("keras_net").KerasContrastive()(p, y).item() == pytest.approx(expected, rel=1e-5)


def test_keras_head_starves_after_l1():
    head = script("keras_net").KerasHead("l1")
    f1, f2 = torch.rand(2, 64, 1024)
    assert head(f1, f2).std() < 1e-3
    assert head.dense.in_features == 1024


def test_c19(few, tmp_path, capsys, monkeypatch):
    c19 = script("c19")
    tiny = few._replace(images=few.images[:, ::2, ::2])
    monkeypatch.setattr(c19, "load", lambda args: tiny)
    rows = c19.main(f"--epochs 2 --written-epochs 1 --out {tmp_path}".split())
    assert [row.mode for row in rows] == ["written", "written", "cured"]
    assert rows[1].trivial == pytest.approx(0.25, abs=0.02)
    assert "| accuracy | AUC | loss | trivial loss | seconds |" in capsys.readouterr().out


def test_facenet(tmp_path, capsys, monkeypatch):
    facenet, ground = script("facenet"), script("ground")
    args = ground.options("", 1).parse_args(["--size", "80"])
    args.data = None
    faces = ground.load(args, people=80, pairs=40)
    faces = faces._replace(held=ground.Pairs(*(column[:20] for column in faces.held)))
    monkeypatch.setattr(facenet, "load", lambda *_, **__: faces)
    monkeypatch.setattr(facenet, "EACH", 4)
    argv = f"--pretraining 1 --steps 1 --epochs 1 --out {tmp_path} --cache {tmp_path / 'cache'}"
    found = facenet.main(argv.split())
    text = capsys.readouterr().out
    assert "no --weights: 1 steps on drawn faces, 80 px stand in" in text
    assert "1:15" in text
    assert [row.mode for row, _ in found] == ["written", "written", "cured"]
    args.weights = str(next((tmp_path / "cache").glob("stand-in-*-80.pt")))
    facenet.trunk(args, faces)
    assert f"trunk: {args.weights}" in capsys.readouterr().out


def test_thresholds_come_from_people_neither_trained_nor_tested(few):
    people = [
        set(few.labels[torch.from_numpy(rows)].tolist())
        for rows in (few.trained, np.stack(few.held[:2]).ravel(), np.stack(few.test[:2]).ravel())
    ]
    assert all(not a & b for k, a in enumerate(people) for b in people[:k])
    assert set(np.stack(few.listed[:2]).ravel()) <= set(few.trained)


class Understood(Exception):
    pass


PAGE = (Path(__file__).parent.parent / "docs" / "stuck_at_half.md").read_text("utf-8")
LINES = sorted({line for line in PAGE.splitlines() if line.startswith("python examples/stuck")})


@pytest.mark.parametrize("line", LINES)
def test_the_commands_of_the_docs_are_understood(line, monkeypatch):
    words = line.split()
    module = script(Path(words[1]).stem)

    def load(args, **_):
        raise Understood

    monkeypatch.setattr(module, "load", load)
    with pytest.raises(Understood):
        module.main(words[2:])
