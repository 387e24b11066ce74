"""One look at data and net, and at what a training left behind: findings, forms, the command."""

import gc
import json
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import siameselib as sl
from siameselib import cli
from siameselib.diagnostics import diagnose_saved
from siameselib.diagnostics.findings import data
from siameselib.evaluation import Verifier

D = 16
LABELS = torch.arange(48) // 4
X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))


def points(labels, noise=0.5):
    centres = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    return centres[labels] + noise * torch.randn(len(labels), 8)


def code_of(check):
    return check.__name__.replace("_", "-")


IMAGES = torch.randn(160, D, generator=torch.Generator().manual_seed(3))
PEOPLE = torch.arange(160) // 4


def loader(images=IMAGES, labels=PEOPLE, P=8):
    return [(images[rows], labels[rows]) for rows in sl.PKSampler(labels, P=P, K=4)]


def pair_loader(n=4, images=IMAGES, same=lambda y: y):
    sampler = sl.PairSampler(PEOPLE, batch_size=32, num_batches=n)
    return [(images[i], images[j], torch.from_numpy(same(y))) for i, j, y in sampler]


def halves():
    """Same pairs of the first people, different pairs of the others."""
    i = torch.arange(0, 160, 2)
    j = torch.where(i < 80, i + 1, (i + 5).clamp_max(159))
    return [(IMAGES[i], IMAGES[j], (PEOPLE[i] == PEOPLE[j]).long())]


class Redrawn:
    def __init__(self):
        self.sampler = sl.PairSampler(PEOPLE, batch_size=32, num_batches=4)

    def __iter__(self):
        for i, j, same in self.sampler:
            yield IMAGES[i], IMAGES[j], torch.from_numpy(same)


def copies():
    images = IMAGES.clone()
    images[10] = images[100]
    return images


LOADERS = {
    "identity-leak": (
        (loader(), loader()),
        (loader(IMAGES[:80], PEOPLE[:80]), loader(IMAGES[80:], PEOPLE[80:])),
    ),
    "image-leak": (
        (loader(), loader(labels=PEOPLE + 100)),
        (loader(IMAGES[:80], PEOPLE[:80]), loader(IMAGES[80:], PEOPLE[80:])),
    ),
    "duplicates-in-pairs": (
        ([(x1, torch.where(y[:, None] > 0, x1, x2), y) for x1, x2, y in pair_loader()], None),
        (pair_loader(), None),
    ),
    "duplicates-across-identities": ((loader(copies()), None), (loader(), None)),
    "pair-list-memorable": ((halves(), None), (Redrawn(), None)),
    "sampler-coverage": ((loader()[:1] * 8, None), (loader(), None)),
}


def test_every_finding_about_data_has_a_case():
    assert {code_of(check) for check in data.CHECKS} == set(LOADERS)


@pytest.mark.parametrize("code", LOADERS)
def test_found_in_the_data(code):
    report = sl.diagnose(nn.Linear(D, 8), *LOADERS[code][0])
    assert code in [finding.code for finding in report.findings], str(report)


@pytest.mark.parametrize("code", LOADERS)
def test_quiet_about_good_data(code):
    report = sl.diagnose(nn.Linear(D, 8), *LOADERS[code][1])
    assert code in report.looked_at
    assert code not in [finding.code for finding in report.findings], str(report)


# One look at data and net.


def test_diagnose_takes_every_form():
    net = nn.Linear(8, 4)
    pairs = [(X[:24], X[24:], LABELS[:24] % 2)]
    nested = [((X[:24], X[24:]), LABELS[:24] % 2)]
    triplets = [(X[:16], X[16:32], X[32:])]
    for loader in ([(X, LABELS)], pairs, nested, triplets):
        assert sl.diagnose(net, loader).looked_at
    with pytest.raises(ValueError, match="loader must give \\(images, labels\\)"):
        sl.diagnose(net, [(X,)])
    with pytest.raises(ValueError, match="loader must give at least one batch"):
        sl.diagnose(net, [])


