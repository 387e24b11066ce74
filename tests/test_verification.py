"""Verification figures against scikit-learn and naive loops; ties, degenerate and bad input."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from siameselib.evaluation import (
    accuracy_at,
    auc,
    d_prime,
    eer,
    fit_threshold,
    roc_curve,
    tar_at_far,
    verify_folds,
    verify_pairs,
)

SCORE_FUNCTIONS = {
    "roc_curve": roc_curve,
    "auc": auc,
    "eer": eer,
    "fit_threshold": fit_threshold,
    "accuracy_at": lambda scores, same: accuracy_at(scores, same, 0.5),
    "tar_at_far": lambda scores, same: tar_at_far(scores, same, 0.1),
    "d_prime": d_prime,
    "verify_pairs": lambda scores, same: verify_pairs(scores, same, threshold=0.5),
}


@st.composite
def scored_pairs(draw, values=None, max_size=40):
    """Scores with many ties (or free floats) and labels with both classes."""
    n = draw(st.integers(2, max_size))
    if values is None:
        kinds = [
            st.integers(-3, 3).map(float),
            st.floats(-1e300, 1e300),
            st.floats(-1, 1, width=32),
        ]
        values = draw(st.sampled_from(kinds))
    scores = draw(st.lists(values, min_size=n, max_size=n))
    same = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    same[0], same[1] = True, False
    order = draw(st.permutations(range(n)))
    return np.array(scores)[order], np.array(same)[order]


def overlapping(seed, n_same=300, n_different=700, decimals=2):
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(1, 1, n_same), rng.normal(0, 1, n_different)])
    return scores.round(decimals), np.arange(n_same + n_different) < n_same


def naive_points(scores, same):
    """(FAR, TAR) of accepting nothing and of every distinct threshold, counted one by one."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        false = sum(1 for s, y in zip(scores, same, strict=True) if s >= threshold and not y)
        true = sum(1 for s, y in zip(scores, same, strict=True) if s >= threshold and y)
        points.append((false / int((~same).sum()), true / int(same.sum())))
    return points


def naive_auc(scores, same):
    wins = sum(
        1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[same] for n in scores[~same]
    )
    return wins / (same.sum() * (~same).sum())


def naive_eer(scores, same):
    """The lowest crossing of FAR = 1 - TAR over every chord between two operating points."""
    points = naive_points(scores, same)
    best = 1.0
    for a_far, a_tar in points:
        for b_far, b_tar in points:
            a, b = 1 - a_tar - a_far, b_tar + b_far - 1
            if a >= 0 and b >= 0 and a + b > 0:
                best = min(best, (a_far * b + b_far * a) / (a + b))
    return best


def naive_best_accuracy(scores, same):
    thresholds = [*scores.tolist(), math.inf]
    return max(float(np.mean((scores >= t) == same)) for t in thresholds)


@given(scored_pairs())
def test_roc_is_the_naive_one(pairs):
    scores, same = pairs
    far, tar, thresholds = roc_curve(scores, same)
    assert list(zip(far, tar, strict=True)) == naive_points(scores, same)
    assert thresholds[0] == math.inf
    assert thresholds[1:].tolist() == sorted(set(scores.tolist()), reverse=True)


@pytest.mark.parametrize("decimals", [0, 1, 12])
def test_roc_and_auc_equal_scikit_learn(decimals):
    scores, same = overlapping(decimals, decimals=decimals)
    far, tar, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
    ours = roc_curve(scores, same)
    np.testing.assert_array_equal(ours.far, far)
    np.testing.assert_array_equal(ours.tar, tar)
    np.testing.assert_array_equal(ours.thresholds, thresholds)
    assert auc(scores, same) == pytest.approx(metrics.roc_auc_score(same, scores), abs=1e-12)


@given(scored_pairs())
def test_auc_is_the_naive_one(pairs):
    assert auc(*pairs) == naive_auc(*pairs)


@given(scored_pairs())
def test_auc_turns_round_with_the_scores(pairs):
    scores, same = pairs
    assert auc(-scores, same) == pytest.approx(1 - auc(scores, same), abs=1e-15)


@settings(max_examples=200)
@given(scored_pairs(max_size=25))
def test_eer_is_the_lowest_chord_crossing(pairs):
    assert eer(*pairs) == pytest.approx(naive_eer(*pairs), abs=1e-12)


