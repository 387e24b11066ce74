"""What users give by mistake to the judges, the doctor and the exporter: the error says what."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import siameselib as sl
from benchmarks.engine.peers import peer
from siameselib import data, plot
from siameselib.backbones import InceptionResnetV1
from siameselib.diagnostics import diagnose_saved
from siameselib.evaluation import (
    Verifier,
    accuracy_at,
    all_pairs,
    all_pairs_rates,
    auc,
    double_or_nothing,
    evaluate_identification,
    evaluate_retrieval,
    expected_cost,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_threshold,
    pair_rates,
    tar_at_far,
    to_llr,
    verify_pairs,
)
from siameselib.export import Embedder, export_onnx, export_program, load_weights, save_weights
from siameselib.report import report_page, verdict, write_report

SCORES, SAME = [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]
X, LABELS = torch.randn(12, 4), torch.arange(12) // 3
PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
NET = sl.C19(image_size=8)
LINEAR = nn.Linear(4, 2)
SOURCE = data.ImageSource("a", {}, [], [], None, None)


def verifier():
    return Verifier(NET, size=8)


def fitted():
    return verifier().fit([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])


PLATT, BETA, ISOTONIC = fit_platt(SCORES, SAME), fit_beta(SCORES, SAME), fit_isotonic(SCORES, SAME)
NAN = float("nan")


THRESHOLDS = {
    "accuracy_at": lambda threshold: accuracy_at(SCORES, SAME, threshold),
    "verify_pairs": lambda threshold: verify_pairs(SCORES, SAME, threshold=threshold),
    "pair_rates": lambda threshold: pair_rates(SCORES, SAME, threshold),
    "all_pairs_rates": lambda threshold: all_pairs_rates(X, LABELS, threshold=threshold),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_that_are_none(name):
    with pytest.raises(TypeError, match=f"{name}: threshold must be a number, got None, as before"):
        THRESHOLDS[name](None)
    with pytest.raises(TypeError, match=f"{name}: threshold must be a number, got '0.5'"):
        THRESHOLDS[name]("0.5")
    with pytest.raises(ValueError, match=f"{name}: threshold must be finite, got nan"):
        THRESHOLDS[name](float("nan"))
    assert THRESHOLDS[name](np.float32(0.5)) == THRESHOLDS[name](0.5)


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: pair_rates(SCORES, SAME, 0.5, level=95), ValueError, "pair_rates: level must be"),
        (
            lambda: fit_threshold(SCORES, SAME, cost=3),
            ValueError,
            "fit_threshold: cost must be two positive numbers.*got 3",
        ),
        (lambda: verifier().fit(SCORES, SAME, cost=3), ValueError, "fit: cost must be two"),
        (
            lambda: evaluate_retrieval(None, LABELS),
            TypeError,
            "evaluate_retrieval: embeddings must be numbers",
        ),
        (
            lambda: evaluate_identification(X, LABELS, None, LABELS),
            TypeError,
            "evaluate_identification: gallery must be numbers",
        ),
        (
            lambda: evaluate_retrieval(X, LABELS, k=1),
            ValueError,
            "k must hold positive numbers, got 1",
        ),
        (lambda: evaluate_retrieval(X, LABELS, k=(0,)), ValueError, r"k must hold positive"),
        (lambda: Verifier("c19", size=8), TypeError, "backbone must be an nn.Module, got str"),
        (lambda: Verifier(NET, size=0), ValueError, "Verifier: size must be at least 1, got 0"),
        (lambda: Verifier(NET, size="8"), TypeError, "Verifier: size must be an integer, got '8'"),
        (lambda: Verifier(NET, size=8, crop=0), ValueError, "crop must be a share above 0"),
        (
            lambda: Verifier(NET, size=8, zooms=()),
            TypeError,
            "zooms must be a list of scales, got ()",
        ),
        (
            lambda: Verifier(NET, size=8, zooms=[1, 3]),
            ValueError,
            "zooms must be above 0, 2 at most",
        ),
        (
            lambda: Verifier(NET, size=8, zooms=0.9),
            TypeError,
            "zooms must be a list of scales, got 0.9",
        ),
        (lambda: Verifier(NET, size=8, zooms=["1"]), TypeError, "zooms must be a number, got '1'"),
        (lambda: Verifier(NET, size=8, crop=150), ValueError, "crop must be a share .*got 150"),
        (lambda: verifier().embed(None), ValueError, r"embed: images must be uint8.*got object"),
        (lambda: verifier().embed(PHOTOS / 255), ValueError, r"got float64 \(4, 8, 8, 3\)"),
        (lambda: verifier().embed(PHOTOS[..., :1]), ValueError, r"got uint8 \(4, 8, 8, 1\)"),
        (lambda: verifier().embed(PHOTOS, batch_size=0), ValueError, "batch_size must be at least"),
        (
            lambda: verifier().fit_photos([(PHOTOS[0], PHOTOS[1])]),
            ValueError,
            r"each pair must be \(photo, photo, same\), got 2 of them",
        ),
        (lambda: verifier().fit_photos([3]), ValueError, "each pair must be .* got int"),
        (lambda: Embedder(NET), TypeError, "Embedder: verifier must be a Verifier, got C19"),
        (
            lambda: sl.Doctor(LINEAR).validation(SCORES, SAME, "0.5"),
            TypeError,
            "Doctor.validation: threshold must be a number",
        ),
        (
            lambda: sl.diagnose(LINEAR, [(X, ["ann"] * 12)]),
            TypeError,
            "diagnose: loader must give tensors, and identities as integers, got Tensor, list",
        ),
    ],
)
def test_the_error_says_what_is_wrong(mistake, kind, message):
    with pytest.raises(kind, match=message):
        mistake()


CALIBRATIONS = {"Platt": PLATT, "Beta": BETA, "Isotonic": ISOTONIC}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_scores_that_are_none_never_become_probabilities(name):
    calibration = CALIBRATIONS[name]
    with pytest.raises(ValueError, match=f"{name}: scores must be finite, got 1 NaN and 1 infin"):
        calibration([0.5, NAN, float("inf")])
    with pytest.raises(TypeError, match=f"{name}: scores must be numbers"):
        calibration("0.5")
    with pytest.raises(ValueError, match=f"{name}.score_at: probability must be between 0 and 1"):
        calibration.score_at(1)
    assert calibration(torch.tensor([0.5])) == calibration([0.5]) == calibration(0.5)
    if name != "Isotonic":
        with pytest.raises(ValueError, match="interval: level must be between 0 and 1, got 95"):
            calibration.interval(SCORES, level=95)


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (lambda: fitted().judge(NAN), ValueError, "judge: score must be finite, got nan"),
        (lambda: fitted().judge(None), TypeError, "judge: score must be a number, got None"),
        (lambda: tar_at_far(SCORES, SAME, "0.1"), TypeError, "far must be a number, got '0.1'"),
        (lambda: tar_at_far(SCORES, SAME, NAN), ValueError, r"far must be in \(0, 1\]"),
        (
            lambda: verify_pairs(SCORES, SAME, threshold=0.5, fars=0.1),
            TypeError,
            "verify_pairs: fars must be a list of rates, got 0.1",
        ),
        (
            lambda: evaluate_identification(X, LABELS, X, LABELS, fars=[0]),
            ValueError,
            r"evaluate_identification: fars must be in \(0, 1\], got 0",
        ),
        (lambda: pair_rates(SCORES, SAME, 0.5, level="95"), TypeError, "level must be a number"),
        (lambda: pair_rates(SCORES, SAME, [0.5, 1]), TypeError, "threshold must be a number"),
        (
            lambda: pair_rates(SCORES, SAME, 0.5, identities=3),
            ValueError,
            "identities must be two arrays, .*got int",
        ),
        (lambda: fit_threshold(SCORES, SAME, cost=(1, "2")), ValueError, "cost must be two pos"),
        (lambda: fit_threshold(SCORES, SAME, prior="a"), TypeError, "prior must be a number"),
        (
            lambda: expected_cost(SCORES, SAME, None),
            TypeError,
            "expected_cost: threshold must be a number",
        ),
        (lambda: to_llr(["a"]), TypeError, "to_llr: probabilities must be numbers"),
        (
            lambda: auc([[1, 2], [3]], [1, 0]),
            ValueError,
            "auc: scores must have one shape, got a ragged list",
        ),
        (lambda: all_pairs(X, LABELS, bins=1.5), TypeError, "all_pairs: bins must be an integer"),
        (lambda: evaluate_retrieval(X, LABELS, k="10"), ValueError, "k must hold positive"),
        (
            lambda: evaluate_retrieval(X, LABELS, k=(1.5,)),
            ValueError,
            r"k must hold positive numbers, got \(1.5,\)",
        ),
        (
            lambda: evaluate_retrieval(X, LABELS, knn_backend=lambda q, r, k: None),
            TypeError,
            "knn_backend must give row numbers, got NoneType",
        ),
        (
            lambda: double_or_nothing("auc", SCORES, SAME, identities=(SAME, SAME)),
            (TypeError, ValueError),
            "double_or_nothing: ",
        ),
        (lambda: verifier().fit_photos(None), TypeError, "pairs must be .*, got NoneType"),
        (lambda: plot.distance_histogram(SCORES, SAME, None), TypeError, "threshold must be a num"),
        (lambda: plot.roc(SCORES, SAME, band=([0], [1])), ValueError, "band must be three vectors"),
        (lambda: plot.roc(SCORES, SAME, ax=3), TypeError, "ax must be axes of matplotlib, got int"),
        (lambda: plot.photo_pairs(PHOTOS, PHOTOS, columns=0), ValueError, "columns must be at lea"),
        (
            lambda: plot.photo_pairs(PHOTOS, PHOTOS, [1, 2, 3, 4]),
            TypeError,
            "each of captions must be words, got 1",
        ),
        (
            lambda: plot.training_curves([0.5]),
            TypeError,
            "each epoch of history must be a mapping",
        ),
        (
            lambda: plot.training_curves([{"loss": "low"}]),
            TypeError,
            "training_curves: loss must be numbers, got 'low'",
        ),
        (
            lambda: plot.embedding_map(X, [None] * 12),
            TypeError,
            "embedding_map: labels must be numbers or names",
        ),
        (lambda: plot.save(None, "a.png"), TypeError, "save: figure must be a matplotlib figure"),
        (
            lambda: sl.Doctor(LINEAR).step(X, LABELS, None),
            TypeError,
            "Doctor.step: loss must be a number, got None",
        ),
        (
            lambda: sl.Doctor(LINEAR).step(X, LABELS.tolist(), 0.5),
            TypeError,
            "labels must be a torch.Tensor, got list",
        ),
        (
            lambda: sl.Doctor(LINEAR).step(X, LABELS, 0.5, images=X[:3]),
            ValueError,
            r"images must be one for each row of embeddings \(12\), got 3",
        ),
        (lambda: sl.diagnose(LINEAR, None), TypeError, "loader must give batches, got NoneType"),
        (lambda: sl.diagnose(LINEAR, [(X, LABELS)], images=0), ValueError, "images must be at lea"),
        (
            lambda: sl.diagnose(LINEAR, [(X[:0], LABELS[:0])]),
            ValueError,
            "loader must give at least one batch",
        ),
        (
            lambda: report_page(None),
            TypeError,
            r"report_page: result must be a mapping, such as found.as_dict\(\), got NoneType",
        ),
        (
            lambda: report_page(verify_pairs(SCORES, SAME, threshold=0.5)),
            TypeError,
            "result must be a mapping, .* got Verification",
        ),
        (lambda: report_page({}, history=None), TypeError, "history must be a list of one mapping"),
        (lambda: report_page({}, findings=["x"]), TypeError, "each finding must be a mapping"),
        (
            lambda: report_page({}, findings=sl.Doctor(LINEAR).report()),
            TypeError,
            "findings must be a list of findings, .*got Report",
        ),
        (lambda: report_page({}, pictures=["a.png"]), TypeError, "pictures must be a mapping"),
        (
            lambda: report_page({}, pictures={"a": "nowhere.png"}),
            FileNotFoundError,
            "pictures must be files that are there, got nowhere.png for 'a'",
        ),
        (lambda: report_page({}, title=None), TypeError, "title must be words, got None"),
        (lambda: verdict({"n_pairs": "many"}), TypeError, r"result\['n_pairs'\] must be a number"),
        (lambda: peer("batch-hard", "triplets"), ValueError, "peer: name must be one of 'siamesel"),
        (lambda: peer("no loss", "dense"), ValueError, "peer: case must be one of 'batch-hard'"),
    ],
)
def test_more_that_says_what_is_wrong(mistake, kind, message):
    with pytest.raises(kind, match=message):
        mistake()


SHARES = {
    "PairSampler: positive_fraction": lambda x: sl.PairSampler(
        LABELS, batch_size=4, positive_fraction=x
    ),
    "Augment: shift": lambda x: data.Augment(shift=x),
    "Augment: erase": lambda x: data.Augment(erase=x),
    "read_photo: crop": lambda x: data.read_photo(PHOTOS[0], size=8, crop=x),
    "Verifier: crop": lambda x: Verifier(NET, size=8, crop=x),
    "Doctor: margin": lambda x: sl.Doctor(LINEAR, margin=x),
}


@pytest.mark.parametrize("name", SHARES)
def test_shares_that_are_none(name):
    for wrong in ("0.5", [0.5], *([None] if name != "Doctor: margin" else [])):
        with pytest.raises(TypeError, match=f"^{name} must be a number, got"):
            SHARES[name](wrong)
    for wrong in (NAN, -0.1, float("inf")):
        with pytest.raises(ValueError, match=f"^{name} must .* got {wrong}"):
            SHARES[name](wrong)


PATHS = {
    "Verifier.load: path": Verifier.load,
    "Verifier.save: path": lambda path: verifier().save(path),
    "InceptionResnetV1.load: path": InceptionResnetV1.load,
    "open_lfw: path": data.open_lfw,
    "open_folder: path": data.open_folder,
    "pack: cache_dir": lambda path: data.pack(SOURCE, path, size=8),
    "PackedImages.open: path": data.PackedImages.open,
    "read_pairs: path": data.read_pairs,
    "View1: protocol_dir": data.View1,
    "View2: protocol_dir": data.View2,
    "download_lfw: cache_dir": data.download_lfw,
    "diagnose_saved: path": diagnose_saved,
    "write_report: folder": write_report,
    "export_program: path": lambda path: export_program(LINEAR, path, X),
    "export_onnx: path": lambda path: export_onnx(LINEAR, path, X),
    "save_weights: path": lambda path: save_weights(LINEAR, path),
    "load_weights: path": lambda path: load_weights(LINEAR, path),
    "save: path": lambda path: plot.save(plot.roc(SCORES, SAME), path),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("wrong", "kind"), [(None, "NoneType"), (3, "int"), (["a"], "list")])
def test_paths_that_are_none(name, wrong, kind):
    with pytest.raises(TypeError, match=f"^{name} must be a path, got {kind}$"):
        PATHS[name](wrong)


@pytest.mark.parametrize(
    ("name", "wants"),
    [
        ("pack", lambda source: data.pack(source, "cache", size=8)),
        ("bad_images", data.bad_images),
        ("describe", data.describe),
    ],
)
@pytest.mark.parametrize("wrong", [None, "lfw"])
def test_sources_that_are_none(name, wants, wrong):
    message = f"^{name}: source must be what open_lfw or open_folder returns, got"
    with pytest.raises(TypeError, match=message):
        wants(wrong)


WIDE = torch.randn(12, 5)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(WIDE, LABELS)], r"images that the net takes, got torch.float32 \(12, 5\): mat1"),
        ([(X.to(torch.uint8), LABELS)], r"images that the net takes, got torch.uint8 \(12, 4\): "),
        (
            [(WIDE, WIDE, LABELS % 2)],
            r"images that the net takes, got .*12, 5\) and .*12, 5\): ",
        ),
        ([(WIDE, WIDE, WIDE)], r"images that the net takes, got torch.float32 \(12, 5\) and "),
        ([(X, LABELS), (WIDE, LABELS)], r"give images of one shape, got \(4,\) and \(5,\)"),
        (
            [(X, WIDE, LABELS % 2)],
            r"give \(images, labels\), .* got \[\(12, 4\), \(12, 5\), ",
        ),
        ([(X, LABELS[:3])], r"give \(images, labels\), .* got \[\(12, 4\), \(3,\)\]"),
    ],
)
def test_images_that_the_net_does_not_take(batches, message):
    with pytest.raises(ValueError, match=f"^diagnose: loader must .*{message}") as caught:
        sl.diagnose(LINEAR, batches)
    assert isinstance(caught.value.__cause__, RuntimeError) == ("the net takes" in message)


def test_pairs_that_a_net_of_two_images_does_not_take():
    class Judge(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 1)

        def forward(self, x1, x2):
            return self.layer(torch.cat([x1, x2], 1))

    with pytest.raises(ValueError, match=r"the net takes, got .*\(12, 5\) and .*\(12, 5\): mat1"):
        sl.diagnose(Judge(), [(WIDE, WIDE, LABELS % 2)])


def test_a_device_that_is_none_is_not_the_files_fault(tmp_path):
    verifier().save(tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="device"):
        Verifier.load(tmp_path / "model.pt", device="gpu")


def test_photos_that_must_not_be_written_to():
    photos = PHOTOS.copy()
    expected = verifier().embed(photos)
    photos.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(verifier().embed(photos), expected)


def test_a_net_without_parameters_embeds():
    assert Verifier(nn.Flatten(), size=8).embed(PHOTOS).shape == (4, 192)
