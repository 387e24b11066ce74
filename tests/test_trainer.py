"""The trainer as a user runs it: on a folder laid out like LFW, killed, resumed, misused."""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import siameselib as sl
from siameselib.data import View1, identity
from siameselib.evaluation import Verifier

EXAMPLE = Path(__file__).parent.parent / "examples" / "lfw"
RESULT = {
    "protocol",
    "train_on",
    "loss",
    "head",
    "backbone",
    "image_size",
    "seed",
    "n_pairs",
    "accuracy",
    "accuracy_se",
    "auc",
    "eer",
    "threshold",
    "tar_at_far",
    "epochs",
    "seconds",
    "images_per_second",
    "device",
    "versions",
    "commit",
    "judged_commit",
    "command",
}
QUICK = "--image-size 16 --epochs 2 --device cpu --no-amp --batch-size 8 --people-per-batch 6 "
QUICK += "--images-per-person 2 --singletons 2 --holdout 0.25"


@pytest.fixture(scope="module")
def main():
    sys.path.insert(0, str(EXAMPLE))
    yield importlib.import_module("train").main
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """Forty people, every fourth with one image, as 250 x 250 JPEGs with View 1's files."""
    root = tmp_path_factory.mktemp("lfw")
    rng = np.random.default_rng(0)
    counts = {f"P_{k:02d}": 1 if k % 4 == 0 else 4 for k in range(40)}
    for person, n in counts.items():
        face = rng.integers(0, 256, (6, 6, 3))
        (root / "lfw-deepfunneled" / person).mkdir(parents=True)
        for i in range(1, n + 1):
            small = np.clip(face + rng.normal(0, 20, face.shape), 0, 255).astype(np.uint8)
            path = root / "lfw-deepfunneled" / person / f"{person}_{i:04d}.jpg"
            Image.fromarray(small).resize((250, 250), Image.Resampling.BILINEAR).save(path)
    people = list(counts)
    for part, chosen in (("Train", people[:28]), ("Test", people[28:])):
        lines = [f"{p}\t{counts[p]}" for p in chosen]
        (root / f"peopleDev{part}.txt").write_text("\n".join([str(len(lines)), *lines]) + "\n")
        several = [p for p in chosen if counts[p] > 1]
        same = [f"{p}\t{i}\t{j}" for p in several for i, j in ((1, 2), (3, 4), (1, 4))]
        other = [f"{p}\t1\t{q}\t1" for p, q in zip(chosen, chosen[1:] + chosen[:1], strict=True)]
        other = (3 * other)[: len(same)]
        (root / f"pairsDev{part}.txt").write_text("\n".join([str(len(same)), *same, *other]) + "\n")
    folds = [people[k::3] for k in range(3)]
    lines = ["\n".join([str(len(f)), *(f"{p}\t{counts[p]}" for p in f)]) for f in folds]
    (root / "people.txt").write_text("\n".join(["3", *lines]) + "\n")
    same = [[p for p in fold if counts[p] > 1][:8] for fold in folds]
    lines = [f"{p}\t1\t2" for fold in same for p in fold]
    for k, fold in enumerate(same):
        others = fold[1:] + fold[:1]
        lines[16 * k + 8 : 16 * k + 8] = [
            f"{p}\t1\t{q}\t1" for p, q in zip(fold, others, strict=True)
        ]
    (root / "pairs.txt").write_text("\n".join(["3\t8", *lines]) + "\n")
    return root


@pytest.fixture
def run(main, lfw, tmp_path):
    """Run the trainer in this process; give its exit code and its folder."""

    def run(options, out="out", data=lfw):
        fixed = ["--data", str(data), "--cache", str(lfw / "cache"), "--out", str(tmp_path / out)]
        return main([*QUICK.split(), *options.split(), *fixed]), tmp_path / out

    return run


