"""Synthetic faces: reproducible, hard for pixels, learnable, split without a leak."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from siameselib.data.faces import _people, _photos, synthetic_faces, synthetic_view
from siameselib.data.portrait import draw


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=160, images_per_person=6, size=32)


@pytest.fixture(scope="module")
def traits():
    """Thirty portraits of ten people."""
    rng = np.random.default_rng(3)
    return _photos(rng, _people(rng, 10), 3)


def plain(traits, **changes):
    """Without what is drawn by chance, and with some traits set."""
    zero = dict.fromkeys(("clutter", "noise"), 0.0)
    return traits | {k: np.full_like(traits[k], v) for k, v in (zero | changes).items()}


def paint(traits, size=48):
    return draw(traits, size, np.random.default_rng(0)).astype(int)


def test_what_is_drawn():
    faces = synthetic_faces(people=3, images_per_person=4, size=24)
    assert faces.images.shape == (12, 24, 24, 3)
    assert faces.images.dtype == np.uint8
    assert faces.images.flags.c_contiguous
    assert faces.size == 24
    assert faces.names[:5] == [
        f"Person_000{i}" for i in ("1_0001", "1_0002", "1_0003", "1_0004", "2_0001")
    ]
    assert faces.identities == [name[:-5] for name in faces.names]
    assert faces.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert faces.labels.dtype == np.int64
    assert [faces.names[row] for row in faces.index.values()] == list(faces.index) == faces.names


def test_same_seed_same_bytes():
    first, again, other = (
        synthetic_faces(people=12, images_per_person=4, size=20, seed=seed) for seed in (5, 5, 6)
    )
    assert first.images.tobytes() == again.images.tobytes()
    assert (first.images != other.images).any(axis=(1, 2, 3)).all()
    assert len(np.unique(first.images.reshape(48, -1), axis=0)) == 48


def test_a_portrait_does_not_depend_on_its_batch(traits):
    rows = plain(traits)
    together = paint(rows)
    alone = [paint({k: v[i : i + 1] for k, v in rows.items()}) for i in range(0, 30, 5)]
    assert np.abs(together[::5] - np.concatenate(alone)).max() <= 1


def test_every_trait_shows(traits):
    """A trait whose exchange among the portraits changes no pixel would be dead."""
    one_each = {name: values[::3] for name, values in traits.items()}
    marks = {"scar": 0.1, "mole_r1": 0.03, "mole_r2": 0.03, "mole_r3": 0.03, "monobrow": 0.5}
    worn = plain(one_each, **marks, stripes=0.3)
    worn["hand"][::2], worn["hat"][1::3], worn["glasses"][:] = 1, 1, 1
    worn["hand"][1::2], worn["hat"][0::3] = 0, 0
    before = paint(worn)
    dead = []
    for name, values in worn.items():
        if name not in {"clutter", "noise"}:
            moved = {name: np.roll(values, 1, axis=0) if np.ptp(values) else values * 0.5}
            if (paint(worn | moved) == before).all():
                dead.append(name)
    assert not dead


def test_a_mirrored_head_is_the_mirrored_drawing(traits):
    """Pose, parallax and light have consistent signs."""
    rows = plain(
        traits,
        **dict.fromkeys(("hand", "hat", "strand", "curl", "freckles", "beard", "moustache"), 0.0),
        **dict.fromkeys(("stripes", "wall_slope", "scar", "mole_r1", "mole_r2", "mole_r3"), 0.0),
        hair_long=0.0,
    )
    odd = ("yaw", "roll", "shift_x", "neck_lean", "gaze_x", "smirk", "light_x")
    odd += ("nose_lean", "eye_uneven", "brow_uneven", "sweep")
    there, back = paint(rows), paint(rows | {name: -rows[name] for name in odd})[:, :, ::-1]
    # the glint in the eye stays on its side
    assert (np.abs(there - back) > 3).mean() < 0.004
    assert (np.abs(there - back[:, :, ::-1]) > 3).mean() > 0.2


def pairs_of(rng, each, people, count):
    """Rows of random pairs, half of them same."""
    person, other = rng.integers(people, size=(2, count))
    other = np.where(other == person, (other + 1) % people, other)
    i, j = rng.integers(each, size=(2, count))
    k = (i + rng.integers(1, each, count)) % each
    first = person * each + i
    second = np.r_[person * each + k, other * each + j]
    return np.r_[first, first], second, np.arange(2 * count) < count


def cosine_auc(x, each=6):
    """ROC AUC and best accuracy of the cosine between rows."""
    i, j, same = pairs_of(np.random.default_rng(0), each, len(x) // each, 1000)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    score = (x[i] * x[j]).sum(1)
    thresholds = np.quantile(score, np.linspace(0, 1, 101))[:, None]
    hits = (score > thresholds) == same
    return roc_auc_score(same, score), hits.mean(1).max()


def test_raw_pixels_do_about_as_badly_as_on_lfw(faces):
    x = faces.images.astype(np.float32) / 255
    flat, grey = x.reshape(len(x), -1), x.mean(3).reshape(len(x), -1)
    for pixels in (
        flat,
        flat - flat.mean(0),
        flat - flat.mean(1, keepdims=True),
        grey - grey.mean(0),
    ):
        auc, accuracy = cosine_auc(pixels)
        assert 0.58 < auc < 0.75
        assert accuracy < 0.72


def test_what_is_learnt_holds_for_other_people(faces):
    """A linear map fitted to 130 people tells 30 others apart: identity is many traits."""
    x = faces.images.astype(np.float32).reshape(len(faces.images), -1)
    known = faces.labels < 130
    reduce = PCA(150, random_state=0).fit(x[known])
    lda = LinearDiscriminantAnalysis("eigen", shrinkage=0.1, n_components=40)
    lda.fit(reduce.transform(x[known]), faces.labels[known])
    learnt = lda.transform(reduce.transform(x[~known]))
    auc, _ = cosine_auc(learnt)
    raw, _ = cosine_auc(x[~known] - x[known].mean(0))
    assert auc > 0.78
    assert auc > raw + 0.1


def test_view_has_disjoint_people_and_balanced_pairs(faces):
    view = synthetic_view(faces, train_fraction=0.75, pairs=400, seed=1)
    assert view.name == "synthetic"
    assert not view.train.people & view.test.people
    assert view.train.people | view.test.people == set(faces.identities)
    assert len(view.train.people) == 120
    for part in (view.train, view.test):
        assert len(part.pairs) == 400
        assert len({frozenset(pair[:2]) for pair in part.pairs}) == 400
        assert sum(pair.same for pair in part.pairs) == 200
        for a, b, same in part.pairs:
            people = {faces.identities[faces.index[name]] for name in (a, b)}
            assert a != b
            assert people <= part.people
            assert (len(people) == 1) == same
        i, j, same = part.rows(faces)
        assert (faces.labels[i] == faces.labels[j]).tolist() == same.tolist()
    view.check_training(view.train.people)
    with pytest.raises(ValueError, match="leaking"):
        view.check_training(view.test.people)


def test_view_depends_on_its_seed_alone(faces):
    view, again, other = (synthetic_view(faces, pairs=50, seed=seed) for seed in (1, 1, 2))
    assert view == again
    assert view.test.people != other.test.people


def test_view_takes_all_pairs_there_are():
    faces = synthetic_faces(people=4, images_per_person=2, size=16)
    view = synthetic_view(faces, train_fraction=0.5, pairs=4)
    assert [pair.same for pair in view.test.pairs] == [True, True, False, False]
    with pytest.raises(
        ValueError, match="pairs must be at most 4 with 2 people on one side, got 6"
    ):
        synthetic_view(faces, train_fraction=0.5, pairs=6)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_view_refuses_a_fraction_that_splits_nothing(faces, fraction):
    with pytest.raises(ValueError, match="train_fraction must be between 0 and 1"):
        synthetic_view(faces, train_fraction=fraction)


@pytest.mark.parametrize("name", ["people", "images_per_person", "size"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=f"synthetic_faces: {name} must be positive"):
        synthetic_faces(**{name: 0})
