"""Siamese nets: one pass, heads against float64 formulas, freezing that holds."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import clip_grad_norm_

from siameselib import (
    C19,
    ConcatHead,
    DistanceHead,
    InteractionHead,
    SiameseNetwork,
    freeze,
    unfreeze,
)

D = 6
HEADS = {
    "concat": lambda: ConcatHead(D),
    "interaction": lambda: InteractionHead(D),
    "euclidean": lambda: DistanceHead("euclidean"),
    "manhattan": lambda: DistanceHead("manhattan"),
    "cosine": lambda: DistanceHead("cosine"),
    "l1_normalized": lambda: DistanceHead("l1_normalized"),
}
STANDARDISING = [name for name in HEADS if name != "concat"]
every_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pair(n=5, d=D, scale=1.0, dtype=torch.float32):
    return scale * torch.randn(n, d, dtype=dtype), scale * torch.randn(n, d, dtype=dtype)


def features(name, a, b):
    """What the head judges, one pair at a time in plain Python floats."""
    match name:
        case "concat":
            return [*a, *b]
        case "interaction":
            return [abs(x - y) for x, y in zip(a, b, strict=True)] + [
                x * y for x, y in zip(a, b, strict=True)
            ]
        case "euclidean":
            return [math.dist(a, b)]
        case "manhattan":
            return [sum(abs(x - y) for x, y in zip(a, b, strict=True))]
        case "cosine":
            return [
                1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            ]
        case "l1_normalized":
            na, nb = sum(map(abs, a)), sum(map(abs, b))
            return [sum(abs(x / na - y / nb) for x, y in zip(a, b, strict=True))]


# --- the network ------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.net(x)


def test_both_images_share_one_pass():
    backbone = Counting()
    net = SiameseNetwork(backbone, DistanceHead())
    x1, x2 = pair()
    logits = net(x1, 100 + x2)
    assert backbone.batches == [10]
    assert logits.shape == (5,)
    # the two sides differ by 100 and BatchNorm saw them together, so it kept them apart
    f = backbone(torch.cat([x1, 100 + x2]))
    assert (f[:5] - f[5:]).norm(dim=1).min() > 1
    torch.testing.assert_close(net.embed(x1), backbone(x1))


def test_the_default_head_is_interaction():
    with torch.device("meta"):
        net = SiameseNetwork(C19(image_size=8))
    assert isinstance(net.head, InteractionHead)
    assert net.head.embedding_dim == 1024
    with pytest.raises(
        ValueError, match=r"head must be given .* without embedding_dim, got Linear"
    ):
        SiameseNetwork(nn.Linear(3, 3))


def test_network_refuses_what_does_not_match():
    net = SiameseNetwork(nn.Identity(), DistanceHead())
    with pytest.raises(ValueError, match=r"x2 must have the shape of x1, \(5, 6\), got \(4, 6\)"):
        net(pair()[0], pair(4)[0])
    with pytest.raises(ValueError, match=r"backbone must return embeddings of shape \(4, d\)"):
        net(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(TypeError, match="x1 must be"):
        net([1.0], torch.zeros(1, 1))


def test_channels_last_survives_the_joint_pass():
    seen = []
    backbone = nn.Sequential(nn.Identity(), nn.Flatten())
    backbone[0].register_forward_hook(lambda m, x, y: seen.append(x[0]))
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    SiameseNetwork(backbone, DistanceHead())(x, x)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


# --- the heads --------------------------------------------------------------------------------


@every_head
@pytest.mark.parametrize("training", [True, False])
def test_heads_against_float64_formulas(name, training):
    head = HEADS[name]().double().train(training)
    if name in STANDARDISING:
        head.standardise.running_mean.uniform_(-1, 1)
        head.standardise.running_var.uniform_(0.5, 2)
        mean, var = head.standardise.running_mean.numpy(), head.standardise.running_var.numpy()
    f1, f2 = pair(dtype=torch.float64)
    z = np.array([features(name, a, b) for a, b in zip(f1.tolist(), f2.tolist(), strict=True)])
    if name in STANDARDISING:
        if training:
            mean, var = z.mean(0), z.var(0)
        z = (z - mean) / np.sqrt(var)
    if hasattr(head, "linear"):
        expected = z @ head.linear.weight.detach().numpy()[0] + head.linear.bias.item()
    else:
        expected = -z[:, 0]
    logits = head(f1, f2)
    assert logits.shape == (5,)
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-7, atol=1e-7)


@every_head
def test_head_gradients(name):
    head = HEADS[name]().double()
    f1, f2 = (f.requires_grad_() for f in pair(dtype=torch.float64))
    assert torch.autograd.gradcheck(head, (f1, f2))


@pytest.mark.parametrize("name", STANDARDISING)
def test_symmetric(name):
    head = HEADS[name]()
    f1, f2 = pair()
    for _ in range(3):
        head(*pair())
    head.eval()
    assert torch.equal(head(f1, f2), head(f2, f1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_concat_is_additive_and_cannot_say_same(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 1, D, generator=generator, dtype=torch.float64)
    head = ConcatHead(D).double()
    torch.testing.assert_close(head(a, a) + head(b, b), head(a, b) + head(b, a))


@pytest.mark.parametrize("name", STANDARDISING)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_logits_start_with_a_spread_whatever_the_scale(name, scale):
    torch.manual_seed(1)
    head = HEADS[name]()
    logits = head(*pair(n=256, scale=scale))
    expected = 0.1 if name == "interaction" else 1.0
    assert 0.5 * expected < logits.std() < 2 * expected
    assert logits.mean().abs() < 1e-3


@pytest.mark.parametrize("name", STANDARDISING)
def test_heads_start_as_a_similarity(name):
    person, other = pair(n=100)
    seen = person + 0.3 * torch.randn(100, D)
    logits = HEADS[name]()(torch.cat([person, person]), torch.cat([seen, other]))
    right = (logits[:100, None] > logits[None, 100:]).float().mean()
    assert right > 0.9


def test_products_of_wide_unit_vectors_do_not_starve():
    f1, f2 = (nn.functional.normalize(f) for f in pair(n=64, d=1024))
    head = InteractionHead(1024)
    standardised = []
    head.standardise.register_forward_hook(lambda m, x, y: standardised.append(y))
    head(f1, f2)
    torch.testing.assert_close(standardised[0].std(0), torch.ones(2048), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", ["interaction", "euclidean", "cosine", "l1_normalized"])
def test_training_separates_same_from_different(name):
    n, d = 400, D
    person = torch.randn(n, d)
    same = torch.arange(n) % 2
    other = torch.where(same[:, None].bool(), person, torch.randn(n, d))
    f1, f2 = person + 0.2 * torch.randn(n, d), other + 0.2 * torch.randn(n, d)
    head = HEADS[name]()
    optimiser = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(head(f1, f2), same.float())
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
    head.eval()
    assert ((head(f1, f2) > 0).long() == same).float().mean() > 0.93


@every_head
def test_single_pair(name):
    head = HEADS[name]()
    f1, f2 = pair(1)
    if name in STANDARDISING:
        with pytest.raises(ValueError, match=r"f1 must hold at least 2 pairs .*training.*got 1"):
            head(f1, f2)
    assert head.eval()(f1, f2).shape == (1,)
    assert head(f1[:0], f2[:0]).shape == (0,)


@every_head
def test_degenerate_embeddings_stay_finite(name):
    rows = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-20, 1e15])[:, None] * torch.ones(6, D)
    f1, f2 = rows.clone().requires_grad_(), rows.flip(0).clone().requires_grad_()
    for a, b in [(f1, f2), (f1, f1), (f1 * 0, f2 * 0)]:
        logits = HEADS[name]()(a, b)
        logits.sum().backward()
        for value in (logits, f1.grad, f2.grad):
            assert value is None or torch.isfinite(value).all()


@pytest.mark.parametrize("name", ["concat", "interaction"])
def test_heads_refuse_the_wrong_width(name):
    with pytest.raises(ValueError, match=r"f1 must have shape \(B, 6\), got \(5, 7\)"):
        HEADS[name]()(*pair(d=7))


@every_head
def test_heads_refuse_what_would_broadcast(name):
    head = HEADS[name]()
    f1, f2 = pair()
    with pytest.raises(ValueError, match="f2 must have the shape of f1"):
        head(f1, f2[:1])
    with pytest.raises(ValueError, match=r"f1 must have shape \(n, d\)"):
        head(f1[0], f2[0])
    with pytest.raises(TypeError, match="f1 must be floating point"):
        head(f1.long(), f2.long())


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"metric must be one of 'euclidean', .*'l1_normalized'"):
        DistanceHead("chebyshev")
    for head in (ConcatHead, InteractionHead):
        with pytest.raises(ValueError, match="embedding_dim must be at least 1"):
            head(0)
    assert "cosine" in repr(DistanceHead("cosine"))


@every_head
def test_autocast_and_half_embeddings(name):
    head = HEADS[name]().eval()
    f1, f2 = pair()
    exact = head(f1, f2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(f1, f2), exact)
        logits = head(f1.bfloat16(), f2.bfloat16())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


@every_head
@pytest.mark.parametrize("training", [True, False])
def test_heads_compile_without_a_break(name, training):
    torch.compiler.reset()
    head = HEADS[name]().train(training)
    compiled = torch.compile(copy.deepcopy(head), fullgraph=True, backend="aot_eager")
    f1, f2 = pair()
    torch.testing.assert_close(compiled(f1, f2), head(f1, f2))


@every_head
def test_heads_pickle_and_reload(name):
    head = HEADS[name]()
    head(*pair())
    head.eval()
    f1, f2 = pair()
    again = HEADS[name]().eval()
    again.load_state_dict(head.state_dict())
    for other in (again, pickle.loads(pickle.dumps(head)), copy.deepcopy(head)):
        assert torch.equal(other(f1, f2), head(f1, f2))


# --- freeze -----------------------------------------------------------------------------------


def backbone():
    return nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.Dropout(0.5), nn.Linear(D, D))


def through_torch_save(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def assert_frozen(module):
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(part.training for part in module.modules())


class Wrapper(nn.Module):
    """What a data-parallel wrapper looks like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *x):
        return self.module(*x)


