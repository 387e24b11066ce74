"""SeparableC: the separable-convolution net of many Keras attempts at face verification."""

from torch import Tensor, nn

from siameselib import _check
from siameselib.backbones._images import check_images


class SeparableC(nn.Module):
    r"""Six separable convolutions and a dense layer: an image in, 1,024 numbers out.

    A separable convolution filters each channel alone (k×k, no bias), then mixes them (1×1, with
    bias); every one is followed by a ReLU. With 224×224 images: 5×5 to 64 channels, maximum, 3×3
    to 64, maximum, BatchNorm, 3×3 to 256, BatchNorm, maximum, dropout, 3×3 to 512, 3×3 to 512,
    maximum, dropout, 3×3 to 512, BatchNorm, maximum, dropout, flatten (25,088), linear to 1,024,
    ReLU. It has 26,383,499 trainable parameters and 1,664 BatchNorm statistics.

    The embedding leaves a ReLU: no entry is negative, and one that is dead for every image says
    nothing. Divided by its sum (L1), two embeddings differ by at most 2 over 1,024 entries, which
    starves a head that is not standardised: :class:`siameselib.siamese.DistanceHead` standardises.

    Args:
        image_size: Height and width of the images, a multiple of 32.
        dropout: The share of channels' values that each dropout zeroes in training.

    Shape:
        - Input: (n, 3, image_size, image_size), floating point.
        - Output: (n, 1024).

    Raises:
        ValueError: If ``image_size`` is no positive multiple of 32, or images have another shape.
        TypeError: If the images are no floating-point tensor.

    Example:
        >>> import torch
        >>> SeparableC(image_size=32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1024])
    """

    embedding_dim = 1024

    def __init__(self, image_size: int = 224, dropout: float = 0.25) -> None:
        super().__init__()
        if not isinstance(image_size, int) or image_size < 32 or image_size % 32:
            expected = "be a positive multiple of 32"
            raise _check.refuse("SeparableC", "image_size", expected, image_size)
        self.image_size = image_size
        self.layers = nn.Sequential(
            *_separable(3, 64, kernel_size=5),
            nn.MaxPool2d(2),
            *_separable(64, 64),
            nn.MaxPool2d(2),
            _norm(64),
            *_separable(64, 256),
            _norm(256),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            *_separable(256, 512),
            *_separable(512, 512),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            *_separable(512, 512),
            _norm(512),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(512 * (image_size // 32) ** 2, self.embedding_dim),
            nn.ReLU(),
        )
        for module in self.modules():  # as Keras starts them
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images."""
        check_images("SeparableC", images, self.image_size)
        embeddings: Tensor = self.layers(images)
        return embeddings

    def extra_repr(self) -> str:
        """Name the image size in the repr."""
        return f"image_size={self.image_size}"


def _separable(channels_in: int, channels_out: int, kernel_size: int = 3) -> tuple[nn.Module, ...]:
    each = nn.Conv2d(
        channels_in,
        channels_in,
        kernel_size,
        padding=kernel_size // 2,
        groups=channels_in,
        bias=False,
    )
    return each, nn.Conv2d(channels_in, channels_out, 1), nn.ReLU()


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # Keras' defaults
