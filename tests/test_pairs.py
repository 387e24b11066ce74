"""Pair lists: official files, homework lists, and lines that are neither."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siameselib.data import Pair, read_folds, read_pairs

OFFICIAL = ("pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt")
NAMES = st.sampled_from(["Al_Gore", "Ada", "Jo_March-Smith"])
NUMBERS = st.integers(1, 9999)


def homework(pairs, seed=0):
    """Pairs as shuffled lines of 'path1 path2 label'."""
    lines = []
    for a, b, same in pairs:
        paths = [f"lfw-deepfunneled/{name[:-5]}/{name}.jpg" for name in (a, b)]
        lines.append(f"{paths[0]} {paths[1]} {int(same)}\n")
    random.Random(seed).shuffle(lines)
    return "".join(lines)


def naive(text):
    """Read an official file as its README says, one fold after the other."""
    words = text.split()
    lines = iter(text.splitlines()[1:])
    folds, half = (
        (int(words[0]), int(words[1])) if "\t" in text.splitlines()[0] else (1, int(words[0]))
    )
    read = []
    for _ in range(folds):
        fold = []
        for _ in range(half):
            name, i, j = next(lines).split("\t")
            fold.append((f"{name}_{i.zfill(4)}", f"{name}_{j.zfill(4)}", True))
        for _ in range(half):
            name, i, other, j = next(lines).split("\t")
            fold.append((f"{name}_{i.zfill(4)}", f"{other}_{j.zfill(4)}", False))
        read.append(fold)
    return read


@pytest.mark.parametrize("file", OFFICIAL)
def test_official_files(small_lfw, file):
    path = small_lfw / "images" / file
    expected = naive(path.read_text())
    assert read_folds(path) == expected
    assert read_pairs(path) == [pair for fold in expected for pair in fold]
    assert len(read_folds(path)) == (2 if file == "pairs.txt" else 1)


@given(st.lists(st.tuples(NAMES, NUMBERS, NAMES, NUMBERS, st.booleans()), min_size=1))
def test_homework_lists_round_trip(tmp_path_factory, drawn):
    pairs = [Pair(f"{a}_{i:04d}", f"{b}_{j:04d}", same) for a, i, b, j, same in drawn]
    file = tmp_path_factory.getbasetemp() / "train.txt"
    file.write_text(homework(pairs))
    assert sorted(read_pairs(file)) == sorted(pairs)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
def test_line_ends_tabs_marks(tmp_path, end):
    lines = ["a/1.jpg\tb/holiday in june.jpg\t0", "a/1.jpg   a/2.jpg 1"]
    (tmp_path / "list.txt").write_bytes(("\ufeff" + end.join([*lines, ""])).encode())
    expected = [Pair("a/1", "b/holiday in june", False), Pair("a/1", "a/2", True)]
    assert read_pairs(tmp_path / "list.txt") == expected


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg\n", 2, "be 'path1 path2 label'"),
        ("a/1.jpg a/2.jpg 1\n\na/1.jpg b/1.jpg 0 x\n", 3, "be 'path1 path2 label'"),
        ("a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 2\n", 2, r"end in 1 \(same person\) or 0"),
        ("a/1.jpg a/2.jpg same\n", 1, r"end in 1 \(same person\) or 0"),
        ("a/1.jpg a/2.jpg -1\n", 1, r"end in 1 \(same person\) or 0"),
        ("1\nAda\t1\tx\nAda\t1\tBea\t1\n", 2, "be 'name i j'"),
        ("1\nAda\t1\tBea\t1\nAda\t1\t2\n", 2, "be 'name i j'"),
        ("1\nAda\t1\t2\nAda\t1\tBea\n", 3, "be 'name1 i name2 j'"),
        ("2\t1\nA\t1\t2\nA\t1\tB\t1\nA\t1\t2\nA\t1\tB\t0.5\n", 5, "be 'name1 i name2 j'"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, line, expected):
    file = tmp_path / "pairs.txt"
    file.write_text(text)
    shown = text.splitlines()[line - 1]
    with pytest.raises(ValueError, match=rf"pairs\.txt, line {line}: must {expected}, got") as info:
        read_pairs(file)
    assert repr(shown) in str(info.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pairs in it"),
        ("\n \n", "no pairs in it"),
        ("2\nAda\t1\t2\n", r"promises 2 \+ 2 pairs, got 1 lines"),
        ("2\t1\nAda\t1\t2\nAda\t1\tBea\t1\n", r"promises 2 × \(1 \+ 1\) pairs, got 2 lines"),
        ("1\nAda\t1\t2\nAda\t1\tBea\t1\nAda\t1\tBea\t2\n", r"promises 1 \+ 1 pairs, got 3"),
    ],
)
def test_cut_files(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs.txt")


def test_a_picture_is_no_pair_list(tmp_path, make_photo):
    (tmp_path / "a.jpg").write_bytes(make_photo(0))
    with pytest.raises(ValueError, match=r"a\.jpg: not a text file"):
        read_pairs(tmp_path / "a.jpg")


@pytest.mark.lfw
@pytest.mark.parametrize(
    ("file", "folds", "pairs"),
    [(OFFICIAL[0], 1, 2200), (OFFICIAL[1], 1, 1000), (OFFICIAL[2], 10, 6000)],
)
def test_homework_lists_equal_the_real_files(real_lfw, real_source, tmp_path, file, folds, pairs):
    official = read_pairs(real_lfw / file)
    assert [official] == [[pair for fold in naive((real_lfw / file).read_text()) for pair in fold]]
    assert len(read_folds(real_lfw / file)) == folds
    assert len(official) == pairs
    assert sum(pair.same for pair in official) == pairs // 2
    (tmp_path / "list.txt").write_text(homework(official))
    listed = read_pairs(tmp_path / "list.txt")
    assert listed != official
    assert sorted(listed) == sorted(official)
    assert {name for pair in listed for name in pair[:2]} <= set(real_source.names)
