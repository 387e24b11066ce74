"""Identity-disjoint folds and protocols of any pair list: complete, balanced, without leaks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siameselib.data import Pair, identity_folds, pair_protocol


@given(st.lists(st.integers(0, 12), min_size=20, max_size=80), st.integers(2, 4), st.integers(0, 9))
def test_folds_share_nobody_and_lose_nothing(drawn, k, seed):
    labels = np.array([0, 1, 2, 3, *drawn])
    folds = identity_folds(labels, k, seed=seed)
    assert len(folds) == k
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(len(labels)))
    for train, test in folds:
        assert not set(labels[train]) & set(labels[test])
        assert sorted([*train, *test]) == list(range(len(labels)))
        assert len(test)
    sizes = [len(f.test) for f in folds]
    assert max(sizes) - min(sizes) <= np.bincount(labels).max()


def test_folds_are_balanced_and_seeded():
    labels = np.repeat(np.arange(300), np.random.default_rng(0).integers(1, 30, 300))
    folds = identity_folds(labels, 10)
    images = [len(f.test) for f in folds]
    people = [len(set(labels[f.test])) for f in folds]
    assert max(images) - min(images) <= 1
    assert max(people) - min(people) <= 3
    again, other = identity_folds(labels, 10), identity_folds(labels, 10, seed=1)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(folds, other, strict=True))


def test_names_and_tensors():
    names = identity_folds([f"p{k // 3:02d}" for k in range(30)], 3)
    numbers = identity_folds(torch.arange(30) // 3, 3)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(names, numbers, strict=True))


@pytest.mark.parametrize(
    ("labels", "k", "kind", "message"),
    [
        ([0, 1], 3, ValueError, "k must be at most the 2 identities, got 3"),
        ([0, 1], 1, ValueError, "k must be at least 2"),
        ([[0], [1]], 2, ValueError, r"labels must have shape \(n,\), got \(2, 1\)"),
        ([0.0, 1.0], 2, TypeError, "labels must be integers or names"),
    ],
)
def test_bad_folds_are_refused(labels, k, kind, message):
    with pytest.raises(kind, match=f"identity_folds: {message}"):
        identity_folds(labels, k)


def test_any_pair_list_is_a_protocol(tmp_path):
    (tmp_path / "train.txt").write_text("anna/a.png anna/b.png 1\nanna/a.png ben/c.png 0\n")
    test = [Pair("carl/x", "carl/y", True), Pair("carl/x", "dora/z", False)]
    protocol = pair_protocol(tmp_path / "train.txt", test, name="mine")
    assert protocol.name == "mine"
    assert protocol.train.people == {"anna", "ben"}
    assert protocol.test.people == {"carl", "dora"}
    assert protocol.train.pairs[1] == Pair("anna/a", "ben/c", False)
    protocol.check_training(["anna/other", "ben"])
    with pytest.raises(ValueError, match="leaking: carl"):
        protocol.check_training(["carl/x"])


def test_leaks_and_contradictions_are_named():
    good, leak = [Pair("a/1", "b/1", False)], [Pair("b/2", "c/1", False)]
    with pytest.raises(ValueError, match="1 leaking: b"):
        pair_protocol(good, leak)
    with pytest.raises(ValueError, match="pair_protocol: test must hold pairs, got an empty list"):
        pair_protocol(good, [])
    with pytest.raises(ValueError, match=r"train must agree .* got a/1 and b/1 called same"):
        pair_protocol([Pair("a/1", "b/1", True)], leak)
