"""The siameselib command: what it says, what it writes, and how it exits."""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from siameselib import __version__, cli
from siameselib.data import PackedImages, open_lfw


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv("SIAMESELIB_LFW", raising=False)


@pytest.fixture
def run(capsys):
    """Run 'siameselib lfw ...': exit code, standard output, standard error."""

    def lfw(*words):
        try:
            code = cli.main(["lfw", *map(str, words)])
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return lfw


@pytest.fixture
def spoilt(small_lfw, tmp_path):
    """LFW with a file that is no image, one missing, and two strays."""
    folder = shutil.copytree(small_lfw / "images", tmp_path / "spoilt")
    images = folder / "lfw-deepfunneled"
    (images / "Bea" / "Bea_0001.jpg").write_text("<html>")
    (images / "Lin_Bo" / "Lin_Bo_0001.jpg").unlink()
    (images / "Ada_Byron" / "a.txt").write_text("a")
    (images / "Ada_Byron" / "b.txt").write_text("b")
    return folder


PROBLEMS = [
    "Ada_Byron/a.txt: not an image",
    "Ada_Byron/b.txt: not an image",
    "Lin_Bo_0001: missing",
    "Bea_0001: not an image",
]


def test_the_installed_command_is_this_function():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"siameselib": "siameselib.cli:main"}


def test_info(run, small_lfw):
    code, out, err = run("info", "--data", small_lfw / "tar")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "24 images of 10 people, 7 with two or more (Noor_Khan has 5)",
        "view 1, train: 6 people, 4 people with two or more, 13 images, 10 pairs",
        "view 1, test: 4 people, 3 people with two or more, 11 images, 8 pairs",
        "view 2: 2 folds, 10 people, 7 people with two or more, 24 images, 12 pairs",
        "no problems (images not decoded: --check)",
    ]


def test_info_as_json(run, small_lfw):
    code, out, _ = run("info", "--data", small_lfw / "tgz", "--check", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["images"], facts["people"], facts["people_with_two_or_more"]) == (24, 10, 7)
    assert facts["most_images"] == {"person": "Noor_Khan", "images": 5}
    assert facts["fingerprint"] == open_lfw(small_lfw / "tar").fingerprint
    assert facts["view_1"]["train"]["images"] + facts["view_1"]["test"]["images"] == 24
    assert facts["view_2"]["folds"] == 2
    assert facts["pair_lists"]["view 2"] == {"pairs": 12, "same": 6, "unresolved_images": 0}
    assert (facts["problems"], facts["notes"]) == ([], [])


def test_info_finds_problems(run, spoilt):
    code, out, _ = run("info", "--data", spoilt, "--check", "--json")
    problems = json.loads(out)["problems"]
    assert code == 1
    assert problems[:4] == PROBLEMS
    assert problems[4:] == [  # Lin_Bo is in the pairs of both views
        f"{pairs}: Lin_Bo_0001 is not among the images" for pairs in ("view 1, test", "view 2")
    ]
    code, out, _ = run("info", "--data", spoilt)
    assert code == 1
    assert "5 problems (images not decoded: --check)\n  Ada_Byron/a.txt: not an image" in out


def test_info_cuts_long_lists(run, small_lfw, tmp_path):
    copy = shutil.copytree(small_lfw / "images", tmp_path / "copy")
    for k in range(30):
        (copy / "lfw-deepfunneled" / "Bea" / f"{k:02d}.txt").write_text("x")
    _, out, _ = run("info", "--data", copy)
    assert out.endswith("  Bea/19.txt: not an image\n  … 10 more; --json lists them all\n")


def test_info_looks_up_pair_lists(run, small_lfw, tmp_path):
    (tmp_path / "train.txt").write_text(
        "lfw/Noor_Khan/Noor_Khan_0001.jpg lfw/Noor_Khan/Noor_Khan_0005.jpg 1\n"
        "lfw/Noor_Khan/Noor_Khan_0001.jpg lfw/Noor_Khan/Noor_Khan_0006.jpg 1\n"
    )
    train = tmp_path / "train.txt"
    code, out, _ = run("info", "--data", small_lfw / "tar", "--pairs", train)
    assert code == 1
    assert f"{train}: 2 pairs, 2 same, 1 unresolved images\n" in out
    assert f"1 problem (images not decoded: --check)\n  {train}: Noor_Khan_0006 is not" in out
    train.write_text("a b\n")
    code, out, err = run("info", "--data", small_lfw / "tar", "--pairs", train)
    assert (code, out) == (1, "")
    assert err == f"siameselib: {train}, line 1: must be 'path1 path2 label', got 'a b'\n"


def test_info_without_protocol_files(run, small_lfw, tmp_path):
    shutil.copy(small_lfw / "tar" / "lfw-deepfunneled.tar", tmp_path)
    code, out, _ = run("info", "--data", tmp_path)
    assert code == 0
    assert "no protocol files (pairs*.txt, people*.txt) beside the images" in out
    shutil.copy(small_lfw / "tar" / "pairs.txt", tmp_path)
    code, out, _ = run("info", "--data", tmp_path)
    assert code == 0
    assert "protocol_dir must hold pairsDevTrain.txt" in out
    assert "protocol_dir must hold people.txt" in out


def test_info_on_own_faces(run, small_lfw):
    code, out, _ = run("info", "--faces", small_lfw / "images" / "lfw-deepfunneled")
    assert code == 0
    assert out.startswith("24 images of 10 people")
    assert "protocol" not in out


