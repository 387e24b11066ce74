"""Calibration against scikit-learn and naive loops: maps, their intervals, Cllr, costs."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from siameselib.evaluation import (
    Beta,
    Platt,
    cllr,
    expected_cost,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_threshold,
    min_cllr,
    reliability,
    to_llr,
)

FITS = {"platt": fit_platt, "beta": fit_beta, "isotonic": fit_isotonic}


def shares(seed, n=400):
    """Scores in (0, 1) of pairs whose two kinds are beta distributed."""
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.4
    return np.where(same, rng.beta(4, 2, n), rng.beta(1.5, 5, n)), same


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equals_weighted_logistic_regression(scale):
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.4
    scores = (rng.normal(size=400) + 1.5 * same) * scale
    ours = fit_platt(scores, same)
    n, p = (~same).sum(), same.sum()
    target = np.where(same, (p + 1) / (p + 2), 1 / (n + 2))
    x = np.concatenate([scores, scores])[:, None] / scale
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        x,
        np.repeat([1, 0], 400),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    assert ours.slope * scale == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert ours.offset == pytest.approx(oracle.intercept_[0], rel=1e-4)


def test_separated_scores_stay_finite():
    fitted = fit_platt([0.0, 0.1, 0.9, 1.0], [0, 0, 1, 1])
    assert np.isfinite(fitted[:2]).all()
    assert fitted.slope > 0


def test_equal_scores_give_the_base_rate():
    assert fit_platt([2.0] * 4, [1, 0, 1, 0])(2.0) == pytest.approx(0.5)


def test_extreme_scores_do_not_overflow():
    assert Platt(1e3, 0.0)([-1e6, 1e6]) == pytest.approx([0.0, 1.0])


@given(st.floats(0.1, 50), st.floats(-20, 20))
def test_moving_and_scaling_the_scores_changes_no_probability(a, b):
    rng = np.random.default_rng(1)
    same = rng.random(60) < 0.5
    scores = rng.normal(size=60) + same
    plain = fit_platt(scores, same)(scores)
    assert fit_platt(a * scores + b, same)(a * scores + b) == pytest.approx(plain, abs=1e-6)


def test_beta_equals_weighted_logistic_regression():
    scores, same = shares(0)
    ours = fit_beta(scores, same)
    n, p = (~same).sum(), same.sum()
    target = np.where(same, (p + 1) / (p + 2), 1 / (n + 2))
    x = np.tile(np.stack([np.log(scores), -np.log(1 - scores)], 1), (2, 1))
    oracle = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        x, np.repeat([1, 0], 400), sample_weight=np.concatenate([target, 1 - target])
    )
    assert (ours.a, ours.b, ours.c) == pytest.approx(
        (*oracle.coef_[0], oracle.intercept_[0]), rel=1e-3
    )
    moved = fit_beta(2 * scores - 1, same, low=-1)
    assert moved(2 * scores - 1) == pytest.approx(ours(scores), abs=1e-9)


def test_beta_leaves_calibrated_probabilities_alone():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    fitted = fit_beta(p, rng.random(20_000) < p)
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((1, 1, 0), abs=0.06)


@given(st.integers(0, 1000))
@settings(max_examples=30)
def test_beta_never_falls(seed):
    rng = np.random.default_rng(seed)
    scores, same = rng.random(30), np.arange(30) < 15
    fitted = fit_beta(scores, same)
    assert fitted.a >= 0 <= fitted.b
    assert (np.diff(fitted(np.linspace(0, 1, 50))) >= -1e-12).all()


def test_beta_of_scores_upside_down_is_flat():
    fitted = fit_beta([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
    assert (fitted.a, fitted.b) == (0, 0)
    assert fitted([0.0, 1.0]) == pytest.approx([0.5, 0.5])
    assert fitted.score_at(0.5) is None


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=3, max_size=60))
def test_isotonic_equals_scikit_learn(pairs):
    scores, same = np.array([*pairs, (0, True), (0, False)], dtype=float).T
    ours = fit_isotonic(scores, same)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, same)
    at = np.linspace(-6, 6, 49)
    n, p = (same == 0).sum(), same.sum()
    low, high = 1 / (n + 2), (p + 1) / (p + 2)
    knots = np.unique(scores)
    assert ours(knots) == pytest.approx(oracle.predict(knots).clip(low, high), abs=1e-7)
    assert (np.diff(ours(at)) >= 0).all()
    assert ours(at).min() >= low
    assert ours(at).max() <= high


@pytest.mark.parametrize("kind", FITS)
def test_score_at_turns_the_map_round(kind):
    fitted = FITS[kind](*shares(1, 3000))
    for probability in (0.2, 0.5, 0.9):
        score = fitted.score_at(probability)
        assert fitted(score) == pytest.approx(probability, abs=1e-6)
        assert fitted(score - 1e-6) < probability + 1e-9
    assert fit_platt([1.0, 2.0], [1, 0]).score_at(0.5) is None
    assert fit_isotonic([1.0, 2.0], [1, 0]).score_at(0.9) is None


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_intervals_are_as_wide_as_the_fits_vary(kind):
    at = np.array([0.3, 0.5, 0.7])
    truth = FITS[kind](*shares(0, 200_000))(at)
    held = []
    for seed in range(1, 200):
        low, high = FITS[kind](*shares(seed, 2000)).interval(at)
        held.append((low <= truth) & (truth <= high))
    assert (abs(np.mean(held, 0) - 0.95) < 0.06).all()
    assert abs(np.mean(held) - 0.95) < 0.03


def test_intervals_know_that_pairs_share_people():
    scores, same = shares(2)
    who = np.arange(400) // 8  # eight pairs each
    other = np.where(same, who, 50 + who)
    scores = scores * 0.5 + 0.5 * np.repeat(np.random.default_rng(0).random(50), 8)
    alone = fit_platt(scores, same)
    together = fit_platt(scores, same, identities=(who, other))
    assert together[:2] == alone[:2]
    widths = [high - low for low, high in (f.interval(0.5) for f in (alone, together))]
    assert widths[1] > 1.2 * widths[0]
    assert Platt(1.0, 0.0).interval(0.5) is None
    assert Beta(1.0, 1.0, 0.0).interval(0.5) is None
    assert fit_isotonic(scores, same).interval(0.5) is None


def test_cllr_is_the_naive_one():
    rng = np.random.default_rng(0)
    llr, same = rng.normal(size=50), rng.random(50) < 0.5
    positive = [math.log2(1 + math.exp(-v)) for v, y in zip(llr, same, strict=True) if y]
    negative = [math.log2(1 + math.exp(v)) for v, y in zip(llr, same, strict=True) if not y]
    expected = (np.mean(positive) + np.mean(negative)) / 2
    assert cllr(llr, same) == pytest.approx(expected)
    assert cllr(np.array([1e4, -1e4]), [1, 0]) == 0


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=40))
def test_min_cllr_is_that_of_scikit_learns_isotonic_map(pairs):
    scores, same = np.array([*pairs, (0, True), (0, False)], dtype=float).T
    y = same == 1
    weights = np.where(y, 1 / y.sum(), 1 / (~y).sum())  # equal priors
    p = IsotonicRegression().fit(scores, same, sample_weight=weights).predict(scores)
    p = np.where(p < 1e-9, 0, np.where(p > 1 - 1e-9, 1, p))
    with np.errstate(divide="ignore"):
        cost = np.mean(-np.log2(p[y])) + np.mean(-np.log2(1 - p[~y]))
    assert min_cllr(scores, same) == pytest.approx(cost / 2, abs=1e-6)
    assert min_cllr(np.exp(scores), same) == pytest.approx(min_cllr(scores, same), abs=1e-12)


def test_calibration_loses_little_where_it_fits():
    scores, same = shares(3, 20_000)
    prior = same.mean()
    losses = {k: cllr(to_llr(f(scores, same)(scores), prior), same) for k, f in FITS.items()}
    least = min_cllr(scores, same)
    assert all(least - 1e-9 <= loss for loss in losses.values())
    assert losses["isotonic"] < losses["beta"] + 1e-4 < losses["platt"]
    assert losses["beta"] < least + 0.01


def test_expected_cost_is_least_at_the_fitted_threshold():
    scores, same = shares(4)
    cost, prior = (20, 1), 0.1
    fitted = fit_threshold(scores, same, cost=cost, prior=prior)
    costs = [expected_cost(scores, same, t, cost=cost, prior=prior) for t in scores]
    assert expected_cost(scores, same, fitted, cost=cost, prior=prior) <= min(costs) + 1e-12
    errors = np.mean((scores >= 0.5) != same)
    assert expected_cost(scores, same, 0.5) == pytest.approx(errors)


def test_reliability_diagram():
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    same = rng.random(5000) < p
    found = reliability(p, same)
    assert len(found.bins) == 10
    for k, one in enumerate(found.bins):
        here = (p >= k / 10) & (p < (k + 1) / 10)
        assert one.predicted == pytest.approx(p[here].mean())
        assert (one.observed.value, one.observed.n) == (same[here].mean(), here.sum())
    gaps = [b.observed.n / 5000 * abs(b.observed.value - b.predicted) for b in found.bins]
    assert found.error == pytest.approx(sum(gaps))
    assert sum(b.predicted in b.observed for b in found.bins) >= 9
    assert reliability(p**3, same).error > 0.1
    assert len(reliability([0.0, 1.0, 1.0], [0, 1, 1]).bins) == 2
    assert json.loads(json.dumps(found.as_dict()))["bins"][0]["observed"]["n"] > 0
    assert "expected calibration error 0.0" in str(found)


BAD = [
    ([1.0, 0.2], [1, 1], "both"),
    ([1.0, np.nan], [1, 0], "finite"),
    ([1.0, np.inf], [1, 0], "finite"),
    ([1.0, 0.2], [[1], [0]], "shape"),
]


@pytest.mark.parametrize(("scores", "same", "message"), BAD)
@pytest.mark.parametrize(
    "judge", [*FITS.values(), cllr, min_cllr, reliability, lambda s, y: expected_cost(s, y, 0.0)]
)
def test_refusals(judge, scores, same, message):
    with pytest.raises(ValueError, match=message):
        judge(scores, same)


def test_all_equal_scores():
    for fit in FITS.values():
        assert fit([0.5] * 4, [1, 0, 1, 0])(0.5) == pytest.approx(0.5)
    assert min_cllr([0.5] * 4, [1, 0, 1, 0]) == 1


def test_ranges_are_checked():
    with pytest.raises(ValueError, match=r"fit_beta: scores must lie between .* got -0.5 to 1"):
        fit_beta([-0.5, 1.0], [0, 1])
    with pytest.raises(ValueError, match="reliability: probabilities must lie between 0 and 1"):
        reliability([1.5, 0.0], [1, 0])
    with pytest.raises(ValueError, match="to_llr: prior must be between 0 and 1"):
        to_llr([0.5], prior=0)
    with pytest.raises(ValueError, match="to_llr: probabilities must lie"):
        to_llr([1.5])
    assert to_llr([0.0, 0.5, 1.0]).tolist() == [-math.inf, 0.0, math.inf]