def test_training_the_parent_does_not_move_a_frozen_backbone():
    net = SiameseNetwork(freeze(backbone()), DistanceHead())
    before = copy.deepcopy(net.backbone.state_dict())
    for _ in range(3):
        net.train()
        logits = net(*pair())
        logits.sum().backward()
    assert_frozen(net.backbone)
    assert net.training and net.head.training
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    x = pair()[0]
    assert torch.equal(net.embed(x), net.embed(x))  # no dropout
    assert net.head.standardise.num_batches_tracked == 3


def test_requires_grad_alone_would_not_do():
    net = nn.Sequential(backbone().requires_grad_(False)).train()
    net(pair()[0])
    assert net[0][1].running_mean.abs().sum() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, through_torch_save], ids=["deepcopy", "pickle"])
def test_a_frozen_copy_is_frozen_and_its_own(copied):
    original = Wrapper(freeze(backbone()))
    twin = copied(original)
    twin.train()
    assert_frozen(twin.module)
    unfreeze(twin.module)
    twin.train()
    assert all(part.training for part in twin.modules())
    assert_frozen(original.train().module)


def test_state_dict_is_as_ever():
    plain, frozen = backbone(), freeze(backbone())
    assert list(plain.state_dict()) == list(frozen.state_dict())
    frozen.load_state_dict(plain.state_dict())
    assert_frozen(frozen.train())
    plain.load_state_dict(frozen.state_dict())
    assert plain.train()[1].training


