"""Negatives drawn by their distance: the odds, and that equal seeds draw equal ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import miners

import siameselib as sl
from siameselib.kernels.draw import draw, uniform

BACKENDS = ["reference", "streaming"]


def batch(n, d, classes, spread=0.5, seed=0):
    """Unit rows around the centres of their classes, so that all distances occur."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=g)
    x = torch.randn(classes, d, generator=g)[labels] * spread + torch.randn(n, d, generator=g)
    return torch.nn.functional.normalize(x.double() + 0.7), labels


def odds(x, y, label, y_labels, cutoff, limit):
    """The probability of every column of y for one row, in plain Python."""
    dimension = len(x)
    logs = []
    for b, other in zip(y, y_labels, strict=True):
        d = math.dist(x, b)
        if other == label or d >= limit:
            logs.append(-math.inf)
            continue

        def log_q(d):
            return (dimension - 2) * math.log(d) + (dimension - 3) / 2 * math.log(1 - d * d / 4)

        logs.append(min(-log_q(cutoff), math.inf if d == 0 else -log_q(d)))
    top = max(logs)
    weights = [math.exp(each - top) if top > -math.inf else 0 for each in logs]
    return [each / max(sum(weights), 1e-300) for each in weights]


def chi_square(counts, expected):
    """The statistic in standard deviations above its mean, of cells with 5 or more expected."""
    large = expected >= 5
    cells = torch.cat([counts[large], counts[~large].sum()[None]])
    mean = torch.cat([expected[large], expected[~large].sum()[None]])
    cells, mean = cells[mean > 0], mean[mean > 0]
    freedom = len(cells) - 1
    assert freedom > 2
    return (((cells - mean) ** 2 / mean).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("d", "cutoff", "limit"), [(3, 0.5, 1.4), (16, 0.5, 1.4), (2, 0.3, 2.0), (64, 0.9, 1.3)]
)
def test_draws_by_the_odds(backend, d, cutoff, limit):
    y, y_labels = batch(60, d, 5)
    draws = 20_000
    for i in (0, 1, 2):
        # one positive, and the same anchor again and again
        ref, ref_labels = torch.cat([y, y[i : i + 1]]), torch.cat([y_labels, y_labels[i : i + 1]])
        chosen = torch.cat([torch.arange(60)[y_labels != y_labels[i]], torch.tensor([60])])
        miner = sl.DistanceWeightedMiner(
            cutoff=cutoff,
            nonzero_loss_cutoff=limit,
            generator=torch.Generator().manual_seed(i),
            backend=backend,
        )
        x, labels = y[i].expand(draws, -1), y_labels[i].expand(draws)
        t = miner(x, labels, ref[chosen], ref_labels[chosen])
        want = torch.tensor(
            odds(
                y[i].tolist(),
                ref[chosen].tolist(),
                int(y_labels[i]),
                ref_labels[chosen].tolist(),
                cutoff,
                limit,
            )
        )
        assert t.valid.all() == bool(want.sum() > 0)
        counts = torch.bincount(t.negative, minlength=len(chosen))
        assert not counts[want == 0].any()
        assert chi_square(counts.double(), draws * want) < 4


def test_the_draws_of_one_row_are_independent():
    """Two draws of a row with four negatives that are as likely: 16 combinations as often."""
    angle = torch.tensor(1.0)
    x = torch.stack([angle.cos(), angle.sin()]).repeat(4, 1)
    ref = torch.cat([torch.tensor([[1.0, 0.0]] * 2), x])
    ref_labels = torch.tensor([0, 0, 1, 2, 3, 4])
    n = 8000
    anchors, labels = torch.tensor([[1.0, 0.0]]).expand(n, -1), torch.zeros(n, dtype=torch.long)
    t = sl.DistanceWeightedMiner(generator=torch.Generator().manual_seed(0))(
        anchors, labels, ref, ref_labels
    )
    first, second = (t.negative - 2).view(n, 2).T
    counts = torch.bincount(4 * first + second, minlength=16).double()
    assert chi_square(counts, torch.full((16,), n / 16)) < 4


