"""Losses of classes: against loops over the equations, against PML, and on every kind of batch.

They are found by their constructor, which takes num_classes. What holds for losses of every kind is
in test_loss_contract.
"""

import copy
import inspect
import math
import pickle
import warnings

import pytest
import pytorch_metric_learning.losses as pml
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import siameselib as sl
import siameselib.functional
import siameselib.losses
from siameselib.kernels import class_softmax, class_tiles

LOSSES = [
    name
    for name in siameselib.losses.__all__
    if "num_classes" in inspect.signature(getattr(siameselib.losses, name)).parameters
]
SOFTMAX = [name for name in LOSSES if name != "ProxyAnchorLoss"]
BACKENDS = ["reference", "streaming"]
IDLE = "the batch is empty, or there is a single class"


def make(name, classes=7, width=5, seed=0, dtype=torch.float64, **keywords):
    torch.manual_seed(seed)
    return getattr(sl, name)(classes, width, **keywords).to(dtype)


def batch(n=12, classes=7, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=dtype)
    return x.requires_grad_(), torch.randint(classes, (n,), generator=generator)


def gradients(loss, criterion, x):
    return torch.autograd.grad(loss, (x, criterion.weight), retain_graph=True)


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def small_tiles(monkeypatch):
    """Several ragged tiles even for few samples and classes."""
    monkeypatch.setattr(class_tiles, "_CPU", (4, 3))


def keep_cosines(monkeypatch, rows, classes, width):
    """Keep the cosines of so many samples, and go through more of them in such blocks."""
    monkeypatch.setattr(class_tiles, "_KEPT", -(-rows * classes // width))
    monkeypatch.setattr(class_softmax, "_LEAST", 1)


def test_found_them():
    assert len(LOSSES) == 5 and "ArcFaceLoss" in LOSSES


# the equations, one sample and one class at a time


def cosines(x, weight):
    rows = [[float(v) for v in row] for row in x.detach().double()]
    columns = [[float(v) for v in row] for row in weight.detach().double()]

    def cosine(a, b):
        dot = sum(v * w for v, w in zip(a, b, strict=True))
        return dot / math.hypot(*a) / math.hypot(*b)

    return [[cosine(a, b) for b in columns] for a in rows]


def log_sum(terms):
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms))


def naive_softmax(cosine, labels, scale, own_logit, own_too=True):
    losses = []
    for row, y in zip(cosine, labels.tolist(), strict=True):
        own = own_logit(row[y])
        others = [scale * value for c, value in enumerate(row) if c != y]
        losses.append(log_sum([own, *others] if own_too else others) - own)
    return sum(losses) / len(losses)


def widened(beyond):
    def logit(cosine):
        angle = math.acos(max(-1, min(1, cosine)))
        if beyond == "linear" and angle > math.pi - 0.5:
            return 64 * (cosine - 0.5 * math.sin(0.5))
        if beyond == "easy" and angle >= math.pi / 2:
            return 64 * cosine
        return 64 * math.cos(angle + 0.5)

    return logit


def naive_proxy_anchor(cosine, labels):
    labels, number = labels.tolist(), len(cosine[0])
    positive = negative = 0.0
    for p in range(number):
        own = [row[p] for row, y in zip(cosine, labels, strict=True) if y == p]
        other = [row[p] for row, y in zip(cosine, labels, strict=True) if y != p]
        positive += math.log(1 + sum(math.exp(-32 * (s - 0.1)) for s in own))
        negative += math.log(1 + sum(math.exp(32 * (s + 0.1)) for s in other))
    return positive / len(set(labels)) + negative / number


