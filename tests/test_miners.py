"""Miners against the definitions in loops, published facts, and another library's losses."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers

import siameselib as sl
from siameselib.functional import paired_distance
from siameselib.kernels import BACKENDS

RUNNING = [name for name in BACKENDS if name != "triton"]


@pytest.fixture(params=RUNNING)
def backend(request):
    return request.param


def random_batch(n=60, d=5, classes=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(0, classes, (n,), generator=g)


# embeddings 0 ... 8 on a line


def test_batch_hard_on_a_line(backend):
    x = torch.arange(9.0)[:, None]
    labels = torch.tensor([0, 0, 1, 1, 0, 2, 1, 1, 1])
    t = sl.BatchHardMiner(backend=backend)(x, labels)
    assert t.valid.tolist() == [True] * 5 + [False] + [True] * 3
    anchor, positive, negative = t.compact()
    assert anchor.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    assert positive.tolist() == [4, 4, 8, 8, 0, 2, 2, 2]
    assert negative.tolist() == [2, 2, 1, 4, 3, 5, 5, 5]  # 4 is as near to 3 as to 5: the lower


def test_semi_hard_on_a_line(backend):
    x = torch.arange(9.0)[:, None]
    labels = torch.tensor([0, 0, 1, 1, 0, 2, 1, 1, 1])
    t = sl.SemiHardMiner(backend=backend)(x, labels)
    found = {(a, p): n for a, p, n in torch.stack(t.compact(), 1).tolist()}
    assert len(found) == len(t.anchor) == 3 * 2 + 5 * 4
    assert found[0, 1] == 2 and found[0, 4] == 5 and found[1, 0] == 3
    assert found[4, 1] == 8  # at 3 from 4 are 1 and 7; farther negatives: 8 at 4
    assert found[8, 2] == 1 and found[2, 8] == 5  # at 6; none is so far from 2: the farthest
    t = sl.SemiHardMiner(fallback="skip", backend=backend)(x, labels)
    left = {(a, p) for a, p, _ in torch.stack(t.compact(), 1).tolist()}
    skipped = set(found) - left
    for a, p in found:
        farther = [n for n in range(9) if labels[n] != labels[a] and abs(a - n) > abs(a - p)]
        assert ((a, p) in skipped) == (not farther)


@pytest.mark.parametrize(("identities", "images"), [(2, 2), (5, 4), (16, 2)])
def test_number_of_triplets(backend, identities, images):
    n = identities * images
    x, labels = torch.randn(n, 3), torch.arange(n) % identities
    with torch.no_grad():
        assert sl.BatchHardMiner(backend=backend)(x, labels).valid.sum() == n
        assert len(sl.SemiHardMiner(backend=backend)(x, labels).anchor) == n * (images - 1)
    few = sl.SemiHardMiner(backend=backend, max_positives=1)(x, labels)
    assert len(few.anchor) == n and few.valid.all()
    many = sl.SemiHardMiner(backend=backend, max_positives=images + 3)(x, labels)
    assert len(many.anchor) == n * (images + 3) and many.valid.sum() == n * (images - 1)


# definitions


def distance(metric, a, b):
    if metric == "cosine":
        lengths = math.hypot(*a) * math.hypot(*b)
        return 1 - sum(p * q for p, q in zip(a, b, strict=True)) / lengths
    return math.dist(a, b)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_by_the_definition(metric, backend):
    x, labels = random_batch()
    rows = x.double().tolist()
    d = torch.tensor([[distance(metric, a, b) for b in rows] for a in rows])
    same = (labels[:, None] == labels) & ~torch.eye(60, dtype=torch.bool)
    other = labels[:, None] != labels
    t = sl.BatchHardMiner(metric=metric, backend=backend)(x, labels)
    assert t.valid.all()
    assert torch.equal(t.positive, d.where(same, torch.tensor(-1.0)).argmax(1))
    assert torch.equal(t.negative, d.where(other, torch.tensor(1e9)).argmin(1))
    t = sl.SemiHardMiner(metric=metric, backend=backend)(x, labels)
    assert torch.equal(torch.stack([t.anchor, t.positive]), same.nonzero().T)
    for a, p, n in torch.stack(t[:3], 1).tolist():
        farther = other[a] & (d[a] > d[a, p])
        best = d[a].where(farther, torch.tensor(1e9)).argmin()
        assert n == (best if farther.any() else d[a].where(other[a], torch.tensor(-1.0)).argmax())


def test_cosine_is_blind_to_length(backend):
    x, labels = random_batch()
    lengths = torch.logspace(-15, 15, 60)[:, None]
    for miner in (sl.BatchHardMiner, sl.SemiHardMiner):
        module = miner(metric="cosine", backend=backend)
        assert all(map(torch.equal, module(x, labels), module(x * lengths, labels)))


def test_hardest_in_every_digit(backend):
    """Distances that differ by one part in a million, far from the origin."""
    g = torch.Generator().manual_seed(0)
    x = 1000 + 1e-3 * torch.randn(200, 32, generator=g)
    labels = torch.arange(200) // 4
    t = sl.BatchHardMiner(backend=backend)(x, labels)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = exact.where(labels[:, None] != labels, torch.tensor(1e9).double()).argmin(1)
    assert torch.equal(t.negative, nearest)


# another set to compare with


def test_reference_set(backend):
    x, labels = random_batch(20)
    ref, ref_labels = random_batch(50, seed=1)
    t = sl.BatchHardMiner(backend=backend)(x, labels, ref, ref_labels)
    d = paired_distance(x.repeat_interleave(50, 0), ref.repeat(20, 1)).view(20, 50)
    same = labels[:, None] == ref_labels
    assert torch.equal(t.valid, same.any(1) & ~same.all(1))
    assert torch.equal(t.positive, d.where(same, torch.tensor(-1.0)).argmax(1))
    assert torch.equal(t.negative, d.where(~same, torch.tensor(1e9)).argmin(1))


def test_part_of_the_reference_set(backend):
    """Half of a batch against the whole: the same rows as of the whole against itself."""
    x, labels = random_batch(40)
    for make in (sl.BatchHardMiner, sl.SemiHardMiner):
        whole = make(backend=backend)(x, labels)
        half = make(backend=backend)(x[20:], labels[20:], x, labels, 20)
        late = whole.anchor >= 20
        assert torch.equal(whole.anchor[late] - 20, half.anchor)
        assert torch.equal(whole.positive[late], half.positive)
        assert torch.equal(whole.negative[late], half.negative)


# other libraries


def test_batch_hard_agrees_with_pml():
    x, labels = random_batch(120, classes=20)
    metric = distances.LpDistance(normalize_embeddings=False)
    theirs = miners.BatchHardMiner(distance=metric)(x, labels)
    for ours, their in zip(sl.BatchHardMiner()(x, labels).compact(), theirs, strict=True):
        assert torch.equal(ours, their)


@pytest.mark.parametrize("make", [sl.BatchHardMiner, sl.SemiHardMiner])
def test_compact_feeds_pml(make):
    x, labels = random_batch(classes=30)  # some identities come once
    x.requires_grad_()
    t = make(fallback="skip")(x, labels) if make is sl.SemiHardMiner else make()(x, labels)
    assert not t.valid.all()
    metric = distances.LpDistance(normalize_embeddings=False)
    their = losses.TripletMarginLoss(0.3, distance=metric, reducer=reducers.MeanReducer())
    theirs = their(x, labels, t.compact())
    ours = sl.TripletLoss(margin=0.3)(x[t.anchor], x[t.positive], x[t.negative], valid=t.valid)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(each, x)[0] for each in (ours, theirs)))


def test_semi_hard_is_not_asked_for_no_positives():
    with pytest.raises(ValueError, match="max_positives must be at least 1, or None, got 0"):
        sl.SemiHardMiner(max_positives=0)(*random_batch())
