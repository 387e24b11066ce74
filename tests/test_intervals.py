"""Intervals of pairs that share people: naive sums, scipy-free formulas by hand, coverage."""

import itertools
import json
import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import coverage
from siameselib.evaluation import (
    all_pairs_rates,
    auc,
    double_or_nothing,
    pair_rates,
    tar_at_far,
    verify_pairs,
)
from siameselib.evaluation.shared_people import shared_sum, student, sums_of, wilson


def population(rng, people, images, d=8):
    """Unit embeddings of people who differ in how much they scatter and look like others."""
    spread = np.exp(rng.normal(-0.3, 0.35, people))
    centre = rng.normal(size=(people, 1, d))
    centre[:, 0, 0] += abs(rng.normal(size=people))
    x = centre + spread[:, None, None] * rng.normal(size=(people, images, d))
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def everybody(x):
    """All pairs of images: scores and who is in them."""
    people, images, d = x.shape
    f, who = x.reshape(-1, d), np.repeat(np.arange(people), images)
    i, j = np.triu_indices(len(f), 1)
    return (f[i] * f[j]).sum(1), who[i], who[j]


def naive_joint(r, a, b):
    """2 Σ over two people of (h_i - c)(h_j - c) c, one by one."""
    people, total = sorted({*a, *b}), 0.0
    for i, j in itertools.combinations(people, 2):
        c = sum(v for v, x, y in zip(r, a, b, strict=True) if {x, y} == {i, j})
        h = [sum(v for v, x, y in zip(r, a, b, strict=True) if k in (x, y)) for k in (i, j)]
        total += 2 * (h[0] - c) * (h[1] - c) * c
    return total


def naive_interval(wrong, kind, a, b, level=0.95):
    """The variance over all pairs of pairs, one by one."""
    n = len(wrong)
    means = {k: np.mean([w for w, other in zip(wrong, kind, strict=True) if other == k])
             for k in set(kind)}  # fmt: skip
    r = [w - means[k] for w, k in zip(wrong, kind, strict=True)]
    total = sum(r[p] * r[q] for p in range(n) for q in range(n) if {a[p], b[p]} & {a[q], b[q]})
    g = len({*a, *b})
    shared, alone = total * g * (g - 1) / (g - 2) ** 2, sum(v * v for v in r)
    variance, rate = max(shared, alone) / n**2, sum(wrong) / n
    half = (1 + level) / 2
    z = scipy.stats.t.ppf(half, g - 1) if shared > alone else NormalDist().inv_cdf(half)
    m = rate * (1 - rate) / variance
    lean = (1 + 1 / z**2) * naive_joint(r, a, b) / (n**3 * variance)
    # The roots of (p - rate)² = z² (p (1 - p) / m + lean (p - rate)).
    p = np.polynomial.Polynomial([0, 1])
    roots = ((p - rate) ** 2 - z**2 * (p * (1 - p) / m + lean * (p - rate))).roots()
    return sorted(roots.real)


@given(st.integers(0, 10_000), st.integers(3, 8), st.integers(8, 40))
@settings(max_examples=40)
def test_shared_sum_is_the_naive_one(seed, people, n):
    rng = np.random.default_rng(seed)
    a, b, v = rng.integers(0, people, n), rng.integers(0, people, n), rng.normal(size=(2, n))
    expected = np.zeros((2, 2))
    for p in range(n):
        for q in range(n):
            if {a[p], b[p]} & {a[q], b[q]}:
                expected += np.outer(v[:, p], v[:, q])
    np.testing.assert_allclose(shared_sum(v, (a, b)), expected, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(4, 30))
@settings(max_examples=30)
def test_joint_sum_is_the_naive_one(seed, people, n):
    rng = np.random.default_rng(seed)
    a, b, v = rng.integers(0, people, n), rng.integers(0, people, n), rng.normal(size=n)
    assert sums_of(v[None], (a, b)).joint() == pytest.approx(naive_joint(v, a, b), abs=1e-9)
    far = 1000 * np.array([a, b])  # numbers that leave gaps: couples are not counted densely
    assert sums_of(v[None], tuple(far)).joint() == pytest.approx(naive_joint(v, a, b), abs=1e-9)


def test_quantiles_of_student():
    for level in (0.8, 0.95, 0.99):
        for freedom in (3, 5, 10, 29, 1000):
            expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
            assert student(level, freedom) == pytest.approx(expected, rel=0.5 / freedom**2 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_rates_and_intervals_are_the_naive_ones(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 12, 90), rng.integers(0, 12, 90)
    b[:30] = a[:30]
    same, scores = a == b, rng.normal(size=90) + (a == b)
    names = np.array([f"person {k}" for k in range(12)])
    found = pair_rates(scores, same, 0.5, identities=(names[a], names[b]))
    wrong = (scores >= 0.5) != same
    for interval, events, keep in (
        (found.accuracy, ~wrong, np.full(90, True)),
        (found.far, wrong, ~same),
        (found.frr, wrong, same),
    ):
        expected = naive_interval(
            events[keep].tolist(), same[keep].tolist(), a[keep].tolist(), b[keep].tolist()
        )
        assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-4)
        assert interval.value == events[keep].mean() in interval
        assert interval.n == keep.sum()