def test_pack(run, small_lfw, tmp_path):
    words = ("pack", "--data", small_lfw / "tar", "--out", tmp_path, "--size", 16)
    code, out, err = run(*words)
    path = tmp_path / "lfw-deepfunneled-16px-crop150.raw.pack"
    assert (code, err) == (0, "")
    assert out == f"{path}: 24 images of 10 people, 0.0 MB\n"
    assert PackedImages.open(path).images.shape == (24, 16, 16, 3)
    code, out, _ = run(*words, "--format", "jpeg", "--crop", "0", "--json", "--workers", "2")
    facts = json.loads(out)
    assert code == 0
    packed = PackedImages.open(facts["path"])
    assert (packed.size, packed.crop, facts["format"], facts["skipped"]) == (16, None, "jpeg", [])
    assert facts["bytes"] == Path(facts["path"]).stat().st_size


def test_pack_of_bad_data(run, spoilt, tmp_path):
    words = ("pack", "--data", spoilt, "--out", tmp_path / "cache", "--size", 8)
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert err.splitlines()[1:] == [f"  {problem}" for problem in PROBLEMS]
    code, out, _ = run(*words, "--skip-bad")
    assert code == 0
    assert out.splitlines()[0].endswith("22 images of 8 people, 0.0 MB")
    assert out.splitlines()[1:] == ["4 files left out", *(f"  {problem}" for problem in PROBLEMS)]


def test_pack_own_faces_takes_the_largest_square(run, tmp_path, make_photo):
    (tmp_path / "faces" / "anna").mkdir(parents=True)
    (tmp_path / "faces" / "anna" / "me.jpg").write_bytes(make_photo(0, side=40))
    code, out, _ = run(
        "pack", "--faces", tmp_path / "faces", "--out", tmp_path, "--size", 40, "--json"
    )
    assert code == 0
    packed = PackedImages.open(json.loads(out)["path"])
    assert packed.crop is None
    assert np.abs(packed.images.astype(int)).max() > 0


def test_the_environment_names_the_data(run, small_lfw, monkeypatch):
    monkeypatch.setenv("SIAMESELIB_LFW", str(small_lfw / "tar"))
    assert run("info")[1].startswith("24 images of 10 people")
    assert run("info", "--faces", small_lfw / "images" / "lfw-deepfunneled")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the following arguments are required: TASK"),
        (("info",), "one of the arguments --data --faces is required"),
        (("info", "--data", "a", "--faces", "b"), "not allowed with argument"),
        (("pack", "--data", "a"), "the following arguments are required: --out"),
        (("pack", "--data", "a", "--out", "b", "--size", "0"), "must be a whole number above 0"),
        (("pack", "--data", "a", "--out", "b", "--size", "x"), "must be a whole number above 0"),
        (("pack", "--data", "a", "--out", "b", "--crop", "-1"), "must be a whole number above 0"),
        (("pack", "--data", "a", "--out", "b", "--format", "png"), "invalid choice: 'png'"),
        (("sing",), "invalid choice: 'sing'"),
    ],
)
def test_wrong_usage_exits_2(run, words, message):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("task", ["info", "pack"])
def test_missing_data_exits_1(run, tmp_path, task):
    where = () if task == "info" else ("--out", tmp_path)
    code, out, err = run(task, "--data", tmp_path / "nowhere", *where)
    assert (code, out) == (1, "")
    assert err == f"siameselib: open_lfw: path must exist, got {tmp_path / 'nowhere'}\n"


def test_ctrl_c_exits_130(run, small_lfw, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("siameselib.data.packed.decode_image", interrupt)
    code, out, err = run("pack", "--data", small_lfw / "tar", "--out", tmp_path / "cache")
    assert (code, out, err) == (130, "", "interrupted\n")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_exits_1(run, small_lfw, tmp_path, small_disk):
    small_disk(50_000)
    code, out, err = run("pack", "--data", small_lfw / "tar", "--out", tmp_path / "cache")
    assert (code, out) == (1, "")
    assert err.startswith("siameselib: [Errno 27] File too large: ")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_pillow_says_what_to_install(run, small_lfw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, _, err = run("pack", "--data", small_lfw / "tar", "--out", tmp_path / "cache")
    assert code == 1
    assert 'python -m pip install "siameselib[lfw]"' in err


def test_download(run, tmp_path, monkeypatch):
    def deliver(folder, *, images):
        assert (folder, images) == (str(tmp_path), "funneled")
        return tmp_path / "lfw-funneled.tgz"

    monkeypatch.setattr("siameselib.cli.lfw.download_lfw", deliver)
    code, out, _ = run("download", "--out", tmp_path, "--images", "funneled")
    assert code == 0
    assert out.splitlines()[1] == f"next: siameselib lfw info --data {tmp_path}/lfw-funneled.tgz"
    code, out, _ = run("download", "--out", tmp_path, "--images", "funneled", "--json")
    assert json.loads(out) == {"path": str(tmp_path / "lfw-funneled.tgz")}


@pytest.mark.parametrize("task", ["info", "pack", "download"])
def test_help_teaches(run, task, capsys):
    code, out, _ = run(task, "--help")
    assert code == 0
    assert len(out) > 400
    _, room, _ = run("--help")
    assert f"siameselib lfw {task}" in room


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals_only(run, small_lfw, tmp_path, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    code, _, err = run("pack", "--data", small_lfw / "tar", "--out", tmp_path, "--size", 8)
    assert code == 0
    assert ("packing: 100%" in err) == terminal
