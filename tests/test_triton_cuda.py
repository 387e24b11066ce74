"""The Triton kernels on a GPU: what no interpreter can tell."""

import contextlib

import pytest
import torch

import siameselib as sl
from siameselib.kernels import extremes
from siameselib.kernels.blocks import squared

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@contextlib.contextmanager
def no_waiting():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def batch(n=1000, d=128, classes=130, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    return x.cuda(), torch.randint(0, classes, (n,), generator=g).cuda()


LOSSES = {
    "batch-hard": sl.BatchHardTripletLoss,
    "semi-hard": lambda **k: sl.SemiHardTripletLoss(max_positives=7, **k),
}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


@pytest.mark.parametrize("d", [16, 100, 128, 129, 256, 300, 512])
@pytest.mark.parametrize("n", [1, 37, 1000, 4100])
@pytest.mark.parametrize("kind", ["normal", "shifted", "duplicates", "collapsed", "clusters"])
def test_hardest_is_exact(n, d, kind):
    x, labels = batch(n, d, max(1, n // 8))
    if kind == "shifted":
        x += 30
    elif kind == "duplicates":
        x = x[torch.arange(n, device="cuda") // 2 * 2]
    elif kind == "collapsed":
        x = x[:1].expand(n, d).contiguous()
    elif kind == "clusters":
        x = x[labels % 11] + 0.01 * x
    found = extremes.hardest(x, labels, x, labels, 0, "triton")
    expected = extremes.hardest(x.double(), labels, x.double(), labels, 0, "streaming")
    for mine, true in zip(found, expected, strict=True):
        assert torch.equal(mine < 0, true < 0)
        a, b = (squared(x.double(), x[index.clamp(min=0)].double()) for index in (mine, true))
        assert ((a - b).abs() <= 1e-6 * b).all()
        if kind == "collapsed":
            assert torch.equal(mine, true)


@pytest.mark.parametrize("kind", ["normal", "duplicates", "collapsed"])
def test_beyond_is_exact(kind):
    x, labels = batch(700, 128, 100)
    if kind == "duplicates":  # of other classes, which must not count as farther
        x[350:] = x[:350]
    elif kind == "collapsed":
        x = x[:1].expand(700, 128).contiguous()
    row, positive, negative, farther = extremes.beyond(x, labels, x, labels, 0, 9, "triton")
    wide = x.double()
    expected = extremes.beyond(wide, labels, wide, labels, 0, 9, "streaming")
    assert torch.equal(positive, expected[1]) and torch.equal(farther, expected[3])
    a, b = (squared(wide[row], wide[index.clamp(min=0)]) for index in (negative, expected[2]))
    assert ((a - b).abs() <= 1e-6 * b).all()


@every_loss
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_losses_and_gradients(make, metric):
    results = []
    for backend in ("streaming", "triton"):
        x, labels = batch()
        x.requires_grad_()
        loss = make(metric=metric, backend=backend)(x, labels)
        loss.backward()
        results.append((loss.detach(), x.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_loss
def test_waits_for_nothing(make):
    x, labels = batch()
    x.requires_grad_()
    criterion = make(backend="triton")
    criterion(x, labels).backward()  # compiles
    with no_waiting():
        criterion(x, labels).backward()


@every_loss
def test_runs_in_a_graph(make):
    criterion = make(backend="triton")
    x, labels = batch()
    x.requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            x.grad = None
            criterion(x, labels).backward()
    torch.cuda.current_stream().wait_stream(side)
    x.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = criterion(x, labels)
        loss.backward()
    other, other_labels = batch(seed=1)
    with torch.no_grad():
        x.copy_(other)
        labels.copy_(other_labels)
    graph.replay()
    other.requires_grad_()
    expected = make(backend="streaming")(other, other_labels)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-5, atol=1e-6)


@every_loss
def test_is_deterministic(make):
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            x, labels = batch(3000, 128, 300)
            x.requires_grad_()
            make(backend="triton")(x, labels).backward()
            gradients.append(x.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(gradients[0], each) for each in gradients)


def test_memory_is_linear():
    x, labels = batch(16384, 128, 2048)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sl.BatchHardMiner(backend="triton")(x, labels)
    assert torch.cuda.max_memory_allocated() - before < 64 << 20  # the matrix is 1 GiB