NAIVE = {
    "linear": ("ArcFaceLoss", {}, lambda c, y: naive_softmax(c, y, 64, widened("linear"))),
    "easy": (
        "ArcFaceLoss",
        {"beyond": "easy"},
        lambda c, y: naive_softmax(c, y, 64, widened("easy")),
    ),
    "wrap": (
        "ArcFaceLoss",
        {"beyond": "wrap"},
        lambda c, y: naive_softmax(c, y, 64, widened("wrap")),
    ),
    "cos": ("CosFaceLoss", {}, lambda c, y: naive_softmax(c, y, 64, lambda s: 64 * (s - 0.35))),
    "normalized": (
        "NormalizedSoftmaxLoss",
        {},
        lambda c, y: naive_softmax(c, y, 20, lambda s: 20 * s),
    ),
    "cold": (
        "NormalizedSoftmaxLoss",
        {"temperature": 0.005},
        lambda c, y: naive_softmax(c, y, 200, lambda s: 200 * s),
    ),
    "nca": (
        "ProxyNCALoss",
        {},
        lambda c, y: naive_softmax(c, y, 2, lambda s: 2 * s, own_too=False),
    ),
    "nca++": (
        "ProxyNCALoss",
        {"own_proxy": True, "temperature": 1 / 9},
        lambda c, y: naive_softmax(c, y, 18, lambda s: 18 * s),
    ),
    "anchor": ("ProxyAnchorLoss", {}, naive_proxy_anchor),
}


@pytest.mark.parametrize("case", NAIVE)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9), classes=st.integers(2, 8))
@settings(max_examples=15)
def test_is_its_equation(case, seed, n, classes):
    name, keywords, naive = NAIVE[case]
    x, labels = batch(n, classes, 3, seed)
    for backend in BACKENDS:
        criterion = make(name, classes, 3, seed + 1, backend=backend, **keywords)
        expected = naive(cosines(x, criterion.weight), labels)
        assert criterion(x, labels).item() == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("case", NAIVE)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.usefixtures("small_tiles")
def test_gradient(case, reduction, backend, monkeypatch):
    name, keywords, _ = NAIVE[case]
    x, labels = batch(6, 7, 3)
    criterion = make(name, 7, 3, backend=backend, reduction=reduction, **keywords)
    values = inspect.signature(type(criterion)).parameters
    words = {k: getattr(criterion, k) for k in list(values)[2:]}
    function = getattr(siameselib.functional, LETTERS[name.lower()])
    weight = criterion.weight.detach().clone().requires_grad_()

    def loss(x, weight):
        return function(x, labels, weight, **words)

    for kept in (6, 4, 0):  # from kept cosines, from some at a time, and from cosines made again
        keep_cosines(monkeypatch, kept, 7, 3)
        assert torch.autograd.gradcheck(loss, (x, weight))


LETTERS = {f.replace("_", ""): f for f in siameselib.functional.__all__}


# another implementation


def pml_twin(name, classes, width, weight, **keywords):
    twin = getattr(pml, name)(classes, width, **keywords).double()
    own = twin.proxies if "Proxy" in name else twin.W
    own.data = weight.detach().clone() if "Proxy" in name else weight.detach().T.clone()
    return twin, own


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("ArcFaceLoss", {}, {"margin": math.degrees(0.5)}),
        ("CosFaceLoss", {}, {}),
        ("NormalizedSoftmaxLoss", {}, {}),
        ("ProxyAnchorLoss", {}, {}),
        ("ProxyNCALoss", {"own_proxy": True}, {}),  # PML's sum has the own proxy, the paper's not
        ("ProxyNCALoss", {"own_proxy": True, "temperature": 1 / 9}, {"softmax_scale": 9}),
    ],
)
@pytest.mark.parametrize("n", [3, 40])
def test_equals_pml(name, ours, theirs, n, backend):
    x, labels = batch(n, 30, 8)
    criterion = make(name, 30, 8, backend=backend, **ours)
    twin, own = pml_twin(name, 30, 8, criterion.weight, **theirs)
    # PML's normalised softmax leaves the embeddings as they come
    loss = twin(F.normalize(x) if name == "NormalizedSoftmaxLoss" else x, labels)
    torch.testing.assert_close(criterion(x, labels), loss, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(loss, (x, own))
    found = gradients(criterion(x, labels), criterion, x)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-7, atol=1e-9)
    turned = expected[1] if "Proxy" in name else expected[1].T
    torch.testing.assert_close(found[1], turned, rtol=1e-7, atol=1e-9)


