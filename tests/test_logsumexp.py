"""The sums over tiles against the dense definition, on ragged sizes and poisoned memory."""

import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siameselib.functional import unit_rows
from siameselib.kernels import logsumexp as lse_file
from siameselib.kernels import softplus_sum as softplus_file
from siameselib.kernels import tiles as tiles_file
from siameselib.kernels.logsumexp import logsumexp
from siameselib.kernels.softplus_sum import softplus_sum


@pytest.fixture(params=["cpu", "as on a device"])
def _small_tiles(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_file, "_CPU", (7, 5))
        patch.setattr(tiles_file, "_CPU_BAND", 3)
        patch.setattr(tiles_file, "_GPU", (7, 5))
        if request.param != "cpu":  # no order of ids, no look at their values
            patch.setattr(tiles_file, "_readable", lambda x: False)
        torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
        yield
        torch.use_deterministic_algorithms(False)


small_tiles = pytest.mark.usefixtures("_small_tiles")


def problem(n, m, identities, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = unit_rows(torch.randn(n, 3, generator=generator, dtype=torch.float64))
    y = unit_rows(torch.randn(m, 3, generator=generator, dtype=torch.float64))
    if n > 2 and m > 2:
        x[1], y[1], y[2] = x[0], x[0], 0  # duplicates, within and across, and a zero row
    ids = torch.randint(identities, (n,), generator=generator)
    y_ids = torch.randint(identities, (m,), generator=generator)
    weight = torch.randn(n, generator=generator, dtype=torch.float64)
    return x.to(dtype), ids, y.to(dtype), y_ids, weight.to(dtype)


def value_and_gradients(f, weight, *inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    value = f(*inputs)
    finite = value.isfinite()
    return [value, *torch.autograd.grad((value[finite] * weight[finite]).sum(), inputs)]


sizes = st.integers(1, 40)


@small_tiles
@given(
    n=sizes,
    m=sizes,
    identities=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.5, 10.0, 100.0, 600.0]),
)
@settings(max_examples=40, deadline=None)
def test_logsumexp_of_two_sides(n, m, identities, seed, scale):
    x, ids, y, y_ids, weight = problem(n, m, identities, seed)
    results = [
        value_and_gradients(
            lambda x, y, b=backend: logsumexp(x, ids, y, y_ids, scale, b), weight, x, y
        )
        for backend in ("streaming", "reference")
    ]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11 * scale)


@small_tiles
@given(
    n=sizes,
    identities=st.integers(1, 30),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.5, 10.0, 100.0, 600.0]),
)
@settings(max_examples=40, deadline=None)
def test_logsumexp_of_one_side(n, identities, seed, scale):
    x, ids, _, _, weight = problem(n, n, identities, seed)
    results = [
        value_and_gradients(lambda x, b=backend: logsumexp(x, ids, None, None, scale, b), weight, x)
        for backend in ("streaming", "reference")
    ]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11 * scale)
    by_both = logsumexp(x, ids, x, ids, scale, "streaming")
    torch.testing.assert_close(results[0][0], by_both, rtol=1e-12, atol=1e-12)


@small_tiles
@given(
    n=sizes,
    m=sizes,
    identities=st.integers(1, 10),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.5, 10.0, 100.0]),
    offset=st.one_of(st.none(), st.integers(0, 5)),
)
@settings(max_examples=40, deadline=None)
def test_softplus_sum(n, m, identities, seed, scale, offset):
    m = m if offset is None else n + offset
    x, ids, y, y_ids, weight = problem(n, m, identities, seed)
    own = torch.full((n,), -1)
    if offset is not None:
        own = torch.arange(offset, offset + n)
        y_ids[own] = ids
    bound = 10 * weight
    bound[0] = -torch.inf
    results = [
        value_and_gradients(
            lambda x, y, bound, b=backend: softplus_sum(x, ids, y, y_ids, own, bound, scale, b),
            weight,
            x,
            y,
            bound,
        )
        for backend in ("streaming", "reference")
    ]
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11 * scale)
    assert results[0][0][0] == 0 and results[0][3][0] == 0


@small_tiles
@pytest.mark.parametrize("backend", ["streaming", "reference"])
def test_rows_without_other_identities(backend):
    x = torch.eye(3, dtype=torch.float64, requires_grad=True)
    value = logsumexp(x, torch.zeros(3).long(), None, None, 10.0, backend)
    assert (value == -torch.inf).all()
    torch.nn.functional.softplus(value).sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("scale", [10.0, 60.0, 63.0, 100.0])
def test_antipodal_rows_in_float32(scale):
    # similarity -1 throughout: e^-scale, which float32 cannot hold from scale 104 on
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = logsumexp(x, torch.arange(2), None, None, scale, "streaming")
    torch.testing.assert_close(value, torch.full((2,), -scale))
    value.sum().backward()
    torch.testing.assert_close(x.grad, 2 * scale * x.detach().flip(0))


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0, 100.0])
def test_float32_against_float64(scale):
    generator = torch.Generator().manual_seed(0)
    wide = unit_rows(torch.randn(600, 64, generator=generator, dtype=torch.float64))
    ids, weight = torch.arange(600) // 4, torch.rand(600, generator=generator).double()

    def run(x, backend):
        f = lambda x: logsumexp(x, ids, None, None, scale, backend)  # noqa: E731
        return value_and_gradients(f, weight.to(x.dtype), x)

    value, gradient = run(wide.float(), "streaming")
    value64, gradient64 = run(wide, "reference")
    assert (value - value64).abs().max() <= 1e-6 * value64.abs().max()
    assert (gradient - gradient64).abs().max() <= 1e-5 * gradient64.abs().max()


def test_the_matrix_is_never_there():
    n = 10_000  # 400 MB in float32
    x = unit_rows(torch.randn(n, 4)).requires_grad_()
    labels = torch.arange(n) // 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bound = logsumexp(x, labels, None, None, 10.0)
    softplus_sum(x, labels, x, labels, torch.arange(n), bound, 10.0).sum().backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_custom_operations_are_sound():
    x, ids, y, y_ids, _ = problem(9, 12, 4, 0)
    x.requires_grad_()
    y.requires_grad_()
    own, bound = torch.full((9,), -1), torch.ones(9, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(lse_file._symmetric, (x, ids, 10.0))
    torch.library.opcheck(lse_file._rectangular, (x, ids, y, y_ids, 10.0))
    torch.library.opcheck(softplus_file._streaming, (x, ids, y, y_ids, own, bound, 10.0))
