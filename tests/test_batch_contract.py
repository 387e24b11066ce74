"""What every loss and miner on a labelled batch promises, whatever the batch.

Losses are found by their forward(embeddings, labels, ...), miners by their module. What holds for
losses of every kind is in test_loss_contract. To losses of classes, whose constructor takes
num_classes, labels are row numbers and not just equal or different: see test_class_losses.
"""

import copy
import inspect
import pickle
import re
import warnings

import pytest
import torch

import siameselib as sl
import siameselib.functional
import siameselib.losses
import siameselib.miners

MINERS = siameselib.miners.__all__
LOSSES = [
    name
    for name in siameselib.losses.__all__
    if list(inspect.signature(getattr(siameselib.losses, name).forward).parameters)[1:3]
    == ["embeddings", "labels"]
    and "num_classes" not in inspect.signature(getattr(siameselib.losses, name)).parameters
]
IDLE = "of this batch has"
DRAWING = {"DistanceWeightedMiner"}  # at random, by the number of the row


def make(name, **keywords):
    return getattr(siameselib.miners if name in MINERS else siameselib.losses, name)(**keywords)


def batch(n=24, d=6, classes=6, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=dtype)
    labels = torch.arange(n) % classes
    return x.requires_grad_(), labels[torch.randperm(n, generator=g)]


def run(model, *args):
    """Call a model from the same random state every time: some miners draw."""
    torch.manual_seed(0)
    return model(*args)


def indices(found):
    """The index vectors of fixed shape; a miner of pairs returns bounds on distances besides."""
    return found[:2] if isinstance(found, siameselib.functional.PairBounds) else found[:-1]


def facts(found):
    """All that is exact; the bounds of a miner of pairs show in the pairs it lists."""
    return (*indices(found), found.valid, *found.compact())


def mined_rows(found, names):
    """The triplets, or the positive and the negative pairs, by the names of their rows."""
    compact = found.compact()
    lists = [compact] if len(compact) == 3 else [compact[:2], compact[2:]]
    return [{tuple(row) for row in names[torch.stack(each, 1)].tolist()} for each in lists]


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


@pytest.fixture(params=[*LOSSES, *MINERS])
def any_of_them(request):
    return request.param


@pytest.fixture(params=MINERS)
def miner(request):
    return request.param


def test_found_them():
    assert {"BatchHardTripletLoss", "SemiHardTripletLoss", "SupConLoss"} <= set(LOSSES)


# degenerate batches

NOTHING_TO_LEARN = {
    "empty": (torch.empty(0, 3), []),
    "one row": (torch.randn(1, 3), [5]),
    "one class": (torch.randn(5, 3), [2, 2, 2, 2, 2]),
    "all singletons": (torch.randn(5, 3), [9, 3, 0, 1, 7]),
}


@pytest.mark.parametrize("case", NOTHING_TO_LEARN)
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_nothing_to_learn_is_a_differentiable_zero(loss, case, backend):
    x, labels = NOTHING_TO_LEARN[case]
    x, labels = x.clone().requires_grad_(), torch.tensor(labels, dtype=torch.long)
    criterion = make(loss, backend=backend)
    with pytest.warns(UserWarning, match=IDLE):
        value = criterion(x, labels)
    assert value == 0 and value.shape == ()
    value.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert criterion.stats.valid == 0
    with pytest.warns(UserWarning, match=IDLE):
        assert make(loss, reduction="sum")(x, labels) == 0


@pytest.mark.parametrize("case", NOTHING_TO_LEARN)
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_nothing_to_mine_is_nothing_valid(miner, case, backend):
    x, labels = NOTHING_TO_LEARN[case]
    labels = torch.tensor(labels, dtype=torch.long)
    with pytest.warns(UserWarning, match=IDLE):
        triplets = make(miner, backend=backend)(x, labels)
    assert not triplets.valid.any()
    assert all(index.dtype == torch.int64 for index in indices(triplets))
    assert all(len(index) == 0 for index in triplets.compact())
    for index in indices(triplets):  # gathering never fails
        assert not len(index) or 0 <= index.min() <= index.max() < len(x)


def test_warns_once_in_a_loop(any_of_them):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            make(any_of_them)(torch.randn(5, 3), torch.arange(5))
    assert len(caught) == 1