# backends


@pytest.mark.parametrize(("dtype", "loose"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("sizes", [(3, 5), (65, 300), (300, 1030)])
@pytest.mark.parametrize("share", [1, 0.4, 0])
def test_backends_agree(name, dtype, loose, sizes, share, monkeypatch):
    keep_cosines(monkeypatch, int(share * sizes[0]), sizes[1], 20)
    x, labels = batch(*sizes, 20, dtype=dtype)
    results = []
    torch.use_deterministic_algorithms(True)  # fills memory with NaN before it is first written
    try:
        for backend in BACKENDS:
            criterion = make(name, sizes[1], 20, dtype=dtype, backend=backend)
            loss = criterion(x, labels)
            results.append((loss, criterion.stats, *gradients(loss, criterion, x)))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(results[0][0], results[1][0], rtol=loose, atol=loose)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=10 * loose, atol=10 * loose)
    for one, other in zip(results[0][2:], results[1][2:], strict=True):
        assert (one - other).abs().max() <= 10 * loose * one.abs().max()


@pytest.mark.usefixtures("small_tiles")
def test_gradient_again_and_with_either_side_frozen(name):
    x, labels = batch()
    criterion = make(name, backend="streaming")
    loss = criterion(x, labels)
    both = gradients(loss, criterion, x)
    assert all(map(torch.equal, both, gradients(loss, criterion, x)))
    (alone,) = torch.autograd.grad(criterion(x.detach(), labels), criterion.weight)
    torch.testing.assert_close(alone, both[1])
    criterion.weight.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(criterion(x, labels), x)[0], both[0])
    with torch.no_grad():
        torch.testing.assert_close(criterion(x, labels), loss)


def test_the_gradient_of_a_mean_fits_a_narrow_weight(name):
    x, labels = torch.zeros(9000, 5), torch.zeros(9000, dtype=torch.int64)
    x[:, 1] = 1  # all alike and on one class, whose gradient summed up is beyond float16
    x.requires_grad_()
    found = []
    for dtype in (torch.float16, torch.float32):
        criterion = make(name, 3, dtype=torch.float16, backend="streaming").to(dtype)
        found.append(gradients(criterion(x, labels), criterion, x)[1].float())
    assert (found[0] - found[1]).abs().max() <= 2e-3 * found[1].abs().max()


