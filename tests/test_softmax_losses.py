import math
import warnings

import pytest
import pytorch_metric_learning.losses
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from siameselib.functional import info_nce_loss, nt_xent_loss, sup_con_loss
from siameselib.kernels import use_backend
from siameselib.losses import InfoNCELoss, NTXentLoss, SupConLoss

BACKENDS = ["reference", "streaming"]


def matches(n=9, d=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x[0].to(dtype), (x[0] + 0.3 * x[1]).to(dtype)


def naive_info_nce(x1, x2, labels, temperature):
    a, b = F.normalize(x1.double()), F.normalize(x2.double())
    losses = []
    for i in range(len(a)):
        others = [j for j in range(len(a)) if labels[j] != labels[i]]
        if not others:
            continue
        match = float(a[i] @ b[i]) / temperature
        for scores in ([float(a[i] @ b[j]) for j in others], [float(a[j] @ b[i]) for j in others]):
            logits = [match, *(score / temperature for score in scores)]
            top = max(logits)
            losses.append(top + math.log(sum(math.exp(z - top) for z in logits)) - match)
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_info_nce_is_symmetric_cross_entropy(temperature):
    x1, x2 = (x.requires_grad_() for x in matches())
    loss = info_nce_loss(x1, x2, temperature=temperature)
    gradient = torch.autograd.grad(loss, x1)[0]
    logits = F.normalize(x1) @ F.normalize(x2).T / temperature
    own = torch.arange(9)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    expected = torch.autograd.grad(expected, x1)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 12),
    identities=st.integers(1, 6),
    temperature=st.sampled_from([0.01, 0.1, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_info_nce_leaves_out_rows_of_one_identity(seed, n, identities, temperature):
    x1, x2 = matches(n, seed=seed)
    labels = torch.randint(identities, (n,), generator=torch.Generator().manual_seed(seed))
    loss = info_nce_loss(x1, x2, labels, temperature=temperature)
    expected = naive_info_nce(x1, x2, labels, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_info_nce_streams(temperature):
    labels = torch.randint(20, (60,), generator=torch.Generator().manual_seed(0))
    results = []
    for backend in BACKENDS:
        x1, x2 = (x.requires_grad_() for x in matches(60))
        with use_backend(backend):
            loss = info_nce_loss(x1, x2, labels, temperature=temperature)
        results.append((loss, *torch.autograd.grad(loss, (x1, x2))))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_info_nce_gradcheck():
    x1, x2 = (x.requires_grad_() for x in matches())
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 3, 4, 4])
    assert torch.autograd.gradcheck(lambda a, b: info_nce_loss(a, b, labels), (x1, x2))


def test_info_nce_of_a_collapsed_model_is_trivial():
    criterion = InfoNCELoss()
    x = torch.ones(6, 3)
    assert criterion(x, x).item() == pytest.approx(math.log(6), rel=1e-6)
    assert criterion.stats.trivial.item() == pytest.approx(math.log(6), rel=1e-6)
    loss = criterion(x, x, torch.tensor([0, 0, 0, 0, 1, 1]))
    assert loss.item() == pytest.approx((4 * math.log(3) + 2 * math.log(5)) / 6, rel=1e-6)
    assert criterion.stats.trivial.item() == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "labels"), [(0, None), (1, None), (4, torch.zeros(4, dtype=torch.int64))]
)
def test_info_nce_without_negatives_is_a_differentiable_zero(n, labels):
    x1, x2 = (x.requires_grad_() for x in matches(n))
    criterion = InfoNCELoss()
    loss = criterion(x1, x2, labels)
    loss.backward()
    assert loss.item() == 0 and (x1.grad == 0).all() and (x2.grad == 0).all()
    assert criterion.stats.valid == 0


def test_info_nce_stats():
    x1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    x2 = torch.tensor([[0.0, 3.0], [0.0, 1.0], [1.0, 0.0]])
    criterion = InfoNCELoss()
    criterion(x1, x2, torch.tensor([7, 8, 8]))
    assert criterion.stats.valid == 3
    assert criterion.stats.positive_distance.item() == pytest.approx(2 / 3)
    assert criterion.stats.negative_distance.item() == pytest.approx(1 / 4)


