"""Retrieval figures against a naive loop, pytorch-metric-learning and scikit-learn."""

import json
import sys

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
from sklearn.neighbors import NearestNeighbors

from siameselib.evaluation import cluster_nmi, evaluate_retrieval


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


INCREASING = {
    "affine": lambda s: 3 * s - 7,
    "exponential": np.exp,
    "cube": lambda s: s**3,
    "ranks": lambda s: np.unique(s, return_inverse=True)[1].reshape(s.shape).astype(float),
}


@pytest.mark.parametrize("name", INCREASING)
@given(
    arrays.arrays(np.float64, (9, 13), elements=st.integers(-6, 6)),
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
)
def test_any_increasing_map_of_the_scores_changes_nothing(name, scores, labels, ref_labels):
    """Scores of any kind, tied or not: the embeddings are made up so that they come out."""

    def figures_of(scores):
        with pytest.MonkeyPatch.context() as patch:
            given_scores = torch.tensor(scores), torch.eye(13, dtype=torch.float64), 1.0
            patch.setattr("siameselib.evaluation.retrieval.factors", lambda *_: given_scores)
            return evaluate_retrieval(
                np.zeros((9, 1)),
                labels,
                ref=np.zeros((13, 1)),
                ref_labels=[*range(4), *ref_labels],
            )

    assert figures_of(scores) == figures_of(INCREASING[name](scores))


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


def by_scikit_learn(queries, references, k):
    index = NearestNeighbors(algorithm="brute").fit(references)
    return index.kneighbors(queries, k, return_distance=False)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("people", [5, 60])
@pytest.mark.parametrize("apart", [False, True])
def test_a_search_of_the_users_own(metric, people, apart, monkeypatch):
    x, labels = clusters(240, people, seed=2)
    keywords = {"metric": metric, "k": [1, 7]}
    if apart:
        x, labels, keywords["ref"], keywords["ref_labels"] = (
            x[:90],
            labels[:90],
            x[90:],
            labels[90:],
        )
    expected = evaluate_retrieval(x, labels, **keywords)
    monkeypatch.setattr("siameselib.evaluation.retrieval._SLAB", 900)  # several blocks
    found = evaluate_retrieval(x, labels, **keywords, knn_backend=by_scikit_learn)
    assert found.mean_average_precision is None
    if found.mean_reciprocal_rank is not None:
        assert found.mean_reciprocal_rank == pytest.approx(expected.mean_reciprocal_rank)
    np.testing.assert_allclose(figures(found)[:-2], figures(expected)[:-2], rtol=1e-12)
    everything = {**keywords, "k": [1, 7, 1000]}
    whole = evaluate_retrieval(x, labels, **everything, knn_backend=by_scikit_learn)
    np.testing.assert_allclose(
        figures(whole), figures(evaluate_retrieval(x, labels, **everything)), rtol=1e-12
    )


def test_a_first_positive_beyond_the_neighbours_is_unknown():
    x, labels = [[0.0], [9.0], [1.0], [1.1], [1.2]], [0, 0, 1, 1, 1]
    found = evaluate_retrieval(x, labels, k=[1], knn_backend=by_scikit_learn)
    assert found.mean_reciprocal_rank is None
    assert str(found).endswith("MRR unknown")
    assert json.loads(json.dumps(found.as_dict()))["mean_reciprocal_rank"] is None
    whole = evaluate_retrieval(x, labels, k=[4], knn_backend=by_scikit_learn)
    assert whole == evaluate_retrieval(x, labels, k=[4])


def test_copies_of_the_query_do_not_hide_it():
    """Among copies the query itself need not be what the search returns."""

    def without_the_query(queries, references, k):
        everybody = torch.arange(len(references)).expand(len(queries), -1)
        others = everybody[everybody != torch.arange(len(queries))[:, None]]
        return others.view(len(queries), -1)[:, :k]

    x, labels = [[0.0], [0.0], [0.0], [5.0], [6.0], [7.0]], [0, 0, 0, 1, 2, 3]
    found = evaluate_retrieval(x, labels, k=[2], knn_backend=without_the_query)
    assert found.precision_at[2] == found.r_precision == found.mean_average_precision_at_r == 1


def test_neighbours_not_found_are_misses():
    def nothing(queries, references, k):
        return np.full((len(queries), k), -1)

    found = evaluate_retrieval(*clusters(20, 3), k=[1], knn_backend=nothing)
    assert (found.recall_at[1], found.mean_average_precision_at_r) == (0, 0)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    x, labels = clusters(300, 30)
    expected = figures(evaluate_retrieval(x + 50, labels))
    found = figures(evaluate_retrieval(x + 50, labels, knn_backend="faiss"))
    np.testing.assert_allclose(found[:-2], expected[:-2], atol=1e-3)


def test_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match="pip install faiss-cpu"):
        evaluate_retrieval(*clusters(20, 3), knn_backend="faiss")


@pytest.mark.parametrize(
    ("backend", "kind", "message"),
    [
        ("annoy", ValueError, "be one of 'faiss', got 'annoy'"),
        (3, TypeError, 'be None, "faiss" or a function, got int'),
        (lambda q, r, k: np.zeros((len(q), 1), int), ValueError, r"\(queries, k\) = \(20, \d+\)"),
        (lambda q, r, k: np.zeros((len(q), k)), TypeError, "give integers, got torch.float64"),
        (lambda q, r, k: np.full((len(q), k), 20), ValueError, "row numbers below 20, or -1"),
        (lambda q, r, k: np.ones((len(q), k), int), ValueError, "every neighbour of a query once"),
    ],
)
def test_a_bad_search_is_refused(backend, kind, message):
    with pytest.raises(kind, match=f"evaluate_retrieval: knn_backend must .*{message}"):
        evaluate_retrieval(*clusters(20, 3), knn_backend=backend)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_clusters_agree_with_pytorch_metric_learning(metric):
    x, labels = clusters(300, 6, spread=0.5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x

    def kmeans(x, k):
        from sklearn.cluster import KMeans

        return torch.tensor(KMeans(k, n_init=10, random_state=0).fit_predict(x.numpy()))

    calculator = AccuracyCalculator(
        include=("NMI",),
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance()),
        kmeans_func=kmeans,
    )
    expected = calculator.get_accuracy(torch.tensor(unit), torch.tensor(labels))["NMI"]
    assert cluster_nmi(x, labels, metric=metric) == pytest.approx(expected, abs=1e-9)
    assert 0.5 < expected < 1


def test_clusters_need_two_identities():
    with pytest.raises(ValueError, match="cluster_nmi: labels must name two identities or more"):
        cluster_nmi(np.eye(3), [4, 4, 4])


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match="python -m pip install scikit-learn"):
        cluster_nmi(np.eye(3), [0, 0, 1])


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