def test_float32_is_close_to_float64(name, backend):
    x, labels = batch(200, 1500, 64)
    criterion = make(name, 1500, 64)
    loss = criterion(x, labels)
    exact = gradients(loss, criterion, x)
    narrow = make(name, 1500, 64, backend=backend).float()
    y = x.detach().float().requires_grad_()
    found = narrow(y, labels)
    assert abs(found.double() - loss) <= 1e-6 * abs(loss)
    for a, b in zip(gradients(found, narrow, y), exact, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


# degenerate batches


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_empty_batch_is_a_differentiable_zero(name, reduction, backend):
    criterion = make(name, reduction=reduction, backend=backend)
    x = torch.empty(0, 5, dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match=IDLE):
        loss = criterion(x, torch.empty(0, dtype=torch.long))
    loss.sum().backward()
    assert not loss.any() and not criterion.weight.grad.any() and x.grad.shape == (0, 5)
    assert criterion.stats.valid == 0


def test_a_single_class_has_nothing_to_tell_apart(backend):
    x, _ = batch(4)
    labels = torch.zeros(4, dtype=torch.long)
    for name in SOFTMAX:
        criterion = make(name, 1, backend=backend)
        with pytest.warns(UserWarning, match=IDLE):
            loss = criterion(x, labels)
        assert loss == 0 and criterion.stats.valid == 0
        assert not any(each.any() for each in gradients(loss, criterion, x))
    criterion = make("ProxyAnchorLoss", 1, backend=backend)
    gathered = criterion(x, labels)  # a proxy gathers its samples, others or not
    assert gathered > 0 and gradients(gathered, criterion, x)[0].any()


def test_warns_once_in_a_loop(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            make(name)(torch.empty(0, 5), torch.empty(0, dtype=torch.long))
    assert len(caught) == 1


def test_two_classes_and_one_row_are_enough(name):
    for n in (1, 40):  # labels 0 and 1 are no pair labels here, and no warning comes
        x, labels = batch(n, 2)
        criterion = make(name, 2)
        assert criterion(x, labels).isfinite()
        assert criterion.stats.valid == (2 if name == "ProxyAnchorLoss" else n)


HARD_TO_COMPUTE = {
    "all equal": lambda x: x[:1].expand(12, -1),
    "zero rows": lambda x: x * (torch.arange(12) % 3 > 0)[:, None],
    "zero": lambda x: x * 0,
    "tiny": lambda x: x * 1e-20,
    "huge": lambda x: x * 1e20,
    "tiny and huge": lambda x: x * torch.logspace(-20, 20, 12)[:, None],
    "on the weight": lambda x: 3 * make("CosFaceLoss").weight.data.float()[torch.arange(12) % 4],
    "against the weight": lambda x: -make("CosFaceLoss").weight.data.float()[torch.arange(12) % 4],
}


@pytest.mark.parametrize("case", HARD_TO_COMPUTE)
def test_finite_on_hard_numbers(name, case, backend):
    x = torch.randn(12, 5)
    x = HARD_TO_COMPUTE[case](x).clone().requires_grad_()
    criterion = make(name, dtype=torch.float32, backend=backend)
    loss = criterion(x, torch.arange(12) % 4)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all() and criterion.weight.grad.isfinite().all()
    assert all(stat.isfinite() for stat in criterion.stats)
    zero = (x == 0).all(1)
    assert not x.grad[zero].any() and x.grad[~zero].any() == (~zero).any()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_length_is_nothing(name, scale, backend):
    x, labels = batch(dtype=torch.float32)
    criterion, scaled = (make(name, dtype=torch.float32, backend=backend) for _ in range(2))
    scaled.weight.data *= scale
    loss, other = criterion(x, labels), scaled(x * scale, labels)
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-6)
    before, after = gradients(loss, criterion, x)[1], gradients(other, scaled, x)[1]
    torch.testing.assert_close(before, after * scale, rtol=1e-3, atol=1e-4)


def test_zero_rows_have_cosine_zero(name):
    x, labels = batch(6)
    criterion = make(name)
    criterion.weight.data[labels[0]] = 0
    assert criterion(x * 0, labels).isfinite()
    loss = criterion(x, labels)
    assert not gradients(loss, criterion, x)[1][labels[0]].any()
    assert not criterion.logits(x)[:, labels[0]].any()


def test_trivial_is_the_loss_of_a_collapsed_model():
    labels = torch.arange(12) % 7
    for name, keywords in [
        *((name, {}) for name in LOSSES),
        ("ProxyNCALoss", {"own_proxy": True}),
        ("ArcFaceLoss", {"beyond": "easy"}),
    ]:
        criterion = make(name, **keywords)
        x = torch.zeros(12, 5, dtype=torch.float64)
        if name == "ArcFaceLoss" and not keywords:
            x, criterion.weight.data = x + 1, torch.ones(7, 5, dtype=torch.float64)
        loss = criterion(x, labels)
        torch.testing.assert_close(loss.detach(), criterion.stats.trivial, rtol=1e-12, atol=0)
        assert math.log(6) - 1e-9 <= loss


def test_stats(backend):
    x, labels = batch()
    for name in LOSSES:
        criterion = make(name, backend=backend)
        loss = criterion(x, labels)
        cosine = F.normalize(x) @ F.normalize(criterion.weight).T
        own = F.one_hot(labels, 7).bool()
        stats = criterion.stats
        torch.testing.assert_close(stats.positive_distance, 1 - cosine[own].mean().detach())
        torch.testing.assert_close(stats.negative_distance, 1 - cosine[~own].mean().detach())
        assert 0 <= stats.active <= 1 and stats.valid == (7 if name == "ProxyAnchorLoss" else 12)
        assert loss.isfinite()


# what is refused


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.zeros(4, 1, dtype=torch.long), ValueError, r"labels must .*\(4,\), got \(4, 1\)"),
        (torch.zeros(3, dtype=torch.long), ValueError, r"labels must .*\(4,\), got \(3,\)"),
        (torch.zeros(4), TypeError, "labels must be integers.*float32"),
        (torch.zeros(4, dtype=torch.bool), TypeError, "labels must be integers.*bool"),
        ([0, 0, 1, 1], TypeError, "labels must be a torch.Tensor, got list"),
        (torch.tensor([0, 7, 1, 1]), ValueError, r"labels must lie in \[0, 7\).*got 7"),
        (torch.tensor([0, 6, -1, 1]), ValueError, r"labels must lie in \[0, 7\).*got -1"),
    ],
)
def test_refuses_labels(name, labels, kind, message):
    with pytest.raises(kind, match=message):
        make(name)(torch.randn(4, 5), labels)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (torch.randn(4), ValueError, r"embeddings must have shape \(n, d\), got \(4,\)"),
        (torch.ones(4, 5, dtype=torch.long), TypeError, "embeddings must be floating point"),
        (torch.randn(4, 5, device="meta"), ValueError, "on the device"),
        (torch.randn(4, 6), ValueError, "weight must have the width of embeddings, 6, got 5"),
    ],
)
def test_refuses_embeddings(name, x, kind, message):
    with pytest.raises(kind, match=message):
        make(name)(x, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("ArcFaceLoss", {"margin": 28.6}, r"margin must lie in \[0, 3.142\), got 28.6"),
        ("ArcFaceLoss", {"beyond": "nothing"}, "beyond must be one of 'linear'"),
        ("ArcFaceLoss", {"scale": 0}, "scale must be positive"),
        ("CosFaceLoss", {"margin": -0.1}, r"margin must lie in \[0, 2\)"),
        ("CosFaceLoss", {"scale": 501}, "scale must be at most 500, got 501"),
        ("NormalizedSoftmaxLoss", {"temperature": 0.001}, "temperature must be at least 0.002"),
        ("ProxyNCALoss", {"temperature": -1}, "temperature must be positive"),
        ("ProxyAnchorLoss", {"margin": 1}, r"margin must lie in \[0, 1\)"),
        ("ProxyAnchorLoss", {"alpha": math.inf}, "alpha must be positive and finite"),
        *((name, {"reduction": "mean_active"}, "reduction must be one of") for name in LOSSES),
        *((name, {"backend": "fast"}, "backend must be one of") for name in LOSSES),
        *((name, {"backend": "triton"}, "there is no Triton kernel") for name in LOSSES),
    ],
)
def test_refuses_words_and_numbers(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(name, **keywords)(*batch())


def test_refuses_sizes(name):
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        getattr(sl, name)(0, 5)
    with pytest.raises(TypeError, match="embedding_dim must be an integer"):
        getattr(sl, name)(3, 2.5)
    with pytest.raises(ValueError, match="embeddings must have 5 columns, got 4"):
        make(name).logits(torch.zeros(2, 4))


def test_refuses_nan_when_asked_and_never_hides_it(name, backend):
    x, labels = batch()
    bad = x.detach().clone()
    bad[3, 2] = torch.nan
    assert make(name, backend=backend)(bad, labels).isnan()
    with pytest.raises(ValueError, match="embeddings must be finite, got NaN or infinity in row 3"):
        make(name, validate=True)(bad, labels)
    criterion = make(name, validate=True, backend=backend)
    criterion(x, labels)
    criterion.weight.data[2, 0] = torch.inf
    with pytest.raises(ValueError, match="weight must be finite, got NaN or infinity in row 2"):
        criterion(x, labels)


# modules


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_of_the_weight(name, dtype, backend):
    x, labels = batch(20, dtype=torch.float32)
    criterion = make(name, dtype=dtype, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(x.to(dtype), labels)
    wide = make(name)
    wide.weight.data = criterion.weight.detach().double()
    expected = wide(x.to(dtype).double(), labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    ours, theirs = (g[1] for g in (gradients(loss, criterion, x), gradients(expected, wide, x)))
    assert ours.dtype == dtype
    assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()


@pytest.mark.parametrize("integer", [torch.int16, torch.uint8, torch.int32])
def test_takes_labels_of_any_integer_dtype(name, integer):
    x, labels = batch()
    criterion = make(name)
    assert torch.equal(criterion(x, labels.to(integer)), criterion(x, labels))


def test_state_is_the_weight(name):
    criterion = make(name)
    assert list(criterion.state_dict()) == ["weight"]
    x, labels = batch()
    loss = criterion(x, labels)
    other = make(name, seed=1)
    assert other(x, labels) != loss
    other.load_state_dict(criterion.state_dict())
    for twin in (other, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert torch.equal(twin(x, labels), loss) and twin.weight is not criterion.weight


def test_weight_starts_in_random_directions_near_length_one(name):
    lengths = make(name, 500, 64).weight.norm(dim=1)
    assert 0.95 < lengths.mean() < 1.05 and lengths.min() > 0.5


def test_logits_are_scaled_cosines(name):
    x, _ = batch()
    scale = {"NormalizedSoftmaxLoss": 20, "ProxyAnchorLoss": 32, "ProxyNCALoss": 2}.get(name, 64)
    criterion = make(name)
    expected = scale * F.normalize(x) @ F.normalize(criterion.weight).T
    torch.testing.assert_close(criterion.logits(x), expected)


def test_learns(name):
    x, labels = batch(70, dtype=torch.float32)
    criterion = make(name, dtype=torch.float32)
    net = torch.nn.Linear(5, 5)
    optimizer = torch.optim.Adam([*net.parameters(), *criterion.parameters()], 0.05)
    centres = 3 * torch.eye(7, 5) - torch.eye(7, 5).roll(5, 0)
    x = 0.1 * x.detach() + centres[labels]
    for _ in range(60):
        optimizer.zero_grad()
        criterion(net(x), labels).backward()
        optimizer.step()
    right = criterion.logits(net(x)).argmax(1) == labels
    assert right.float().mean() > 0.95


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kept", [40, 0])
def test_streaming_compiles_in_one_graph(name, reduction, kept, monkeypatch):
    keep_cosines(monkeypatch, kept, 90, 5)
    x, labels = batch(40, 90)
    criterion = make(name, 90, backend="streaming", reduction=reduction)
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    found = [each(x, labels) for each in (compiled, criterion)]
    torch.testing.assert_close(*found)
    slope = torch.linspace(0, 1, found[0].numel(), dtype=torch.float64).view_as(found[0])
    ours, theirs = (gradients((slope * each).sum(), criterion, x) for each in found)
    torch.testing.assert_close(ours, theirs)


# memory


@pytest.mark.parametrize("name", ["ArcFaceLoss", "ProxyAnchorLoss"])
def test_a_million_classes_fit(name):
    resource = pytest.importorskip("resource")
    criterion = make(name, 1_000_000, 16, dtype=torch.float32)
    x, labels = batch(64, 1_000_000, 16, dtype=torch.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    criterion(x, labels).backward()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert criterion.weight.grad.isfinite().all() and criterion.weight.grad.any()
    assert grown < 180 << 10  # KiB: one (64, 1,000,000) matrix would be 250 MiB, its gradient again
