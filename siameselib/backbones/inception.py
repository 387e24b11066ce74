"""InceptionResnetV1, the net of FaceNet's public ports, with the names of its published weights."""

import os
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siameselib import _check
from siameselib.backbones._images import check_images

Size = int | tuple[int, int]


class InceptionResnetV1(nn.Module):
    r"""Inception-ResNet-v1: an image in, a unit embedding of 512 numbers out.

    .. math:: f = \frac{g}{\|g\|_2}, \qquad
              g = \mathrm{BN}(W\,\mathrm{dropout}(\mathrm{mean}_{hw}(\mathrm{trunk}(x))))

    A stem of seven convolutions, five blocks at 35×35 (for 299×299 images), ten at 17×17, six at
    8×8 with two reductions between, mean over the image, dropout, ``last_linear`` (1,792 → 512,
    917,504 parameters) and ``last_bn`` (1,024). 23,482,624 parameters. Modules have the names that
    the facenet-pytorch package gives them, so that :meth:`load` reads the weights it publishes.

    To fine-tune it on few people, hold the trunk with :func:`siameselib.siamese.freeze`, which also
    stops BatchNorm statistics and dropout, and leave ``last_linear`` and ``last_bn`` free.

    Args:
        dropout: The share of the 1,792 features that is zeroed in training.

    Shape:
        - Input: (n, 3, h, w) with h, w at least 75; 160 is usual. Values (pixel - 127.5) / 128.
        - Output: (n, 512), rows of length 1.

    Raises:
        ValueError: If the images have another shape, or are smaller than 75×75.
        TypeError: If the images are no floating-point tensor.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     net = InceptionResnetV1()
        >>> sum(p.numel() for p in net.parameters())
        23482624

    Source:
        Szegedy et al., "Inception-v4, Inception-ResNet and the impact of residual connections on
        learning", AAAI 2017, figures 10 to 14, with the embedding of Schroff et al., "FaceNet",
        CVPR 2015. Scales of the residuals 0.17, 0.10, 0.20, as in the public ports.
    """

    embedding_dim = 512

    def __init__(self, dropout: float = 0.6) -> None:
        super().__init__()
        self.conv2d_1a = _Conv(3, 32, 3, stride=2)
        self.conv2d_2a = _Conv(32, 32, 3)
        self.conv2d_2b = _Conv(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, stride=2)
        self.conv2d_3b = _Conv(64, 80, 1)
        self.conv2d_4a = _Conv(80, 192, 3)
        self.conv2d_4b = _Conv(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35() for _ in range(5)))
        self.mixed_6a = _Reduction(
            _Conv(256, 384, 3, stride=2),
            _chain(256, (192, 1), (192, 3), (256, 3), stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_block17() for _ in range(10)))
        self.mixed_7a = _Reduction(
            _chain(896, (256, 1), (384, 3), stride=2),
            _chain(896, (256, 1), (256, 3), stride=2),
            _chain(896, (256, 1), (256, 3), (256, 3), stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_block8(0.2) for _ in range(5)))
        self.block8 = _block8(1.0, rectified=False)
        self.avgpool_1a = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(1792, self.embedding_dim, bias=False)
        self.last_bn = nn.BatchNorm1d(self.embedding_dim, eps=1e-3)

    @classmethod
    def load(cls, path: str | os.PathLike[str], dropout: float = 0.6) -> "InceptionResnetV1":
        """Build the net with weights from a local file; a classifier's ``logits`` are left out.

        Args:
            path: A state dict as ``torch.save`` writes it, such as the published ones.
            dropout: As for the class.

        Returns:
            The net, in training mode.

        Raises:
            ValueError: If the file is no state dict of this net; the first names that differ are
                in the message.
        """
        path = _check.path("InceptionResnetV1.load", "path", path)
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"InceptionResnetV1.load: {path} is no state dict: {error}") from error
        net = cls(dropout)
        if not isinstance(state, dict):
            raise _check.refuse(
                "InceptionResnetV1.load", "path", "hold a state dict", type(state).__name__
            )
        state = {name: v for name, v in state.items() if not name.startswith("logits.")}
        own = net.state_dict()
        missing = [name for name in own if name not in state]
        wrong = [name for name in missing if not name.endswith("num_batches_tracked")]
        wrong += [name for name in state if name not in own]
        wrong += [n for n, v in own.items() if getattr(state.get(n, v), "shape", None) != v.shape]
        if wrong:
            expected = f"hold the {len(own)} tensors of InceptionResnetV1"
            got = f"{path}, which differs in {', '.join(wrong[:3])}"
            got += f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise _check.refuse("InceptionResnetV1.load", "path", expected, got)
        net.load_state_dict(state, strict=False)
        return net

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images."""
        check_images("InceptionResnetV1", images, None)
        if min(images.shape[2:]) < 75:
            raise _check.refuse(
                "InceptionResnetV1", "images", "be at least 75×75", tuple(images.shape[2:])
            )
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x))))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x))
        x = self.dropout(self.avgpool_1a(x).flatten(1))
        return F.normalize(self.last_bn(self.last_linear(x)))


class _Conv(nn.Module):
    def __init__(
        self, channels_in: int, channels_out: int, size: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.relu(self.bn(self.conv(x)))
        return found


class _Residual(nn.Module):
    def __init__(
        self,
        branches: Sequence[nn.Module],
        width: int,
        channels: int,
        scale: float,
        rectified: bool,
    ) -> None:
        super().__init__()
        self.scale, self.rectified, self.branches = scale, rectified, len(branches)
        for k, branch in enumerate(branches):
            self.add_module(f"branch{k}", branch)
        self.conv2d = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat([getattr(self, f"branch{k}")(x) for k in range(self.branches)], 1)
        found = x + self.scale * self.conv2d(found)
        return F.relu(found) if self.rectified else found


class _Reduction(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = len(branches) + 1
        for k, branch in enumerate((*branches, nn.MaxPool2d(3, stride=2))):
            self.add_module(f"branch{k}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([getattr(self, f"branch{k}")(x) for k in range(self.branches)], 1)


def _chain(channels: int, *convolutions: tuple[int, Size], stride: int = 1) -> nn.Sequential:
    """Convolutions behind each other; only a last one with a stride does not pad."""
    layers = []
    for k, (width, size) in enumerate(convolutions):
        step = stride if k == len(convolutions) - 1 else 1
        around = size // 2 if isinstance(size, int) else (size[0] // 2, size[1] // 2)
        layers.append(_Conv(channels, width, size, step, around if step == 1 else 0))
        channels = width
    return nn.Sequential(*layers)


def _block35() -> _Residual:
    branches = (
        _Conv(256, 32, 1),
        _chain(256, (32, 1), (32, 3)),
        _chain(256, (32, 1), (32, 3), (32, 3)),
    )
    return _Residual(branches, 96, 256, 0.17, rectified=True)


def _block17() -> _Residual:
    branches = (_Conv(896, 128, 1), _chain(896, (128, 1), (128, (1, 7)), (128, (7, 1))))
    return _Residual(branches, 256, 896, 0.1, rectified=True)


def _block8(scale: float, rectified: bool = True) -> _Residual:
    branches = (_Conv(1792, 192, 1), _chain(1792, (192, 1), (192, (1, 3)), (192, (3, 1))))
    return _Residual(branches, 384, 1792, scale, rectified)
