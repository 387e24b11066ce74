"""Retrieval figures against a naive loop, pytorch-metric-learning and scikit-learn."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn import metrics

from siameselib.evaluation import evaluate_retrieval


def clusters(n, people, d=8, spread=1.0, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, people, n)
    centres = generator.normal(size=(people, d))
    return centres[labels] + spread * generator.normal(size=(n, d)), labels


def naive(x, labels, ref=None, ref_labels=None, k=(1, 5, 10)):
    """The definitions, one query at a time; ties against the net."""
    y, kinds = (x, labels) if ref is None else (ref, ref_labels)
    rows = []
    for i in range(len(x)):
        others = [j for j in range(len(y)) if ref is not None or j != i]
        distance = {j: ((x[i] - y[j]) ** 2).sum() for j in others}
        ranked = sorted(others, key=lambda j: (distance[j], kinds[j] == labels[i]))
        hit = [kinds[j] == labels[i] for j in ranked]
        r = sum(hit)
        if r == 0:
            continue
        at = [sum(hit[: q + 1]) / (q + 1) * hit[q] for q in range(len(hit))]
        rows.append(
            [
                *(sum(hit[:limit]) / limit for limit in k),
                *(float(any(hit[:limit])) for limit in k),
                sum(hit[:r]) / r,
                sum(at[:r]) / r,
                sum(at) / r,
                1 / (hit.index(True) + 1),
            ]
        )
    return len(rows), np.mean(rows, axis=0)


def figures(found):
    return [
        *found.precision_at.values(),
        *found.recall_at.values(),
        found.r_precision,
        found.mean_average_precision_at_r,
        found.mean_average_precision,
        found.mean_reciprocal_rank,
    ]


@pytest.mark.parametrize("people", [2, 15, 60])
def test_equals_the_naive_loop(people):
    x, labels = clusters(80, people)
    found = evaluate_retrieval(x, labels)
    n_queries, expected = naive(x, labels)
    assert (found.n_queries, found.n_alone, found.n_references) == (n_queries, 80 - n_queries, 80)
    np.testing.assert_allclose(figures(found), expected, rtol=1e-12)


@given(
    arrays.arrays(np.float64, (14, 1), elements=st.integers(0, 4)),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
)
def test_ties_count_against_the_net(x, labels):
    labels = np.array([0, 0, *labels])
    _, expected = naive(x, labels)
    np.testing.assert_allclose(figures(evaluate_retrieval(x, labels)), expected, rtol=1e-12)


def test_equals_the_naive_loop_on_references():
    x, labels = clusters(40, 12)
    ref, ref_labels = clusters(90, 10, seed=0)
    ref[:5] = x[:5]  # distance 0 to another set is a neighbour like any other
    found = evaluate_retrieval(x, labels, ref=ref, ref_labels=ref_labels, k=[1, 100])
    n_queries, expected = naive(x, labels, ref, ref_labels, k=[1, 100])
    assert (found.n_queries, found.n_alone, found.n_references) == (n_queries, 40 - n_queries, 90)
    assert found.n_alone > 0
    np.testing.assert_allclose(figures(found), expected, rtol=1e-12)


@pytest.mark.parametrize("people", [5, 50, 300])
def test_equals_pytorch_metric_learning(people):
    x, labels = map(torch.tensor, clusters(500, people))
    names = (
        "precision_at_1",
        "r_precision",
        "mean_average_precision_at_r",
        "mean_average_precision",
        "mean_reciprocal_rank",
    )
    calculator = AccuracyCalculator(
        include=names,
        k=499,
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    expected = calculator.get_accuracy(x, labels)
    found = evaluate_retrieval(x, labels).as_dict()
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name  # theirs are in float32


def test_equals_scikit_learn():
    x, labels = clusters(200, 20)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    off = ~np.eye(200, dtype=bool)
    scores = similarity[off].reshape(200, 199)
    same = (labels[:, None] == labels)[off].reshape(200, 199)
    expected = metrics.label_ranking_average_precision_score(same[same.any(1)], scores[same.any(1)])
    found = evaluate_retrieval(x, labels, metric="cosine")
    assert found.mean_average_precision == pytest.approx(expected, abs=1e-12)


def test_single_precision_far_from_the_origin():
    x, labels = clusters(400, 40)
    exact = figures(evaluate_retrieval(x, labels))
    shifted = torch.tensor(x + 50).float()
    np.testing.assert_allclose(figures(evaluate_retrieval(shifted, labels)), exact, atol=2e-3)
    for scale in (1e-25, 1e25):
        scaled = torch.tensor(x * scale).float()
        np.testing.assert_allclose(figures(evaluate_retrieval(scaled, labels)), exact, atol=2e-3)


def test_only_ranks_matter():
    x, labels = clusters(300, 30)
    unit = torch.nn.functional.normalize(torch.tensor(x))
    runs = [
        evaluate_retrieval(unit, labels, metric=m) for m in ("euclidean", "sqeuclidean", "cosine")
    ]
    assert runs[0] == runs[1]
    np.testing.assert_allclose(figures(runs[0]), figures(runs[2]), rtol=1e-12)


def test_order_and_names_do_not_matter():
    x, labels = clusters(300, 30)
    order = np.random.default_rng(2).permutation(300)
    names = [f"person {(7 * label) % 30}" for label in labels[order]]
    first, second = evaluate_retrieval(x, labels), evaluate_retrieval(x[order], names)
    np.testing.assert_allclose(figures(first), figures(second), rtol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    x, labels = clusters(300, 30)
    whole = evaluate_retrieval(x, labels)
    monkeypatch.setattr("siameselib.evaluation.retrieval._SLAB", 700)
    np.testing.assert_allclose(figures(whole), figures(evaluate_retrieval(x, labels)), rtol=1e-12)


def test_collapse_scores_nothing():
    found = evaluate_retrieval(torch.ones(6, 3), [0, 0, 1, 1, 2, 2], k=[1, 4])
    assert (found.recall_at, found.r_precision) == ({1: 0, 4: 0}, 0)
    assert found.mean_reciprocal_rank == pytest.approx(1 / 5)


def test_perfect_embeddings():
    found = evaluate_retrieval(torch.eye(3)[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2])
    assert found.precision_at == pytest.approx({1: 1.0, 5: 0.2, 10: 0.1})
    assert figures(found)[3:] == pytest.approx([1.0] * 7)


def test_in_words_and_json():
    found = evaluate_retrieval(*clusters(100, 10), k=[1, 5])
    text = f"100 queries among 100 references: recall@1 {found.recall_at[1]:.3f}, recall@5 "
    assert str(found).startswith(text)
    copy = json.loads(json.dumps(found.as_dict()))
    assert copy["precision_at_5"] == found.precision_at[5]
    assert copy["recall_at_1"] == copy["precision_at_1"] == found.recall_at[1]
    assert "precision_at" not in copy


X = np.ones((3, 2))


@pytest.mark.parametrize(
    ("labels", "keywords", "message"),
    [
        ([0, 1, 2], {}, "labels must give some query a positive, got 3 queries without any"),
        ([0, 0], {}, r"labels must have shape \(n,\) = \(3,\), got \(2,\)"),
        ([0, 0, 1], {"k": []}, r"k must hold positive numbers, got \(\)"),
        ([0, 0, 1], {"k": [0]}, "k must hold positive numbers"),
        ([0, 0, 1], {"metric": "l7"}, "metric must be one of"),
        ([0, 0, 1], {"ref": X}, "ref and ref_labels must be given together"),
        (
            [0, 0, 1],
            {"ref": np.ones((2, 3)), "ref_labels": [0, 1]},
            "ref must be as wide as embeddings, 2, got 3",
        ),
        ([0, 0, 1], {"ref": X, "ref_labels": [0, 1]}, r"ref_labels must have .* got \(2,\)"),
        ([0, 0, 1], {"ref": X * np.inf, "ref_labels": [0, 0, 1]}, "ref must be finite"),
    ],
)
def test_bad_input_is_refused(labels, keywords, message):
    with pytest.raises(ValueError, match=f"evaluate_retrieval: {message}"):
        evaluate_retrieval(X, labels, **keywords)