def test_diagnose_a_net_of_two_images():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 1)

        def forward(self, x1, x2):
            return self.linear(torch.cat([x1, x2], 1))

    pairs = [(X[:24], X[24:], LABELS[:24] % 2)]
    codes = [f.code for f in sl.diagnose(Two(), pairs).findings]
    assert {"head-additive", "head-asymmetric"} <= set(codes)
    concat = sl.SiameseNetwork(nn.Linear(8, 8), sl.ConcatHead(8))
    assert "head-additive" in [f.code for f in sl.diagnose(concat, pairs).findings]
    net = sl.SiameseNetwork(nn.Linear(8, 8), sl.InteractionHead(8))
    assert "head-additive" not in [f.code for f in sl.diagnose(net, pairs).findings]


def test_diagnose_finds_inverted_labels_before_training():
    labels = torch.arange(600) // 4
    x = torch.randn(150, 8)[labels] + torch.randn(600, 8)
    sampler = sl.PairSampler(labels, batch_size=100, num_batches=4)
    for flip in (False, True):
        loader = [(x[i], x[j], torch.from_numpy(1 - y if flip else y)) for i, j, y in sampler]
        codes = [f.code for f in sl.diagnose(nn.Linear(8, 8), loader).findings]
        assert ("labels-inverted" in codes) == flip


# What a training left behind.


@pytest.fixture
def command(capsys):
    def run(*words):
        code = cli.main(["doctor", *map(str, words)])
        return code, *capsys.readouterr()

    return run


def test_command_on_embeddings(command, tmp_path):
    file = tmp_path / "good.npz"
    np.savez(file, embeddings=points(LABELS).numpy(), labels=np.array([f"P{k}" for k in LABELS]))
    code, out, _ = command(file)
    assert code == 0 and "Too little seen to tell" in out and "48 embeddings" in out
    noise = np.random.default_rng(0).normal(size=(600, 8))
    np.savez(file, embeddings=noise, labels=np.arange(600) // 3)
    code, out, _ = command(file)
    assert code == 1 and "The saved pairs are hardly told apart: AUC 0." in out
    np.savez(file, embeddings=np.ones((48, 4), np.float32), labels=LABELS.numpy())
    code, out, _ = command(file, "--json")
    assert code == 1 and json.loads(out)["findings"][0]["code"] == "total-collapse"


def test_command_on_scores_and_pairs(command, tmp_path):
    file = tmp_path / "scores.npz"
    same = np.arange(200) % 2
    scores = same + 0.3 * np.random.default_rng(0).normal(size=200)
    np.savez(file, scores=scores, same=same, threshold=-1.0)
    code, out, _ = command(file)
    assert code == 1 and "threshold-error" in out
    np.savez(file, scores=scores, same=same)
    code, out, _ = command(file)
    assert code == 0 and "there are only scores" in out and "Healthy" not in out
    np.savez(file, x1=X[:24].numpy(), x2=X[24:].numpy(), same=same[:24])
    assert command(file)[0] == 0
    np.savez(file, other=same)
    code, _, err = command(file)
    assert code == 1 and "must hold embeddings and labels" in err
    assert "no file or folder" in command(tmp_path / "nothing")[2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"embeddings": np.ones(4), "labels": [1]},
            r"embeddings must hold numbers of shape \(n, d\), got float64 \(4,\)",
        ),
        ({"embeddings": [["a", "b"]], "labels": [1]}, "embeddings must hold numbers .*<U1"),
        ({"embeddings": np.ones((0, 4)), "labels": []}, r"embeddings must hold .*got .*\(0, 4\)"),
        (
            {"embeddings": np.ones((4, 2)), "labels": [1]},
            r"labels must hold .*\(4,\), got .*\(1,\)",
        ),
        ({"embeddings": np.ones((2, 2)), "labels": [1.5, 2]}, "labels must hold integers or names"),
        ({"x1": X, "x2": X[:5], "same": LABELS}, "x2 must have the shape of x1"),
        ({"x1": X, "x2": X, "same": [1, 0]}, r"same must hold 0 and 1 of shape .*\(48,\)"),
        ({"scores": [1.0, 2.0], "same": [1, 1]}, "same must hold both same and different"),
        ({"scores": [1.0, np.nan], "same": [1, 0]}, "scores must be finite"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, command, arrays, message):
    file = tmp_path / "arrays.npz"
    np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
    code, _, err = command(file)
    assert code == 1 and re.search(f"diagnose_saved: {message}", err), err