def test_info_nce_is_finite_on_zero_rows_and_any_scale():
    x1, x2 = matches(dtype=torch.float32)
    expected = info_nce_loss(x1, x2)
    torch.testing.assert_close(info_nce_loss(x1 * 1e20, x2 * 1e-20), expected)
    x1[3] = 0
    x1.requires_grad_()
    info_nce_loss(x1, x2).backward()
    assert x1.grad.isfinite().all() and (x1.grad[3] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x2": torch.zeros(3, 1)}, ValueError, r"x2 must .*\(3, 2\), got \(3, 1\)"),
        ({"labels": torch.zeros(3, 1).long()}, ValueError, r"labels must .* got \(3, 1\)"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be integers"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
def test_info_nce_refuses(change, error, message):
    with pytest.raises(error, match=f"info_nce_loss: {message}"):
        info_nce_loss(**{"x1": torch.zeros(3, 2), "x2": torch.zeros(3, 2)} | change)


BATCH_LOSSES = [(sup_con_loss, SupConLoss), (nt_xent_loss, NTXentLoss)]
both = pytest.mark.parametrize(("loss", "module"), BATCH_LOSSES)
backends = pytest.mark.parametrize("backend", BACKENDS)


def batch(n=14, d=4, identities=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(identities, (n,), generator=generator)


def naive(loss, x, labels, temperature, ref=None, ref_labels=None, offset=0):
    """The equations, one anchor and one positive at a time; losses an anchor, and terms."""
    ref, ref_labels = (x, labels) if ref is None else (ref, ref_labels)
    a, b = F.normalize(x.double()), F.normalize(ref.double())
    losses, terms = [], []
    for i in range(len(a)):
        scores = [float(a[i] @ b[j]) / temperature for j in range(len(b))]
        others = [j for j in range(len(b)) if offset is None or j != offset + i]
        positives = [j for j in others if ref_labels[j] == labels[i]]
        negatives = [j for j in others if ref_labels[j] != labels[i]]
        total, count = 0.0, 0
        if positives and negatives:
            for p in positives:
                rivals = others if loss is sup_con_loss else [p, *negatives]
                top = max(scores[j] for j in rivals)
                total += top + math.log(sum(math.exp(scores[j] - top) for j in rivals))
                total -= scores[p]
            count = len(positives)
        if loss is sup_con_loss and count:
            total, count = total / count, 1
        losses.append(total)
        terms.append(count)
    return losses, terms


@given(
    n=st.integers(2, 14),
    identities=st.integers(2, 8),
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.01, 0.07, 0.5]),
    index=st.integers(0, 1),
    backend=st.sampled_from(BACKENDS),
)
@settings(max_examples=60, deadline=None)
def test_batch_losses_are_their_equations(n, identities, seed, temperature, index, backend):
    loss, _ = BATCH_LOSSES[index]
    x, labels = batch(n, identities=identities, seed=seed)
    losses, terms = naive(loss, x, labels, temperature)
    keywords = {"temperature": temperature, "backend": backend}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if not sum(terms) else "error")
        mean = loss(x, labels, **keywords)
        total = loss(x, labels, reduction="sum", **keywords)
        none = loss(x, labels, reduction="none", **keywords)
    assert mean.item() == pytest.approx(sum(losses) / max(sum(terms), 1), rel=1e-12, abs=1e-12)
    assert total.item() == pytest.approx(sum(losses), rel=1e-12, abs=1e-12)
    assert none.tolist() == pytest.approx(losses, rel=1e-11, abs=1e-12)


@both
@backends
def test_batch_losses_agree_with_pytorch_metric_learning(loss, module, backend):
    theirs = {
        sup_con_loss: pytorch_metric_learning.losses.SupConLoss,
        nt_xent_loss: pytorch_metric_learning.losses.NTXentLoss,
    }[loss](temperature=0.1)
    x, labels = batch(24, 8, 6)
    x.requires_grad_()
    value, expected = loss(x, labels, backend=backend), theirs(x, labels)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(v, x)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


@both
@backends
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_batch_losses_gradcheck(loss, module, backend, temperature):
    x, labels = batch(8, 3, 4)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, labels, temperature=temperature, backend=backend), x
    )


