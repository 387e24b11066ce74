"""The two views: who trains, which pairs judge, and the leaks that are refused."""

import shutil

import numpy as np
import pytest

from siameselib.data import Part, View1, View2, identity, open_lfw, pack, read_pairs, refuse_leak


@pytest.fixture(scope="module")
def packed(small_lfw, tmp_path_factory):
    return pack(open_lfw(small_lfw / "tar"), tmp_path_factory.mktemp("cache"), size=8)


@pytest.fixture
def folder(small_lfw, tmp_path):
    """Protocol files that may be spoilt."""
    for file in (small_lfw / "tar").glob("*.txt"):
        shutil.copy(file, tmp_path)
    return tmp_path


def people_of(pairs):
    return {identity(name) for pair in pairs for name in pair[:2]}


def test_view_1(small_lfw):
    view = View1(small_lfw / "tar")
    lines = (small_lfw / "tar" / "peopleDevTrain.txt").read_text().splitlines()[1:]
    assert view.name == "lfw-view-1"
    assert view.train.people == {line.split("\t")[0] for line in lines}
    assert len(view.train.people) == 6
    assert len(view.test.people) == 4
    assert view.train.pairs == read_pairs(small_lfw / "tar" / "pairsDevTrain.txt")
    assert view.test.pairs == read_pairs(small_lfw / "tar" / "pairsDevTest.txt")


def test_view_2_trains_on_the_other_folds(small_lfw):
    view = View2(small_lfw / "tar")
    every = read_pairs(small_lfw / "tar" / "pairs.txt")
    assert len(view) == 2
    for k in range(2):
        fold = view.fold(k)
        assert fold.name == f"lfw-view-2-fold-{k}"
        assert fold.test.pairs == every[6 * k : 6 * k + 6]
        assert fold.train.pairs == every[6 * (1 - k) : 6 * (1 - k) + 6]
        assert fold.train.people == view.people[1 - k]
        assert fold.test.people == view.people[k]
        assert not fold.train.people & fold.test.people
        assert people_of(fold.test.pairs) <= fold.test.people


@pytest.mark.parametrize("k", [-1, 2, 0.5])
def test_no_such_fold(small_lfw, k):
    with pytest.raises(ValueError, match="k must be from 0 to 1, got"):
        View2(small_lfw / "tar").fold(k)


def test_rows(small_lfw, packed):
    part = View1(small_lfw / "tar").test
    i, j, same = part.rows(packed)
    assert (i.dtype, j.dtype, same.dtype) == (np.int64, np.int64, np.bool_)
    for row_i, row_j, label, pair in zip(i, j, same, part.pairs, strict=True):
        assert (packed.names[row_i], packed.names[row_j], bool(label)) == pair
        assert (packed.labels[row_i] == packed.labels[row_j]) == label


def test_rows_of_people(small_lfw, packed):
    train, test = View1(small_lfw / "tar").train, View1(small_lfw / "tar").test
    rows = train.people_rows(packed)
    assert rows.dtype == np.int64
    assert {packed.identities[row] for row in rows} == train.people
    assert sorted([*rows, *test.people_rows(packed)]) == list(range(len(packed)))


def test_unresolved_names_are_listed(small_lfw, packed):
    part = View1(small_lfw / "tar").test
    strange = part.pairs[0]._replace(a="Nobody_0001", b="Somebody_0002")
    with pytest.raises(ValueError, match="got 2 missing: Nobody_0001, Somebody_0002"):
        Part(part.people, [*part.pairs, strange]).rows(packed)


def test_an_empty_part(packed):
    i, j, same = Part(frozenset(), []).rows(packed)
    assert i.shape == j.shape == same.shape == (0,)
    assert Part(frozenset(), []).people_rows(packed).shape == (0,)


@pytest.mark.parametrize(
    "names", [["Kay_McNulty_0001"], ["Ada_Byron_0001", "Kay_McNulty_0003"], ["Kay_McNulty"]]
)
def test_a_leak_is_refused(small_lfw, names):
    with pytest.raises(ValueError, match=r"got 1 leaking: Kay_McNulty$"):
        View1(small_lfw / "tar").check_training(names)


def test_a_view_2_fold_refuses_its_own_people(small_lfw, packed):
    view = View2(small_lfw / "tar")
    for k in range(2):
        fold = view.fold(k)
        fold.check_training(packed.names[row] for row in fold.train.people_rows(packed))
        fold.check_training(fold.train.people)
        with pytest.raises(ValueError, match="leaking"):
            fold.check_training(packed.names)
        with pytest.raises(ValueError, match="leaking"):
            fold.check_training(view.fold(1 - k).train.people)


