"""Identification against naive loops: CMC, DIR at FAR, rules, ties, blocks."""

import json
import math

import numpy as np
import pytest
import torch

from siameselib.evaluation import evaluate_identification

RULES = ("max", "mean", "template")
METRICS = ("cosine", "euclidean")


def crowd(seed, people=12, strangers=40, d=5, spread=0.6):
    """Gallery and probes with 1 to 4 images a person, and probes of people never enrolled."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people + strangers, d))
    g = np.repeat(np.arange(people), rng.integers(1, 5, people))
    p = np.concatenate([rng.integers(0, people, 60), people + np.arange(strangers).repeat(3)])
    gallery, probes = (centre[k] + spread * rng.normal(size=(len(k), d)) for k in (g, p))
    order = rng.permutation(len(g))
    return probes, p, gallery[order], g[order]


def naive_score(x, images, metric, rule):
    def score(a, b):
        if metric == "cosine":
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        return -np.linalg.norm(a - b)

    if rule == "template":
        unit = [i / np.linalg.norm(i) if metric == "cosine" else i for i in images]
        return score(x, np.mean(unit, axis=0))
    scores = [score(x, image) for image in images]
    return max(scores) if rule == "max" else float(np.mean(scores))


def naive(probes, p, gallery, g, metric, rule):
    """Rank of the own person (None: a stranger), its score, and the best score of anybody."""
    found = []
    for x, who in zip(probes, p.tolist(), strict=True):
        scores = {k: naive_score(x, gallery[g == k], metric, rule) for k in set(g.tolist())}
        own = scores.get(who)
        rank = None if own is None else sum(s >= own for s in scores.values())
        found.append((rank, own, max(scores.values())))
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("slab", [1 << 21, 50])
def test_everything_is_the_naive_one(metric, rule, slab, monkeypatch):
    monkeypatch.setattr("siameselib.evaluation.identification._SLAB", slab)
    data = crowd(0)
    found = evaluate_identification(*data, metric=metric, rule=rule, fars=(0.1, 0.3, 0.05, 1.0))
    expected = naive(*data, metric, rule)
    ranks = [rank for rank, _, _ in expected if rank is not None]
    assert found.cmc.tolist() == [
        pytest.approx(np.mean(np.array(ranks) <= r)) for r in range(1, found.n_people + 1)
    ]
    assert (found.n_people, found.n_enrolled, found.n_strangers) == (12, 60, 120)
    best = sorted((top for rank, _, top in expected if rank is None), reverse=True)
    for far in (0.1, 0.3):
        one = found.dir_at_far[f"{far:g}"]
        limit = best[round(far * 120)]  # the best stranger who must stay out
        hits = sum(rank == 1 and own > limit for rank, own, _ in expected if rank is not None)
        assert one.value == pytest.approx(hits / 60)
        assert one.false_accepts == sum(b > limit for b in best) == round(far * 120)
        assert one.threshold == pytest.approx(limit, abs=1e-5)
    assert found.dir_at_far["1"].value == found.rank(1)
    assert str(found.dir_at_far["0.05"]) == "not measurable: 6 false accepts"


def test_rules_differ_and_agree_on_single_images():
    probes, p, gallery, g = crowd(1)
    several = [evaluate_identification(probes, p, gallery, g, rule=r).cmc for r in RULES]
    assert not np.array_equal(several[0], several[1])
    first = np.unique(g, return_index=True)[1]
    single = [
        evaluate_identification(probes, p, gallery[first], g[first], rule=r).cmc for r in RULES
    ]
    np.testing.assert_array_equal(single[0], single[1])
    np.testing.assert_array_equal(single[0], single[2])


def test_ties_count_against_the_net():
    ones = torch.ones(4, 3)
    found = evaluate_identification(ones, [0, 1, 2, 3], ones, [0, 1, 2, 3])
    assert found.cmc.tolist() == [0, 0, 0, 1]


def test_order_and_names_do_not_matter():
    probes, p, gallery, g = crowd(2)
    plain = evaluate_identification(probes, p, gallery, g)
    order = np.random.default_rng(0).permutation(len(g))
    names = np.array([f"person {97 - k}" for k in range(100)])
    named = evaluate_identification(probes, names[p], gallery[order], names[g][order])
    np.testing.assert_array_equal(plain.cmc, named.cmc)
    assert plain.dir_at_far == named.dir_at_far


def test_closed_set_words_and_json():
    probes, p, gallery, g = crowd(3)
    found = evaluate_identification(probes[:60], p[:60], gallery, g)
    assert (found.dir_at_far, found.n_strangers) == ({}, 0)
    assert "0 of strangers: rank 1 0." in str(found)
    whole = evaluate_identification(probes, p, gallery, g)
    assert "DIR at FAR 0.1 0." in str(whole)
    assert "DIR at FAR 0.01 not measurable: 1.2 false accepts" in str(whole)
    copy = json.loads(json.dumps(whole.as_dict(), allow_nan=False))
    assert copy["cmc"] == whole.cmc.tolist()
    assert copy["dir_at_far"]["0.1"]["value"] == whole.dir_at_far["0.1"].value
    assert whole.rank(1000) == 1


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"gallery": np.ones((0, 3)), "gallery_labels": []}, ValueError, "gallery must hold at"),
        ({"gallery": np.ones((2, 4))}, ValueError, "gallery must be as wide as probes, 3, got 4"),
        ({"gallery": np.full((2, 3), math.nan)}, ValueError, "gallery must be finite"),
        ({"probes": np.full((2, 3), math.inf)}, ValueError, "probes must be finite"),
        ({"probe_labels": [7, 8]}, ValueError, "must name somebody enrolled, got 2 probes"),
        ({"probe_labels": [0]}, ValueError, r"probe_labels must have shape \(n,\) = \(2,\)"),
        ({"gallery_labels": [0.5, 1.0]}, TypeError, "gallery_labels must be integers or names"),
        ({"rule": "best"}, ValueError, "rule must be one of 'max', 'mean', 'template'"),
        ({"metric": "dot"}, ValueError, "metric must be one of"),
        ({"fars": (0,), "probe_labels": [0, 9]}, ValueError, "fars must be in"),
    ],
)
def test_refusals(change, kind, message):
    good = {
        "probes": np.ones((2, 3)),
        "probe_labels": [0, 1],
        "gallery": np.ones((2, 3)),
        "gallery_labels": [0, 1],
    }
    with pytest.raises(kind, match=f"evaluate_identification: .*{message}"):
        evaluate_identification(**good | change)
