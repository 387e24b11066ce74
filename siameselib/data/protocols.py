"""LFW's two views: who may be trained on, and which pairs judge.

View 1 is for development (one split, 1,000 test pairs), View 2 for the reported figure (ten folds,
6,000 pairs). People of View 2 are in View 1's training set, so a net trained on View 1 says nothing
about View 2: `Protocol.check_training` refuses such a leak.

Source: Huang, Ramesh, Berg, Learned-Miller, "Labeled Faces in the Wild", UMass TR 07-49, 2007.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siameselib import _check
from siameselib._check import refuse
from siameselib.data.images import Images
from siameselib.data.pairs import Pair, read_folds, read_pairs
from siameselib.data.sources import identity

_SHOWN = 10  # how many names an error spells out


@dataclass(frozen=True)
class Part:
    """One side of a split: its people, and its pairs of image names."""

    people: frozenset[str] = field(repr=False)
    pairs: list[Pair] = field(repr=False)

    def rows(
        self, packed: Images
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Find the pairs among packed images.

        Args:
            packed: from `pack` or `synthetic_faces`.

        Returns:
            Rows of the first images, rows of the second, and ``same``.

        Shape:
            (pairs,) each.

        Raises:
            ValueError: If an image of a pair is not packed; the message lists them.
        """
        named = {name for pair in self.pairs for name in pair[:2]}
        if lost := sorted(named - packed.index.keys()):
            raise refuse(
                "Part.rows", "packed", "hold every image of the pairs", _some(lost, "missing")
            )
        i = np.array([packed.index[pair.a] for pair in self.pairs], np.int64)
        j = np.array([packed.index[pair.b] for pair in self.pairs], np.int64)
        return i, j, np.array([pair.same for pair in self.pairs], np.bool_)

    def people_rows(self, packed: Images) -> NDArray[np.int64]:
        """Find all images of the part's people: what identity labels may be trained on.

        Args:
            packed: from `pack` or `synthetic_faces`.

        Returns:
            Their rows, ascending.

        Shape:
            (images,).
        """
        known = [row for row, person in enumerate(packed.identities) if person in self.people]
        return np.array(known, np.int64)


@dataclass(frozen=True)
class Protocol:
    """A split into training and test that share nobody.

    Attributes:
        name: as reported, such as ``"lfw-view-1"``.
        train: people and pairs that may be trained on.
        test: people and pairs that judge.
    """

    name: str
    train: Part
    test: Part

    def check_training(self, names: Iterable[str]) -> None:
        """Refuse training images of anybody who is not in the training part.

        Args:
            names: of images or of people.

        Raises:
            ValueError: If somebody is in the test part, or is not in the training part.
        """
        people = self.train.people | self.test.people
        used = {name if name in people else identity(name) for name in names}
        refuse_leak(used, self.test.people)
        if strangers := sorted(used - self.train.people):
            expected = f"hold only the {len(self.train.people):,} people of {self.name}'s training"
            raise refuse("check_training", "names", expected, _some(strangers, "others"))


class View1(Protocol):
    """LFW's development split: 2,200 training and 1,000 test pairs, 4,038 and 1,711 people.

    Args:
        protocol_dir: folder of ``pairsDevTrain.txt``, ``pairsDevTest.txt``, ``peopleDevTrain.txt``
            and ``peopleDevTest.txt``.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If one cannot be read.

    Example:
        >>> view = View1("lfw")  # doctest: +SKIP
        >>> len(view.train.people), len(view.test.pairs)  # doctest: +SKIP
        (4038, 1000)
    """

    def __init__(self, protocol_dir: str | os.PathLike[str]) -> None:
        parts = []
        for part in ("Train", "Test"):
            pairs = read_pairs(_file("View1", protocol_dir, f"pairsDev{part}.txt"))
            (people,) = _people(_file("View1", protocol_dir, f"peopleDev{part}.txt"))
            parts.append(Part(people, pairs))
        super().__init__("lfw-view-1", *parts)
        refuse_leak(self.train.people, self.test.people)