def test_embeddings_that_are_no_numbers(tmp_path):
    file = tmp_path / "nan.npz"
    x = points(LABELS).numpy()
    x[3, 2] = np.nan
    np.savez(file, embeddings=x, labels=LABELS.numpy())
    (finding,) = diagnose_saved(file).findings
    assert finding.code == "non-finite" and "2 % of the embeddings" in finding.seen


def test_command_on_a_run(command, tmp_path):
    assert "holds none of" in command(tmp_path)[2]
    line = {"loss": 0.2002, "trivial": 0.2, "active": 1.0}
    lines = [line | {"epoch": k} for k in range(8)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    code, out, _ = command(tmp_path)
    assert code == 1 and "loss-at-trivial" in out and "epochs" in out
    result = {"accuracy": 0.55, "accuracy_se": 0.016, "eer": 0.25}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert "threshold-error" in command(tmp_path)[1]


# The figures of runs on LFW's pairs: concatenation, interaction, InfoNCE.
CHANCE = {"accuracy": 0.55, "accuracy_se": 0.016, "auc": 0.573, "eer": 0.44}
GOOD = {"accuracy": 0.84, "accuracy_se": 0.012, "auc": 0.923, "eer": 0.157}
COUNTS = {"n_pairs": 1000, "n_same": 500, "loss": "bce"}
FALLING = [0.99, 0.65, 0.57, 0.48, 0.43]


def write_run(folder, result=None, losses=(), aucs=(), verifier=None, doctor=None, trivial=0.69):
    lines = [
        {"loss": x, "trivial": trivial, "val_auc": y} for x, y in zip(losses, aucs, strict=True)
    ]
    if lines:
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / "history.jsonl").write_text(text)
    for name, content in (("result", result), ("doctor", doctor)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    if verifier is not None:
        verifier.save(folder / "model.pt")
    report = diagnose_saved(folder)
    return report, [finding.code for finding in report.findings]


def tiny_verifier(head=None):
    return Verifier(sl.C19(image_size=8), head, size=8, metric="head" if head else "cosine")


def test_a_run_at_chance_is_called_so(tmp_path):
    report, codes = write_run(
        tmp_path,
        CHANCE | COUNTS,
        FALLING,
        [0.49, 0.53, 0.53, 0.53, 0.51],
        tiny_verifier(sl.ConcatHead(1024)),
    )
    assert codes == ["head-additive", "near-chance", "overfitting", "head-asymmetric"]
    assert report.sick and "AUC 0.573 ± 0.018, accuracy 0.550" in str(report)


def test_chance_in_the_history_alone(tmp_path):
    report, codes = write_run(tmp_path, None, [0.7] * 5, [0.5, 0.51, 0.49, 0.52, 0.5])
    assert codes == ["loss-at-trivial", "near-chance"]
    assert "AUC 0.500" in str(report) and "±" not in report.vitals["validation pairs"]
    report, codes = write_run(tmp_path, None, [0.6] * 2, [0.5, 0.5])
    assert codes == []  # two epochs are early days


def test_a_run_that_falls_back(tmp_path):
    aucs = [0.7, 0.8, 0.9, 0.85, 0.8]
    report, codes = write_run(tmp_path, None, FALLING, aucs)
    assert codes == ["overfitting"] and "0.900 in epoch 3 and 0.800 in the last one, 5" in str(
        report
    )
    assert write_run(tmp_path, None, FALLING, sorted(aucs))[1] == []


def test_what_nobody_watched_is_not_healthy(tmp_path, command):
    report, codes = write_run(
        tmp_path, GOOD | COUNTS, FALLING, [0.7, 0.8, 0.85, 0.9, 0.9], tiny_verifier()
    )
    assert codes == [] and not report.healthy and not report.sick
    code, out, _ = command(tmp_path)
    assert code == 0 and "Healthy" not in out and "no doctor.json" in out
    assert f"{len(report.looked_at)} of" in report.unseen
    kept = json.loads(command(tmp_path, "--json")[1])
    assert kept["healthy"] is False and kept["unseen"] == report.unseen
    assert sl.diagnostics.Report.from_dict(kept) == report


def test_what_the_doctor_found_in_training_leads(tmp_path):
    net, criterion = nn.Linear(8, 8), sl.SupConLoss()
    doctor = sl.Doctor(net, criterion)
    for _ in range(60):
        f = net(points(LABELS))
        loss = criterion(f, LABELS)
        loss.backward()
        doctor.step(f, LABELS, loss)
        net.weight.data -= 0.01 * net.weight.grad
        net.bias.data -= 0.01 * net.bias.grad
    kept = doctor.report().as_dict()
    del kept["unseen"]  # as older versions wrote it
    report, codes = write_run(tmp_path, GOOD | COUNTS, doctor=kept)
    assert codes == [] and report.healthy
    report, codes = write_run(tmp_path, CHANCE | COUNTS, doctor=kept)
    assert codes == ["near-chance"] and report.subject.endswith("60 training steps of SupConLoss")


@pytest.mark.parametrize(("share", "severity"), [(0.4, None), (0.6, "warning"), (1, "critical")])
def test_units_that_batchnorm_saw_to_be_dead(tmp_path, share, severity):
    verifier = tiny_verifier()
    verifier.backbone.layers[18].running_var[: round(1024 * share)] = 1e-14
    if share == 1:
        verifier.backbone.layers[18].running_var[0] = 1.0
    report, codes = write_run(tmp_path, verifier=verifier)
    assert codes == ([] if severity is None else ["dead-units"])
    if severity is not None:
        assert report.findings[0].severity == severity and "layers.18" in str(report)
    report, codes = write_run(tmp_path, GOOD | COUNTS)
    assert [f.severity for f in report.findings] == ([] if severity is None else ["note"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("history.jsonl", '{"loss": 1}\n{"lo', "line 2 of history.jsonl must be JSON"),
        ("history.jsonl", "[1]", "line 1 of history.jsonl must hold a JSON object, got list"),
        ("result.json", "", "result.json must be JSON"),
        ("doctor.json", "{}", "doctor.json is no report of a doctor"),
        ("doctor.json", '{"findings": [3]}', "doctor.json is no report of a doctor"),
        ("model.pt", "no", "model.pt .*no readable verifier file"),
    ],
)
def test_damaged_runs(tmp_path, command, name, content, message):
    (tmp_path / name).write_text(content)
    code, out, err = command(tmp_path)
    assert code == 1 and not out and re.search(message, err)


def test_a_model_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "model.pt").write_text("no")
    report, _ = write_run(tmp_path, GOOD | COUNTS)
    assert "no readable verifier file" in report.unseen


def test_a_damaged_archive_is_closed(tmp_path, command):
    file = tmp_path / "embeddings.npz"
    np.savez(file, embeddings=np.ones((40, 4)), labels=np.arange(40))
    whole = file.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:4],
        b"",
        b"no archive",
        whole[:100] + bytes(50) + whole[150:],
    ):
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            code, _, err = command(file)
            gc.collect()
        assert code == 1 and "is no readable .npz of arrays" in err
