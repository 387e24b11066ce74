"""The sums over tiles against the dense definition, on ragged sizes and poisoned memory."""

import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siameselib.functional import unit_rows
from siameselib.kernels import bands as bands_file
from siameselib.kernels import logsumexp as lse_file
from siameselib.kernels import logsumexp_sweep
from siameselib.kernels import positive_sum as positive_file
from siameselib.kernels import tiles as tiles_file
from siameselib.kernels.logsumexp import logsumexp
from siameselib.kernels.positive_sum import farthest_positive, positive_logsumexp, softplus_sum
from siameselib.kernels.score import Score


@pytest.fixture(params=["cpu", "as on a device"])
def _small_tiles(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_file, "_CPU", (6, 5))
        patch.setattr(tiles_file, "_CPU_STEP", 3)
        patch.setattr(tiles_file, "_GPU", (7, 5))
        patch.setattr(bands_file, "_HEIGHT", 3)
        patch.setattr(bands_file, "_ENTRIES", 40)
        patch.setattr(bands_file, "_GPU", (7, 5))
        if request.param != "cpu":  # no order of ids, no look at their values
            patch.setattr(tiles_file, "readable", lambda x: False)
            patch.setattr(bands_file, "readable", lambda x: False)
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
identities = st.integers(1, 30)
seeds = st.integers(0, 10_000)
scores = st.sampled_from(
    [Score(0.5), Score(10.0), Score(100.0), Score(600.0), Score(8.0, 0.4), Score(256.0, 0.25)]
)


def compare(run, weight, *inputs):
    results = [
        value_and_gradients(lambda *x, b=backend: run(*x, b), weight, *inputs)
        for backend in ("streaming", "reference")
    ]
    scale = max(1, *(each.detach().abs().nan_to_num(posinf=0).max() for each in results[1]))
    torch.testing.assert_close(*results, rtol=1e-11, atol=float(1e-12 * scale))
    return results[0]


@small_tiles
@given(
    n=sizes,
    m=sizes,
    identities=identities,
    seed=seeds,
    score=scores,
    floor=st.sampled_from([None, -1.5, 0.0, 2.0]),
)
@settings(max_examples=50)
def test_logsumexp_of_two_sides(n, m, identities, seed, score, floor):
    x, ids, y, y_ids, weight = problem(n, m, identities, seed)
    floor = None if floor is None or score.relaxation else floor + 0.5 * weight
    f = lambda x, y, b: logsumexp(x, ids, y, y_ids, score, floor=floor, backend=b).rows  # noqa: E731
    compare(f, weight, x, y)


@small_tiles
@given(n=sizes, m=sizes, identities=identities, seed=seeds, score=scores)
@settings(max_examples=50)
def test_logsumexp_of_rows_and_columns(n, m, identities, seed, score):
    x, ids, y, y_ids, weight = problem(n, m, identities, seed)

    def f(x, y, backend):
        sums = logsumexp(x, ids, y, y_ids, score, both=True, backend=backend)
        return torch.cat([sums.rows, sums.columns])

    both = compare(f, torch.cat([weight, torch.linspace(-1, 1, m, dtype=weight.dtype)]), x, y)[0]
    there = logsumexp(x, ids, y, y_ids, score, backend="reference").rows
    back = logsumexp(y, y_ids, x, ids, score, backend="reference").rows
    torch.testing.assert_close(both, torch.cat([there, back]), rtol=1e-12, atol=1e-12)


@small_tiles
@given(
    n=sizes,
    identities=identities,
    seed=seeds,
    score=scores,
    floor=st.sampled_from([None, -1.5, 0.0, 2.0]),
    small=st.booleans(),
)
@settings(max_examples=80)
def test_logsumexp_of_one_side(n, identities, seed, score, floor, small):
    x, ids, _, _, weight = problem(n, n, identities, seed)
    if identities == 30:
        ids = None
    floor = None if floor is None or score.relaxation else floor + 0.5 * weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logsumexp_sweep, "SMALL", 1 << 20 if small else 0)
        f = lambda x, b: logsumexp(x, ids, None, None, score, floor=floor, backend=b).rows  # noqa: E731
        value = compare(f, weight, x)[0]
    both = torch.arange(n) if ids is None else ids
    by_both = logsumexp(x, both, x, both, score, floor=floor, backend="streaming").rows
    torch.testing.assert_close(value, by_both, rtol=1e-12, atol=1e-12)


@small_tiles
@pytest.mark.parametrize("backend", ["streaming", "reference"])
def test_the_largest_score(backend):
    x, ids, y, y_ids, _ = problem(30, 25, 5, 0)
    y_ids[:] = y_ids % 3
    ids[4], y_ids[y_ids == 2] = 1, 1
    found = logsumexp(x, ids, y, y_ids, Score(3.0), largest=True, backend=backend).largest
    near = (x @ y.T).masked_fill(ids[:, None] == y_ids, -torch.inf)
    torch.testing.assert_close(found, 3 * near.amax(1))
    found = logsumexp(x[:4], y_ids[:1].expand(4), y[:1], y_ids[:1], Score(3.0), largest=True)
    assert (found.largest == -torch.inf).all()


