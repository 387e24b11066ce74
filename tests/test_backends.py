"""Which backend runs, and what it says when it cannot."""

import pytest
import torch

import siameselib as sl
from siameselib.kernels import OPERATIONS, choose, extremes, unsupported


@pytest.fixture
def ran(monkeypatch):
    """The search backends that ran, in order."""
    names = []
    for name in ("reference", "streaming"):
        function = getattr(extremes, f"{name}_hardest")
        monkeypatch.setattr(
            extremes,
            f"{name}_hardest",
            lambda *args, name=name, function=function, **keywords: (
                names.append(name) or function(*args, **keywords)
            ),
        )
    return names


def mine(n, **keywords):
    sl.BatchHardMiner(**keywords)(torch.randn(n, 8), torch.arange(n) // 2)


def test_auto_is_dense_when_tiny(ran):
    mine(10)
    mine(1000)
    assert ran == ["reference", "streaming"]


def test_explicit_backend_runs(ran):
    mine(10, backend="streaming")
    mine(300, backend="reference")
    assert ran == ["streaming", "reference"]


def test_use_backend_is_the_meaning_of_auto(ran):
    with sl.use_backend("streaming"):
        mine(10)
        with sl.use_backend("reference"):
            mine(10)
            mine(10, backend="streaming")
        mine(10)
    mine(10)
    assert ran == ["streaming", "reference", "streaming", "streaming", "reference"]


def test_use_backend_ends_with_an_error(ran):
    with pytest.raises(RuntimeError), sl.use_backend("streaming"):
        raise RuntimeError
    mine(10)
    assert ran == ["reference"]


def test_explicit_backend_that_cannot_run_says_why():
    message = (
        "hardest: backend 'triton' cannot run: (triton is not|its kernels run on CUDA tensors)"
    )
    assert unsupported("hardest", "triton", torch.zeros(10, 8)) is not None
    with pytest.raises(ValueError, match=message):
        mine(10, backend="triton")
    with pytest.raises(ValueError, match=message), sl.use_backend("triton"):
        mine(10)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"name must .* got 'cuda'"), sl.use_backend("cuda"):
        pass
    with pytest.raises(ValueError, match="backend must be one of"):
        choose("hardest", 1, 1, 1, "fastest")
    with pytest.raises(ValueError, match="op must be one of"):
        sl.explain("softest", torch.zeros(1, 1))


@pytest.mark.parametrize("op", OPERATIONS)
def test_explain_says_what_auto_chooses(op):
    tiny, large = torch.zeros(4, 8), torch.zeros(4096, 8)
    dense = "reference, the quicker one when tiny"
    held = "streaming, which holds so small a matrix whole"
    whole = {"distance_logsumexp", "logsumexp", "pair_sum", "positive_sum"}
    chosen = held if op in whole else dense
    assert sl.explain(op, tiny) == f"{op} of (4, 4) pairs in 8 dimensions on cpu: {chosen}"
    assert sl.explain(op, large, tiny).startswith(f"{op} of (4096, 4) pairs in 8 dimensions")
    assert sl.explain(op, large).endswith(": streaming, in linear memory")
    meta = torch.zeros(4, 8, device="meta")
    assert sl.explain(op, meta).endswith(f"on meta: {dense}")
    with sl.use_backend("reference"):
        assert sl.explain(op, large).endswith(": reference, as asked for")
    with sl.use_backend("triton"):
        assert "triton, which cannot run: " in sl.explain(op, large)
