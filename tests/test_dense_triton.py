"""Dense losses on Triton's kernels on a GPU: right, without waiting for it, the same every time."""

import pytest
import torch

import siameselib as sl

MAKE = {
    "SupCon": sl.SupConLoss,
    "NT-Xent": sl.NTXentLoss,
    "multi-similarity": sl.MultiSimilarityLoss,
    "circle": sl.CircleLoss,
    "contrastive": lambda **k: sl.BatchContrastiveLoss(margin=18.0, **k),
    "batch-all": lambda **k: sl.BatchAllTripletLoss(margin=8.0, **k),
    "batch-all, window": lambda **k: sl.BatchAllTripletLoss(
        margin=8.0, window="semi-hard", reduction="mean_active", **k
    ),
    "batch-all, cosine": lambda **k: sl.BatchAllTripletLoss(metric="cosine", **k),
    "batch-all, soft": lambda **k: sl.BatchAllTripletLoss(soft=True, **k),
    "BCE": lambda **k: sl.BatchBCEPairLoss(**k).cuda(),
}
pytestmark = pytest.mark.cuda


@pytest.fixture
def batch():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    labels = torch.arange(1000, device="cuda") // 4
    x = torch.randn(250, 128, device="cuda")[labels] + torch.randn(1000, 128, device="cuda")
    return x.requires_grad_(), labels


def step(criterion, x, labels):
    x.grad = None
    loss = criterion(x, labels)
    loss.backward()
    return loss.detach(), x.grad


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(("precision", "close"), [("exact", 1e-5), ("tf32", 5e-3), ("fast", 2e-2)])
def test_parity(name, precision, close, batch):
    x, labels = batch
    wide = x.detach().double().requires_grad_()
    expected, exact = step(MAKE[name](backend="reference"), wide, labels)
    if name.startswith("batch-all"):  # where rounding decides about a few of 3 million triplets
        close = max(close, 2e-4)
    with sl.use_backend("triton", precision=precision):
        loss, gradient = step(MAKE[name](), x, labels)
    assert abs(loss - expected) <= close * expected
    assert (gradient - exact).norm() <= close * exact.norm()


@pytest.mark.parametrize("name", MAKE)
def test_no_waiting_and_the_same_again(name, batch):
    criterion = MAKE[name](backend="triton")
    first = step(criterion, *batch)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = step(criterion, *batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", MAKE)
def test_graph(name, batch):
    criterion = MAKE[name](backend="triton")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(criterion, *batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = step(criterion, *batch)
    with torch.no_grad():
        batch[0].mul_(1.5).add_(0.1)
    graph.replay()
    found = loss.clone(), gradient.clone()
    for one, other in zip(found, step(criterion, *batch), strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("classes", [1, 2, 8])
@pytest.mark.parametrize("name", ["batch-all", "batch-all, window", "batch-all, soft"])
@pytest.mark.usefixtures("batch")
def test_classes_of_any_size(name, classes):
    labels = torch.arange(3584, device="cuda") % classes  # of two there is no room for one
    x = torch.randn(3584, 128, device="cuda").requires_grad_()
    wide = x.detach().double().requires_grad_()
    expected, exact = step(MAKE[name](backend="streaming"), wide, labels)
    criterion = MAKE[name](backend="triton")
    step(criterion, x, labels)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, gradient = step(criterion, x, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert abs(loss - expected) <= 1e-5 * expected
    assert (gradient - exact).norm() <= 2e-4 * exact.norm()