def test_without_identities_it_is_wilsons_interval():
    found = wilson(81 / 263, 263, 263, 0.95)
    # Newcombe 1998, table I, method 3: 81 of 263 gives 0.2553 to 0.3662.
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    same = np.arange(2000) < 1000
    scores = np.where(np.arange(2000) % 10 == 0, 1.0, 0.0)
    far = pair_rates(scores, same, 0.5).far
    assert (far.value, far.n) == (0.1, 1000)
    assert far.effective == pytest.approx(1000, rel=2e-3)  # nobody meets anybody twice


def test_pairs_counted_twice_say_nothing_new():
    rng = np.random.default_rng(0)
    x = population(rng, 40, 3)
    s, a, b = everybody(x)
    once = pair_rates(s, a == b, 0.3, identities=(a, b))
    s, a, b = (np.tile(v, 3) for v in (s, a, b))
    thrice = pair_rates(s, a == b, 0.3, identities=(a, b))
    assert thrice.far.high == pytest.approx(once.far.high, rel=1e-9)
    naive = pair_rates(s, a == b, 0.3)
    assert naive.far.high - naive.far.low < (once.far.high - once.far.low) / 2


def test_without_errors_dependent_pairs_count_once():
    a, b = np.triu_indices(20)
    found = pair_rates(np.where(a == b, 1.0, 0.0), a == b, 0.5, identities=(a, b))
    z2 = NormalDist().inv_cdf(0.975) ** 2
    assert (found.frr.value, found.frr.low) == (0, 0)
    assert found.frr.high == pytest.approx(z2 / (20 + z2))
    sharing = 190 * (2 * 18 + 1)  # each pair shares somebody with 2 · 18 others and itself
    assert found.far.high == pytest.approx(z2 / (190**2 / sharing + z2))
    assert found.accuracy.high == 1


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("side", [7, 1024])
def test_streamed_rates_are_those_of_the_list(metric, side, monkeypatch):
    monkeypatch.setattr("siameselib.evaluation.streaming_rates._SIDE", side)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 30, 120)
    x = rng.normal(size=(30, 6))[labels] + 0.7 * rng.normal(size=(120, 6))
    i, j = np.triu_indices(120, 1)
    if metric == "cosine":
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        scores = (unit[i] * unit[j]).sum(1) - 1
    else:
        scores = -((x[i] - x[j]) ** 2).sum(1)
        scores = -np.sqrt(-scores) if metric == "euclidean" else scores
    for quantile in (0.8, 0.95, 0.0, 1.0):
        threshold = float(np.quantile(scores, quantile)) + (quantile - 0.5) * 1e-3
        listed = pair_rates(
            scores, labels[i] == labels[j], threshold, identities=(labels[i], labels[j])
        )
        found = all_pairs_rates(x, labels, threshold, metric=metric)
        for name in ("accuracy", "far", "frr"):
            ours, theirs = getattr(found, name), getattr(listed, name)
            assert ours.n == theirs.n
            for field in ("value", "low", "high", "effective"):
                assert getattr(ours, field) == pytest.approx(getattr(theirs, field), abs=1e-9)


def truth(rng, far):
    """The threshold and the false-reject rate of a false-accept rate in the whole population."""
    big = population(rng, 100_000, 2)
    turned = [np.roll(big[:, 1], k, axis=0) for k in range(1, 6)]
    negative = np.concatenate([(big[:, 0] * other).sum(1) for other in turned])
    threshold = float(np.quantile(negative, 1 - far))
    return threshold, float(((big[:, 0] * big[:, 1]).sum(1) < threshold).mean())


def test_95_percent_intervals_hold_95_percent_and_naive_ones_do_not():
    rng = np.random.default_rng(0)
    threshold, frr = truth(rng, 0.05)
    held, naive, above = [], [], []
    for _ in range(200):
        s, a, b = everybody(population(rng, 80, 2))
        for identities, into in (((a, b), held), (None, naive)):
            found = pair_rates(s, a == b, threshold, identities=identities)
            into.append([0.05 in found.far, frr in found.frr])
            if identities and not into[-1][0]:
                above.append(found.far.low > 0.05)
    # Of 200 true 95 % intervals, 183 to 197 hold the truth, nearly always.
    assert (abs(np.mean(held, 0) - 0.95) < 0.035).all()
    assert np.mean(naive, 0)[0] < 0.7
    assert 0.2 < np.mean(above) < 0.8  # they miss on both sides


