"""SeparableC and InceptionResnetV1 against the tables that they are built from."""

import pytest
import torch
from torch import nn

import siameselib as sl
from siameselib.backbones import InceptionResnetV1, SeparableC

# layers of SeparableC with their parameters, as Keras' summary prints them for 224×224 images
SEPARABLE = [331, 4_736, 128, 17_216, 512, 133_888, 267_264, 267_264, 1_024, 25_691_136]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def separable():
    with torch.device("meta"):
        return SeparableC()


@pytest.fixture(scope="module")
def inception():
    torch.manual_seed(0)
    return InceptionResnetV1().eval()


def test_separable_layer_by_layer(separable):
    found, depthwise = [], 0
    for layer in separable.layers:
        count = parameters(layer)
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels:
            assert layer.bias is None and layer.kernel_size != (1, 1)
            depthwise = count
        elif count:
            found.append(count + depthwise)
            depthwise = 0
    assert found == SEPARABLE
    assert parameters(separable) == 26_383_499
    norms = [m for m in separable.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(m.running_mean.numel() + m.running_var.numel() for m in norms) == 1_664
    assert separable(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1024)


def test_separable_flattens_25088(separable):
    flat = next(k for k, m in enumerate(separable.layers) if isinstance(m, nn.Flatten))
    images = torch.empty(1, 3, 224, 224, device="meta")
    assert separable.layers[: flat + 1](images).shape == (1, 25_088)


def test_separable_learns():
    torch.manual_seed(0)
    net, images = SeparableC(image_size=32), torch.randn(4, 3, 32, 32)
    net(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (net(images) >= 0).all()


def test_wrong_sizes():
    with pytest.raises(
        ValueError, match="SeparableC: image_size must be a positive multiple of 32"
    ):
        SeparableC(image_size=48)
    with pytest.raises(ValueError, match=r"SeparableC: images must have shape \(n, 3, 32, 32\)"):
        SeparableC(image_size=32)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("stage", "count", "shape"),
    [
        ("conv2d_4b", 192 * 256 * 9 + 512, (256, 17, 17)),
        ("repeat_1", None, (256, 17, 17)),
        ("mixed_6a", None, (896, 8, 8)),
        ("repeat_2", None, (896, 8, 8)),
        ("mixed_7a", None, (1792, 3, 3)),
        ("block8", None, (1792, 3, 3)),
        ("last_linear", 917_504, (512,)),
        ("last_bn", 1_024, (512,)),
    ],
)
def test_inception_stage_by_stage(inception, stage, count, shape):
    seen = []
    module = getattr(inception, stage)
    with module.register_forward_hook(lambda m, i, o: seen.append(o.shape)), torch.no_grad():
        found = inception(torch.randn(2, 3, 160, 160))
    assert seen == [(2, *shape)]
    assert count is None or parameters(module) == count
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def published():
    """The names and shapes that facenet-pytorch's files have."""

    def conv(name, out, wide, high=1, across=1):
        yield f"{name}.conv.weight", (out, wide, high, across)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.bn.{part}", (out,)

    def block(name, channels, branches, width):
        for k, convolutions in enumerate(branches):
            wide = channels
            for i, (out, *size) in enumerate(convolutions):
                inner = f".{i}" if len(convolutions) > 1 else ""
                yield from conv(f"{name}.branch{k}{inner}", out, wide, *size)
                wide = out
        if width:
            yield f"{name}.conv2d.weight", (channels, width, 1, 1)
            yield f"{name}.conv2d.bias", (channels,)

    yield from conv("conv2d_1a", 32, 3, 3, 3)
    yield from conv("conv2d_2a", 32, 32, 3, 3)
    yield from conv("conv2d_2b", 64, 32, 3, 3)
    yield from conv("conv2d_3b", 80, 64)
    yield from conv("conv2d_4a", 192, 80, 3, 3)
    yield from conv("conv2d_4b", 256, 192, 3, 3)
    for k in range(5):
        of_35 = [[(32,)], [(32,), (32, 3, 3)], [(32,), (32, 3, 3), (32, 3, 3)]]
        yield from block(f"repeat_1.{k}", 256, of_35, 96)
    to_17 = [[(384, 3, 3)], [(192,), (192, 3, 3), (256, 3, 3)]]
    yield from block("mixed_6a", 256, to_17, 0)
    for k in range(10):
        yield from block(f"repeat_2.{k}", 896, [[(128,)], [(128,), (128, 1, 7), (128, 7, 1)]], 256)
    to_8 = [
        [(256,), (384, 3, 3)],
        [(256,), (256, 3, 3)],
        [(256,), (256, 3, 3), (256, 3, 3)],
    ]
    yield from block("mixed_7a", 896, to_8, 0)
    for name in (*(f"repeat_3.{k}" for k in range(5)), "block8"):
        yield from block(name, 1792, [[(192,)], [(192,), (192, 1, 3), (192, 3, 1)]], 384)
    yield "last_linear.weight", (512, 1792)
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"last_bn.{part}", (512,)


def test_inception_loads_the_published_names(inception, tmp_path):
    g = torch.Generator().manual_seed(3)
    state = {name: torch.rand(shape, generator=g) for name, shape in published()}
    logits = {"logits.weight": torch.zeros(10_575, 512), "logits.bias": torch.zeros(10_575)}
    torch.save(state | logits, tmp_path / "weights.pt")
    net = InceptionResnetV1.load(tmp_path / "weights.pt")
    loaded = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert sum(p.numel() for p in net.parameters()) == 23_482_624


def test_inception_refuses_other_files(tmp_path):
    torch.save({"last_linear.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"must hold the 714 tensors .* differs in conv2d_1a"):
        InceptionResnetV1.load(tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a state dict, got list"):
        InceptionResnetV1.load(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt is no state dict"):
        InceptionResnetV1.load(tmp_path / "text.pt")


def test_inception_refuses_small_images(inception):
    with pytest.raises(ValueError, match=r"InceptionResnetV1: images must be at least 75×75"):
        inception(torch.zeros(2, 3, 64, 64))


def test_a_frozen_trunk_stays_as_it_is(inception):
    net = InceptionResnetV1()
    sl.freeze(net)
    sl.unfreeze(net.last_linear)
    sl.unfreeze(net.last_bn)
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert free == {"last_linear.weight", "last_bn.weight", "last_bn.bias"}
    before = {k: v.clone() for k, v in net.state_dict().items() if not k.startswith("last_bn")}
    net.train()
    x = torch.randn(2, 3, 80, 80)
    net(x)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items() if k in before)
    assert not net.dropout.training