class View2:
    """LFW's reported protocol: ten folds of 600 pairs; each tests, the other nine train.

    Args:
        protocol_dir: folder of ``pairs.txt`` and ``people.txt``.

    Attributes:
        people: the people of each fold.
        pairs: the pairs of each fold.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If one cannot be read, or they have different folds.

    Example:
        >>> fold = View2("lfw").fold(0)  # doctest: +SKIP
        >>> len(fold.train.pairs), len(fold.test.pairs)  # doctest: +SKIP
        (5400, 600)
    """

    def __init__(self, protocol_dir: str | os.PathLike[str]) -> None:
        self.pairs = read_folds(_file("View2", protocol_dir, "pairs.txt"))
        self.people = _people(_file("View2", protocol_dir, "people.txt"))
        if len(self.pairs) != len(self.people):
            got = f"{len(self.pairs)} in pairs.txt, {len(self.people)} in people.txt"
            raise refuse("View2", "protocol_dir", "have the same folds in both files", got)

    def __len__(self) -> int:
        return len(self.pairs)

    def fold(self, k: int) -> Protocol:
        """Test on one fold, train on the others.

        Args:
            k: 0 to 9.

        Returns:
            The split; its training people are those of the other folds.

        Raises:
            ValueError: If there is no such fold.
        """
        if k not in range(len(self)):
            raise refuse("View2.fold", "k", f"be from 0 to {len(self) - 1}", k)
        others = [other for other in range(len(self)) if other != k]
        people = frozenset().union(*(self.people[other] for other in others))
        pairs = [pair for other in others for pair in self.pairs[other]]
        test = Part(self.people[k], self.pairs[k])
        return Protocol(f"lfw-view-2-fold-{k}", Part(people, pairs), test)


def refuse_leak(train_identities: Iterable[str], test_identities: Iterable[str]) -> None:
    """Refuse people who are on both sides.

    Args:
        train_identities: the people trained on.
        test_identities: the people tested on.

    Raises:
        ValueError: If anybody is in both; the message names them.

    Example:
        >>> refuse_leak(["anna", "ben"], ["ben", "carl"])
        Traceback (most recent call last):
        ...
        ValueError: refuse_leak: train_identities must share nobody with test_identities, got 1
        leaking: ben
    """
    if leaking := sorted(set(train_identities) & set(test_identities)):
        expected = "share nobody with test_identities"
        raise refuse("refuse_leak", "train_identities", expected, _some(leaking, "leaking"))


def _some(names: list[str], what: str) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:_SHOWN])}{more}"


def _file(where: str, protocol_dir: str | os.PathLike[str], name: str) -> Path:
    path = _check.path(where, "protocol_dir", protocol_dir) / name
    if not path.is_file():
        expected = f"hold {name}, one of LFW's protocol files"
        raise refuse(where, "protocol_dir", expected, str(protocol_dir), FileNotFoundError)
    return path


def _people(path: Path) -> list[frozenset[str]]:
    """The people of each fold: ``[folds], then per fold a count and as many 'name<tab>images'``."""
    lines = path.read_text().split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    single = len(lines) < 2 or "\t" in lines[1]
    position, folds = (0, 1) if single else (1, _count(path, lines, 0))
    people = []
    for _ in range(folds):
        n = _count(path, lines, position)
        block = lines[position + 1 : position + 1 + n]
        if len(block) < n:
            raise ValueError(
                f"{path}: line {position + 1} promises {n:,} people, got {len(block):,}"
            )
        for number, line in enumerate(block, position + 2):
            person, _, images = line.strip().rpartition("\t")
            if not person or not images.isdecimal():
                expected = "be 'name<tab>number of images'"
                raise ValueError(f"{path}, line {number}: must {expected}, got {line!r}")
        people.append(frozenset(line.split("\t")[0] for line in block))
        position += 1 + n
    if position != len(lines):
        raise ValueError(f"{path}, line {position + 1}: must be the end, got {lines[position]!r}")
    return people


def _count(path: Path, lines: list[str], position: int) -> int:
    text = lines[position].strip() if position < len(lines) else ""
    if not text.isdecimal():
        raise ValueError(f"{path}, line {position + 1}: must be a count, got {text!r}")
    return int(text)