def test_strangers_are_refused(small_lfw):
    with pytest.raises(ValueError, match="6 people of lfw-view-1's training, got 1 others: Eve"):
        View1(small_lfw / "tar").check_training(["Ada_Byron_0001", "Eve_0001"])


def test_refuse_leak():
    refuse_leak([], [])
    refuse_leak(["anna"], ["ben"])
    many = [f"p{k:02d}" for k in range(30)]
    with pytest.raises(ValueError, match=r"got 30 leaking: p00, .*, p09 and 20 more$"):
        refuse_leak(iter(many), iter(many))


def test_views_that_overlap_are_refused(folder):
    shutil.copy(folder / "peopleDevTrain.txt", folder / "peopleDevTest.txt")
    with pytest.raises(ValueError, match="6 leaking"):
        View1(folder)


@pytest.mark.parametrize(
    ("view", "file"),
    [
        (View1, "pairsDevTrain.txt"),
        (View1, "pairsDevTest.txt"),
        (View1, "peopleDevTrain.txt"),
        (View1, "peopleDevTest.txt"),
        (View2, "pairs.txt"),
        (View2, "people.txt"),
    ],
)
def test_missing_files_are_named(folder, view, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{view.__name__}: .* hold {file}"):
        view(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: must be a count, got ''"),
        ("two\n", r"line 1: must be a count, got 'two'"),
        ("2\nAda\t1\n", r"line 1 promises 2 people, got 1"),
        ("1\nAda 1\n", r"line 2: must be a count, got 'Ada 1'"),
        ("2\nAda\t1\nBea\n", r"line 3: must be 'name<tab>number of images', got 'Bea'"),
        ("1\nAda\t1\nBea\t1\n", r"line 3: must be the end, got 'Bea\\t1'"),
        ("2\n1\nAda\t1\n1\n", r"line 4 promises 1 people, got 0"),
        ("2\n1\nAda\t1\n", r"line 4: must be a count, got ''"),
    ],
)
def test_bad_people_files(folder, text, message):
    (folder / "people.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"people\.txt.*{message}"):
        View2(folder)


def test_files_of_different_folds(folder):
    shutil.copy(folder / "pairsDevTest.txt", folder / "pairs.txt")
    with pytest.raises(ValueError, match=r"got 1 in pairs\.txt, 2 in people\.txt"):
        View2(folder)


@pytest.mark.lfw
def test_the_real_views(real_lfw, real_source):
    names = real_source.names
    view1, view2 = View1(real_lfw), View2(real_lfw)
    images = {
        side: [name for name in names if identity(name) in part.people]
        for side, part in (("train", view1.train), ("test", view1.test))
    }
    assert (len(view1.train.people), len(images["train"])) == (4038, 9525)
    assert (len(view1.test.people), len(images["test"])) == (1711, 3708)
    count = dict.fromkeys(view1.train.people, 0)
    for name in images["train"]:
        count[identity(name)] += 1
    assert sum(n > 1 for n in count.values()) == 1184
    view1.check_training(images["train"])
    assert len(view2) == 10
    assert len(frozenset().union(*view2.people)) == sum(map(len, view2.people)) == 5749
    for k in range(10):
        fold = view2.fold(k)
        assert len(fold.test.pairs) == 600
        assert len(fold.train.pairs) == 5400
        assert people_of(fold.test.pairs) <= fold.test.people
        assert people_of(fold.train.pairs) <= fold.train.people
    in_view2 = set().union(*(people_of(pairs) for pairs in view2.pairs))
    leaking = in_view2 & people_of(view1.train.pairs)
    assert (len(leaking), len(in_view2)) == (1689, 4281)
    with pytest.raises(ValueError, match="leaking"):
        view2.fold(0).check_training(images["train"])


@pytest.mark.lfw
def test_images_of_the_real_training_pairs_that_have_no_partner(real_lfw, request):
    pairs = View1(real_lfw).train.pairs
    images = {name for pair in pairs for name in pair[:2]}
    partnered = {name for pair in pairs if pair[2] for name in pair[:2]}
    counts = f"{len(images - partnered):,} of {len(images):,} images"
    assert counts == "1,470 of 3,443 images"
    page = (request.config.rootpath / "docs" / "lfw.md").read_text("utf-8")
    assert f"{counts} have no partner" in page