@both
@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_batch_losses_in_float32(loss, module, temperature):
    x, labels = batch(600, 32, 75)
    wide, narrow = x.requires_grad_(), x.detach().float().requires_grad_()
    expected = loss(wide, labels, temperature=temperature, backend="reference")
    value = loss(narrow, labels, temperature=temperature, backend="streaming")
    expected.backward()
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    error = (narrow.grad - wide.grad).abs().max() / wide.grad.abs().max()
    assert error <= 1e-5


def test_nt_xent_is_exact_at_a_low_temperature():
    # one positive at cosine -1/2 among negatives near 0: 50 nats and a little, in float32
    x = torch.tensor([[1.0, 0.0, 0.0], [-0.5, 0.75**0.5, 0.0], [0.0, 0.0, 1.0]])
    x = torch.cat([x, x[2:] + torch.tensor([0.0, 0.0, 1.0])])
    labels = torch.tensor([0, 0, 1, 1])
    value = nt_xent_loss(x, labels, temperature=0.01, reduction="none", backend="streaming")
    expected, _ = naive(nt_xent_loss, x, labels, 0.01)
    assert value.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert value[0].item() == pytest.approx(50 + math.log(2), rel=1e-6)


@both
@backends
def test_the_batch_as_its_own_reference(loss, module, backend):
    x, labels = batch()
    x.requires_grad_()
    plain = loss(x, labels, backend=backend)
    keywords = {"ref": x, "ref_labels": labels, "backend": backend}
    with_ref = loss(x, labels, ref_offset=0, **keywords)
    torch.testing.assert_close(with_ref, plain, rtol=1e-13, atol=0)
    gradients = [torch.autograd.grad(value, x)[0] for value in (plain, with_ref)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)
    rows = slice(4, 9)
    part = loss(x[rows], labels[rows], ref_offset=4, reduction="none", **keywords)
    whole = loss(x, labels, reduction="none", backend=backend)
    torch.testing.assert_close(part, whole[rows], rtol=1e-12, atol=1e-13)


@both
@backends
def test_a_reference_set_apart(loss, module, backend):
    x, labels = batch(6)
    ref, ref_labels = batch(11, identities=7, seed=1)
    criterion = module(temperature=0.2, backend=backend, reduction="none")
    value = criterion(x, labels, ref.requires_grad_(), ref_labels)
    losses, terms = naive(loss, x, labels, 0.2, ref.detach(), ref_labels, None)
    assert value.tolist() == pytest.approx(losses, rel=1e-12)
    assert criterion.stats.valid == sum(terms)
    assert torch.autograd.gradcheck(
        lambda x, ref: loss(x, labels, ref=ref, ref_labels=ref_labels, backend=backend),
        (x.requires_grad_(), ref),
    )


