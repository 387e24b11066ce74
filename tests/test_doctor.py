"""The doctor beside a loop: its calling forms, its discretion, its card, its command."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import siameselib as sl
from siameselib.diagnostics import Report
from siameselib.diagnostics.measures import effective_rank, hanley_mcneil, spread, square_distances
from siameselib.diagnostics.reading import read, trivial_of_batch, trivial_of_pairs
from siameselib.functional import paired_distance

LABELS = torch.arange(48) // 4
X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))


def points(labels, noise=0.5):
    centres = torch.randn(12, 8, generator=torch.Generator().manual_seed(5))
    return centres[labels] + noise * torch.randn(len(labels), 8)


def loop(net, criterion, doctor, steps=60, lr=1e-2):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        f = net(points(LABELS))
        loss = criterion(f, LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        doctor.step(f, LABELS, loss)


def test_healthy_run_says_so():
    net, criterion = nn.Linear(8, 8), sl.SupConLoss()
    doctor = sl.Doctor(net, criterion)
    loop(net, criterion, doctor)
    report = doctor.report()
    assert report.healthy and not report.findings
    assert "Healthy" in str(report) and "60 training steps of SupConLoss" in str(report)
    assert len(report.looked_at) > 10


def test_step_waits_for_nothing_and_draws_nothing(monkeypatch):
    """What would wait for a device, or move the random state, must not happen in a step."""
    net, criterion = nn.Linear(8, 8), nn.TripletMarginLoss()
    doctor = sl.Doctor(net, criterion)
    f = net(X)
    loss = criterion(f[:16], f[16:32], f[32:])
    loss.backward()
    state = torch.get_rng_state()

    def waits(*args, **kwargs):
        raise AssertionError("waited for the device")

    with monkeypatch.context() as patch:
        names = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__")
        for name in (*names, "__index__", "unique", "isnan", "masked_select"):
            patch.setattr(torch.Tensor, name, waits)
        for step in range(150):
            doctor.step(f, LABELS, loss, images=X if step % 2 else None)
            doctor.step((f[:24], f[24:]), LABELS[:24] % 2, loss, logits=f[:24, 0])
            doctor.step((f[:16], f[16:32], f[32:]), None, loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(s.rows[0].requires_grad for s in doctor._recent)
    doctor.report()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_kept_is_small_and_a_copy():
    net = nn.Linear(8, 2000)
    doctor = sl.Doctor(net)
    x = torch.randn(1000, 8)
    f = net(x).detach()
    for _ in range(300):
        doctor.step(f, torch.arange(1000) // 2, 1.0)
    kept = [s.rows[0] for s in [*doctor._early, *doctor._recent]]
    assert all(rows.shape == (128, 2000) for rows in kept) and len(kept) < 40
    assert all(rows.untyped_storage().data_ptr() != f.untyped_storage().data_ptr() for rows in kept)
    assert doctor._weights[-1].sample.numel() <= 2 * 512


def test_training_goes_as_without_the_doctor():
    results = []
    for attached in (False, True):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.BatchNorm1d(8))
        criterion = sl.SupConLoss()
        doctor = sl.Doctor(net, criterion)
        if not attached:
            doctor.step = lambda *args: None
        loop(net, criterion, doctor)
        if attached:
            modes = [part.training for part in net.modules()]
            doctor.report()
            assert [part.training for part in net.modules()] == modes
        results.append(torch.cat([t.flatten().float() for t in net.state_dict().values()]))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("criterion", "given", "labels", "extra", "form"),
    [
        (nn.TripletMarginLoss(), (X[:16], X[16:32], X[32:]), None, {}, "triplets"),
        (sl.ContrastiveLoss(), (X[:24], X[24:]), LABELS[:24] % 2, {}, "pairs"),
        (sl.BCEPairLoss(), X[:, 0], LABELS % 2, {}, "pairs"),
        (sl.BCEPairLoss(), (X[:24], X[24:]), LABELS[:24] % 2, {"logits": X[:24, :1]}, "pairs"),
        (sl.InfoNCELoss(), (X[:24], X[24:]), None, {}, "batch"),
        (sl.SupConLoss(), X, LABELS, {}, "batch"),
    ],
)
def test_calling_forms(criterion, given, labels, extra, form):
    doctor = sl.Doctor(nn.Linear(8, 8), criterion)
    for _ in range(10):
        doctor.step(given, labels, torch.tensor(0.5), **extra)
    report = doctor.report()
    assert doctor._recent[-1].form == form
    assert "AUC" in str(report)


def test_logits_may_follow_a_head_of_any_width():
    doctor = sl.Doctor(nn.Linear(8, 8), nn.BCEWithLogitsLoss())
    doctor.step((X[:24], X[24:]), LABELS[:24] % 2, 0.5, logits=X[:24, :1])
    assert doctor._recent[-1].logits.shape == (24,)


@pytest.mark.parametrize(
    ("given", "labels", "loss", "says"),
    [
        (X, LABELS[:5], 0.5, r"labels must have shape \(n,\) = \(48,\)"),
        (X, None, 0.5, "labels must have shape"),
        ((X, X[:5]), LABELS, 0.5, "second must have the shape of first"),
        ((X, X, X, X), LABELS, 0.5, "be one, two or three tensors, got 4"),
        (None, LABELS, 0.5, "embeddings must be a tensor"),
        (X, LABELS, torch.ones(48), r"loss must be one number.*got \(48,\)"),
    ],
)
def test_refuses(given, labels, loss, says):
    with pytest.raises((ValueError, TypeError), match=says):
        sl.Doctor(nn.Linear(8, 8)).step(given, labels, loss)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
        sl.Doctor(lambda x: x)


def test_narrow_dtypes_and_autocast():
    net, criterion = nn.Linear(8, 8), sl.SupConLoss()
    doctor = sl.Doctor(net, criterion)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(20):
            f = net(points(LABELS))
            doctor.step(f, LABELS, criterion(f, LABELS))
    assert f.dtype == torch.bfloat16
    assert doctor.report().vitals["distances"].startswith("AUC 0.9")


def test_a_wrapped_net_is_the_net():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    compiled = torch.compile(net, backend="eager")
    criterion = sl.SupConLoss()
    doctor = sl.Doctor(compiled, criterion)
    loop(compiled, criterion, doctor, lr=0.0)
    (finding,) = [f for f in doctor.report().findings if f.code == "weights-not-moving"]
    assert "all of them" in finding.seen
    assert doctor._weights[-1].names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_net_that_is_replaced_during_training():
    model = nn.Sequential(nn.Linear(8, 8))
    criterion = sl.SupConLoss()
    doctor = sl.Doctor(model, criterion)
    loop(model, criterion, doctor, steps=40)
    model[0] = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    loop(model, criterion, doctor, steps=80)
    assert doctor.report().healthy


def test_report_before_any_step():
    doctor = sl.Doctor(nn.Linear(8, 8), sl.SupConLoss())
    report = doctor.report()
    assert not report.findings and report.looked_at == []
    assert not report.healthy and not report.sick and "Healthy" not in str(report)
    assert report.summary == "too little seen to tell"
    loop(nn.Linear(8, 8), sl.SupConLoss(), doctor, steps=5)
    assert "5 training steps most of it" in str(doctor.report())
    loop(nn.Linear(8, 8), sl.SupConLoss(), doctor, steps=55)
    assert doctor.report().unseen == ""


def test_images_compare_the_modes_and_leave_the_net_alone():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    doctor = sl.Doctor(net)
    x = points(LABELS)
    doctor.step(net(x), LABELS, 0.5, images=x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert "train-eval-gap" in doctor.report().looked_at
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training and not net[1].weight.grad


def test_card_and_json_agree(tmp_path):
    doctor = sl.Doctor(nn.Linear(8, 8), sl.SupConLoss())
    for _ in range(40):
        doctor.step(torch.zeros(48, 8), LABELS, 1.0)
    report = doctor.report()
    kept = json.loads(json.dumps(report.as_dict()))
    assert str(Report.from_dict(kept)) == str(report)
    assert kept["findings"][0]["code"] in str(report)
    assert max(map(len, str(report).splitlines())) <= 100
    severities = [finding["severity"] for finding in kept["findings"]]
    assert severities == sorted(severities, key=["critical", "warning", "note"].index)


# What a loss is and what it gives a net that knows nothing.


def test_reads_foreign_losses():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    found = read(nn.TripletMarginLoss(margin=0.7))
    assert (found.family, found.margin, found.metric) == ("triplet", 0.7, "euclidean")
    found = read(losses.TripletMarginLoss(margin=0.1))
    assert (found.family, found.margin, found.unit) == ("triplet", 0.1, True)
    found = read(losses.ContrastiveLoss(neg_margin=0.9))
    assert (found.family, found.margin, found.unit) == ("contrastive", 0.9, True)
    found = read(losses.ContrastiveLoss(0.9, 0.1, distance=distances.CosineSimilarity()))
    assert (found.metric, found.margin) == ("cosine", pytest.approx(0.9))
    assert read(losses.NTXentLoss()).metric == "cosine"
    assert read(nn.CosineEmbeddingLoss(margin=0.25)).margin == 0.75
    assert read(nn.BCELoss()).probabilities
    assert read(F.binary_cross_entropy_with_logits).family == "bce"
    assert read(sl.CrossProcessLoss(sl.BatchHardTripletLoss(margin=0.4))).margin == 0.4
    assert read(None, margin=2.0).margin == 2.0
    distributed = pytest.importorskip("pytorch_metric_learning.utils.distributed")
    found = read(distributed.DistributedLossWrapper(losses.TripletMarginLoss(margin=0.1)))
    assert (found.family, found.margin, found.across) == ("triplet", 0.1, True)


@pytest.mark.parametrize(
    "criterion",
    [sl.SupConLoss(), sl.NTXentLoss(), sl.BatchHardTripletLoss(), sl.BatchAllTripletLoss()],
)
def test_trying_a_loss_out_gives_its_trivial_value(criterion):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = trivial_of_batch(criterion, LABELS)
    criterion(torch.ones(48, 4), LABELS)
    assert found == pytest.approx(float(criterion.stats.trivial), rel=1e-4)


def test_trying_out_foreign_losses():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    assert trivial_of_batch(losses.TripletMarginLoss(0.3), LABELS) == pytest.approx(0.3, abs=1e-3)
    assert trivial_of_batch(losses.SupConLoss(), LABELS) == pytest.approx(np.log(47), abs=1e-3)
    assert trivial_of_batch(losses.ProxyNCALoss(12, 8), LABELS) == "it has parameters of its own"
    told = trivial_of_batch(sl.InfoNCELoss(), LABELS)
    assert told == "called with (embeddings, labels) it raised ValueError"


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize(
    ("criterion", "signed"),
    [(sl.ContrastiveLoss(margin=1.3), False), (nn.CosineEmbeddingLoss(margin=0.2), True)],
)
def test_trivial_loss_of_pairs_is_the_best_of_all_constants(criterion, signed, share):
    same = torch.arange(100) < 100 * share
    target = torch.where(same, 1, -1) if signed else same
    angles = torch.linspace(0, 3.14, 400)
    a = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    best = min(
        float(criterion(a, s * torch.tensor([[t.cos(), t.sin()]]).repeat(100, 1), target))
        for t in angles
        for s in ((1.0,) if signed else (0.7, 1.0))
    )
    assert trivial_of_pairs(read(criterion), share) == pytest.approx(best, abs=2e-3)


# The numbers under the findings, against somebody else's.


def test_effective_rank_of_known_spectra():
    basis = torch.linalg.qr(torch.randn(200, 6, dtype=torch.float64) - 0.0)[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]
    assert effective_rank(basis) == pytest.approx(6, abs=0.05)
    assert effective_rank(basis[:, :1] @ torch.ones(1, 9, dtype=torch.float64)) < 1.001


def test_spread():
    assert spread(torch.ones(5, 3)) == 0
    assert spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(1)


def test_standard_error_of_the_auc_covers():
    rng = np.random.default_rng(0)
    from sklearn.metrics import roc_auc_score

    same = np.arange(200) < 80
    found = [roc_auc_score(same, rng.normal(size=200) + 0.8 * same) for _ in range(400)]
    assert hanley_mcneil(float(np.mean(found)), 80, 120) == pytest.approx(np.std(found), rel=0.15)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "manhattan", None])
def test_square_distances(metric):
    chosen = metric or (lambda a, b: (a - b).abs().amax(1))
    d = square_distances(X[:6], chosen)
    expected = [[float(paired_distance(a[None], b[None], chosen)) for b in X[:6]] for a in X[:6]]
    torch.testing.assert_close(d, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_embeddings_that_shrink_towards_one_vector():
    """A collapse on its way, from distances near 4 to a fiftieth, with nothing learnt."""
    doctor = sl.Doctor(nn.Identity(), None)
    for step in range(80):
        doctor.step(1 + torch.randn(48, 8) / (1 + step), LABELS, 1 / (1 + step))
    (finding,) = doctor.report().findings
    assert finding.code == "total-collapse" and "as far apart as at first" in finding.seen
