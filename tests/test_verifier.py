"""The verifier: same scores by every road, one file, and clear words for wrong files."""

import io

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
    made = Verifier(
        sl.C19(image_size=SIZE), head, size=SIZE, crop=0.6, metric=metric, zooms=(1, 1.1)
    )
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


@pytest.mark.parametrize("flip", [False, True])
def test_an_embedding_is_the_mean_over_zooms(photos, flip):
    backbone, zooms = sl.C19(image_size=SIZE).eval(), (0.8, 1.0, 1.25)
    with torch.no_grad():
        views = [prepare(torch.from_numpy(photos), view=zoom) for zoom in zooms]
        views += [view.flip(3) for view in views] if flip else []
        f = torch.stack([backbone(view) for view in views])
    cosine = Verifier(backbone, size=SIZE, flip=flip, zooms=zooms)
    unit = F.normalize(F.normalize(f, dim=2).sum(0))
    torch.testing.assert_close(cosine.embed(photos), unit, atol=1e-5, rtol=0)
    euclidean = Verifier(backbone, size=SIZE, metric="euclidean", flip=flip, zooms=list(zooms))
    torch.testing.assert_close(euclidean.embed(photos), f.mean(0), atol=1e-4, rtol=1e-4)
    once = Verifier(backbone, size=SIZE, flip=flip).embed(photos)
    assert not torch.allclose(once, unit, atol=1e-2)


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
    assert again.fitted_on["protocol"] == "six pairs"
    assert (again.metric, again.crop, again.flip) == (verifier.metric, 0.6, True)
    assert again.zooms == (1.0, 1.1)
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
    assert verifier.calibration.slope < 0
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
    with pytest.raises(TypeError, match=r"head must be one of ConcatHead, .* got Bilinear"):
        Verifier(
            sl.C19(image_size=SIZE), torch.nn.Bilinear(2, 2, 1), size=SIZE, metric="head"
        ).save(tmp_path / "m.pt")


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
    kept = torch.load(io.BytesIO(data), weights_only=True)
    torch.save({k: v for k, v in kept.items() if k != "settings"}, path)
    with pytest.raises(ValueError, match=r"is damaged \(KeyError\('settings'\)\)"):
        Verifier.load(path)
    torch.save(kept | {"backbone_state": {}}, path)
    with pytest.raises(ValueError, match="weights do not fit"):
        Verifier.load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"not written by Verifier\.save"):
        Verifier.load(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="no readable verifier file"):
        Verifier.load(path)
    torch.save({"siameselib_verifier": 99}, path)
    with pytest.raises(ValueError, match="has format 99, this siameselib reads formats 1 and 2"):
        Verifier.load(path)


@pytest.fixture
def plain(photos):
    """A fitted verifier that compares by cosine."""
    made = Verifier(sl.C19(image_size=SIZE), size=SIZE)
    f = made.embed(photos)
    return made.fit(made.scores(f[::2], f[1::2]), [1, 0, 1, 0, 1, 1])


