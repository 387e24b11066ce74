"""A loss over several processes is the loss of one process that has all the rows."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import siameselib as sl
from siameselib.distributed import CrossProcessLoss, gather_batch

LOSSES = {
    "batch-hard": lambda: sl.BatchHardTripletLoss(margin=0.5),
    "semi-hard": lambda: sl.SemiHardTripletLoss(margin=0.5, reduction="sum"),
    "batch-all": lambda: sl.BatchAllTripletLoss(margin=0.5, reduction="mean_active"),
    "supcon": lambda: sl.SupConLoss(),
    "contrastive": lambda: sl.BatchContrastiveLoss(balanced=False),
    "nt-xent": lambda: sl.NTXentLoss(temperature=0.5),
}
PROCESSES, ROWS = 3, 8


def everything(name="batch-hard"):
    """All rows; those of process 1 are singletons, which have nothing to learn from.

    Of these a loss on pairs drops the negatives as well, if it sees them alone.
    """
    g = torch.Generator().manual_seed(0)
    x = torch.randn(PROCESSES * ROWS, 5, generator=g, dtype=torch.float64)
    labels = torch.arange(PROCESSES * ROWS) % 6
    if name != "contrastive":
        labels[ROWS : 2 * ROWS] = torch.arange(100, 100 + ROWS)
    return x, labels


def net():
    torch.manual_seed(1)
    return nn.Linear(5, 4).double()


def work(rank, folder):
    """One process: the loss and the parameters' gradients after DDP's mean."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    own = slice(rank * ROWS, (rank + 1) * ROWS)
    found = {}
    for name, make in LOSSES.items():
        x, labels = everything(name)
        model = nn.parallel.DistributedDataParallel(net())
        loss = CrossProcessLoss(make())(model(x[own]), labels[own])
        loss.backward()
        found[name] = (loss.detach(), [p.grad for p in model.parameters()])
    try:
        gather_batch(x[: rank + 1], labels[: rank + 1])
    except ValueError as error:
        found["message"] = str(error)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found():
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        before, os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS"), "1"
        workers = [context.Process(target=work, args=(r, folder)) for r in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        assert [worker.exitcode for worker in workers] == [0] * PROCESSES
        yield [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store")
@pytest.mark.filterwarnings("ignore:.*of this batch has")
@pytest.mark.parametrize("name", LOSSES)
def test_several_processes_are_one(found, name):
    x, labels = everything(name)
    model = net()
    loss = LOSSES[name]()(model(x), labels)
    loss.backward()
    for each in found:
        value, gradients = each[name]
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
        for ours, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-13)


def test_batches_of_different_sizes_are_refused(found):
    for each in found:
        assert each["message"] == (
            "gather_batch: embeddings must have as many rows in every process, got [1, 2, 3]"
        )


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_process_group_it_is_the_criterion(name):
    x, labels = everything()
    x.requires_grad_()
    wrapped, plain = CrossProcessLoss(LOSSES[name]()), LOSSES[name]()
    found = [criterion(x, labels) for criterion in (wrapped, plain)]
    torch.testing.assert_close(*found, rtol=1e-13, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v in found))
    assert wrapped.stats.valid == plain.stats.valid


def test_nothing_to_learn_is_zero():
    criterion = CrossProcessLoss(sl.BatchAllTripletLoss(reduction="mean_active"))
    x = torch.randn(4, 2, requires_grad=True)
    with pytest.warns(UserWarning, match="of this batch has"):
        loss = criterion(x, torch.arange(4))
    loss.backward()
    assert loss == 0 and not x.grad.any()


def test_what_cannot_be_wrapped_is_named():
    with pytest.raises(
        TypeError, match="criterion must be a batch loss of siameselib, which takes ref, got Lin"
    ):
        CrossProcessLoss(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"criterion\.reduction must be one of 'mean'"):
        CrossProcessLoss(sl.SupConLoss(reduction="none"))
    with pytest.raises(TypeError, match="which takes ref, got ArcFaceLoss"):
        CrossProcessLoss(sl.ArcFaceLoss(3, 2))
    with pytest.raises(ValueError, match=r"criterion\.balanced must be False"):
        CrossProcessLoss(sl.BatchContrastiveLoss())
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="gather_batch: labels must have shape"):
        gather_batch(torch.zeros(2, 2), labels)