@pytest.mark.parametrize("d", [8, 128])
def test_odds_are_those_of_pml(d):
    """Its miner draws by the same odds: over many calls, as often."""
    x, labels = batch(24, d, 3, spread=2.0)
    theirs, ours = torch.zeros(24, 24), torch.zeros(24, 24)
    their, our = miners.DistanceWeightedMiner(), sl.DistanceWeightedMiner()
    for _ in range(300):
        a, _, n = their(x, labels)
        theirs.index_put_((a, n), torch.ones(len(a)), accumulate=True)
        a, _, n = our(x, labels).compact()
        ours.index_put_((a, n), torch.ones(len(a)), accumulate=True)
    assert torch.equal(theirs.sum(1) > 0, ours.sum(1) > 0)
    expected = theirs / theirs.sum(1, keepdim=True).clamp(min=1) * ours.sum(1, keepdim=True)
    # both are samples: the difference of two counts has twice their variance or so
    large = expected >= 20
    share = theirs.sum(1, keepdim=True) / ours.sum(1, keepdim=True).clamp(min=1)
    z = ((ours - expected) / (expected * (1 + 1 / share)).sqrt())[large]
    assert len(z) > 30 and z.abs().max() < 5 and z.square().mean() < 1.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [512, 4096])
def test_powers_stay_in_range(d, dtype):
    """1/q spans hundreds of powers of ten between a near and a far negative."""
    x, labels = batch(64, d, 8, spread=3.0)
    found = {}
    for backend in BACKENDS:
        generator = torch.Generator().manual_seed(0)
        miner = sl.DistanceWeightedMiner(generator=generator, backend=backend)
        found[backend] = miner(x.to(dtype), labels)
    t = found["streaming"]
    assert torch.equal(t.valid, found["reference"].valid)
    assert (t.negative == found["reference"].negative).double().mean() > 0.99
    a, _, n = t.compact()
    assert len(a) and (labels[a] != labels[n]).all()
    assert (x[a] - x[n]).norm(dim=1).max() < 1.4