def overlapping(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    same = np.arange(n) % 2 == 0
    return np.clip(rng.normal(0.4 * same, 0.2), -1, 1), same


def test_a_false_accept_rate_is_kept(plain):
    scores, same = overlapping()
    plain.fit(scores, same, far=0.01)
    assert (scores[~same] >= plain.threshold).mean() == pytest.approx(0.01, abs=1e-9)
    assert plain.fitted_on["target"] == "far=0.01"
    doubtful = plain.threshold - 1e-3
    assert plain.judge(doubtful).probability > 0.5
    assert str(plain.judge(doubtful)).startswith("not accepted as the same person: score 0.")
    plain.fit(scores, same, far=0.9)
    assert str(plain.judge(plain.threshold)).startswith("accepted as the same person: score")
    with pytest.raises(ValueError, match=r"fit: far must stand for at least ten .* got 2"):
        plain.fit(scores, same, far=0.001)
    assert plain.fitted_on["target"] == "far=0.9"  # what failed changed nothing


@pytest.mark.parametrize("calibration", ["platt", "beta", "isotonic"])
def test_costs_set_the_probability_to_reach(plain, calibration):
    scores, same = overlapping()
    even = plain.fit(scores, same, calibration=calibration).threshold
    assert plain.judge(even).probability == pytest.approx(0.5, abs=1e-6)
    dear = plain.fit(scores, same, cost=(9, 1), calibration=calibration).threshold
    assert dear > even
    assert plain.judge(dear).probability == pytest.approx(0.9, abs=1e-6)
    best = fit_threshold(scores, same, cost=(9, 1))
    expense = [
        9 * ((scores >= t) & ~same).sum() + ((scores < t) & same).sum() for t in (dear, best)
    ]
    assert expense[0] <= 1.1 * expense[1]


@pytest.mark.parametrize("calibration", ["platt", "beta", "isotonic"])
def test_verdicts_hold_everything(plain, calibration, tmp_path):
    scores, same = overlapping()
    plain.fit(scores, same, calibration=calibration)
    plain.save(tmp_path / "m.pt")
    again = Verifier.load(tmp_path / "m.pt")
    for score in (-0.5, 0.2, 0.9):
        verdict = plain.judge(score)
        assert verdict == again.judge(score)
        assert verdict.distance == 1 - score
        assert verdict.score == score
        if calibration == "isotonic":
            assert verdict.interval is None
        else:
            assert verdict.interval[0] < verdict.probability < verdict.interval[1]


def test_fitting_on_photos_is_fitting_on_their_scores(plain, photos, tmp_path):
    for k, photo in enumerate(photos[:4]):
        Image.fromarray(photo).save(tmp_path / f"{k}.png")
    pairs = [(tmp_path / "0.png", tmp_path / "1.png", 1), (photos[0], tmp_path / "2.png", 0),
             (str(tmp_path / "3.png"), tmp_path / "0.png", False)]  # fmt: skip
    f = plain.embed(photos[:4])
    scores = plain.scores(f[[0, 0, 3]], f[[1, 2, 0]])
    expected = Verifier(plain.backbone, size=SIZE).fit(scores, [1, 0, 0]).threshold
    assert plain.fit_photos(pairs).threshold == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="fit_photos: pairs must hold pairs, got none"):
        plain.fit_photos([])


