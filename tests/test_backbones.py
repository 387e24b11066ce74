"""C19 against the layer table it is built from: shapes, parameters, layouts, refusals."""

import copy
import pickle

import pytest
import torch
from torch import nn

from siameselib import C19

# layer, class, output for one 128×128 image, parameters (kernel² · in · out + out; 2 a channel)
TABLE = [
    (1, nn.Conv2d, (64, 128, 128), 5 * 5 * 3 * 64 + 64),
    (2, nn.ReLU, (64, 128, 128), 0),
    (3, nn.BatchNorm2d, (64, 128, 128), 2 * 64),
    (4, nn.MaxPool2d, (64, 64, 64), 0),
    (5, nn.Conv2d, (128, 64, 64), 5 * 5 * 64 * 128 + 128),
    (6, nn.ReLU, (128, 64, 64), 0),
    (7, nn.BatchNorm2d, (128, 64, 64), 2 * 128),
    (8, nn.MaxPool2d, (128, 32, 32), 0),
    (9, nn.Conv2d, (256, 32, 32), 3 * 3 * 128 * 256 + 256),
    (10, nn.ReLU, (256, 32, 32), 0),
    (11, nn.BatchNorm2d, (256, 32, 32), 2 * 256),
    (12, nn.MaxPool2d, (256, 16, 16), 0),
    (13, nn.Conv2d, (512, 16, 16), 3 * 3 * 256 * 512 + 512),
    (14, nn.ReLU, (512, 16, 16), 0),
    (15, nn.BatchNorm2d, (512, 16, 16), 2 * 512),
    (16, nn.Flatten, (131_072,), 0),
    (17, nn.Linear, (1024,), 131_072 * 1024 + 1024),
    (18, nn.ReLU, (1024,), 0),
    (19, nn.BatchNorm1d, (1024,), 2 * 1024),
]


@pytest.fixture(scope="module")
def reference():
    with torch.device("meta"):
        return C19()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return C19(image_size=8).eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("layer", "kind", "shape", "count"), TABLE)
def test_each_of_the_nineteen_layers(reference, layer, kind, shape, count):
    module = reference.layers[layer - 1]
    assert type(module) is kind
    assert parameters(module) == count
    images = torch.empty(2, 3, 128, 128, device="meta")
    assert reference.layers[:layer](images).shape == (2, *shape)


def test_whole_net(reference):
    assert len(reference.layers) == 19
    assert parameters(reference) == 135_907_840 == sum(count for *_, count in TABLE)
    assert reference.embedding_dim == 1024
    assert reference(torch.empty(2, 3, 128, 128, device="meta")).shape == (2, 1024)


@pytest.mark.parametrize("layer", [2, 6, 10, 14, 18])
def test_relu_is_in_place(reference, layer):
    assert reference.layers[layer - 1].inplace


@pytest.mark.parametrize("image_size", [8, 24, 64, 200])
def test_other_image_sizes_change_only_layer_17(reference, image_size):
    with torch.device("meta"):
        net = C19(image_size=image_size)
        assert net(torch.empty(2, 3, image_size, image_size)).shape == (2, 1024)
    for k, (ours, theirs) in enumerate(zip(net.layers, reference.layers, strict=True), 1):
        if k == 17:
            assert ours.in_features == 512 * (image_size // 8) ** 2
        else:
            assert str(ours) == str(theirs)


@pytest.mark.parametrize("image_size", [0, -8, 4, 100, 127, 64.0, "64"])
def test_image_size_not_a_multiple_of_8(image_size):
    with pytest.raises(
        ValueError, match=rf"C19: image_size must .* multiple of 8, got {image_size}"
    ):
        C19(image_size=image_size)


def test_wrong_images(small):
    with pytest.raises(
        ValueError, match=r"shape \(n, 3, 8, 8\) \(for these pass image_size=16 to C19"
    ):
        small(torch.zeros(2, 3, 16, 16))
    for shape in [
        (3, 8, 8),
        (2, 1, 8, 8),
        (2, 8, 8, 3),
        (2, 3, 8, 16),
        (2, 3, 12, 12),
        (2, 3, 0, 0),
    ]:
        with pytest.raises(ValueError, match=r"shape \(n, 3, 8, 8\), got") as error:
            small(torch.zeros(shape))
        assert str(shape) in str(error.value)
    with pytest.raises(TypeError, match=r"images must be floating point, got torch\.uint8"):
        small(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="got list"):
        small([1])


def test_batch_of_one():
    net = C19(image_size=8)
    with pytest.raises(ValueError, match=r"number at least 2 in training mode.*got 1"):
        net(torch.zeros(1, 3, 8, 8))
    assert net.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 1024)
    assert net(torch.zeros(0, 3, 8, 8)).shape == (0, 1024)


def test_channels_last_gives_the_same(small):
    images = torch.randn(2, 3, 8, 8)
    net = copy.deepcopy(small).to(memory_format=torch.channels_last)
    ours = net(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(ours, small(images), rtol=1e-4, atol=1e-5)


def test_bf16_autocast_trains():
    torch.manual_seed(0)
    net, images = C19(image_size=8), torch.randn(8, 3, 8, 8)
    exact = net(images)
    with torch.autocast("cpu", torch.bfloat16):
        ours = net(images)
    assert torch.nn.functional.cosine_similarity(ours.float(), exact).min() > 0.99
    ours.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_compiles_without_a_break(small):
    images = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), small(images))


def test_pickle_and_state_dict(small):
    images = torch.randn(2, 3, 8, 8)
    again = C19(image_size=8).eval()
    again.load_state_dict(small.state_dict())
    for net in (again, pickle.loads(pickle.dumps(small))):
        assert torch.equal(net(images), small(images))
    assert "image_size=8" in repr(small)


def test_resized_keeps_what_it_computes_on_flat_maps():
    """A map that is constant over the image must give the same outputs at any size."""
    small = C19(image_size=16).eval()
    with torch.no_grad():
        small.layers[16].weight.copy_(
            (torch.randn(1024, 512, 1, 1) / 100).expand(-1, -1, 2, 2).flatten(1)
        )
    large = small.resized(40)
    assert large.image_size == 40
    assert not large.training
    flat = torch.randn(3, 512, 1, 1)
    torch.testing.assert_close(
        large.layers[15:](flat.expand(-1, -1, 5, 5)),
        small.layers[15:](flat.expand(-1, -1, 2, 2)),
        rtol=1e-4,
        atol=1e-4,
    )
    for k in (0, 4, 8, 12):
        assert torch.equal(large.layers[k].weight, small.layers[k].weight)


def test_resized_to_its_own_size_is_a_copy():
    net = C19(image_size=16)
    copy = net.resized(16)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(copy.state_dict()[name], value)
    assert copy.layers[0].weight.data_ptr() != net.layers[0].weight.data_ptr()