def test_eer_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 100_000), rng.normal(0, 1, 100_000)])
    expected = 0.5 * math.erfc(1 / math.sqrt(2))  # Φ(-d'/2) with d' = 2
    assert eer(scores, np.arange(200_000) < 100_000) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("scores", "area", "equal_error"),
    [([3, 2, 1, 0], 1.0, 0.0), ([0, 1, 2, 3], 0.0, 0.5), ([7, 7, 7, 7], 0.5, 0.5)],
    ids=["separated", "upside down", "all equal"],
)
def test_extreme_scores(scores, area, equal_error):
    same = [1, 1, 0, 0]
    assert (auc(scores, same), eer(scores, same)) == (area, equal_error)


@given(scored_pairs())
@example((np.array([1.0, np.nextafter(1.0, 2.0)]), np.array([False, True])))
@example((np.array([-1.7e308, 1.7e308]), np.array([False, True])))
def test_fitted_threshold_has_the_best_accuracy(pairs):
    scores, same = pairs
    threshold = fit_threshold(scores, same)
    assert math.isfinite(threshold)
    assert accuracy_at(scores, same, threshold)[0] == naive_best_accuracy(scores, same)


@given(scored_pairs())
def test_fitted_threshold_follows_its_rule_for_ties(pairs):
    scores, same = pairs

    def key(threshold):
        false_accepts = int(((scores >= threshold) & ~same).sum())
        false_rejects = int(((scores < threshold) & same).sum())
        errors = false_accepts + false_rejects
        return errors, abs(false_accepts - false_rejects), false_accepts

    best = min(key(t) for t in [*scores.tolist(), math.inf])
    assert key(fit_threshold(scores, same)) == best


def test_fitted_threshold_is_a_midpoint():
    assert fit_threshold([4.0, 3.0, 1.0, 0.0], [1, 1, 0, 0]) == 2.0
    assert fit_threshold([5.0, 5.0, 5.0], [1, 1, 0]) == 5.0  # accept all
    nothing = fit_threshold(np.float32([5.0, 5.0, 5.0]), [1, 0, 0])
    assert np.float32(5.0) < np.float32(nothing) == nothing


@given(scored_pairs(), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.05, 0.95))
def test_fitted_threshold_has_the_least_cost(pairs, accept, reject, prior):
    scores, same = pairs

    def expense(threshold, prior):
        far, frr = np.mean(scores[~same] >= threshold), np.mean(scores[same] < threshold)
        return accept * (1 - prior) * far + reject * prior * frr

    for given_prior, share in ((prior, prior), (None, same.mean())):
        least = min(expense(t, share) for t in [*scores.tolist(), math.inf])
        fitted = fit_threshold(scores, same, cost=(accept, reject), prior=given_prior)
        assert expense(fitted, share) == pytest.approx(least, abs=1e-12)


def test_costs_move_the_threshold():
    scores, same = overlapping(4)
    cheap, fair, dear = (fit_threshold(scores, same, cost=(c, 1)) for c in (0.1, 1, 10))
    assert cheap < fair < dear
    with pytest.raises(ValueError, match="fit_threshold: cost must be two positive numbers"):
        fit_threshold(scores, same, cost=(0, 1))
    with pytest.raises(ValueError, match="prior must be between 0 and 1"):
        fit_threshold(scores, same, prior=1.0)


def test_folds_take_their_thresholds_from_the_others():
    scores, same = overlapping(6, 200, 200)
    folds = np.random.default_rng(0).permutation(np.arange(400) % 10)
    found = verify_folds(scores, same, folds)
    accuracies = [
        np.mean((scores[folds == k] >= fit_threshold(scores[folds != k], same[folds != k]))
                == same[folds == k])
        for k in range(10)
    ]  # fmt: skip
    assert found.accuracies == accuracies
    assert found.mean == pytest.approx(np.mean(accuracies))
    assert found.standard_error == pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(10))
    assert str(found) == f"{found.mean:.4f} ± {found.standard_error:.4f} over 10 folds"
    with pytest.raises(ValueError, match="verify_folds: folds must name at least 2 folds, got 1"):
        verify_folds(scores, same, np.zeros(400, int))


