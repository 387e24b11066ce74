"""Losses and miners on a labelled batch wait for no device.

Tensors on the device "meta" have shapes and no values: whatever reads a value, or makes a shape of
one, fails on them.
"""

import contextlib
from functools import partial

import pytest
import torch

import siameselib as sl
from siameselib.functional import pair_loss

MAKE = {
    "batch-hard": sl.BatchHardMiner,
    "batch-hard loss": sl.BatchHardTripletLoss,
    "semi-hard": lambda **k: sl.SemiHardMiner(max_positives=3, **k),
    "semi-hard loss": lambda **k: sl.SemiHardTripletLoss(max_positives=3, **k),
    "easy positive": sl.EasyPositiveMiner,
    "easy positive, hard": lambda **k: sl.EasyPositiveMiner(negative="hard", **k),
    "hardest negatives": sl.HardestNegativesMiner,
    "distance-weighted": lambda **k: sl.DistanceWeightedMiner(max_positives=3, **k),
    "multi-similarity": sl.MultiSimilarityMiner,
    "batch-all loss": sl.BatchAllTripletLoss,
    "batch-all loss, window": lambda **k: sl.BatchAllTripletLoss(window="semi-hard", **k),
    "contrastive": sl.BatchContrastiveLoss,
    "contrastive, active": lambda **k: sl.BatchContrastiveLoss(
        squared=False, reduction="mean_active", **k
    ),
    "all-pairs BCE": lambda **k: sl.BatchBCEPairLoss(**k).to("meta"),
    "own loss": lambda **k: partial(
        pair_loss, positive=torch.mul, negative=torch.div, parameters=[2.0], **k
    ),
    "SupCon": sl.SupConLoss,
    "NT-Xent": sl.NTXentLoss,
    "multi-similarity loss": sl.MultiSimilarityLoss,
    "multi-similarity loss, all pairs": lambda **k: sl.MultiSimilarityLoss(epsilon=None, **k),
    "circle": sl.CircleLoss,
    "lifted structure": sl.LiftedStructureLoss,
}


@pytest.fixture
def batch(monkeypatch):
    # The device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **keywords: contextlib.nullcontext())
    x = torch.empty(1500, 16, device="meta", requires_grad=True)
    return x, torch.empty(1500, dtype=torch.long, device="meta")


@pytest.mark.parametrize("backend", ["reference", "streaming"])
@pytest.mark.parametrize("name", MAKE)
def test_waits_for_no_device(name, backend, batch):
    result = MAKE[name](backend=backend)(*batch)
    if isinstance(result, torch.Tensor):
        result.backward()
        assert result.shape == () and batch[0].grad.shape == (1500, 16)
    else:
        assert len(result.valid) % 1500 == 0 < len(result.valid)


@pytest.mark.parametrize("make", [sl.SemiHardMiner, sl.DistanceWeightedMiner])
def test_a_number_of_pairs_that_is_read_is_noticed(make, batch):
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        make(backend="streaming")(*batch)
