"""Dense losses on Triton's kernels, in Triton's interpreter, against their definition."""

import pytest
import torch

import siameselib as sl
from siameselib.functional import (
    batch_all_triplet_loss,
    batch_bce_pair_loss,
    batch_contrastive_loss,
    circle_loss,
    multi_similarity_loss,
    nt_xent_loss,
    sup_con_loss,
)
from siameselib.kernels import logsumexp_triton, pair_sum_triton

LOSSES = {
    "SupCon": sup_con_loss,
    "SupCon, cold": lambda *a, **k: sup_con_loss(*a, temperature=0.02, **k),
    "NT-Xent": nt_xent_loss,
    "multi-similarity": multi_similarity_loss,
    "multi-similarity, all": lambda *a, **k: multi_similarity_loss(*a, epsilon=None, **k),
    "circle": lambda *a, **k: circle_loss(*a, gamma=32.0, **k),
    "contrastive": lambda *a, **k: batch_contrastive_loss(*a, margin=9.0, **k),
    "contrastive, linear": lambda *a, **k: batch_contrastive_loss(
        *a, margin=9.0, positive_margin=4.0, squared=False, balanced=False, **k
    ),
    "contrastive, squares": lambda *a, **k: batch_contrastive_loss(
        *a, margin=50.0, metric="sqeuclidean", **k
    ),
    "contrastive, cosine": lambda *a, **k: batch_contrastive_loss(*a, metric="cosine", **k),
    "batch-all": lambda *a, **k: batch_all_triplet_loss(*a, margin=3.0, **k),
    "batch-all, window": lambda *a, **k: batch_all_triplet_loss(
        *a, margin=2.0, window="semi-hard", **k
    ),
    "batch-all, soft": lambda *a, **k: batch_all_triplet_loss(*a, soft=True, **k),
    "batch-all, squares": lambda *a, **k: batch_all_triplet_loss(
        *a, margin=5.0, metric="sqeuclidean", **k
    ),
    "batch-all, cosine": lambda *a, **k: batch_all_triplet_loss(*a, metric="cosine", **k),
    "BCE": lambda *a, **k: batch_bce_pair_loss(*a, torch.tensor(1.0), torch.tensor(-1.0), **k),
}
SOME = [name for name in LOSSES if "," not in name]
# how far gradients may be from those in float64, as a share of their length
EXACT = 1e-5


def clustered(n, d, classes):
    labels = torch.randint(0, classes, (n,))
    return torch.randn(classes, d)[labels] + torch.randn(n, d), labels


def gradients(loss, tensors, *args, **keywords):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(inputs[0], *args, *inputs[1:], **keywords)
    value.sum().backward()
    return value.detach(), [each.grad for each in inputs]


def compare(loss, tensors, labels, backend="triton", close=EXACT, **keywords):
    wide = [tensor.double() for tensor in tensors]
    expected, exact = gradients(loss, wide, labels, backend="reference", **keywords)
    found, given = gradients(loss, tensors, labels, backend=backend, **keywords)
    assert (found - expected).abs().max() <= close * (1 + expected.abs().max())
    for one, other in zip(given, exact, strict=True):
        assert (one - other).norm() <= close * other.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_ragged(name):
    x, labels = clustered(131, 20, 24)
    compare(LOSSES[name], [x], labels)


def test_wide_vectors_and_cut_columns(monkeypatch):
    monkeypatch.setattr(logsumexp_triton, "processors", lambda device: 8)
    x, labels = clustered(140, 140, 30)
    compare(sup_con_loss, [x], labels)


@pytest.mark.parametrize("name", SOME)
def test_reduction_none_and_larger_set(name):
    x, labels = clustered(40, 12, 9)
    ref = torch.cat([torch.randn(150, 12), x, torch.randn(5, 12)])
    ref_labels = torch.cat([torch.randint(0, 30, (150,)), labels, torch.arange(5)])

    def loss(embeddings, labels, ref, **keywords):
        losses = LOSSES[name](
            embeddings,
            labels,
            reduction="none",
            ref=ref,
            ref_labels=ref_labels,
            ref_offset=150,
            **keywords,
        )
        return losses * torch.arange(len(losses))

    compare(loss, [x, ref], labels)


