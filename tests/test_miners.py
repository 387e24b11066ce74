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


@pytest.mark.parametrize(
    "make",
    [
        sl.BatchHardMiner,
        sl.DistanceWeightedMiner,
        sl.EasyPositiveMiner,
        sl.HardestNegativesMiner,
        sl.SemiHardMiner,
    ],
)
def test_part_of_the_reference_set(make, backend):
    """Half of a batch against the whole: the same rows as of the whole against itself."""
    x, labels = random_batch(40)
    whole = make(backend=backend)(x, labels)
    half = make(backend=backend)(x[20:], labels[20:], x, labels, 20)
    late = whole.anchor >= 20
    assert torch.equal(whole.anchor[late] - 20, half.anchor)
    assert torch.equal(whole.positive[late], half.positive)
    if make is not sl.DistanceWeightedMiner:  # it draws by the number of the row
        assert torch.equal(whole.negative[late], half.negative)


def test_pairs_of_part_of_the_reference_set(backend):
    x, labels = random_batch(40)
    miner = sl.MultiSimilarityMiner(backend=backend)
    whole, half = miner(x, labels).compact(), miner(x[20:], labels[20:], x, labels, 20).compact()
    for k in (0, 2):
        late = whole[k] >= 20
        assert torch.equal(whole[k][late] - 20, half[k])
        assert torch.equal(whole[k + 1][late], half[k + 1])


# other libraries


def test_batch_hard_agrees_with_pml():
    x, labels = random_batch(120, classes=20)
    metric = distances.LpDistance(normalize_embeddings=False)
    theirs = miners.BatchHardMiner(distance=metric)(x, labels)
    for ours, their in zip(sl.BatchHardMiner()(x, labels).compact(), theirs, strict=True):
        assert torch.equal(ours, their)


@pytest.mark.parametrize(
    ("make", "keywords"),
    [
        (sl.BatchHardMiner, {}),
        (sl.DistanceWeightedMiner, {"max_positives": 2}),
        (sl.EasyPositiveMiner, {}),
        (sl.HardestNegativesMiner, {"k": 3}),
        (sl.SemiHardMiner, {"fallback": "skip"}),
    ],
)
def test_compact_feeds_pml(make, keywords):
    x, labels = random_batch(classes=30)  # some identities come once
    x.requires_grad_()
    t = make(**keywords)(x, labels)
    assert t.valid.any() and not t.valid.all()
    metric = distances.LpDistance(normalize_embeddings=False)
    their = losses.TripletMarginLoss(0.3, distance=metric, reducer=reducers.MeanReducer())
    theirs = their(x, labels, t.compact())
    ours = sl.TripletLoss(margin=0.3)(x[t.anchor], x[t.positive], x[t.negative], valid=t.valid)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(each, x)[0] for each in (ours, theirs)))


def test_semi_hard_is_not_asked_for_no_positives():
    with pytest.raises(ValueError, match="max_positives must be at least 1, got 0"):
        sl.SemiHardMiner(max_positives=0)(*random_batch())


# easy positives, several negatives


def exact_distances(metric, x, y):
    rows, columns = x.double().tolist(), y.double().tolist()
    d = torch.tensor([[distance(metric, a, b) for b in columns] for a in rows], dtype=torch.float64)
    return d.square() if metric == "sqeuclidean" else d


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("negative", ["hard", "semi-hard"])
def test_easy_positive_by_the_definition(metric, negative, backend):
    x, labels = random_batch(classes=30)  # some identities come once
    x[labels == 7] *= 10  # and one has no negative farther than the positives
    d = exact_distances(metric, x, x)
    t = sl.EasyPositiveMiner(negative=negative, metric=metric, backend=backend)(x, labels)
    left = sl.EasyPositiveMiner(negative=negative, metric=metric, fallback="skip", backend=backend)(
        x, labels
    )
    assert torch.equal(t.anchor, torch.arange(60))
    fell_back = 0
    for a in range(60):
        positives = [p for p in range(60) if labels[p] == labels[a] and p != a]
        negatives = [n for n in range(60) if labels[n] != labels[a]]
        assert t.valid[a] == bool(positives)
        if not positives:
            assert not left.valid[a]
            continue
        p = min(positives, key=lambda p: d[a, p])
        farther = [n for n in negatives if negative == "hard" or d[a, n] > d[a, p]]
        fell_back += not farther
        assert left.valid[a] == bool(farther)
        n = min(farther, key=lambda n: d[a, n], default=max(negatives, key=lambda n: d[a, n]))
        assert (t.positive[a], t.negative[a]) == (p, n)
    assert (fell_back > 0) == (negative == "semi-hard" and metric != "cosine")