@pytest.mark.parametrize(
    "options",
    [
        "--train-on pairs --loss bce --head concat --no-augment",
        "--train-on pairs --loss bce --head interaction",
        "--train-on pairs --loss contrastive --self-pairs 0.5",
        "--train-on pairs --loss info-nce --start-epochs 1 --start-size 8",
        "--loss bce --head distance",
        "--loss contrastive --normalize",
        "--loss info-nce",
        "--loss batch-hard",
        "--loss semi-hard",
        "--loss batch-all",
        "--loss nt-xent",
        "--loss supcon --self-pairs 1",
    ],
)
def test_every_loss_trains_and_reports(run, options):
    code, out = run(options)
    assert code == 0
    result = json.loads((out / "result.json").read_text())
    assert set(result) >= RESULT
    assert result["protocol"] == "lfw-view-1"
    assert result["n_pairs"] == 54
    assert 0 <= result["auc"] <= 1
    accuracy = result["rates"]["accuracy"]
    assert accuracy["low"] <= result["accuracy"] <= accuracy["high"]
    assert result["tar_at_far"]["0.01"]["text"].startswith("not measurable")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert all(np.isfinite(line["loss"]) and line["trivial"] > 0 for line in history)
    assert f"{result['n_pairs']} test pairs" in (out / "report.html").read_text(encoding="utf-8")
    doctor = json.loads((out / "doctor.json").read_text())
    assert "non-finite" in doctor["looked_at"]
    assert ("head-additive" in [f["code"] for f in doctor["findings"]]) == ("concat" in options)
    for name in ("roc", "det", "reliability", "distances", "training", "embeddings", "neighbours"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert not list(out.glob(".*"))


@pytest.mark.lfw
@pytest.mark.parametrize(("seed", "number"), [(0, 59), (1, 133)])
def test_the_most_photographed_person_sets_the_length_of_an_epoch(main, real_source, seed, number):
    """What the LFW tutorial says of George W. Bush, who is held out with the first seed only."""
    task, names = sys.modules["task"], real_source.names
    people = [identity(name) for name in names]
    labels = np.unique(people, return_inverse=True)[1]
    index = {name: row for row, name in enumerate(names)}
    images = SimpleNamespace(names=names, identities=people, labels=labels, index=index)
    options = f"--train-on people --people-per-batch 32 --singletons 16 --seed {seed}"
    args = sys.modules["options"].read_options("", options.split())
    prepared = task.prepare(args, images, View1(real_source.protocol_dir))
    bush = people.index("George_W_Bush")
    assert (bush in prepared.rows) == (number == 133)
    sizes = [len(rows) for rows, _ in task.batches(args, prepared, 0)]
    assert sizes == [32 * 4 + 16] * number


def test_the_trivial_loss_of_an_epoch_is_the_mean_over_its_batches(run, lfw):
    options = "--loss contrastive --train-on pairs --margin 1.5"
    _, out = run(options)
    task, options = sys.modules["task"], f"{QUICK} {options} --data {lfw} --cache {lfw / 'cache'}"
    args = sys.modules["options"].read_options("", options.split())
    images, (view,) = task.load(args)
    prepared = task.prepare(args, images, view)
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for epoch, line in enumerate(history):
        share = np.array([same.mean() for _, same in task.batches(args, prepared, epoch)])
        trivial = share * (1 - share) * 1.5**2
        assert abs(trivial[-1] - trivial.mean()) > 0.01
        assert line["trivial"] == pytest.approx(trivial.mean(), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", ["bce", "info-nce", "supcon"])
def test_images_without_a_partner_come_as_pairs_of_themselves(main, loss, share):
    task = sys.modules["task"]
    same = task.Pairs(np.arange(0, 40, 2), np.arange(1, 40, 2), np.ones(20, dtype=bool))
    # images 0 to 9 are on same-pairs too, 40 to 69 on different-pairs alone
    unlike = task.Pairs(
        np.r_[np.arange(10), np.arange(40, 55)],
        np.r_[np.arange(50, 60), np.arange(55, 70)],
        np.zeros(25, dtype=bool),
    )
    labels = np.r_[np.arange(40) // 2, np.arange(20, 50)]
    listed = same.and_also(unlike)
    found = task.Task(labels, np.arange(70), listed, listed, listed)
    args = {"seed": 0, "loss": loss, "batch_size": 1, "self_pairs": share, "singletons": 6}
    args |= {"train_on": "people" if loss == "supcon" else "pairs"}
    args |= {"people_per_batch": 5, "images_per_person": 2}
    epochs = [list(task.batches(argparse.Namespace(**args), found, k)) for k in (0, 1, 0)]
    assert str(epochs[0]) == str(epochs[2]) != str(epochs[1])
    if loss == "supcon":
        for rows, ids in epochs[0]:
            once, times = np.unique(rows, return_counts=True)
            assert len(rows) == 16 + round(6 * share) and (labels[rows] == ids).all()
            assert (once[times > 1] >= 40).all() and (times > 1).sum() == round(6 * share)
        return
    pairs = {(*rows.tolist(), bool(kind)) for rows, (kind,) in epochs[0]}
    assert len(pairs) == len(epochs[0])
    selves = {pair for pair in pairs if pair[0] == pair[1]}
    assert len(selves) == round(30 * share) and all(i >= 40 and kind for i, _, kind in selves)
    kept = same if loss == "info-nce" else listed
    assert pairs - selves == set(zip(*(side.tolist() for side in kept), strict=True))


def test_view_2_trains_a_net_a_fold(run):
    code, out = run("--view 2 --epochs 1")
    assert code == 0
    result = json.loads((out / "result.json").read_text())
    folds = [json.loads((out / f"fold-{k}" / "result.json").read_text()) for k in (1, 2, 3)]
    accuracies = [fold["accuracy"] for fold in folds]
    assert result["protocol"] == "lfw-view-2"
    assert set(result) >= RESULT
    assert result["n_pairs"] == 48
    assert result["accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["accuracy_se"] == pytest.approx(np.std(accuracies, ddof=1) / np.sqrt(3))
    assert "standard error over 3 folds" in (out / "report.html").read_text(encoding="utf-8")
    assert [fold["protocol"] for fold in folds] == [f"lfw-view-2-fold-{k}" for k in range(3)]


def test_it_learns(run):
    """Six by six coloured squares under noise are easy: anything near chance is a defect."""
    code, out = run("--loss supcon --epochs 8")
    assert code == 0
    assert json.loads((out / "result.json").read_text())["auc"] > 0.9


def start(lfw, out, options):
    command = [sys.executable, str(EXAMPLE / "train.py"), *QUICK.split(), *options.split()]
    command += ["--data", str(lfw), "--cache", str(lfw / "cache"), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_epochs(process, out, n, seconds=120):
    """Give the process time to finish n epochs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        history = out / "history.jsonl"
        if history.exists() and len(history.read_text().splitlines()) >= n:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {n} epochs: {process.stderr.read()}")


LONG = "--loss batch-hard --epochs 400 --seed 3"


def test_killed_and_resumed_it_goes_on_as_if_nothing_had_happened(lfw, tmp_path, run):
    options = "--loss batch-hard --epochs 5 --seed 3 --start-epochs 2 --start-size 8"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code, whole = run(options, "whole")
    assert code == 0
    out = tmp_path / "killed"
    process = start(lfw, out, options)
    wait_for_epochs(process, out, 1)
    process.kill()
    process.communicate()
    done = len((out / "history.jsonl").read_text().splitlines())
    assert done < 5, "finished before it could be killed"
    code, out = run(options + " --resume", "killed")
    torch.set_num_threads(threads)
    assert code == 0
    read = lambda folder: [  # noqa: E731
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / "history.jsonl").read_text().splitlines()
    ]
    assert read(out) == read(whole)


def test_interrupted_it_exits_130_and_keeps_the_checkpoint(lfw, tmp_path):
    process = start(lfw, tmp_path / "out", LONG)
    wait_for_epochs(process, tmp_path / "out", 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said
    kept = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) >= 1


def test_resume_refuses_another_configuration(run, capsys):
    run("--loss supcon")
    assert run("--loss supcon --resume --margin 0.7 --epochs 3")[0] == 1
    said = capsys.readouterr().err
    assert "--margin was 0.2, is 0.7" in said
    assert "--epochs was 2, is 3" in said
    assert run("--loss supcon --resume", "nowhere")[0] == 1
    assert "holds no checkpoint.pt" in capsys.readouterr().err


def test_a_finished_run_is_judged_again_at_other_zooms(run, monkeypatch):
    train = sys.modules["train"]
    monkeypatch.setattr(train, "commit", lambda: "trained")
    _, out = run("--loss supcon --epochs 1")
    monkeypatch.setattr(train, "commit", lambda: "judged")
    before = (out / "history.jsonl").read_text()
    assert run("--loss supcon --epochs 1 --resume --zooms 0.9 1 1.1")[0] == 0
    assert (out / "history.jsonl").read_text() == before
    assert Verifier.load(out / "model.pt").zooms == (0.9, 1.0, 1.1)
    result = json.loads((out / "result.json").read_text())
    assert "--zooms 0.9 1 1.1" in result["command"]
    assert (result["commit"], result["judged_commit"]) == ("trained", "judged")


def test_a_full_disk_keeps_what_was_there(run, capsys, monkeypatch):
    _, out = run("--loss supcon --epochs 1")
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file: No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert run("--loss supcon --epochs 1 --seed 1")[0] == 1
    assert "No space left" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--train-on pairs --loss contrastive --batch-size 5000", "--batch-size must be at most"),
        ("--loss contrastive --batch-size 5000", "batch_size must be at most"),
        ("--loss supcon --people-per-batch 500", "P must be at most"),
        ("--loss supcon --image-size 20", "image_size must be a positive multiple of 8"),
        ("--loss supcon --crop 900", "crop must be at most 250"),
    ],
)
def test_impossible_options_are_named(run, capsys, options, message):
    assert run(options)[0] == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--train-on pairs --loss batch-hard", "needs identity labels"),
        ("--loss bce --normalize", "not for --loss bce"),
        ("--zooms 1 0", "--zooms must be above 0, 2 at most, got [1.0, 0.0]"),
        ("--self-pairs 2", "--self-pairs must be from 0 to 1, got 2"),
        ("--self-pairs 1 --no-augment", "--self-pairs needs --augment"),
        ("--self-pairs 1 --loss bce", "--self-pairs with --loss bce needs --train-on pairs"),
        ("--self-pairs 1 --loss info-nce", "or a loss on batches: batch-hard, semi-hard, batch"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--start-epochs 2 --epochs 2", "below --epochs 2, got 2"),
    ],
)
def test_options_that_contradict_each_other(run, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        run(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(run, capsys):
    _, out = run("--loss supcon --epochs 1")
    whole = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    assert run("--loss supcon --epochs 1 --resume")[0] == 1
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


def test_view_2_goes_on_with_the_folds_it_never_reached(run):
    code, out = run("--view 2 --epochs 1")
    whole = json.loads((out / "result.json").read_text())
    first = (out / "fold-1" / "history.jsonl").read_text()
    shutil.rmtree(out / "fold-3")
    (out / "result.json").unlink()
    code, out = run("--view 2 --epochs 1 --resume")
    assert code == 0
    again = json.loads((out / "result.json").read_text())
    assert again["folds"][:2] == whole["folds"][:2]
    assert (out / "fold-1" / "history.jsonl").read_text() == first
    assert (out / "fold-3" / "model.pt").exists()


def test_missing_folder_and_bad_images(run, lfw, tmp_path, capsys):
    assert run("", data=tmp_path / "nowhere")[0] == 1
    assert "nowhere" in capsys.readouterr().err
    bad = tmp_path / "lfw"
    subprocess.run(["cp", "-r", lfw, bad], check=True)
    (bad / "lfw-deepfunneled" / "P_01" / "P_01_0003.jpg").write_bytes(b"no picture")
    assert run(f"--cache {tmp_path / 'cache'}", data=bad)[0] == 1
    said = capsys.readouterr().err
    assert "P_01_0003" in said


def test_verify_says_who_is_who(run, lfw, capsys):
    _, out = run("--loss supcon --epochs 6")
    verify = importlib.import_module("verify").main
    photos = lfw / "lfw-deepfunneled"
    model = str(out / "model.pt")
    capsys.readouterr()
    assert verify([model, str(photos / "P_01/P_01_0001.jpg"), str(photos / "P_01")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("P_01_0001.jpg: same person, p = ")
    assert (
        verify([model, str(photos / "P_01/P_01_0001.jpg"), str(photos / "P_09/P_09_0001.jpg")]) == 0
    )
    assert "p = " in capsys.readouterr().out
    for wrong, said in (
        ([model, "nowhere.jpg", str(photos)], "there is no file nowhere.jpg"),
        (["nowhere.pt", "a.jpg", "b.jpg"], "there is no file nowhere.pt"),
        ([str(out), "a.jpg", "b.jpg"], "is a folder; give the model.pt in it"),
        ([str(photos), "a.jpg", "b.jpg"], "is a folder; give a file"),
        ([model, str(photos), "b.jpg"], "is a folder, not a photo"),
    ):
        assert verify(wrong) == 1
        assert said in capsys.readouterr().err


def test_verify_names_the_photos_it_cannot_read_and_ranks_the_others(
    lfw, tmp_path, capsys, monkeypatch
):
    monkeypatch.syspath_prepend(EXAMPLE)
    verify = importlib.import_module("verify").main
    model, folder = str(tmp_path / "model.pt"), tmp_path / "photos"
    Verifier(sl.C19(image_size=16), size=16).fit([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0]).save(model)
    shutil.copytree(lfw / "lfw-deepfunneled" / "P_01", folder)
    whole = (folder / "P_01_0001.jpg").read_bytes()
    (folder / "P_01_0002.jpg").write_bytes(b"no picture")
    (folder / "P_01_0003.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "a folder.jpg").mkdir()
    ask = [model, str(lfw / "lfw-deepfunneled/P_01/P_01_0001.jpg"), str(folder)]
    assert verify(ask) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["P_01_0001.jpg", "P_01_0004.jpg"]
    *named, count = err.splitlines()
    assert [line.split(" is ")[0].rsplit("/", 1)[1] for line in named] == [
        "P_01_0002.jpg",
        "P_01_0003.jpg",
        "a folder.jpg",
    ]
    assert count == "verify.py: 3 of 5 photos left out"
    for photo in ("P_01_0001.jpg", "P_01_0004.jpg"):
        (folder / photo).write_bytes(b"")
    assert verify(ask) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "verify.py: 5 of 5 photos left out"
    ask[1] = str(folder / "P_01_0002.jpg")  # without the photo to compare there is no ranking
    assert verify(ask) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_judge_fits_at_a_rate_and_reports(run, lfw, tmp_path, capsys):
    _, out = run("--loss supcon --epochs 6")
    judge = importlib.import_module("judge").main
    capsys.readouterr()
    given = [str(out / "model.pt"), "--data", str(lfw), "--cache", str(tmp_path)]
    given += ["--far", "0.1", "--pairs", "400", "--out", str(tmp_path / "judged")]
    assert judge(given) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "400 pairs of 7 people held out: at threshold" in said
    assert "named rightly" in said
    result = json.loads((tmp_path / "judged" / "judged.json").read_text())
    assert result["fitted_on"]["target"] == "far=0.1"
    assert result["pairs"]["far"]["low"] <= result["pairs"]["far"]["value"]
    assert result["identification"]["n_people"] == 9  # with four images: one left to ask about
    assert (tmp_path / "judged" / "verifier.pt").exists()
    assert (
        judge([str(tmp_path / "judged" / "verifier.pt"), *given[1:]]) == 0
    )  # says the same people
    assert "400 pairs of 7 people held out" in capsys.readouterr().out
    assert judge([str(out / "model.pt"), "--data", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    shutil.copytree(lfw / "lfw-deepfunneled", tmp_path / "bare" / "lfw")
    assert judge([str(out / "model.pt"), "--data", str(tmp_path / "bare")]) == 1
    assert "holds no pairs*.txt files" in capsys.readouterr().err
    verifier = Verifier.load(out / "model.pt")
    for fitted_on, reason in (
        ({"protocol": "lfw-view-2-fold-3"}, "must come from train.py on lfw-view-1, got a model"),
        ({"protocol": "lfw-view-1"}, "the model does not say its 'train_on'"),
    ):
        verifier.fit([0.1, 0.9, 0.2, 0.8], [0, 1, 0, 1], **fitted_on)
        verifier.save(tmp_path / "other.pt")
        assert judge([str(tmp_path / "other.pt"), *given[1:]]) == 1
        assert reason in capsys.readouterr().err


def test_the_command_in_the_result_names_no_folder_of_this_machine(main):
    command = importlib.import_module("options").command
    given = ["--data", "/x/y", "--cache=/z", "--loss", "bce", "--out", "/q", "--resume"]
    assert command(given) == "python examples/lfw/train.py --data path/to/lfw --loss bce"
    assert command(["--data", "synthetic"]).endswith("train.py --data synthetic")


@pytest.mark.parametrize(
    "options",
    ["--loss batch-hard --start-epochs 1 --start-size 8", "--loss bce --train-on pairs"],
)
def test_two_processes_train_together(lfw, tmp_path, options):
    out = tmp_path / "out"
    fixed = ["--data", str(lfw), "--cache", str(tmp_path / "cache"), "--out", str(out)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [
            *torchrun,
            "--nproc-per-node",
            "2",
            str(EXAMPLE / "train.py"),
            *QUICK.split(),
            *options.split(),
            *fixed,
        ],
        check=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    result = json.loads((out / "result.json").read_text())
    assert result["processes"] == 2 and 0 <= result["accuracy"] <= 1
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert (out / "model.pt").exists()
