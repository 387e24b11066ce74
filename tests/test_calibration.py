"""Platt scaling against scikit-learn and on hard inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from siameselib.evaluation.calibration import Platt, fit_platt


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
    assert np.isfinite(fitted).all()
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


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([1.0, 2.0], [1, 1], "both kinds"),
        ([1.0, np.nan], [1, 0], "finite"),
        ([1.0, 2.0], [[1], [0]], "shape"),
    ],
)
def test_refusals(scores, same, message):
    with pytest.raises(ValueError, match=message):
        fit_platt(scores, same)
