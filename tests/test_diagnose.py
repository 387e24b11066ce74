"""One look at data and net, and at what a training left behind: findings, forms, the command."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import siameselib as sl
from siameselib import cli
from siameselib.diagnostics import diagnose_saved
from siameselib.diagnostics.findings import data

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
    assert code == 0 and "Healthy" in out and "48 embeddings" in out
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
    np.savez(file, x1=X[:24].numpy(), x2=X[24:].numpy(), same=same[:24])
    assert command(file)[0] == 0
    np.savez(file, other=same)
    code, _, err = command(file)
    assert code == 1 and "must hold embeddings and labels" in err
    assert "no file or folder" in command(tmp_path / "nothing")[2]


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
    doctor = sl.Doctor(nn.Linear(8, 8))
    (tmp_path / "doctor.json").write_text(json.dumps(doctor.report().as_dict()))
    (tmp_path / "result.json").unlink()
    code, out, _ = command(tmp_path)
    assert code == 0 and diagnose_saved(tmp_path).healthy