def test_an_empty_reference_set_is_nothing_to_learn(any_of_them):
    x, labels = batch()
    ref, ref_labels = torch.empty(0, 6, dtype=torch.float64), torch.empty(0, dtype=torch.long)
    with pytest.warns(UserWarning, match=IDLE):
        result = make(any_of_them)(x, labels, ref, ref_labels)
    if any_of_them in LOSSES:
        result.backward()
        assert result == 0 and not x.grad.any()
    else:
        assert not result.valid.any()


def test_rows_without_positives_are_left_out(loss):
    x, _ = batch(12)
    few = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6])
    criterion = make(loss)
    mean = criterion(x, few)
    each = make(loss, reduction="none")(x, few)
    torch.testing.assert_close(mean, each.sum() / criterion.stats.valid)
    if len(each) == len(few):
        # Where terms are pairs, not anchors with both kinds, single images are negatives too.
        pairs = criterion.stats.valid == 12 * 11
        assert each[:8].any() and (pairs or not each[8:].any())
    singles = make(loss, reduction="sum")(x, few)
    torch.testing.assert_close(singles, each.sum())


HARD_TO_COMPUTE = {
    "duplicates in a class": lambda x: x[[0, 0, 2, 3, 4, 4, 4, 7, 8, 9, 10, 11]],
    "duplicates across classes": lambda x: x[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]],
    "all equal": lambda x: x[:1].expand(12, -1),
    "zero rows": lambda x: x * torch.tensor([0, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1.0])[:, None],
    "zero": lambda x: x * 0,
    "tiny": lambda x: x * 1e-20,
    "huge": lambda x: x * 1e20,
    "tiny and huge": lambda x: x * torch.logspace(-20, 20, 12)[:, None],
    "nearly equal": lambda x: x[:1] + 1e-7 * x,
}


@pytest.mark.parametrize("case", HARD_TO_COMPUTE)
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_finite_on_hard_numbers(loss, case, backend):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    x = HARD_TO_COMPUTE[case](x).clone().requires_grad_()
    criterion = make(loss, backend=backend)
    value = criterion(x, torch.arange(12) // 4)
    value.backward()
    assert x.grad.isfinite().all()
    assert all(stat.isfinite() for stat in criterion.stats)
    if not value.isfinite():  # nothing but what float32 cannot hold: squares of huge distances
        wide = make(loss, backend=backend)(x.double(), torch.arange(12) // 4)
        assert value > 0 and wide.isfinite() and wide > torch.finfo(x.dtype).max


# what is refused


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.zeros(4, 1, dtype=torch.long), ValueError, r"labels must .*\(4,\), got \(4, 1\)"),
        (torch.zeros(3, dtype=torch.long), ValueError, r"labels must .*\(4,\), got \(3,\)"),
        (torch.zeros(4), TypeError, "labels must be integers.*float32"),
        (torch.zeros(4, dtype=torch.bool), TypeError, "labels must be integers.*bool"),
        ([0, 0, 1, 1], TypeError, "labels must be a torch.Tensor, got list"),
    ],
)
def test_refuses_labels(any_of_them, labels, kind, message):
    with pytest.raises(kind, match=message):
        make(any_of_them)(torch.randn(4, 3), labels)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (torch.randn(4), ValueError, r"embeddings must have shape \(n, d\), got \(4,\)"),
        (torch.ones(4, 3, dtype=torch.long), TypeError, "embeddings must be floating point"),
        (torch.randn(4, 3, device="meta"), ValueError, "on the device"),
    ],
)
def test_refuses_embeddings(any_of_them, x, kind, message):
    with pytest.raises(kind, match=message):
        make(any_of_them)(x, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ((torch.randn(5, 4), torch.zeros(5, dtype=torch.long)), "ref must have the width .*3.*4"),
        ((torch.randn(5, 3),), "ref_labels must be given"),
        ((torch.randn(5, 3), torch.zeros(4, dtype=torch.long)), "ref_labels must"),
        ((torch.randn(5, 3), torch.zeros(5, dtype=torch.long), 2), "ref_offset must"),
        ((None, None, 0), "ref_offset must be None"),
    ],
)
def test_refuses_reference_sets(any_of_them, ref, message):
    with pytest.raises(ValueError, match=message):
        make(any_of_them)(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), *ref)


