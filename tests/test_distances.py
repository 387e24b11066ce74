import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import paired_distances

from siameselib.functional import mean_square_distance, paired_distance, unit_rows
from siameselib.functional.distances import mined_distance, row_distance
from siameselib.kernels import blocks

METRICS = ["euclidean", "sqeuclidean", "cosine", "manhattan"]


def rows(n=7, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return x[0].to(dtype), x[1].to(dtype)


def sklearn_distance(a, b, metric):
    a, b = a.double().numpy(), b.double().numpy()
    if metric == "sqeuclidean":
        return paired_distances(a, b, metric="euclidean") ** 2
    return paired_distances(a, b, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-7), (torch.bfloat16, 5e-7)]
)
def test_agrees_with_scikit_learn(metric, dtype, tolerance):
    a, b = rows(dtype=dtype)
    distance = paired_distance(a, b, metric)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(distance.numpy(), sklearn_distance(a, b, metric), rtol=tolerance)


@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck(metric):
    a, b = rows()
    assert torch.autograd.gradcheck(
        lambda a, b: paired_distance(a, b, metric), (a.requires_grad_(), b.requires_grad_())
    )


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_second_derivatives(metric):
    a, b = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradgradcheck(lambda a, b: paired_distance(a, b, metric), (a, b))
    row, column = torch.tensor([0, 1, 1, 4]), torch.tensor([2, 2, 0, 4])
    assert torch.autograd.gradgradcheck(
        lambda a, b: mined_distance(a, b, row, column, metric), (a, b)
    )


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("alone", [False, True])
def test_without_rows_each_row_is_meant_as_often_as_there_are_columns(alone, scale):
    a, b = ((scale * torch.randn(5, 3)).requires_grad_() for _ in range(2))
    b = a if alone else b
    column = torch.tensor([0, 1, 1, 4, 3, 1, 0, 4, 2, 2])
    row = torch.arange(5).repeat(2)
    pull, grads = torch.randn(10), []
    for listed in (None, row):
        distance = mined_distance(a, b, listed, column, "euclidean")
        grads.append(torch.autograd.grad(distance, (a,) if alone else (a, b), pull))
        expected = row_distance(a.double()[row], b.double()[column], "euclidean")
        torch.testing.assert_close(distance.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)
    cosine = mined_distance(a, b, None, column, "cosine")
    torch.testing.assert_close(cosine, row_distance(a[row], b[column], "cosine"))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("entries", [1, 9, 1 << 17])
def test_mined_distances_are_those_of_the_rows(entries, scale, monkeypatch):
    monkeypatch.setattr(blocks, "DIFFERENCES", entries)  # how many entries a batch of pairs has
    a, b = ((scale * torch.randn(5, 3)).requires_grad_() for _ in range(2))
    row, column = torch.tensor([0, 1, 1, 4, 3, 1, 0]), torch.tensor([2, 2, 0, 4, 4, 2, 0])
    distance = mined_distance(a, b, row, column, "euclidean")
    expected = row_distance(a.double()[row], b.double()[column], "euclidean")
    torch.testing.assert_close(distance.double(), expected, rtol=1e-6, atol=0)
    pull = torch.randn(len(row))
    found = torch.autograd.grad(distance, (a, b), pull)
    gradients = torch.autograd.grad(expected, (a, b), pull.double())
    torch.testing.assert_close(found, gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", [*METRICS, mean_square_distance])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_rows_have_distance_zero_and_gradient_zero(metric, dtype):
    a = rows(dtype=dtype)[0].requires_grad_()
    b = a.detach().clone().requires_grad_()
    distance = paired_distance(a, b, metric)
    distance.sum().backward()
    assert (distance == 0).all()
    assert (a.grad == 0).all() and (b.grad == 0).all()
    assert a.grad.dtype == dtype


def test_zero_rows_have_cosine_distance_one_and_gradient_zero():
    a = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    b = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]], requires_grad=True)
    distance = paired_distance(a, b, "cosine")
    distance.sum().backward()
    assert distance.tolist() == [1, 1, 1]
    assert (a.grad[:2] == 0).all() and (b.grad[0] == 0).all()
    torch.testing.assert_close(b.grad[1], torch.zeros(2))  # the distance to 0 is constant
    assert a.grad[2].tolist() == [0, -1]


