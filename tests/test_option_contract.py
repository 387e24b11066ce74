"""Options of every loss and miner: what is no such number, or no such word, is refused by name.

Modules refuse it where they are built, functions where they are called.
"""

import ast
import inspect
import math

import numpy as np
import pytest
import torch

import siameselib.functional
import siameselib.losses
import siameselib.miners

CLASSES = {
    name: getattr(module, name)
    for module in (siameselib.losses, siameselib.miners)
    for name in module.__all__
}
SIZES = {"num_classes": 4, "embedding_dim": 5}
MAY_BE_NEGATIVE = {("MultiSimilarityLoss", "base"), ("MultiSimilarityMiner", "epsilon")}


def function_of(name):
    """The function of a class: same letters; miners are called as their verb."""
    word = f"mine{name.removesuffix('Miner')}" if name.endswith("Miner") else name
    (found,) = (
        f for f in siameselib.functional.__all__ if f.replace("_", "").lower() == word.lower()
    )
    return getattr(siameselib.functional, found)


def build(name, **options):
    """The module, with the sizes that some need."""
    wanted = inspect.signature(CLASSES[name]).parameters
    return CLASSES[name](**{k: v for k, v in SIZES.items() if k in wanted} | options)


def call(name, **options):
    """The function on plausible tensors."""
    torch.manual_seed(0)
    known = dict.fromkeys(("same", "labels"), torch.arange(12) % 2)
    known |= {"logits": torch.randn(12), "weight": torch.randn(4, 5)}
    parameters = inspect.signature(function_of(name)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    tensors = [known[key] if key in known else torch.randn(12, 5) for key in needed]
    return function_of(name)(*tensors, **options)


def numeric_options():
    """(class, option, its annotation as words) of all that take a number."""
    for name, cls in CLASSES.items():
        for option, parameter in inspect.signature(cls).parameters.items():
            kind = inspect.formatannotation(parameter.annotation)
            if {"int", "float"} & set(kind.split(" | ")):
                yield name, option, kind


OPTIONS = list(numeric_options())
USES = {"module": build, "function": call}
CASES = [
    pytest.param(name, option, kind, use, id=f"{name}-{option}-{use}")
    for name, option, kind in OPTIONS
    for use in USES
    if use == "module" or option not in SIZES
]


def test_found_them():
    assert len(OPTIONS) > 30
    assert {option for _, option, _ in OPTIONS} >= {"margin", "temperature", "scale", "k", "cutoff"}


@pytest.mark.parametrize(("name", "option", "kind", "use"), CASES)
def test_what_is_no_number_is_refused(name, option, kind, use):
    where = name if use == "module" else function_of(name).__name__
    wrong = ["0.5", [0.5], {}, torch.ones(2), *([] if "None" in kind else [None])]
    for value in wrong:
        with pytest.raises(TypeError, match=rf"^{where}: {option} must be an? (number|integer), g"):
            USES[use](name, **{option: value})


@pytest.mark.parametrize(("name", "option", "kind", "use"), CASES)
def test_a_number_out_of_range_is_refused(name, option, kind, use):
    where = name if use == "module" else function_of(name).__name__
    wrong = [math.nan, math.inf, -math.inf]
    wrong += [] if (name, option) in MAY_BE_NEGATIVE else [-1 if "int" in kind else -0.1]
    for value in wrong:
        with pytest.raises((ValueError, TypeError), match=rf"^{where}: .*\b{option}\b.*{value}"):
            USES[use](name, **{option: value})


def worded_options():
    """(class, option) of all that take one of several words."""
    for name, cls in CLASSES.items():
        for option, parameter in inspect.signature(cls).parameters.items():
            if isinstance(parameter.default, str) or "str" in str(parameter.annotation):
                yield name, option


WORDED = list(worded_options())


def test_found_the_words():
    assert len(WORDED) > 50
    assert {option for _, option in WORDED} == {
        *("backend", "beyond", "fallback", "metric", "negative", "positive", "reduction", "window")
    }


@pytest.mark.parametrize("wrong", ["nonsense", "", 3])
@pytest.mark.parametrize(("name", "option"), WORDED)
def test_an_unknown_word_is_refused_where_the_module_is_built(name, option, wrong):
    said = []
    of_function = rf"({function_of(name).__name__}|paired_distance)"
    for use, where in ((build, name), (call, of_function)):
        message = rf"^{where}: {option} must be one of .*, got {wrong!r}$"
        with pytest.raises(ValueError, match=message) as refused:
            use(name, **{option: wrong})
        said.append(str(refused.value).split(": ", 1)[1])
    assert said[0] == said[1]


@pytest.mark.parametrize(("name", "option"), WORDED)
def test_every_word_that_is_offered_can_be_had(name, option):
    with pytest.raises(ValueError, match=f"{option} must be one of") as refused:
        build(name, **{option: "nonsense"})
    offered = str(refused.value).rsplit(", got", 1)[0].split("one of ")[1]
    for word in ast.literal_eval(f"[{offered}]"):
        assert getattr(build(name, **{option: word}), option) == word
        if option != "backend":  # not every backend runs everywhere
            call(name, **{option: word})


def test_options_that_contradict_each_other():
    for use in (build, call):
        with pytest.raises(ValueError, match="window must be None when soft, got 'semi-hard'"):
            use("BatchAllTripletLoss", window="semi-hard", soft=True)


@pytest.mark.parametrize("name", [name for name, option in WORDED if option == "metric"])
def test_a_function_is_a_metric_of_explicit_samples_alone(name):
    metric = siameselib.functional.mean_square_distance
    if name in {"ContrastiveLoss", "TripletLoss"}:
        assert build(name, metric=metric).metric is metric
    else:
        with pytest.raises(ValueError, match=f"^{name}: metric must be one of 'euclidean'"):
            build(name, metric=metric)


@pytest.mark.parametrize("wrong", ["0", 0.5, [0]])
def test_an_offset_that_is_no_integer(wrong):
    x, labels = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    for name, cls in CLASSES.items():
        if "ref_offset" in inspect.signature(cls.forward).parameters:
            with pytest.raises(TypeError, match="ref_offset must be an integer, got"):
                build(name)(x, labels, x, labels, wrong)


def test_parameters_of_pairs_that_are_no_numbers():
    x, labels = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    for name in ("log_scale", "bias"):
        with pytest.raises(TypeError, match=f"{name} must be a number, got '1'"):
            siameselib.functional.batch_bce_pair_loss(x, labels, **{name: "1"})
    with pytest.raises(TypeError, match=r"pair_loss: parameters\[1\] must be a number, got None"):
        siameselib.functional.pair_loss(
            x, labels, lambda d, a, b: d, lambda d, a, b: -d, parameters=[torch.ones(()), None]
        )


@pytest.mark.parametrize(("name", "option", "kind"), OPTIONS)
def test_numbers_of_numpy_do_as_well(name, option, kind):
    default = inspect.signature(CLASSES[name]).parameters[option].default
    value = {inspect.Parameter.empty: SIZES.get(option), None: 1}.get(default, default)
    kinds = (np.int64,) if "int" in kind else (np.float64, np.float32)
    for number in kinds:
        assert getattr(build(name, **{option: number(value)}), option) == number(value)
        if option in SIZES:
            continue
        for ours, theirs in zip(
            torch.utils._pytree.tree_leaves(call(name, **{option: number(value)})),
            torch.utils._pytree.tree_leaves(call(name, **{option: value})),
            strict=True,
        ):
            assert not isinstance(theirs, torch.Tensor) or torch.allclose(ours, theirs, rtol=1e-5)


def test_a_margin_that_changes_still_compiles_in_one_graph():
    x, labels = torch.randn(12, 4), torch.arange(12) // 3
    loss = siameselib.functional.batch_hard_triplet_loss
    compiled = torch.compile(
        lambda margin: loss(x, labels, margin=margin), fullgraph=True, backend="aot_eager"
    )
    for margin in (0.2, 0.3, 0.5):
        torch.testing.assert_close(compiled(margin), loss(x, labels, margin=margin))