@pytest.mark.parametrize("negative", ["hard", "semi-hard"])
def test_easy_positive_agrees_with_pml(negative):
    x, labels = random_batch(120, classes=50)
    theirs = miners.BatchEasyHardMiner(
        pos_strategy="easy",
        neg_strategy=negative.replace("-", ""),
        distance=distances.LpDistance(normalize_embeddings=False),
    )(x, labels)
    ours = sl.EasyPositiveMiner(negative=negative, fallback="skip")(x, labels).compact()
    assert torch.equal(theirs[0], theirs[2]) and 0 < len(theirs[0]) < 120
    for our, their in zip(ours, (theirs[0], theirs[1], theirs[3]), strict=True):
        assert torch.equal(our, their)


def test_an_easy_positive_among_many(backend):
    """More positives than are listed, at equal distances too."""
    x = torch.arange(300.0)[:, None] // 2
    labels = torch.arange(300) // 100
    t = sl.EasyPositiveMiner(negative="hard", backend=backend)(x, labels)
    assert torch.equal(t.positive, torch.arange(300) ^ 1)  # the twin
    assert t.negative[:200].tolist() == [100] * 100 + [98] * 50 + [200] * 50


@pytest.mark.parametrize("positive", ["farthest", "nearest"])
@pytest.mark.parametrize("k", [1, 3, 70])
def test_hardest_negatives_by_the_definition(positive, k, backend):
    x, labels = random_batch(classes=30)
    d = exact_distances("euclidean", x, x)
    t = sl.HardestNegativesMiner(k=k, positive=positive, backend=backend)(x, labels)
    assert len(t.anchor) == 60 * k
    best = max if positive == "farthest" else min
    for a in range(60):
        positives = [p for p in range(60) if labels[p] == labels[a] and p != a]
        negatives = [n for n in range(60) if labels[n] != labels[a]]
        negatives = sorted(negatives, key=lambda n: d[a, n])[:k] if positives else []
        here = slice(a * k, a * k + k)
        valid = t.valid[here]
        assert (t.anchor[here] == a).all()
        assert t.negative[here][valid].tolist() == negatives
        assert valid.tolist() == [True] * len(negatives) + [False] * (k - len(negatives))
        if positives:
            p = best(positives, key=lambda p: d[a, p])
            assert (t.positive[here] == p).all()


def test_one_hardest_negative_is_batch_hard(backend):
    x, labels = random_batch()
    one = sl.HardestNegativesMiner(k=1, backend=backend)(x, labels)
    assert all(map(torch.equal, one, sl.BatchHardMiner(backend=backend)(x, labels)))


def test_hardest_negatives_refuse_odd_numbers():
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        sl.HardestNegativesMiner(k=0)(*random_batch())
    with pytest.raises(TypeError, match="k must be an integer"):
        sl.HardestNegativesMiner(k=1.5)(*random_batch())


