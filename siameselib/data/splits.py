"""Splits of any data by person: nobody stands on both sides."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from siameselib import _check
from siameselib.data.pairs import Pair, read_pairs
from siameselib.data.protocols import Part, Protocol, refuse_leak
from siameselib.data.sources import identity

PairList: TypeAlias = str | os.PathLike[str] | Sequence[Pair]


class Fold(NamedTuple):
    """Rows of the images to train on and of those to test on; they share nobody."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def identity_folds(labels: ArrayLike | Tensor, k: int, *, seed: int = 0) -> list[Fold]:
    """Split a labelled set into k folds that share no identity.

    Each identity goes whole into the fold that has the fewest images so far, those with the most
    images first and equals in random order: folds differ by few images, and by few people.

    Args:
        labels: the identity of each image, integers or names.
        k: how many folds.
        seed: of the order.

    Shape:
        labels: (n,).

    Returns:
        For each fold the rows outside it and the rows in it, ascending.

    Raises:
        ValueError: If labels are no vector, or there are fewer identities than folds.
        TypeError: If labels are neither integers nor names.

    Example:
        >>> for train, test in identity_folds(["ann", "ann", "bob", "cid"], 2):
        ...     print(train, test)
        [2 3] [0 1]
        [0 1] [2 3]
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1:
        raise _check.refuse("identity_folds", "labels", "have shape (n,)", array.shape)
    if array.dtype.kind not in "iuSU":
        expected = "be integers or names"
        raise _check.refuse("identity_folds", "labels", expected, array.dtype, TypeError)
    people, sizes = np.unique(array, return_inverse=True, return_counts=True)[1:]
    if _check.integer("identity_folds", "k", k, 2) > len(sizes):
        raise _check.refuse("identity_folds", "k", f"be at most the {len(sizes)} identities", k)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    images, members = np.zeros(k, np.int64), np.zeros(k, np.int64)
    fold = np.empty(len(sizes), np.int64)
    for person in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[person] = chosen = np.lexsort((members, images))[0]
        images[chosen] += sizes[person]
        members[chosen] += 1
    of = fold[people]
    return [Fold(np.flatnonzero(of != n), np.flatnonzero(of == n)) for n in range(k)]


def pair_protocol(train: PairList, test: PairList, *, name: str = "pairs") -> Protocol:
    """Make a protocol of any two pair lists: who is in them may be trained on, or judges.

    Args:
        train: a file that `read_pairs` reads, or its pairs.
        test: another.
        name: as it is to be reported.

    Returns:
        The protocol; its people are those of the lists' images (`identity`).

    Raises:
        ValueError: If somebody is in both lists, with the names; if a list is empty, cannot be
            read, or says "same" of two people or "different" of one.

    Example:
        >>> train = [Pair("Al_Gore_0001", "Al_Gore_0002", True)]
        >>> test = [Pair("Bea_0001", "Cid_0001", False)]
        >>> sorted(pair_protocol(train, test).test.people)
        ['Bea', 'Cid']
        >>> pair_protocol(train, [*test, Pair("Bea_0002", "Al_Gore_0003", False)])
        Traceback (most recent call last):
        ...
        ValueError: refuse_leak: train_identities must share nobody with test_identities, got 1
        leaking: Al_Gore
    """
    parts = [_part(side, pairs) for side, pairs in (("train", train), ("test", test))]
    refuse_leak(parts[0].people, parts[1].people)
    return Protocol(name, *parts)


def _part(side: str, source: PairList) -> Part:
    pairs = read_pairs(source) if isinstance(source, str | os.PathLike) else list(source)
    if not pairs:
        raise _check.refuse("pair_protocol", side, "hold pairs", "an empty list")
    for a, b, same in pairs:
        if (identity(a) == identity(b)) != same:
            expected = "agree with the people its images are named after"
            got = f"{a} and {b} called {'same' if same else 'different'}"
            raise _check.refuse("pair_protocol", side, expected, got)
    return Part(frozenset(_people(pairs)), pairs)


def _people(pairs: Iterable[Pair]) -> set[str]:
    return {identity(image) for pair in pairs for image in pair[:2]}
