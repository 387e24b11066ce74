"""What users give by mistake to the judges, the doctor and the exporter: the error says what."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import siameselib as sl
from siameselib.evaluation import (
    Verifier,
    accuracy_at,
    all_pairs_rates,
    evaluate_identification,
    evaluate_retrieval,
    fit_threshold,
    pair_rates,
    verify_pairs,
)
from siameselib.export import Embedder

SCORES, SAME = [0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]
X, LABELS = torch.randn(12, 4), torch.arange(12) // 3
PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
NET = sl.C19(image_size=8)
LINEAR = nn.Linear(4, 2)


def verifier():
    return Verifier(NET, size=8)


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