def test_freeze_and_unfreeze_return_their_module_and_train_and_eval_still_chain():
    net = backbone()
    assert freeze(net) is net
    assert net.train() is net
    assert net.eval() is net
    assert net[0].train() is net[0]
    assert_frozen(net)
    assert unfreeze(net) is net


def test_unfreeze_restores_what_was():
    net = backbone()
    net[0].weight.requires_grad_(False)
    freeze(freeze(net))
    unfreeze(net)
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(part.training for part in net.modules())
    assert not any(part.training for part in net.eval().modules())
    assert "train" not in vars(net)
    unfreeze(net)
    assert not net.training


def test_unfreeze_obeys_the_mode_last_asked_for():
    net = Wrapper(freeze(backbone()))
    assert not any(part.training for part in unfreeze(net.eval()).modules())
    freeze(net.module)
    assert all(part.training for part in unfreeze(net.train()).modules())


def test_parts_of_a_frozen_net_may_train():
    net = freeze(backbone())
    unfreeze(net[3])
    net.train()
    assert [part.training for part in net] == [False, False, False, True]
    assert [p.requires_grad for p in net.parameters()] == [False] * 4 + [True] * 2
    assert not net.eval()[3].training
    freeze(net)
    assert_frozen(net.train())
    unfreeze(net)
    assert all(p.requires_grad for p in net.parameters())


def test_shared_parameters_come_back():
    net = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    net[1].weight = net[0].weight
    unfreeze(freeze(net))
    assert all(p.requires_grad for p in net.parameters())


def test_frozen_inside_a_compiled_net():
    torch.compiler.reset()
    net = SiameseNetwork(freeze(backbone()), DistanceHead())
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    before = copy.deepcopy(net.backbone.state_dict())
    x1, x2 = pair()
    compiled.train()
    ours = compiled(x1, x2)
    assert_frozen(net.backbone)
    torch.testing.assert_close(ours, net(x1, x2))
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_freezing_a_compiled_backbone():
    torch.compiler.reset()
    compiled = torch.compile(backbone(), fullgraph=True, backend="aot_eager")
    freeze(compiled)
    x = pair()[0]
    outer = Wrapper(compiled).train()
    assert torch.equal(outer(x), outer(x))
    assert_frozen(compiled)
    unfreeze(compiled)
    assert outer.train().module._orig_mod[1].training
    assert not torch.equal(outer(x), outer(x))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_frozen_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        net = SiameseNetwork(freeze(backbone()), InteractionHead(D))
        wrapped = nn.parallel.DistributedDataParallel(net)
        before = copy.deepcopy(net.backbone.state_dict())
        wrapped.train()
        wrapped(*pair()).square().sum().backward()
        assert_frozen(net.backbone)
        assert net.head.linear.weight.grad.abs().sum() > 0
        for name, value in net.backbone.state_dict().items():
            assert torch.equal(value, before[name])
    finally:
        torch.distributed.destroy_process_group()


def test_freeze_refuses_tensors():
    for function in (freeze, unfreeze):
        with pytest.raises(TypeError, match=rf"{function.__name__}: module must be an nn.Module"):
            function(torch.zeros(1))