@given(
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 1000),
    metric=st.sampled_from(["euclidean", "cosine", "manhattan"]),
)
@settings(max_examples=40, deadline=None)
def test_any_scale_is_exact_in_float32(exponent, seed, metric):
    a, b = (x.float() * 10.0**exponent for x in rows(seed=seed))
    a.requires_grad_()
    distance = paired_distance(a, b, metric)
    distance.sum().backward()
    u, v = a.detach().double().numpy(), b.double().numpy()  # scikit-learn rounds 1e-16 to 0
    expected = {
        "euclidean": np.linalg.norm(u - v, axis=1),
        "manhattan": np.abs(u - v).sum(1),
        "cosine": 1 - (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1),
    }[metric]
    np.testing.assert_allclose(distance.detach().numpy(), expected, rtol=1e-6)
    a64 = a.detach().double().requires_grad_()
    paired_distance(a64, b.double(), metric).sum().backward()
    torch.testing.assert_close(
        a.grad.double(), a64.grad, rtol=1e-4, atol=1e-5 * a64.grad.abs().max()
    )


def test_integers_are_exact():
    a, b = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert [paired_distance(a, b, m).item() for m in ("euclidean", "sqeuclidean", "manhattan")] == [
        5,
        25,
        7,
    ]
    assert mean_square_distance(a, b).item() == 12.5


def test_close_rows_keep_their_cosine_distance():
    # 1 - cos of an angle of 1e-4 is 5e-9: lost entirely by 1 - dot in float32
    angle = 1e-4
    a = torch.tensor([[1.0, 0.0]])
    b = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
    assert paired_distance(a, b, "cosine").item() == pytest.approx(5e-9, rel=1e-4)


def test_autocast_changes_nothing():
    a, b = rows(dtype=torch.float32)

    def by_matmul(a, b):
        return (a[:, None] @ b[:, :, None]).flatten()

    plain = paired_distance(a, b, by_matmul)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(paired_distance(a, b, by_matmul), plain)


def test_unit_rows():
    x = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]], requires_grad=True)
    unit = unit_rows(x)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))
    unit.sum().backward()
    assert x.grad.isfinite().all() and (x.grad[2] == 0).all()
    y = rows()[0].requires_grad_()
    assert torch.autograd.gradcheck(unit_rows, y)


def test_empty():
    a = torch.zeros(0, 3, requires_grad=True)
    for metric in METRICS:
        paired_distance(a, a, metric).sum().backward()
        assert a.grad.shape == (0, 3)


@pytest.mark.parametrize("metric", [*METRICS, mean_square_distance])
def test_compiles_in_one_graph(metric):
    a, b = rows(dtype=torch.float32)
    compiled = torch.compile(paired_distance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b, metric), paired_distance(a, b, metric))


@pytest.mark.parametrize(
    ("a", "b", "metric", "error", "message"),
    [
        (
            torch.zeros(3, 2),
            torch.zeros(3, 1),
            "cosine",
            ValueError,
            r"x2 must .*\(3, 2\), got \(3, 1\)",
        ),
        (torch.zeros(3), torch.zeros(3), "cosine", ValueError, r"x1 must have shape \(n, d\)"),
        (torch.zeros(3, 2).int(), torch.zeros(3, 2), "cosine", TypeError, "x1 must be floating"),
        (torch.zeros(3, 2), torch.zeros(3, 2), "euclid", ValueError, "metric must be one of 'eucl"),
        (
            torch.zeros(3, 2),
            [[0, 0]] * 3,
            "cosine",
            TypeError,
            "x2 must be a torch.Tensor, got list",
        ),
        (
            torch.zeros(3, 2),
            torch.zeros(3, 2),
            torch.sub,
            ValueError,
            r"metric must .*got \(3, 2\)",
        ),
    ],
)
def test_refuses(a, b, metric, error, message):
    with pytest.raises(error, match=message):
        paired_distance(a, b, metric)
