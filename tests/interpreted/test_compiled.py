"""Losses on Triton's kernels under torch.compile, in Triton's interpreter.

The graph is whole and differentiated ahead of time; the kernels are in operators of their own, so
what compiles the rest does not matter, and nothing is made of it here.
"""

import pytest
import torch

import siameselib as sl

LOSSES = {
    "batch-hard": sl.BatchHardTripletLoss,
    "semi-hard": lambda **k: sl.SemiHardTripletLoss(max_positives=3, **k),
    "batch-all": sl.BatchAllTripletLoss,
    "batch-all, each": lambda **k: sl.BatchAllTripletLoss(reduction="none", **k),
    "contrastive": sl.BatchContrastiveLoss,
    "SupCon": sl.SupConLoss,
    "multi-similarity": sl.MultiSimilarityLoss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_whole_graph(name):
    x, labels = torch.randn(24, 6), torch.arange(24) // 4
    found = []
    for compiled in (False, True):
        criterion = LOSSES[name](backend="triton")
        if compiled:
            criterion = torch.compile(criterion, backend="aot_eager", fullgraph=True)
        inputs = x.clone().requires_grad_()
        loss = criterion(inputs, labels)
        (loss * torch.arange(1.0, 1 + loss.numel())).sum().backward()
        found.append((loss.detach(), inputs.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
