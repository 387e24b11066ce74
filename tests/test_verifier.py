"""The verifier: same scores by every road, one file, and clear words for wrong files."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import siameselib as sl
from siameselib.data import prepare
from siameselib.evaluation import Verifier, fit_threshold

SIZE = 16


@pytest.fixture
def photos():
    return np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(params=["cosine", "euclidean", "head", "distance-head", "concat"])
def verifier(request, photos):
    torch.manual_seed(0)
    head = {
        "head": sl.InteractionHead(1024),
        "distance-head": sl.DistanceHead("cosine"),
        "concat": sl.ConcatHead(1024),
    }.get(request.param)
    metric = request.param if head is None else "head"
    made = Verifier(sl.C19(image_size=SIZE), head, size=SIZE, crop=0.6, metric=metric)
    f = made.embed(photos)
    scores = made.scores(f[::2], f[1::2])
    return made.fit(scores, scores > np.median(scores), protocol="six pairs")


def test_scores_are_what_the_formula_says(photos):
    backbone = sl.C19(image_size=SIZE).eval()
    with torch.no_grad():
        x = prepare(torch.from_numpy(photos)).double()
        backbone.double()
        f = backbone(x)
        unit = F.normalize(F.normalize(f) + F.normalize(backbone(x.flip(3))))
        mean = (f + backbone(x.flip(3))) / 2
        backbone.float()
    cosine = Verifier(backbone, size=SIZE)
    e = cosine.embed(photos)
    expected = (unit[::2] * unit[1::2]).sum(1)
    assert cosine.scores(e[::2], e[1::2]) == pytest.approx(expected.numpy(), abs=1e-5)
    euclidean = Verifier(backbone, size=SIZE, metric="euclidean")
    e = euclidean.embed(photos)
    expected = -(mean[::2] - mean[1::2]).norm(dim=1)
    assert euclidean.scores(e[::2], e[1::2]) == pytest.approx(expected.numpy(), rel=1e-4)
    plain = Verifier(backbone, size=SIZE, flip=False)
    assert plain.embed(photos).numpy() == pytest.approx(F.normalize(f).numpy(), abs=1e-5)


def test_embedding_leaves_the_mode_and_does_not_depend_on_the_batch(photos):
    verifier = Verifier(sl.C19(image_size=SIZE), size=SIZE)
    before = {k: v.clone() for k, v in verifier.backbone.state_dict().items()}
    whole = verifier.embed(photos)
    assert verifier.backbone.training
    assert all(torch.equal(v, before[k]) for k, v in verifier.backbone.state_dict().items())
    torch.testing.assert_close(whole, verifier.embed(photos, batch_size=5))
    assert verifier.embed(photos[:0]).shape[0] == 0


def test_saved_and_loaded_it_says_the_same(verifier, photos, tmp_path):
    verifier.save(tmp_path / "model.pt")
    again = Verifier.load(tmp_path / "model.pt")
    for k in range(0, 12, 2):
        a, b = (np.pad(p, ((30, 30), (30, 30), (0, 0))) for p in photos[k : k + 2])
        assert again.verify(a, b) == verifier.verify(a, b)
    assert again.fitted_on == {"protocol": "six pairs"}
    assert (again.metric, again.crop, again.flip) == (verifier.metric, 0.6, True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_paths_pil_arrays_and_tensors_agree(verifier, photos, tmp_path):
    big = np.kron(photos[0], np.ones((3, 3, 1), dtype=np.uint8))
    Image.fromarray(big).save(tmp_path / "a.png")
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(),
             Image.fromarray(big), big, torch.from_numpy(big)]  # fmt: skip
    assert len({verifier.verify(kind, photos[1]).score for kind in kinds}) == 1


def test_verdict_in_words(verifier):
    low, high = verifier.threshold - 100, verifier.threshold + 100
    assert str(verifier.judge(high)).startswith("same person, p = ")
    assert str(verifier.judge(low)).startswith("different people, p = ")
    assert verifier.judge(verifier.threshold).same
    assert verifier.judge(high).probability > verifier.judge(low).probability


def test_verdict_and_probability_never_contradict(verifier):
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.5
    verifier.fit(rng.normal(size=200) + same, same)
    for score in rng.normal(size=100):
        assert verifier.judge(score).same == (verifier.judge(score).probability >= 0.5)


def test_scores_that_tell_nothing_get_the_most_accurate_cut(verifier):
    scores, same = [0.1, 0.2, 0.3, 0.4, 0.5], [1, 1, 0, 0, 1]
    verifier.fit(scores, same)
    assert verifier.platt.slope < 0
    assert verifier.threshold == fit_threshold(scores, same)


def test_refusals(photos, tmp_path):
    verifier = Verifier(sl.C19(image_size=SIZE), size=SIZE)
    with pytest.raises(ValueError, match="call fit first"):
        verifier.verify(photos[0], photos[1])
    with pytest.raises(ValueError, match=r"embed: images must be uint8 of shape \(n, h"):
        verifier.embed(photos[..., :2])
    with pytest.raises(TypeError, match="read_photo: photo must be a path"):
        verifier.prepare_photo(3)
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.jpg"):
        verifier.prepare_photo(tmp_path / "nowhere.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    with pytest.raises(ValueError, match=r"bad\.jpg is no whole image"):
        verifier.prepare_photo(tmp_path / "bad.jpg")
    with pytest.raises(ValueError, match="uint8 of shape"):
        verifier.prepare_photo(np.zeros((8, 8)))
    with pytest.raises(ValueError, match="metric must be one of"):
        Verifier(sl.C19(image_size=SIZE), size=SIZE, metric="dot")
    with pytest.raises(ValueError, match="head"):
        Verifier(sl.C19(image_size=SIZE), size=SIZE, metric="head")
    with pytest.raises(TypeError, match="backbone must be one of C19, got Linear"):
        Verifier(torch.nn.Linear(2, 2), size=SIZE).save(tmp_path / "m.pt")


def test_files_that_are_no_model(verifier, tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match="no file"):
        Verifier.load(path)
    verifier.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no readable verifier file"):
        Verifier.load(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match=r"not written by Verifier\.save"):
        Verifier.load(path)
    torch.save({"siameselib_verifier": 99}, path)
    with pytest.raises(ValueError, match="has format 99, this siameselib reads format 1"):
        Verifier.load(path)