def test_accuracy_and_its_standard_error():
    scores, same = overlapping(1)
    accuracy, standard_error = accuracy_at(scores, same, 0.5)
    right = [(s >= 0.5) == y for s, y in zip(scores.tolist(), same.tolist(), strict=True)]
    assert accuracy == pytest.approx(sum(right) / 1000)
    assert standard_error == pytest.approx(np.std(right) / math.sqrt(1000))


@pytest.mark.parametrize("decimals", [0, 1, 12])
@pytest.mark.parametrize("far", [0.02, 0.1, 0.29, 1.0])
def test_tar_at_far_is_the_best_reachable(decimals, far):
    scores, same = overlapping(3, decimals=decimals)
    found = tar_at_far(scores, same, far)
    reachable = [point for point in naive_points(scores, same) if point[0] <= far]
    assert found.value == max(tar for _, tar in reachable)
    accepted = scores >= found.threshold
    assert accepted[same].mean() == found.value
    assert accepted[~same].sum() == found.false_accepts <= far * 700 + 1e-9
    assert found.false_accepts == round(700 * min(f for f, tar in reachable if tar == found.value))
    assert found.text == str(found) == f"{found.value:.3f}"


def test_tar_at_far_needs_ten_false_accepts():
    same = np.arange(1000) < 700
    scores = np.random.default_rng(0).random(1000)
    found = tar_at_far(scores, same, 0.001)
    assert (found.value, found.threshold, found.false_accepts) == (None, None, None)
    assert str(found) == "not measurable: 0.3 false accepts"
    assert tar_at_far(scores, same, 0.0333).value is None  # 9.99
    assert tar_at_far(scores, same, 10 / 300).value is not None


def test_tar_at_far_spends_rates_not_rounded_products():
    scores, same = np.arange(200)[::-1], np.tile([False, True], 100)  # 0.29 * 100 < 29 in floats
    assert tar_at_far(scores, same, 0.29).value == 0.29


def test_d_prime():
    scores, same = overlapping(5)
    spread = math.sqrt((np.var(scores[same]) + np.var(scores[~same])) / 2)
    expected = (np.mean(scores[same]) - np.mean(scores[~same])) / spread
    assert d_prime(scores, same) == pytest.approx(expected)
    assert d_prime(1e300 * scores, same) == pytest.approx(expected)
    assert d_prime(1e-200 * scores, same) == pytest.approx(expected)
    assert d_prime(-scores, same) == pytest.approx(-expected)


@pytest.mark.parametrize("scores", [[0.1] * 6, [0.7] * 3 + [0.1] * 3, [1e-300] * 6, [0] * 6])
def test_d_prime_without_spread(scores):
    assert d_prime(scores, [1, 1, 1, 0, 0, 0]) is None


