"""All pairs of many embeddings, streamed into bins, against the dense matrix and scikit-learn."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from siameselib import evaluation
from siameselib.evaluation import AllPairs, all_pairs

METRICS = ("euclidean", "sqeuclidean", "cosine")


def clusters(n, people, d=16, spread=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, people, n)
    return generator.normal(size=(people, d))[labels] + spread * generator.normal(
        size=(n, d)
    ), labels


def dense(x, labels, metric):
    """Scores and ``same`` of all pairs, from the definition of the distances."""
    i, j = np.triu_indices(len(x), 1)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return (x[i] * x[j]).sum(1) - 1, labels[i] == labels[j]
    square = ((x[i] - x[j]) ** 2).sum(1)
    return -(square if metric == "sqeuclidean" else np.sqrt(square)), labels[i] == labels[j]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [5, 1100])
def test_every_count_is_the_dense_one(metric, n):
    x, labels = clusters(n, max(2, n // 6))
    found = all_pairs(x, labels, metric=metric, bins=97)
    scores, same = dense(x, labels, metric)
    assert (found.n_images, found.n_same) == (n, same.sum())
    assert found.n_different == (~same).sum()
    for cut in range(1, 97, 4):
        accepted = scores >= found.thresholds[cut]
        assert found.true[cut] == (accepted & same).sum()
        assert found.false[cut] == (accepted & ~same).sum()
    assert (found.true[0], found.false[0]) == (0, 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bins", [1, 50, 1 << 20])
def test_the_errors_bracket_the_exact_figures(metric, bins):
    x, labels = clusters(600, 60)
    found = all_pairs(x, labels, metric=metric, bins=bins)
    scores, same = dense(x, labels, metric)
    assert abs(found.auc - evaluation.auc(scores, same)) <= found.auc_error + 1e-12
    assert abs(found.eer - evaluation.eer(scores, same)) <= found.eer_error + 1e-12
    assert found.auc_error < {1: 0.6, 50: 0.05, 1 << 20: 2e-6}[bins]
    assert found.eer_error < {1: 0.3, 50: 0.05, 1 << 20: 1e-4}[bins]


def test_single_precision_and_offsets_stay_accurate():
    x, labels = clusters(500, 50, d=64)
    exact = evaluation.auc(*dense(x, labels, "euclidean"))
    for shift in (0, 100):
        found = all_pairs(torch.tensor(x + shift).float(), torch.tensor(labels))
        assert found.auc == pytest.approx(exact, abs=1e-6)
        assert found.auc_error < 1e-6


@pytest.mark.parametrize("scale", [1e-25, 1e25])
@pytest.mark.parametrize("metric", METRICS)
def test_the_scale_does_not_matter(metric, scale):
    x, labels = clusters(300, 30)
    ours, scaled = (
        all_pairs(torch.tensor(x * s).float(), labels, metric=metric) for s in (1, scale)
    )
    np.testing.assert_allclose(scaled.true, ours.true, atol=3)
    power = {"euclidean": 1, "sqeuclidean": 2, "cosine": 0}[metric]
    np.testing.assert_allclose(
        scaled.thresholds[1:-1] / scale**power, ours.thresholds[1:-1], atol=1e-4, rtol=1e-4
    )


@settings(max_examples=30)
@given(
    arrays.arrays(np.float32, (12, 2), elements=st.integers(-2, 2)),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_small_integers_tie_exactly(x, labels):
    labels = np.array([0, 0, 1, 2, *labels])
    found = all_pairs(x, labels, metric="sqeuclidean", bins=4096)
    scores, same = dense(x.astype(float), labels, "sqeuclidean")
    assert abs(found.auc - evaluation.auc(scores, same)) <= 1e-12  # a tie counts one half
    assert len(set(scores)) == ((np.diff(found.true) + np.diff(found.false)) > 0).sum()


def test_order_and_names_do_not_matter():
    x, labels = clusters(500, 40)
    order = np.random.default_rng(1).permutation(500)
    names = [f"person {(7 * label) % 40}" for label in labels[order]]
    first, second = all_pairs(x, labels), all_pairs(x[order], names)
    assert first.n_same == second.n_same
    assert first.auc == pytest.approx(second.auc, abs=1e-6)


def test_batches_do_not_matter(monkeypatch):
    x, labels = clusters(500, 40)
    whole = all_pairs(x, labels, bins=97)
    monkeypatch.setattr("siameselib.evaluation.streaming._BATCH", 1000)
    parts = all_pairs(x, labels, bins=97)
    np.testing.assert_array_equal(parts.true, whole.true)
    np.testing.assert_array_equal(parts.false, whole.false)


def test_operating_points():
    x, labels = clusters(800, 80, spread=0.7)
    found = all_pairs(x, labels)
    scores, same = dense(x, labels, "euclidean")
    for far in (0.1, 0.01, 0.001):
        ours, exact = found.tar_at_far(far), evaluation.tar_at_far(scores, same, far)
        assert ours.value <= exact.value
        assert ours.value == pytest.approx(exact.value, abs=2e-3)
        assert ours.threshold == pytest.approx(exact.threshold, abs=1e-3)
        rates = found.rates_at(ours.threshold)
        assert rates == (ours.false_accepts / found.n_different, ours.value)
    assert found.tar_at_far(1e-5).text.startswith("not measurable: 3.")
    assert found.rates_at(1e9) == (0, 0)
    assert found.rates_at(-1e9) == (1, 1)
    far, tar, thresholds = found.roc()
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert (np.diff(far) >= 0).all()
    assert (np.diff(tar) >= 0).all()
    assert (np.diff(thresholds) < 0).all()


def test_counts_beyond_64_bits():
    true = np.array([0, 3, 9, 10, 11]) * 10**9
    false = np.array([0, 1, 2, 30, 400]) * 10**11
    found = AllPairs(10**7, "cosine", np.array([1.0, 0.8, 0.6, 0.4, 0.2]), false, true)
    steps = zip(np.diff(false).tolist(), true[1:].tolist(), true[:-1].tolist(), strict=True)
    area = sum(Fraction(f * (a + b), 2 * 11 * 400 * 10**20) for f, a, b in steps)
    assert found.auc == float(area)
    small = AllPairs(10, "cosine", found.thresholds, false // 10**9, true // 10**9)
    assert (found.auc, found.auc_error) == (small.auc, small.auc_error)
    assert (found.eer, found.eer_error) == (small.eer, small.eer_error)


def test_collapse_leaves_everything_open():
    found = all_pairs(torch.ones(6, 3), [0, 0, 1, 1, 2, 2])
    assert (found.auc, found.auc_error) == (0.5, 0.5)
    assert found.rates_at(found.thresholds[0]) == (0, 0)
    assert all_pairs(torch.zeros(6, 3), [0, 0, 1, 1, 2, 2], metric="cosine").auc == 0.5


def test_in_words_and_json():
    x, labels = clusters(300, 30)
    found = all_pairs(x, labels)
    assert str(found).startswith(f"all 44,850 pairs of 300 images ({found.n_same:,} same): AUC 0.")
    copy = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (copy["auc"], copy["metric"]) == (found.auc, "euclidean")
    assert copy["tar_at_far"]["0.1"]["value"] == found.tar_at_far(0.1).value
    assert copy["tar_at_far"]["1e-06"]["text"].startswith("not measurable")


@pytest.mark.parametrize(
    ("x", "labels", "keywords", "kind", "message"),
    [
        (np.ones((3, 2)), [0, 0, 0], {}, ValueError, "labels must give both same and different"),
        (np.ones((3, 2)), [0, 1, 2], {}, ValueError, "got 3 images of 3 identities"),
        (
            np.ones((3, 2)),
            [[0], [0], [1]],
            {},
            ValueError,
            r"labels must have shape \(n,\) = \(3,\)",
        ),
        (np.ones((3, 2)), [0.0, 0.0, 1.0], {}, TypeError, "labels must be integers or names"),
        (np.ones((3, 2), int), [0, 0, 1], {}, TypeError, "embeddings must be floating point"),
        (np.ones(3), [0, 0, 1], {}, ValueError, r"embeddings must have shape \(n, d\), got \(3,\)"),
        (np.ones((0, 2)), [], {}, ValueError, "embeddings must hold at least one number"),
        (np.full((3, 2), np.nan), [0, 0, 1], {}, ValueError, "be finite, got 3 rows with NaN"),
        (np.ones((3, 2)), [0, 0, 1], {"metric": "l7"}, ValueError, "metric must be one of"),
        (np.ones((3, 2)), [0, 0, 1], {"bins": 0}, ValueError, "bins must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(x, labels, keywords, kind, message):
    with pytest.raises(kind, match=f"all_pairs: .*{message}"):
        all_pairs(x, labels, **keywords)