@settings(max_examples=30)
@given(
    st.integers(1, 90),
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["plain", "duplicates", "zero rows", "lengths", "one point"]),
    st.integers(0, 10**6),
)
def test_pairs_are_all_there_and_negatives_are_near(n, d, classes, width, shape, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    labels = torch.randint(0, classes, (n,), generator=g)
    if shape == "duplicates":
        x = x[torch.randint(0, (n + 1) // 2, (n,), generator=g)]
    elif shape == "zero rows":
        x[::2] = 0
    elif shape == "lengths":
        x *= torch.logspace(-100, 100, n, dtype=torch.float64)[:, None]
    elif shape == "one point":
        x = x[:1].expand(n, -1)
    seeds = torch.randint(2**63 - 1, (n,), generator=g)
    unit = sl.functional.unit_rows(x)
    unit = torch.cat([unit, (unit == 0).all(1, keepdim=True)], 1)  # a zero row: cosine 0 to others
    sphere = {"dimension": d, "cutoff": 0.5, "limit": 1.4, "width": width}
    found = [draw(unit, labels, unit, labels, 0, seeds, **sphere, backend=b) for b in BACKENDS]
    assert all(map(torch.equal, *found))
    row, positive, negative = found[0]
    same = (labels[:, None] == labels).fill_diagonal_(False)
    listed = [(i, p) for i in range(n) for p in same[i].nonzero().flatten().tolist()[: width or n]]
    there = positive >= 0
    assert list(zip(row[there].tolist(), positive[there].tolist(), strict=True)) == listed
    assert len(row) == (len(listed) if width is None else n * width)
    square = 2 - 2 * unit @ unit.T
    drawable = (labels[:, None] != labels) & (square < 1.4**2)
    assert torch.equal(negative >= 0, there & drawable.any(1)[row])
    assert drawable[row, negative.clamp(min=0)][negative >= 0].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_generator_makes_it_deterministic(backend):
    x, labels = batch(300, 16, 30)
    generator = torch.Generator()
    miner = sl.DistanceWeightedMiner(generator=generator, backend=backend)
    generator.manual_seed(7)
    first, second = miner(x, labels), miner(x, labels)
    generator.manual_seed(7)
    assert all(map(torch.equal, first, miner(x, labels)))
    assert not torch.equal(first.negative, second.negative)


def test_the_first_draws_do_not_depend_on_how_many_follow():
    x, labels = batch(50, 8, 5)
    few, many = (
        sl.DistanceWeightedMiner(max_positives=k, generator=torch.Generator().manual_seed(3))(
            x, labels
        )
        for k in (2, 5)
    )
    assert torch.equal(few.negative.view(50, 2), many.negative.view(50, 5)[:, :2])


def test_streaming_never_holds_the_matrix(largest_tensor):
    x, labels = batch(4096, 16, 500)
    with largest_tensor() as largest:
        t = sl.DistanceWeightedMiner(max_positives=7, backend="streaming")(x.float(), labels)
    assert t.valid.any() and largest.entries <= 4096 * 4096 / 3


def test_far_negatives_are_left_out():
    """Opposite classes: nothing is near enough, and nothing is valid."""
    x, labels = torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [-1, 0, 0], [-1, 0.1, 0]]), [0, 0, 1, 1]
    t = sl.DistanceWeightedMiner()(x, torch.tensor(labels))
    assert len(t.anchor) == 4 and not t.valid.any()
    assert sl.DistanceWeightedMiner(nonzero_loss_cutoff=2.0)(x, torch.tensor(labels)).valid.any()


@pytest.mark.parametrize("cutoffs", [(0, 1.4), (0.5, 0.5), (0.5, 2.1), (float("nan"), 1.4)])
def test_refuses_cutoffs(cutoffs):
    with pytest.raises(ValueError, match="cutoffs must be such that 0 < cutoff"):
        sl.DistanceWeightedMiner(cutoff=cutoffs[0], nonzero_loss_cutoff=cutoffs[1])


def test_refuses_no_positives():
    with pytest.raises(ValueError, match="max_positives must be at least 1, got 0"):
        sl.DistanceWeightedMiner(max_positives=0)(*batch(10, 3, 2))


# numbers from seeds


def test_the_generator_is_splitmix():
    """The first numbers from the seed 1234567, as its authors' reference code prints them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    numbers = uniform(torch.tensor([1234567]), 3)[0].tolist()
    assert numbers == [(each >> 11) * 2.0**-53 for each in known]


def test_numbers_are_uniform():
    seeds = torch.randint(2**63 - 1, (2000,), generator=torch.Generator().manual_seed(0))
    numbers = uniform(seeds, 50)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.bincount((numbers * 100).long().flatten(), minlength=100).double()
    assert abs(chi_square(counts, torch.full((100,), 1000.0))) < 4
    assert torch.corrcoef(numbers.T).fill_diagonal_(0).abs().max() < 0.12
    small = uniform(torch.arange(2000), 1).flatten()  # seeds in a row
    assert abs(small.mean() - 0.5) < 0.03


@pytest.mark.parametrize("offset", [None, 0])
@pytest.mark.parametrize("width", [None, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_operation_is_well_formed(offset, width, backend):
    x, labels = torch.randn(12, 3), torch.arange(12) // 3
    y = None if offset == 0 else torch.randn(12, 3)
    op = torch.ops.siameselib.draw.default
    seeds = torch.arange(12)
    torch.library.opcheck(op, (x, labels, y, labels, offset, seeds, 3, 0.5, 1.4, width, backend))