@given(scored_pairs(st.integers(-5, 5).map(float)), st.lists(st.floats(0.01, 1e6), min_size=11))
def test_rank_figures_ignore_increasing_maps(pairs, steps):
    scores, same = pairs
    increasing = np.cumsum(steps[:11])  # any strictly increasing map of the 11 values
    mapped = increasing[(scores + 5).astype(int)]
    assert auc(mapped, same) == auc(scores, same)
    assert eer(mapped, same) == eer(scores, same)
    for ours, theirs in zip(roc_curve(mapped, same)[:2], roc_curve(scores, same)[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tar_at_far(mapped, same, 1.0).value == tar_at_far(scores, same, 1.0).value
    fitted = [s >= fit_threshold(s, same) for s in (scores, mapped)]
    np.testing.assert_array_equal(*fitted)


def test_verify_pairs_gathers_the_figures():
    scores, same = overlapping(7, 3000, 15_000)
    found = verify_pairs(scores, same, threshold=0.5)
    assert (found.n_pairs, found.n_same, found.threshold) == (18_000, 3000, 0.5)
    assert (found.accuracy, found.accuracy_se) == accuracy_at(scores, same, 0.5)
    assert (found.auc, found.eer) == (auc(scores, same), eer(scores, same))
    assert found.d_prime == d_prime(scores, same)
    assert found.tar_at_far == {
        key: tar_at_far(scores, same, float(key)) for key in ("0.1", "0.01", "0.001")
    }
    tars = [found.tar_at_far[key].value for key in ("0.1", "0.01", "0.001")]
    assert all(a > b for a, b in pairwise(tars))


def test_verify_pairs_in_words_and_json():
    scores, same = overlapping(7)
    found = verify_pairs(torch.tensor(scores), torch.tensor(same), threshold=0.5)
    assert str(found).startswith("1000 pairs (300 same): accuracy 0.")
    assert "TAR at FAR 0.001 not measurable: 0.7 false accepts" in str(found)
    copy = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert copy["auc"] == found.auc
    assert copy["tar_at_far"]["0.1"]["value"] == found.tar_at_far["0.1"].value
    assert copy["tar_at_far"]["0.001"] == {
        "far": 0.001,
        "value": None,
        "threshold": None,
        "false_accepts": None,
        "budget": pytest.approx(0.7),
        "interval": None,
        "text": "not measurable: 0.7 false accepts",
    }
    assert "d′ undefined" in str(verify_pairs([1.0, 1.0], [1, 0], threshold=0.0))


def test_the_threshold_is_required():
    with pytest.raises(TypeError, match="threshold"):
        verify_pairs([1.0, 0.0], [1, 0])


@pytest.mark.parametrize("kind", ["list", "float32", "bfloat16", "with gradient", "int", "float"])
def test_what_scores_and_same_may_be(kind):
    scores, same = [3.0, 1.0, 2.0, 0.0], [1, 1, 0, 0]
    if kind in {"float32", "bfloat16"}:
        scores = torch.tensor(scores, dtype=getattr(torch, kind))
    elif kind == "with gradient":
        scores, same = torch.tensor(scores, requires_grad=True), torch.tensor(same)
    elif kind == "int":
        scores, same = np.array(scores, dtype=np.int32), np.array(same, dtype=np.uint8)
    elif kind == "float":
        same = torch.tensor(same, dtype=torch.float32)
    assert auc(scores, same) == 0.75


def test_inputs_stay_as_they_are():
    scores, same = overlapping(2)
    copies = scores.copy(), same.copy()
    for function in SCORE_FUNCTIONS.values():
        function(scores, same)
    np.testing.assert_array_equal(scores, copies[0])
    np.testing.assert_array_equal(same, copies[1])


@pytest.mark.parametrize("name", SCORE_FUNCTIONS)
@pytest.mark.parametrize(
    ("scores", "same", "kind", "message"),
    [
        ([1.0, 2.0], [1, 1], ValueError, "same must hold both .* 2 pairs that are all same"),
        ([1.0, 2.0], [0, 0], ValueError, "2 pairs that are all different"),
        ([1.0, math.nan], [1, 0], ValueError, "scores must be finite, got 1 NaN and 0 infinite"),
        ([math.inf, -math.inf], [1, 0], ValueError, "got 0 NaN and 2 infinite"),
        ([], [], ValueError, r"scores must have shape \(n,\) with n > 0, got \(0,\)"),
        ([[1.0], [2.0]], [1, 0], ValueError, r"scores must have .* got \(2, 1\)"),
        ([1.0, 2.0], [[1], [0]], ValueError, r"same must have .* \(2,\), got \(2, 1\)"),
        ([1.0, 2.0, 3.0], [1, 0], ValueError, r"same must have .* \(3,\), got \(2,\)"),
        (1.0, 1, ValueError, r"got \(\)"),
        ([1.0, 2.0], [1, 2], ValueError, r"same must hold only 0 and 1 .*, got 2"),
        ([1.0, 2.0], [1, -1], ValueError, "got -1"),
        ([1.0, 2.0], [math.nan, 1], ValueError, "got nan"),
        (["a", "b"], [1, 0], TypeError, "scores must be numbers"),
        ([1j, 2j], [1, 0], TypeError, "scores must be numbers"),
    ],
)
def test_bad_input_is_refused(name, scores, same, kind, message):
    with pytest.raises(kind, match=f"{name}: .*{message}"):
        SCORE_FUNCTIONS[name](scores, same)


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_must_be_finite(threshold):
    with pytest.raises(ValueError, match="verify_pairs: threshold must be finite"):
        verify_pairs([1.0, 0.0], [1, 0], threshold=threshold)
    with pytest.raises(ValueError, match="accuracy_at: threshold must be finite"):
        accuracy_at([1.0, 0.0], [1, 0], threshold)


@pytest.mark.parametrize("far", [0, -0.1, 1.5, math.nan])
def test_a_rate_must_be_one(far):
    with pytest.raises(ValueError, match=r"tar_at_far: far must be in \(0, 1\], got"):
        tar_at_far([1.0, 0.0], [1, 0], far)