@small_tiles
@given(
    n=sizes,
    m=sizes,
    identities=identities,
    seed=seeds,
    score=scores,
    offset=st.one_of(st.none(), st.integers(0, 5)),
    kind=st.sampled_from(["softplus", "all", "some"]),
    alone=st.booleans(),
    small=st.booleans(),
)
@settings(max_examples=120)
def test_sums_over_positives(n, m, identities, seed, score, offset, kind, alone, small):
    if alone:
        m, offset = n, 0
    elif offset is not None:
        m = n + offset
    x, ids, y, y_ids, weight = problem(n, m, identities, seed)
    if offset is not None:
        y_ids[offset : offset + n] = ids
    columns = () if alone else (y,)
    bound, floor = 10 * weight, 0.5 * weight + 0.5
    bound[0] = -torch.inf

    def f(x, *rest):
        *rest, backend = rest
        y = None if alone else rest[0]
        sides = (x, ids, y, None if alone else y_ids, offset, score)
        if kind == "softplus":
            return softplus_sum(*sides, rest[-1], backend)
        limit = floor if kind == "some" and score.relaxation is None else None
        return positive_logsumexp(*sides, limit, backend)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(positive_file, "SMALL", 1 << 20 if small else 0)
        found = compare(f, weight, x, *columns, *([bound] if kind == "softplus" else []))
    if kind == "softplus":
        assert found[0][0] == 0 and found[-1][0] == 0
    else:
        same = ids[:, None] == (ids if alone else y_ids)
        if offset is not None:
            same.diagonal(offset).fill_(False)
        assert kind == "some" or torch.equal(found[0] == -torch.inf, ~same.any(1))


@small_tiles
@pytest.mark.parametrize("backend", ["streaming", "reference"])
def test_the_farthest_positive(backend):
    x, ids, _, _, _ = problem(30, 30, 12, 0)
    found = farthest_positive(x, ids, None, None, 0, backend)
    same = (ids[:, None] == ids) & ~torch.eye(30, dtype=torch.bool)
    torch.testing.assert_close(found, (1 - x @ x.T).masked_fill(~same, -torch.inf).amax(1))


@pytest.mark.parametrize("sizes", [[300, *[1] * 50], [70, 200, 3, 3], [64] * 4, [1] * 130])
def test_positives_of_uneven_identities(sizes):
    ids = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    ids = ids[torch.randperm(len(ids))]
    x = unit_rows(torch.randn(len(ids), 3, dtype=torch.float64))
    f = lambda x, b: positive_logsumexp(x, ids, None, None, 0, Score(2.0), None, b)  # noqa: E731
    compare(f, torch.rand(len(ids), dtype=torch.float64), x)


@small_tiles
@pytest.mark.parametrize("backend", ["streaming", "reference"])
def test_rows_without_other_identities(backend):
    x = torch.eye(3, dtype=torch.float64, requires_grad=True)
    value = logsumexp(x, torch.zeros(3).long(), None, None, Score(10.0), backend=backend).rows
    assert (value == -torch.inf).all()
    torch.nn.functional.softplus(value).sum().backward()
    assert (x.grad == 0).all()


@pytest.mark.parametrize("scale", [10.0, 60.0, 63.0, 100.0])
def test_antipodal_rows_in_float32(scale):
    # similarity -1 throughout: e^-scale, which float32 cannot hold from scale 104 on
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = logsumexp(x, None, None, None, Score(scale), backend="streaming").rows
    torch.testing.assert_close(value, torch.full((2,), -scale))
    value.sum().backward()
    torch.testing.assert_close(x.grad, 2 * scale * x.detach().flip(0))


@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0, 100.0])
def test_float32_against_float64(scale):
    generator = torch.Generator().manual_seed(0)
    wide = unit_rows(torch.randn(600, 64, generator=generator, dtype=torch.float64))
    ids, weight = torch.arange(600) // 4, torch.rand(600, generator=generator).double()

    def run(x, backend):
        f = lambda x: logsumexp(x, ids, None, None, Score(scale), backend=backend).rows  # noqa: E731
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
    score = Score(10.0)
    bound = logsumexp(x, labels, None, None, score).rows
    softplus_sum(x, labels, None, None, 0, score, bound).sum().backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_custom_operations_are_sound():
    x, ids, y, y_ids, _ = problem(9, 12, 4, 0)
    x.requires_grad_()
    y.requires_grad_()
    bound = torch.ones(9, dtype=torch.float64, requires_grad=True)
    floor = bound.detach()
    alone, sides = (x, ids, None, None), (x, ids, y, y_ids)
    torch.library.opcheck(lse_file._forward, (*alone, floor, 9.0, None, False, True, None))
    torch.library.opcheck(lse_file._forward, (*sides, None, 9.0, 0.25, True, False, None))
    torch.library.opcheck(positive_file._forward, (*alone, bound, None, 0, 9.0, None, None))
    torch.library.opcheck(positive_file._forward, (*sides, None, floor, None, 9.0, 0.25, None))