@both
@backends
@pytest.mark.parametrize(("n", "labels"), [(0, []), (1, [3]), (4, [7, 7, 7, 7]), (4, [1, 2, 3, 4])])
def test_batches_that_teach_nothing(loss, module, backend, n, labels):
    x = batch(n)[0].requires_grad_()
    criterion = module(backend=backend)
    with pytest.warns(UserWarning, match="no anchor of this batch has both"):
        value = criterion(x, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and x.grad.shape == x.shape and (x.grad == 0).all()
    assert criterion.stats.valid == 0 and criterion.stats.trivial.isnan()


@both
@backends
def test_singletons_are_left_out_of_the_mean_but_serve_as_negatives(loss, module, backend):
    x, _ = batch(6)
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    criterion = module(backend=backend)
    losses, terms = naive(loss, x, labels, 0.1)
    assert terms == [1, 1, 1, 1, 0, 0]
    assert criterion(x, labels).item() == pytest.approx(sum(losses) / 4, rel=1e-12)
    assert criterion.stats.valid == 4


@both
@backends
def test_collapse_costs_the_trivial_loss(loss, module, backend):
    criterion = module(backend=backend)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    value = criterion(torch.ones(6, 3), labels)
    assert value.item() == pytest.approx(criterion.stats.trivial.item(), rel=1e-6)
    expected = math.log(5) if loss is sup_con_loss else (6 * math.log(4) + 2 * math.log(5)) / 8
    assert value.item() == pytest.approx(expected, rel=1e-6)


@both
def test_batch_stats(loss, module):
    x, labels = batch(20, identities=6)
    criterion = module()
    criterion(x, labels)
    unit = F.normalize(x)
    distance, same = 1 - unit @ unit.T, labels[:, None] == labels
    positive = same & ~torch.eye(20, dtype=torch.bool)
    assert criterion.stats.positive_distance.item() == pytest.approx(distance[positive].mean())
    anchors = positive.any(1)
    negative = distance[anchors][~same[anchors]].mean()
    assert criterion.stats.negative_distance.item() == pytest.approx(negative.item())
    assert criterion.stats.active == 1


@both
@backends
def test_duplicates_zero_rows_and_any_scale(loss, module, backend):
    x, labels = batch(12, dtype=torch.float32)
    expected = loss(x, labels, backend=backend)
    for factor in (1e20, 1e-20):
        torch.testing.assert_close(loss(x * factor, labels, backend=backend), expected)
    x[1], x[2], x[3] = x[0], x[0], 0
    x.requires_grad_()
    loss(x, labels, temperature=0.01, backend=backend).backward()
    assert x.grad.isfinite().all() and (x.grad[3] == 0).all()


@both
@backends
def test_invariances(loss, module, backend):
    x, labels = batch(20, identities=6)
    expected = loss(x, labels, backend=backend)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(batch(4, 4)[0]).Q
    names = torch.tensor([-5, 2**40, 0, -(2**62), 7, 99])
    for other_x, other_labels in (
        (x[order], labels[order]),
        (x @ rotation, labels),
        (x, names[labels]),
        (x, labels.int()),
    ):
        value = loss(other_x, other_labels, backend=backend)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


@both
def test_pair_labels_are_noticed(loss, module):
    x = batch(20)[0]
    with pytest.warns(UserWarning, match="labels are all 0 or 1: they must be identities"):
        loss(x, torch.arange(20) % 2)
    loss(x[:16], torch.arange(16) % 2)  # eight of each: could be two identities


@both
def test_streaming_compiles_in_one_graph(loss, module):
    x, labels = batch(40, identities=9, dtype=torch.float32)
    memory, memory_labels = batch(50, identities=9, seed=1, dtype=torch.float32)

    def step(x):
        plain = loss(x, labels, backend="streaming")
        return plain + loss(x, labels, ref=memory, ref_labels=memory_labels, backend="streaming")

    values = []
    for f in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        x = x.detach().requires_grad_()
        value = f(x)
        values.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(3, 1).long()}, ValueError, r"labels must .* got \(3, 1\)"),
        ({"labels": torch.zeros(2).long()}, ValueError, r"labels must .* got \(2,\)"),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be integers"),
        ({"embeddings": torch.zeros(3)}, ValueError, r"embeddings must have shape \(n, d\)"),
        ({"embeddings": torch.zeros(3, 2).int()}, TypeError, "embeddings must be floating"),
        ({"temperature": -0.1}, ValueError, "temperature must be positive"),
        ({"reduction": "mean_active"}, ValueError, "reduction must be one of"),
        (
            {"embeddings": torch.full((3, 2), torch.nan), "validate": True},
            ValueError,
            "embeddings must",
        ),
        ({"backend": "dense"}, ValueError, "backend must be one of"),
        ({"ref_offset": 0}, ValueError, "ref_offset must be None without ref"),
        ({"ref_labels": torch.zeros(3)}, ValueError, "ref_labels must be None without ref"),
        ({"ref": torch.zeros(5, 2)}, ValueError, "ref_labels must be given with ref"),
        (
            {"ref": torch.zeros(5, 3), "ref_labels": torch.zeros(5).long()},
            ValueError,
            "ref must have the width of embeddings, 2, got 3",
        ),
        (
            {"ref": torch.zeros(5, 2), "ref_labels": torch.zeros(4).long()},
            ValueError,
            r"ref_labels must .* got \(4,\)",
        ),
        (
            {"ref": torch.zeros(5, 2), "ref_labels": torch.zeros(5).long(), "ref_offset": 3},
            ValueError,
            r"ref_offset must lie in \[0, 2\].* got 3",
        ),
    ],
)
@both
def test_batch_losses_refuse(loss, module, change, error, message):
    arguments = {"embeddings": torch.zeros(3, 2), "labels": torch.zeros(3).long()} | change
    with pytest.raises(error, match=message):
        loss(**arguments)
