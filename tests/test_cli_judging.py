"""siameselib embed, evaluate, info, verify, identify: from photos to figures and names."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import siameselib as sl
from siameselib import cli, evaluation
from siameselib.cli import embeddings
from siameselib.data import identity, open_folder, pack
from siameselib.evaluation import Verifier
from siameselib.files import replacing
from siameselib.functional.distances import paired_distance


@pytest.fixture
def run(capsys):
    def command(*words):
        try:
            code = cli.main([*map(str, words)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def faces(small_lfw):
    return small_lfw / "images" / "lfw-deepfunneled"


@pytest.fixture(scope="module")
def model(tmp_path_factory, faces):
    """An untrained net, fitted on the photos themselves; a photo is always the same as itself."""
    torch.manual_seed(0)
    verifier = Verifier(sl.C19(image_size=16), size=16, crop=0.6)
    source = open_folder(faces)
    photos = np.stack([verifier.prepare_photo(source.read(name)) for name in source.names])
    f = verifier.embed(photos)
    i, j = np.triu_indices(len(f), 1)
    people = np.array([identity(name) for name in source.names])
    verifier.fit(verifier.scores(f[i], f[j]), people[i] == people[j], pairs=len(i))
    verifier.threshold = 0.9
    path = tmp_path_factory.mktemp("model") / "model.pt"
    verifier.save(path)
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory, faces, model):
    path = tmp_path_factory.mktemp("npz") / "emb.npz"
    assert cli.main(["embed", str(faces), "-o", str(path), "--model", str(model), "--json"]) == 0
    return path


@pytest.fixture
def lists(tmp_path):
    """A list of pairs to judge, and one of other people."""
    lines = [
        f"{a}/{a}_0001 {b}/{b}_000{k} {int(a == b)}"
        for a, b, k in (
            ("Noor_Khan", "Noor_Khan", 2),
            ("Mary_Ward", "Mary_Ward", 2),
            ("Noor_Khan", "Mary_Ward", 1),
            ("Mary_Ward", "Noor_Khan", 3),
        )
    ]
    (tmp_path / "test.txt").write_text("\n".join(lines))
    other = "\n".join(lines).replace("Noor_Khan", "Grace_Hopper").replace("Mary_Ward", "Alan_Kay")
    (tmp_path / "fit.txt").write_text(other)
    return tmp_path


def test_embed(run, faces, model, tmp_path):
    out = tmp_path / "a" / "emb.npz"
    code, said, err = run("embed", faces, "-o", out, "--model", model, "--batch-size", 5)
    assert (code, err) == (0, "")
    assert said == f"{out}: 24 photos of 10 people, 1024 numbers each\n"
    with np.load(out) as kept:
        source, verifier = open_folder(faces), Verifier.load(model)
        assert kept["names"].tolist() == source.names
        assert kept["labels"].tolist() == [identity(name) for name in source.names]
        photos = np.stack([verifier.prepare_photo(source.read(name)) for name in source.names])
        np.testing.assert_allclose(kept["embeddings"], verifier.embed(photos), atol=1e-5)
        assert kept["metric"] == "cosine"
        assert float(kept["threshold"]) == verifier.threshold
    assert [file.name for file in out.parent.iterdir()] == ["emb.npz"]


def test_embed_takes_a_tar(run, small_lfw, model, npz, tmp_path):
    tar = small_lfw / "tar" / "lfw-deepfunneled.tar"
    code, said, _ = run("embed", tar, "-o", tmp_path / "b.npz", "--model", model, "--json")
    assert code == 0
    assert json.loads(said)["images"] == 24
    kept, other = embeddings.load(tmp_path / "b.npz"), embeddings.load(npz)
    np.testing.assert_array_equal(kept.names, other.names)
    np.testing.assert_allclose(kept.embeddings, other.embeddings, atol=1e-5)


def test_embed_of_bad_photos(run, faces, model, tmp_path):
    folder = shutil.copytree(faces, tmp_path / "faces")
    (folder / "Bea" / "Bea_0001.jpg").write_text("<html>")
    words = ("embed", folder, "-o", tmp_path / "emb.npz", "--model", model)
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert err.startswith("siameselib: Bea_0001: ")
    assert not (tmp_path / "emb.npz").exists()
    code, out, _ = run(*words, "--skip-bad")
    assert code == 0
    assert out.splitlines()[0].endswith("23 photos of 9 people, 1024 numbers each")
    assert out.splitlines()[1] == "1 photo left out"
    assert out.splitlines()[2].startswith("  Bea_0001: ")


def test_evaluate_retrieval(run, npz):
    kept = embeddings.load(npz)
    expected = evaluation.evaluate_retrieval(
        kept.embeddings, kept.labels, metric="cosine", k=[1, 3]
    )
    code, out, err = run("evaluate", npz, "-k", 1, 3)
    assert (code, out, err) == (0, f"{expected}\n", "")
    code, out, _ = run("evaluate", npz, "-k", 1, 3, "--json")
    assert json.loads(out) == expected.as_dict()


def test_evaluate_all_pairs(run, npz):
    kept = embeddings.load(npz)
    expected = evaluation.all_pairs(kept.embeddings, kept.labels, metric="euclidean")
    code, out, _ = run("evaluate", npz, "--all-pairs", "--metric", "euclidean")
    assert (code, out) == (0, f"{expected}\n")
    code, out, _ = run("evaluate", npz, "--all-pairs", "--metric", "euclidean", "--json")
    assert json.loads(out)["auc"] == expected.auc


def scores_of(file, npz, metric):
    kept = embeddings.load(npz)
    rows = {name: row for row, name in enumerate(kept.names.tolist())}
    pairs = [line.split() for line in file.read_text().splitlines()]
    a, b = ([kept.embeddings[rows[p[k].split("/")[1]]] for p in pairs] for k in (0, 1))
    d = paired_distance(*(torch.tensor(np.stack(x)) for x in (a, b)), metric=metric).numpy()
    return 1 - d if metric == "cosine" else -d, [int(p[2]) for p in pairs]


@pytest.mark.parametrize("how", ["the model's", "given", "fitted"])
def test_evaluate_pairs(run, npz, lists, how):
    metric = "cosine" if how == "the model's" else "euclidean"
    more = {
        "the model's": (),
        "given": ("--threshold", -0.5),
        "fitted": ("--fit-on", lists / "fit.txt"),
    }[how]
    code, out, err = run(
        "evaluate", npz, "--pairs", lists / "test.txt", "--json", "--metric", metric, *more
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    scores, same = scores_of(lists / "test.txt", npz, metric)
    threshold = {
        "the model's": embeddings.load(npz).threshold,
        "given": -0.5,
        "fitted": evaluation.fit_threshold(*scores_of(lists / "fit.txt", npz, metric)),
    }[how]
    assert found["threshold"] == pytest.approx(threshold, abs=1e-6)
    expected = evaluation.verify_pairs(scores, same, threshold=threshold)
    assert (found["n_pairs"], found["accuracy"], found["auc"]) == (
        4,
        expected.accuracy,
        expected.auc,
    )
    assert found["rates"]["accuracy"]["low"] < found["accuracy"] <= 1
    assert "4 test pairs are judged correctly" in found["verdict"][0]


def test_evaluate_tells_of_people_in_both_lists(run, npz, lists):
    both = lists / "both.txt"
    both.write_text((lists / "test.txt").read_text() + "\n")
    code, out, _ = run("evaluate", npz, "--pairs", lists / "test.txt", "--fit-on", both)
    assert code == 0
    assert out.splitlines()[-1] == "2 people are in both lists (Mary_Ward …): this flatters."
    code, out, _ = run(
        "evaluate", npz, "--pairs", lists / "test.txt", "--fit-on", lists / "fit.txt"
    )
    assert "both lists" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", "1"), "--threshold and --fit-on come with --pairs"),
        (("--all-pairs", "--fit-on", "x"), "--threshold and --fit-on come with --pairs"),
        (("--pairs", "x", "--all-pairs"), "not allowed with argument"),
        (("--pairs", "x", "--fit-on", "./x"), "--fit-on must name other pairs than --pairs"),
        (("--metric", "l7"), "invalid choice: 'l7'"),
        (("-k", "0"), "must be a whole number above 0"),
    ],
)
def test_wrong_usage_exits_2(run, npz, words, message):
    code, out, err = run("evaluate", npz, *words)
    assert (code, out) == (2, "")
    assert message in err


def test_evaluate_what_cannot_be_judged(run, npz, lists, tmp_path):
    bare = tmp_path / "bare.npz"
    kept = embeddings.load(npz)
    np.savez(bare, embeddings=kept.embeddings, labels=np.arange(24) // 2)
    assert run("evaluate", bare)[0] == 0
    np.savez(bare, embeddings=kept.embeddings, labels=kept.labels, names=kept.names)
    code, _, err = run("evaluate", bare, "--pairs", lists / "test.txt")
    assert code == 1
    assert "holds no threshold for the euclidean metric: say --threshold T, or --fit-on" in err
    embeddings.save(kept._replace(metric="head"), bare)
    code, _, err = run("evaluate", bare)
    assert code == 1
    assert "say --metric euclidean or --metric cosine" in err
    (lists / "test.txt").write_text("Noor_Khan/Noor_Khan_0001 Noor_Khan/Noor_Khan_0009 1")
    code, _, err = run("evaluate", npz, "--pairs", lists / "test.txt")
    assert (code, err.strip().rpartition(": ")[2]) == (
        1,
        "Noor_Khan_0009 is not among the embeddings",
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros(3, int)}, "must hold 'embeddings', got labels"),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(2, int)}, "labels must be integers"),
        (
            {"embeddings": np.ones(3), "labels": np.zeros(3, int)},
            "embeddings must be floating point",
        ),
        ({"embeddings": np.ones((3, 2)), "labels": np.zeros(3)}, "got float64 (3,)"),
        (
            {"embeddings": np.ones((3, 2)), "labels": np.zeros(3, int), "names": np.array(["a"])},
            "names must be one per embedding",
        ),
        (None, "is no readable .npz of arrays"),
    ],
    ids=["no embeddings", "few labels", "a vector", "float labels", "few names", "damaged"],
)
def test_files_that_are_something_else(run, tmp_path, arrays, message):
    path = tmp_path / "x.npz"
    np.savez(path, **(arrays or {"embeddings": np.ones((3, 2))}))
    if arrays is None:
        path.write_bytes(path.read_bytes()[:-30])
    code, out, err = run("evaluate", path)
    assert (code, out) == (1, "")
    assert message in err


def test_verify(run, faces, model):
    photos = [faces / "Noor_Khan" / f"Noor_Khan_000{k}.jpg" for k in (1, 2)]
    expected = Verifier.load(model).verify(*photos)
    code, out, err = run("verify", *photos, "--model", model)
    assert (code, out, err) == (0, f"{expected}\n", "")
    found = json.loads(run("verify", *photos, "--model", model, "--json")[1])
    assert found["probability"] == expected.probability
    assert found["same"] == expected.same
    code, _, err = run("verify", photos[0], faces / "nobody.jpg", "--model", model)
    assert (code, err.startswith("siameselib: read_photo: there is no file")) == (1, True)


def test_identify(run, faces, model, tmp_path):
    photo = faces / "Noor_Khan" / "Noor_Khan_0001.jpg"
    words = ("identify", photo, photo, "--model", model)
    code, out, err = run(*words, "--gallery", faces, "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == lines[2] == f"{photo}: Noor_Khan, score 1"
    assert len(lines) == 4
    code, out, _ = run(*words, "--gallery", faces, "--json", "--threshold", 1.5)
    found = json.loads(out)
    assert (found["enrolled"], found["photos"][0]["name"]) == (10, None)
    assert found["photos"][0]["candidates"][0]["name"] == "Noor_Khan"
    few = tmp_path / "few"
    shutil.copytree(faces / "Bea", few / "Bea")
    assert "nobody enrolled; most like Bea" in run(*words, "--gallery", few, "--threshold", 1.5)[1]
    assert ": Bea, score" in run(*words, "--gallery", few, "--threshold", 1.5, "--no-unknown")[1]
    code, _, err = run(*words)
    assert (code, "the gallery is empty" in err) == (1, True)


def test_identify_in_the_gallery_of_the_model(run, faces, model, tmp_path):
    verifier = Verifier.load(model)
    verifier.enroll("bea", faces / "Bea" / "Bea_0001.jpg")
    verifier.save(tmp_path / "with.pt")
    words = ("identify", faces / "Bea" / "Bea_0001.jpg", "--model", tmp_path / "with.pt")
    assert run(*words)[1].endswith("Bea_0001.jpg: bea, score 1\n")
    folder = shutil.copytree(faces / "Alan_Kay", tmp_path / "g" / "Alan_Kay").parent
    found = json.loads(run(*words, "--gallery", folder, "--json")[1])
    assert found["enrolled"] == 1  # a folder replaces the model's own
    (folder / "Alan_Kay" / "Alan_Kay_0002.jpg").write_text("no")
    code, _, err = run(*words, "--gallery", folder)
    assert (code, f"{folder}, Alan_Kay: " in err) == (1, True)


def test_info(run, faces, model, npz, tmp_path):
    code, out, err = run("info", model)
    assert (code, err) == (0, "")
    assert out.startswith(f"{model}: a verifier, C19 with 3,787,264 parameters\n")
    assert "takes the central 60 % of a photo, at 16 pixels, and its mirror image" in out
    assert "fitted on pairs 276" in out
    assert json.loads(run("info", model, "--json")[1])["gallery"] == {}
    Verifier(sl.C19(image_size=16), size=16, zooms=(0.9, 1.1)).save(tmp_path / "zooms.pt")
    out = run("info", tmp_path / "zooms.pt")[1]
    assert (
        "takes the central 100 % of a photo, at 16 pixels, and its mirror image, at 2 scales" in out
    )
    assert "24 embeddings of 10 people, 1024 numbers each" in run("info", npz)[1]
    packed = pack(open_folder(faces), tmp_path, size=8)
    assert run("info", packed.path)[1].splitlines() == [
        f"{packed.path}: a pack of 24 images of 10 people",
        "8×8 pixels of the central 150 pixels, raw",
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text('{"protocol": "mine", "auc": 0.25}')
    out = run("info", tmp_path / "run")[1].splitlines()
    assert out[0].endswith("result.json: the result of a run, protocol mine")
    assert "upside down" in out[2]
    facts = json.loads(run("info", tmp_path / "run", "--json")[1])
    assert (facts["auc"], facts["kind"], len(facts["verdict"])) == (0.25, "result", 2)


@pytest.mark.parametrize("spoil", ["cut", "empty", "text", "json", "list", "missing", "folder"])
def test_info_on_what_it_does_not_know(run, model, tmp_path, spoil):
    path = tmp_path / ("x.json" if spoil in {"json", "list"} else "x.pt")
    text = {"empty": "", "text": "hello", "json": "{", "list": "[]"}
    if spoil == "cut":
        path.write_bytes(model.read_bytes()[:-1000])
    elif spoil == "folder":
        path.mkdir()
    elif spoil in text:
        path.write_text(text[spoil])
    code, out, err = run("info", path)
    assert (code, out) == (1, "")
    assert str(path) in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("task", ["embed", "evaluate", "info", "verify", "identify"])
def test_help_teaches(run, task):
    code, out, _ = run(task, "--help")
    assert code == 0
    assert "example" in out and f"siameselib {task}" in out
    assert max(map(len, out.splitlines())) <= 100
    assert f"siameselib {task}" in run("--help")[1]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals_only(run, faces, model, tmp_path, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    code, out, err = run("embed", faces, "-o", tmp_path / "e.npz", "--model", model, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 24
    assert ("embedding: 100%" in err) == terminal


@pytest.mark.parametrize(
    ("spoil", "arguments", "says"),
    [
        ({"threshold": np.array(["x"])}, [], "threshold must be a number, got <U1"),
        (
            {"threshold": np.array([0.1, 0.2])},
            [],
            r"threshold must be a number, got float64 \(2,\)",
        ),
        ({"metric": np.array("dot")}, [], "metric must be one of 'euclidean'"),
        ({"names": np.array(["a", "a", "b", "c"])}, ["--pairs", "p.txt"], "got .*'a'.* twice"),
    ],
)
def test_files_of_embeddings_that_lie(spoil, arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = {"embeddings": np.eye(4), "labels": np.array([0, 0, 1, 1]), "names": np.array([*"abcd"])}
    np.savez("emb.npz", **{**kept, **spoil})
    Path("p.txt").write_text("a b 1")
    assert cli.main(["evaluate", "emb.npz", *arguments]) == 1
    assert re.search(says, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["gpu", "meta"])
def test_devices_that_are_not_there(name, capsys):
    with pytest.raises(SystemExit):
        cli.main(["verify", "a.jpg", "b.jpg", "--model", "m.pt", "--device", name])
    assert f"must be a device of this machine, got '{name}'" in capsys.readouterr().err


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(IsADirectoryError, match="it is a folder"), replacing(tmp_path):
        pass
    with pytest.raises(NotADirectoryError, match="is in no folder"), replacing(tmp_path / "file/a"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