@pytest.mark.parametrize("name", SOME)
def test_duplicates_and_zero_rows(name):
    x, labels = clustered(40, 12, 9)
    x[25:] = x[:15]
    x[::17] = 0
    compare(LOSSES[name], [x], labels)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("labels", [torch.zeros(12).long(), torch.arange(12)])
def test_no_anchor_is_valid(name, labels):
    x = torch.randn(12, 8, requires_grad=True)
    with pytest.warns(match="teaches nothing"):
        loss = LOSSES[name](x, labels, backend="triton")
    loss.backward()
    assert loss == 0 and not x.grad.any()


def test_close_pairs_are_taken_by_difference(monkeypatch):
    x, labels = clustered(200, 12, 100)
    x[100:] = x[:100] + 0.01 * torch.randn(100, 12)
    loss = LOSSES["contrastive"]
    compare(loss, [x], labels, close=1e-6)
    seen = []
    launch = pair_sum_triton.pairs_triton.near.run

    def look(*args, **keywords):
        seen.append(int(args[11].sum()))  # tiles on the lists
        return launch(*args, **keywords)

    monkeypatch.setattr(pair_sum_triton.pairs_triton.near, "run", look)
    loss(x, labels, backend="triton")
    assert seen[-1] > 0


def test_learnt_numbers_and_counts():
    x, labels = clustered(150, 12, 30)
    found = {}
    for backend in ("reference", "triton"):
        criterion = sl.BatchBCEPairLoss(backend=backend)
        loss = criterion(x.double() if backend == "reference" else x, labels)
        loss.backward()
        parameters = (criterion.log_scale.grad, criterion.bias.grad)
        found[backend] = [float(each.detach()) for each in (loss, *parameters, *criterion.stats)]
    assert found["triton"] == pytest.approx(found["reference"], rel=1e-5)


def test_a_term_of_ones_own_is_refused():
    x, labels = clustered(9, 3, 3)
    with pytest.raises(ValueError, match="no kernel for such a term"):
        sl.functional.pair_loss(x, labels, torch.mul, torch.div, parameters=[2.0], backend="triton")


def test_info_nce():
    x, labels = clustered(40, 12, 20)
    y = x + torch.randn(40, 12)
    expected, exact = gradients(
        lambda a, b: sl.functional.info_nce_loss(a, b, labels), [x.double(), y.double()]
    )
    with sl.use_backend("triton"):
        found, given = gradients(lambda a, b: sl.functional.info_nce_loss(a, b, labels), [x, y])
    assert abs(found - expected) < 1e-5
    for one, other in zip(given, exact, strict=True):
        assert (one - other).norm() <= EXACT * other.norm()


def test_memory_that_nobody_wrote_is_not_read():
    x, labels = clustered(40, 20, 9)
    before = gradients(sup_con_loss, [x], labels, backend="triton")
    torch.use_deterministic_algorithms(True)  # new memory is NaN
    try:
        after = gradients(sup_con_loss, [x], labels, backend="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert before[0] == after[0] and (before[1][0] == after[1][0]).all()


def test_fast_is_less_exact_and_good_enough():
    x, labels = clustered(140, 64, 24)
    wide = gradients(sup_con_loss, [x.double()], labels, backend="reference")[1][0]
    far = {}
    for precision in ("exact", "tf32", "fast"):
        with sl.use_backend("triton", precision=precision):
            found = gradients(sup_con_loss, [x], labels)[1][0]
        far[precision] = (found - wide).norm() / wide.norm()
    assert far["exact"] < EXACT < far["fast"] < 5e-3


@pytest.mark.parametrize("name", SOME)
def test_the_precision_of_forward_holds_in_backward(name):
    x, labels = clustered(140, 20, 24)
    found = {}
    for pair in (("exact", "exact"), ("exact", "fast"), ("fast", "fast")):
        inputs = x.clone().requires_grad_()
        with sl.use_backend("triton", precision=pair[0]):
            losses = LOSSES[name](inputs, labels, reduction="none")
        with sl.use_backend("triton", precision=pair[1]):
            losses.sum().backward()
        found[pair] = inputs.grad
    assert torch.equal(found["exact", "fast"], found["exact", "exact"])
    assert not torch.equal(found["exact", "fast"], found["fast", "fast"])