def test_refuses_nan_when_asked(any_of_them):
    x, labels = batch()
    x = x.detach().clone()
    make(any_of_them, validate=True)(x, labels)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="embeddings must be finite, got NaN or infinity in row 3"):
        make(any_of_them, validate=True)(x, labels)
    ref = torch.full((30, 6), torch.inf, dtype=torch.float64)
    with pytest.raises(ValueError, match="ref must be finite"):
        make(any_of_them, validate=True)(x.nan_to_num(), labels, ref, torch.zeros(30).long())


def test_nan_is_not_hidden(loss):
    x, labels = batch()
    x = x.detach().clone()
    x[3, 2] = torch.nan
    for backend in ("reference", "streaming"):
        assert make(loss, backend=backend)(x, labels).isnan()


WORDS = [
    (name, keyword)
    for name in [*LOSSES, *MINERS]
    for keyword in ("metric", "reduction", "backend", "fallback", "positive", "negative")
    if keyword in inspect.signature(make(name).__init__).parameters
]


@pytest.mark.parametrize(("name", "keyword"), WORDS)
def test_refuses_words_it_does_not_know(name, keyword):
    with pytest.raises(ValueError, match=f"{keyword} must be one of .* got 'nonsense'"):
        make(name, **{keyword: "nonsense"})(*batch())


def test_refuses_a_backend_that_cannot_run(any_of_them):
    with pytest.raises(ValueError, match="backend 'triton' cannot run: "):
        make(any_of_them, backend="triton")(*batch())


# labels


def test_pair_labels_are_suspicious(any_of_them):
    nine = torch.arange(18) % 2
    with pytest.warns(UserWarning, match="labels are all 0 or 1: they must be identities"):
        make(any_of_them)(torch.randn(18, 3), nine)
    for labels in (nine[:16], nine + 1, torch.arange(27) % 3):
        make(any_of_them)(torch.randn(len(labels), 3), labels)  # any warning is an error


RENAMED = {
    "negative": lambda labels: -7 * labels - 1,
    "large": lambda labels: labels + 2**40,
    "reordered": lambda labels: (labels * 5 + 3) % 6,
    "int16": lambda labels: labels.to(torch.int16),
    "uint8": lambda labels: labels.to(torch.uint8),
}


@pytest.mark.parametrize("name", RENAMED)
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_only_equality_of_labels_counts(any_of_them, name, backend):
    x, labels = batch()
    renamed = RENAMED[name](labels)
    model = make(any_of_them, backend=backend)
    before, after = (run(model, x, each) for each in (labels, renamed))
    if any_of_them in LOSSES:
        torch.testing.assert_close(before, after, rtol=1e-13, atol=0)
    else:
        assert all(map(torch.equal, facts(before), facts(after)))


# symmetries


@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_order_of_the_batch_is_nothing(any_of_them, backend):
    x, labels = batch(50)
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    model = make(any_of_them, backend=backend)
    before, after = model(x, labels), model(x[shuffle], labels[shuffle])
    if any_of_them in LOSSES:
        torch.testing.assert_close(before, after, rtol=1e-12, atol=0)
        whole, part = (torch.autograd.grad(v, x)[0] for v in (before, after))
        torch.testing.assert_close(whole, part, rtol=1e-10, atol=1e-12)
    else:
        whole, part = mined_rows(before, torch.arange(50)), mined_rows(after, shuffle)
        if any_of_them in DRAWING:  # other negatives, but of the same pairs
            whole, part = ([{row[:2] for row in rows} for rows in each] for each in (whole, part))
        assert whole == part


def test_rotation_is_nothing(any_of_them):
    x, labels = batch(50)
    g = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64)).Q
    before, after = (run(make(any_of_them), each, labels) for each in (x, x @ turn))
    if any_of_them in LOSSES:
        torch.testing.assert_close(before, after, rtol=1e-12, atol=0)
    else:
        assert all(map(torch.equal, facts(before), facts(after)))


def test_the_batch_as_its_own_reference_set(any_of_them):
    x, labels = batch(50)
    model = make(any_of_them)
    alone = run(model, x, labels)
    given = run(model, x, labels, x, labels, 0)
    front = run(model, x, labels, torch.cat([x[:0], x]), labels, 0)
    for other in (given, front):
        if any_of_them in LOSSES:
            torch.testing.assert_close(alone, other, rtol=1e-12, atol=0)
            a, b = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (alone, other))
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        else:
            assert all(map(torch.equal, facts(alone), facts(other)))


# gradients and backends


