"""What every loss promises: the module has the function's keywords, shows them, and is pure."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor

import siameselib.functional
import siameselib.losses

LOSSES = sorted(siameselib.losses.__all__)
PER_CALL = {"ref_offset"}  # not a tensor, but it goes with one


def make(name, **keywords):
    """The loss; one of classes has a weight of its own, and is told its size."""
    cls = getattr(siameselib.losses, name)
    sizes = {"num_classes": 4, "embedding_dim": 5}
    wanted = inspect.signature(cls).parameters
    torch.manual_seed(0)
    return cls(**{size: sizes[size] for size in sizes if size in wanted}, **keywords)


def function_of(name):
    """The function of a class: same letters, any underscores."""
    (found,) = (f for f in siameselib.functional.__all__ if f.replace("_", "") == name.lower())
    return getattr(siameselib.functional, found)


def keywords_of(function):
    return {
        keyword: parameter.default
        for keyword, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.annotation not in (Tensor, Tensor | None)
        and keyword not in PER_CALL
    }


def arguments_of(criterion, dtype=torch.float32):
    """Plausible tensors for the forward of any loss, by the names of its parameters."""
    generator = torch.Generator().manual_seed(0)

    def embeddings():
        return torch.randn(12, 5, generator=generator).to(dtype).requires_grad_()

    known = {name: embeddings() for name in ("x1", "x2", "anchor", "positive", "negative")}
    known["embeddings"] = embeddings()
    known["logits"] = torch.randn(12, generator=generator).to(dtype).requires_grad_()
    known["same"] = torch.arange(12) % 2
    known["labels"] = torch.arange(12) // 3
    parameters = inspect.signature(criterion.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    return [known[name] for name in needed]


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


@pytest.fixture
def criterion(name):
    return make(name)


def test_keywords_are_those_of_the_function(name):
    ours = list(keywords_of(getattr(siameselib.losses, name)).items())
    assert ours == list(keywords_of(function_of(name)).items())
    assert ours, f"{name} takes no keywords"


def test_repr_shows_every_keyword(name, criterion):
    parameters = inspect.signature(type(criterion)).parameters
    shown = ", ".join(f"{k}={getattr(criterion, k)!r}" for k in parameters)
    assert keywords_of(type(criterion)).items() <= vars(criterion).items()
    assert repr(criterion) == f"{name}({shown})"


def test_module_is_the_function(name, criterion):
    arguments = arguments_of(criterion)
    own = dict(criterion.named_parameters())
    assert torch.equal(criterion(*arguments), function_of(name)(*arguments, **own))


def test_forward_takes_the_tensors_of_the_function_in_order(name, criterion):
    tensors = [
        parameter
        for parameter in inspect.signature(function_of(name)).parameters
        if parameter not in {*keywords_of(function_of(name)), *criterion.state_dict()}
    ]
    assert list(inspect.signature(criterion.forward).parameters) == tensors


def test_stats_are_detached_scalars(criterion):
    assert criterion.stats is None
    criterion(*arguments_of(criterion))
    assert isinstance(criterion.stats, siameselib.functional.Stats)
    for value in criterion.stats:
        assert value.shape == () and not value.requires_grad and not value.isnan()
    assert criterion.stats.valid.dtype == torch.int64


def test_reductions_agree(name):
    arguments = arguments_of(make(name))
    none = make(name, reduction="none")(*arguments)
    total, mean = make(name, reduction="sum"), make(name, reduction="mean")
    torch.testing.assert_close(total(*arguments), none.sum())
    torch.testing.assert_close(mean(*arguments), none.sum() / mean.stats.valid)


def test_leaves_its_inputs_alone(criterion):
    arguments = arguments_of(criterion)
    before = [argument.detach().clone() for argument in arguments]
    criterion(*arguments).backward()
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_copies_and_pickles_after_a_call(criterion):
    arguments = arguments_of(criterion)
    loss = criterion(*arguments)
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert repr(twin) == repr(criterion) and torch.equal(twin(*arguments), loss)
    assert set(criterion.state_dict()) == {own for own, _ in criterion.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(criterion, dtype):
    arguments = arguments_of(criterion, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(*arguments)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    wide = [a.detach().double() if a.is_floating_point() else a for a in arguments]
    torch.testing.assert_close(loss.double(), criterion(*wide), rtol=2e-6, atol=1e-7)
    for argument in arguments:
        assert not argument.is_floating_point() or argument.grad.isfinite().all()


def test_compiles_in_one_graph(criterion):
    arguments = arguments_of(criterion)
    loss = criterion(*arguments)
    loss.backward()
    expected, stats = [a.grad for a in arguments], criterion.stats
    again = [a.detach().clone().requires_grad_(a.is_floating_point()) for a in arguments]
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")(*again)
    compiled.backward()
    torch.testing.assert_close(compiled, loss)
    for found, gradient in zip([a.grad for a in again], expected, strict=True):
        # compiled, small matrices are summed up in another order: entries cancel, as in circle
        size = 0 if gradient is None else float(gradient.abs().max())
        torch.testing.assert_close(found, gradient, rtol=1.3e-6, atol=1e-5 + 1e-6 * size)
    torch.testing.assert_close(tuple(criterion.stats), tuple(stats))