def test_fit_refuses(plain):
    scores, same = overlapping(200)
    for bad, y, message in [
        (scores, np.ones(200), "all same"),
        (scores * np.nan, same, "finite"),
        (scores + np.inf, same, "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            plain.fit(bad, y)
    plain.fit(np.zeros(200), same)  # all equal: nothing is known
    assert plain.judge(0.0).probability == pytest.approx(0.5)
    for options, message in [
        ({"far": 0.1, "cost": (1, 1)}, "far and cost must not be given together"),
        ({"far": 2}, "far must be in"),
        ({"cost": (0, 1)}, "cost must be two positive numbers"),
        ({"target": "auc"}, "target must be one of 'accuracy'"),
        ({"calibration": "oracle"}, "calibration must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            plain.fit(scores, same, **options)
    with pytest.raises(TypeError, match="fitted_on must be numbers and words"):
        plain.fit(scores, same, pairs=np.float32(3))
    euclidean = Verifier(plain.backbone, size=SIZE, metric="euclidean")
    with pytest.raises(ValueError, match='calibration must be "platt" or "isotonic"'):
        euclidean.fit(scores, same, calibration="beta")


def test_gallery(verifier, photos, tmp_path):
    Image.fromarray(photos[4]).save(tmp_path / "c.png")
    verifier.crop = 1.0
    verifier.enroll("ann", photos[:3])
    verifier.enroll("bob", [photos[3]])
    verifier.enroll("cid", tmp_path / "c.png")
    verifier.enroll("dan", torch.from_numpy(photos[5]))
    verifier.save(tmp_path / "m.pt")
    again = Verifier.load(tmp_path / "m.pt")
    f = verifier.embed(photos)
    for rule in ("max", "mean", "template"):
        found = verifier.identify(photos[7], rule=rule, unknown=False, top=9)
        assert found == again.identify(photos[7], rule=rule, unknown=False, top=9)
        scores = {}
        for name, rows in {"ann": [0, 1, 2], "bob": [3], "cid": [4], "dan": [5]}.items():
            images = f[rows]
            if rule == "template":
                images = images.mean(0, keepdim=True)
                images = F.normalize(images) if verifier.metric == "cosine" else images
            own = verifier.scores(f[7:8].expand(len(images), -1), images)
            scores[name] = own.max() if rule == "max" else own.mean()
        best = sorted(scores, key=lambda name: -scores[name])
        assert [c.name for c in found.candidates] == best
        assert [c.score for c in found.candidates] == pytest.approx(
            [scores[name] for name in best], rel=1e-4, abs=1e-5
        )
        assert (found.name, found.threshold) == (best[0], None)


def test_identify_strangers(plain, photos):
    plain.enroll("ann", photos[:2])
    best = plain.identify(photos[0], threshold=0.999)
    assert (best.name, str(best)) == ("ann", "ann, score 1")
    nobody = plain.identify(photos[5], threshold=0.9999)
    assert nobody.name is None
    assert str(nobody).startswith("nobody enrolled; most like ann, score 0.")
    assert plain.identify(photos[5], unknown=False).name == "ann"
    assert plain.identify(photos[5]).threshold == plain.threshold
    assert best.candidates[0].probability == plain.judge(best.candidates[0].score).probability


def test_gallery_refusals(plain, photos, tmp_path):
    with pytest.raises(ValueError, match="identify: the gallery is empty: call enroll first"):
        plain.identify(photos[0])
    plain.enroll("ann", photos[0])
    kept = plain.gallery["ann"]
    with pytest.raises(ValueError, match="name must be new: forget it first, got 'ann' again"):
        plain.enroll("ann", photos[1])
    assert plain.gallery["ann"] is kept
    for images in ([], photos[:0]):
        with pytest.raises(ValueError, match="images must hold a photo, got none"):
            plain.enroll("bob", images)
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    with pytest.raises(ValueError, match=r"bad\.jpg is no whole image"):
        plain.enroll("bob", [photos[0], tmp_path / "bad.jpg"])
    with pytest.raises(TypeError, match="enroll: name must be a string"):
        plain.enroll(7, photos[0])
    with pytest.raises(TypeError, match="photo must be a path, bytes, a PIL image, or uint8"):
        plain.enroll("bob", {"photo": 1})
    assert list(plain.gallery) == ["ann"]
    with pytest.raises(ValueError, match="forget: name must be enrolled, got 'bob'"):
        plain.forget("bob")
    plain.forget("ann")
    assert plain.gallery == {}
    unfitted = Verifier(plain.backbone, size=SIZE)
    unfitted.enroll("ann", photos[0])
    with pytest.raises(ValueError, match="call fit first, or say unknown=False"):
        unfitted.identify(photos[0])
    assert unfitted.identify(photos[0], unknown=False).candidates[0].probability is None


def test_files_of_format_1_are_read(plain, photos, tmp_path):
    old = {
        "siameselib_verifier": 1,
        "backbone": {"name": "C19", "image_size": SIZE},
        "backbone_state": plain.backbone.state_dict(),
        "head": None,
        "head_state": {},
        "settings": {"crop": 1.0, "metric": "cosine", "flip": True},
        "threshold": plain.threshold,
        "platt": tuple(plain.calibration)[:2],
        "fitted_on": {"protocol": "lfw-view-1"},
    }
    torch.save(old, tmp_path / "m.pt")
    again = Verifier.load(tmp_path / "m.pt")
    before, after = plain.verify(photos[0], photos[1]), again.verify(photos[0], photos[1])
    assert before._replace(interval=None) == after
    assert (again.fitted_on, again.gallery) == ({"protocol": "lfw-view-1"}, {})


class Own(torch.nn.Module):
    """A backbone that the library does not know."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


def test_a_backbone_of_ones_own_is_given_to_load(photos, tmp_path):
    verifier = Verifier(Own(), size=SIZE)
    verifier.save(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="backbone must be given, an untrained Own"):
        Verifier.load(tmp_path / "m.pt")
    again = Verifier.load(tmp_path / "m.pt", backbone=Own())
    torch.testing.assert_close(again.embed(photos), verifier.embed(photos))
    with pytest.raises(ValueError, match="weights do not fit"):
        Verifier.load(tmp_path / "m.pt", backbone=torch.nn.Linear(2, 2))