# The paper's gradient takes the weights of the pairs as constants: it is no derivative.
NO_DERIVATIVE = {"CircleLoss"}


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NO_DERIVATIVE])
@pytest.mark.parametrize("backend", ["reference", "streaming"])
def test_gradient(name, backend):
    x, labels = batch(10, 3, classes=4)
    assert torch.autograd.gradcheck(make(name, backend=backend), (x, labels))
    ref, ref_labels = batch(7, 3, classes=3, seed=1)
    criterion = make(name, backend=backend)
    assert torch.autograd.gradcheck(lambda x, ref: criterion(x, labels, ref, ref_labels), (x, ref))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NO_DERIVATIVE])
def test_a_second_derivative_is_right_or_refused(name):
    x, labels = batch(10, 3, classes=4)
    assert torch.autograd.gradgradcheck(make(name, backend="reference"), (x, labels))
    streaming = make(name, backend="streaming")
    loss = streaming(x, labels)
    try:
        torch.autograd.grad(loss, x, create_graph=True)
    except RuntimeError as error:
        assert "backend='reference'" in str(error)
        loss.backward()  # the first is still to be had
    else:
        assert torch.autograd.gradgradcheck(streaming, (x, labels))


@pytest.fixture
def poisoned_memory():
    """Fills memory with NaN before it is first written."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("n", [3, 65, 130, 257])
@pytest.mark.parametrize(("dtype", "loose"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.usefixtures("poisoned_memory")
def test_backends_agree(any_of_them, n, dtype, loose):
    x, labels = batch(n, 20, classes=max(2, n // 3), dtype=dtype)
    results = [run(make(any_of_them, backend=b), x, labels) for b in ("reference", "streaming")]
    with sl.use_backend("reference"):
        results.append(run(make(any_of_them), x, labels))
    for other in results[1:]:
        if any_of_them in LOSSES:
            torch.testing.assert_close(results[0], other, rtol=loose, atol=loose / 10)
            a, b = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (results[0], other))
            assert (a - b).abs().max() <= 5 * loose * a.abs().max()
        else:
            assert all(map(torch.equal, facts(results[0]), facts(other)))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_streaming_compiles_in_one_graph(loss, reduction):
    x, labels = batch(70, 5)
    criterion = make(loss, backend="streaming", reduction=reduction)
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    found = [each(x, labels) for each in (compiled, criterion)]
    torch.testing.assert_close(*found)
    slope = torch.linspace(0, 1, found[0].numel(), dtype=torch.float64).view_as(found[0])
    torch.testing.assert_close(*(torch.autograd.grad((slope * v).sum(), x)[0] for v in found))


# miners as modules (for losses see test_loss_contract)


def test_miner_is_its_function(miner):
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", miner.removesuffix("Miner")).lower()
    function = getattr(siameselib.functional, f"mine_{words}")
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and not name.startswith("ref")
    }
    module = make(miner)
    ours = inspect.signature(type(module)).parameters
    assert {name: p.default for name, p in ours.items()} == keywords and list(ours) == list(
        keywords
    )
    assert repr(module) == f"{miner}({', '.join(f'{k}={v!r}' for k, v in keywords.items())})"
    x, labels = batch()
    before = x.detach().clone(), labels.clone()
    found = facts(run(module, x, labels))
    assert all(map(torch.equal, found, facts(run(function, x, labels))))
    assert torch.equal(x, before[0]) and torch.equal(labels, before[1])
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(map(torch.equal, facts(run(twin, x, labels)), found))
    assert not module.state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_miner_takes_every_dtype(miner, dtype):
    x, labels = batch(100, 20, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(make(miner, backend="streaming"), x, labels)
    same = run(make(miner, backend="reference"), x.float(), labels)
    assert all(map(torch.equal, facts(found), facts(same)))


def test_miner_compiles_in_one_graph(miner):
    x, labels = batch(100, 20)
    for backend in ("reference", "streaming"):
        torch._dynamo.reset()
        module = make(miner, backend=backend)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        found = [facts(run(each, x, labels)) for each in (compiled, module)]
        assert all(map(torch.equal, *found))


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # in inductor's import
def test_inductor_takes_data_dependent_shapes():
    x, _ = batch(40, 8, dtype=torch.float32)
    labels = torch.arange(40) % 6
    criterion = make("SemiHardTripletLoss")
    found = [each(x, labels) for each in (torch.compile(criterion, fullgraph=True), criterion)]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(each, x)[0] for each in found))