def test_tar_at_far_counts_the_threshold_in():
    rng = np.random.default_rng(2)
    _, frr = truth(rng, 0.05)
    held, fixed = [], []
    for _ in range(150):
        s, a, b = everybody(population(rng, 60, 3))
        kept = (a == b) | (rng.random(len(a)) < 300 / len(a))  # a threshold on 15 false accepts
        s, a, b = s[kept], a[kept], b[kept]
        found = tar_at_far(s, a == b, 0.05, identities=(a, b))
        held.append(1 - frr in found.interval)
        assert found.interval.value == found.value
        assert found.frr == 1 - found.value
        rates = pair_rates(s, a == b, found.threshold, identities=(a, b))
        fixed.append(found.interval.effective / rates.frr.effective)
    assert 0.9 < np.mean(held) <= 0.99
    assert np.median(fixed) < 1  # a threshold that was fitted here makes it wider


def test_reports_carry_the_intervals():
    s, a, b = everybody(population(np.random.default_rng(3), 40, 3))
    found = verify_pairs(s, a == b, threshold=0.4, identities=(a, b))
    assert found.rates == pair_rates(s, a == b, 0.4, identities=(a, b))
    assert (
        found.tar_at_far["0.1"].interval == tar_at_far(s, a == b, 0.1, identities=(a, b)).interval
    )
    text = f"({found.rates.accuracy.low:.3f} to {found.rates.accuracy.high:.3f})"
    assert text in str(found)
    assert found.as_dict()["rates"]["far"]["low"] == found.rates.far.low
    assert verify_pairs(s, a == b, threshold=0.4).rates is None


def test_double_or_nothing_agrees_with_the_formula():
    rng = np.random.default_rng(4)
    groups = rng.random(150) < 0.3  # who look alike: so it matters who is there
    x = population(rng, 150, 2)
    x[groups, :, 0] += 1.5
    s, a, b = everybody(x)

    def far(scores, same):
        return float((scores[~same] >= 0.4).mean())

    low, high = double_or_nothing(far, s, a == b, identities=(a, b), replicates=400)
    formula = pair_rates(s, a == b, 0.4, identities=(a, b)).far
    assert (high - low) / (formula.high - formula.low) == pytest.approx(1, abs=0.25)
    low, high = double_or_nothing(auc, s, a == b, identities=(a, b), replicates=50)
    assert low < auc(s, a == b) < high


def test_wilson_stays_in_range():
    for rate in (0.0, 1e-9, 0.5, 1.0):
        for effective in (0.5, 3.0, 1e9):
            found = wilson(rate, 10, effective, 0.95)
            assert 0 <= found.low <= rate <= found.high <= 1


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"identities": (["a", "b"], ["a", "a"])}, ValueError,
         "equal exactly where same is 1, got a and a with same = 0 in pair 0; 2 such pairs"),
        ({"identities": (["a", "b"], ["a"])}, ValueError, r"shape \(n,\) = \(2,\)"),
        ({"identities": (["a", "b"],)}, ValueError, "be two arrays"),
        ({"identities": ([0.5, 1], [0, 1])}, TypeError, "integers or names"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1"),
        ({"threshold": math.nan}, ValueError, "threshold must be finite"),
    ],
)  # fmt: skip
def test_refusals(keywords, kind, message):
    with pytest.raises(kind, match=message):
        pair_rates([0.0, 1.0], [0, 1], **{"threshold": 0.5, **keywords})
    if "identities" in keywords:
        with pytest.raises(kind, match=message):
            double_or_nothing(auc, [0.0, 1.0], [0, 1], identities=keywords["identities"])


def test_too_few_people_to_leave_out():
    with pytest.raises(ValueError, match="replicates without one kind"):
        double_or_nothing(auc, [0.0, 1.0], [0, 1], identities=(["a", "a"], ["b", "a"]))


def test_streamed_refusals():
    with pytest.raises(ValueError, match="all_pairs_rates: labels must give both"):
        all_pairs_rates(torch.ones(3, 2), [0, 1, 2], 0.0)
    with pytest.raises(ValueError, match="all_pairs_rates: threshold must be finite"):
        all_pairs_rates(torch.ones(3, 2), [0, 0, 2], math.inf)
    with pytest.raises(ValueError, match="metric must be one of"):
        all_pairs_rates(torch.ones(3, 2), [0, 0, 2], 0.0, metric="dot")


def test_the_table_in_the_docs_is_the_measured_one(tmp_path, capsys, monkeypatch):
    rows = json.loads(coverage.OUT.read_text())["rows"]
    assert coverage.table(rows) in coverage.PAGE.read_text("utf-8")
    few = dict(list(coverage.SCENARIOS.items())[2:3])
    monkeypatch.setattr(coverage, "SCENARIOS", few)
    again = coverage.measure(0, draws=3, seed=0)
    assert [row["far"] for row in again] == list(coverage.FARS)
    assert {"accuracy", "far", "frr"} <= set(again[0]["coverage"])