# pairs


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("epsilon", [-0.2, 0.0, 0.1, 5.0])
def test_multi_similarity_by_the_definition(metric, epsilon, backend):
    x, labels = random_batch(classes=30)
    x = x.double()
    d = exact_distances(metric, x, x)
    bounds = sl.MultiSimilarityMiner(epsilon=epsilon, metric=metric, backend=backend)(x, labels)
    pairs = [[], []]
    for a in range(60):
        positives = [p for p in range(60) if labels[p] == labels[a] and p != a]
        negatives = [n for n in range(60) if labels[n] != labels[a]]
        assert bounds.valid[a] == bool(positives)
        if positives:
            far, near = max(d[a, positives]), min(d[a, negatives])
            torch.testing.assert_close(bounds.positive_above[a], near - epsilon)
            torch.testing.assert_close(bounds.negative_below[a], far + epsilon)
            pairs[0] += [(a, p) for p in positives if d[a, p] + epsilon > near]
            pairs[1] += [(a, n) for n in negatives if d[a, n] - epsilon < far]
    a1, p, a2, n = (index.tolist() for index in bounds.compact())
    assert [list(zip(a1, p, strict=True)), list(zip(a2, n, strict=True))] == pairs


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("with_ref", [False, True])
def test_multi_similarity_agrees_with_pml(epsilon, with_ref):
    x, labels = random_batch(120, classes=50)
    ref = random_batch(90, classes=50, seed=1) if with_ref else ()
    ref = [each.double() if each.is_floating_point() else each for each in ref]
    theirs = miners.MultiSimilarityMiner(epsilon)(x.double(), labels, *ref)
    ours = sl.MultiSimilarityMiner(epsilon=epsilon)(x.double(), labels, *ref).compact()
    assert len(theirs[0]) and len(theirs[2])
    for k in (0, 2):
        their, our = (
            {*zip(*(i.tolist() for i in t[k : k + 2]), strict=True)} for t in (theirs, ours)
        )
        assert our == their and len(ours[k]) == len(our)


def test_pairs_feed_pml():
    x, labels = random_batch(classes=30)
    x.requires_grad_()
    a1, p, a2, n = sl.MultiSimilarityMiner()(x, labels).compact()
    their = losses.ContrastiveLoss(
        distance=distances.CosineSimilarity(), pos_margin=1, neg_margin=0
    )
    value = their(x, labels, (a1, p, a2, n))
    cos = torch.nn.functional.cosine_similarity
    far, near = 1 - cos(x[a1], x[p]), cos(x[a2], x[n]).relu()
    torch.testing.assert_close(value, far[far > 0].mean() + near[near > 0].mean())
    value.backward()
    assert x.grad.isfinite().all()


def test_multi_similarity_refuses_an_infinite_epsilon():
    with pytest.raises(ValueError, match="epsilon must be finite, got inf"):
        sl.MultiSimilarityMiner(epsilon=math.inf)(*random_batch())


# published facts


def test_twelve_triplets(backend):
    """Labels 0, 0, 1, 1, 2: four anchors with one positive and three negatives each."""
    x, labels = torch.randn(5, 3), torch.tensor([0, 0, 1, 1, 2])
    all_of_them = sl.HardestNegativesMiner(k=4, backend=backend)(x, labels).compact()
    found = {tuple(t) for t in torch.stack(all_of_them, 1).tolist()}
    assert len(found) == len(all_of_them[0]) == 12
    assert found == {
        (a, p, n)
        for a, p in ((0, 1), (1, 0), (2, 3), (3, 2))
        for n in range(5)
        if n not in (a, p) and labels[n] != labels[a]
    }
    criterion = sl.BatchAllTripletLoss(backend=backend)
    criterion(x, labels)
    assert criterion.stats.valid == 12


@pytest.mark.parametrize(("identities", "images"), [(2, 2), (5, 4), (16, 2), (3, 7)])
def test_numbers_of_pairs_and_triplets(backend, identities, images):
    """n samples, i of each identity: n(i - 1) and n(n - i) pairs, n(i - 1)(n - i) triplets."""
    n = identities * images
    x, labels = torch.randn(n, 3), torch.arange(n) % identities
    pairs = sl.MultiSimilarityMiner(epsilon=3.0, backend=backend)(x, labels).compact()
    assert [len(each) for each in pairs] == [n * (images - 1)] * 2 + [n * (n - images)] * 2
    criterion = sl.BatchAllTripletLoss(backend=backend)
    criterion(x, labels)
    assert criterion.stats.valid == n * (images - 1) * (n - images)
