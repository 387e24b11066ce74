"""C19: the 19-layer reference net."""

from torch import Tensor, nn
from torch.nn import functional as F

from siameselib import _check
from siameselib.backbones._images import check_images


class C19(nn.Module):
    r"""The 19-layer convolutional net C: an image in, an embedding of 1,024 numbers out.

    Four blocks of convolution, ReLU and BatchNorm (64, 128, 256 and 512 channels, the first three
    followed by a maximum over 2×2), then flatten, a linear layer to 1,024, ReLU and BatchNorm:
    :math:`f = C(x)` is the output of layer 19. Layer k of the description is ``net.layers[k - 1]``.
    With 128×128 images it has 135,907,840 parameters, 134,218,752 of them in layer 17, the only
    one that changes with ``image_size``.

    The embedding leaves a BatchNorm, so each of its entries has a variance near 1 and two
    embeddings start about √(2·1024) ≈ 45 apart: normalise them, or measure the distances before
    choosing a margin. BatchNorm also means that a batch of one cannot be trained on.

    Args:
        image_size: Height and width of the images, a multiple of 8.

    Shape:
        - Input: (n, 3, image_size, image_size), floating point.
        - Output: (n, 1024).

    Raises:
        ValueError: If ``image_size`` is no positive multiple of 8, if the images have another
            shape, or if a single image comes in training mode.
        TypeError: If the images are no floating-point tensor.

    Example:
        >>> import torch
        >>> net = C19(image_size=32)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1024])
        >>> net.layers[0]
        Conv2d(3, 64, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    """

    embedding_dim = 1024

    def __init__(self, image_size: int = 128) -> None:
        super().__init__()
        if not isinstance(image_size, int) or image_size < 8 or image_size % 8:
            raise _check.refuse("C19", "image_size", "be a positive multiple of 8", image_size)
        self.image_size = image_size
        self.layers = nn.Sequential(
            *_block(3, 64, kernel_size=5),
            nn.MaxPool2d(2),
            *_block(64, 128, kernel_size=5),
            nn.MaxPool2d(2),
            *_block(128, 256, kernel_size=3),
            nn.MaxPool2d(2),
            *_block(256, 512, kernel_size=3),
            nn.Flatten(),
            nn.Linear(512 * (image_size // 8) ** 2, self.embedding_dim),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(self.embedding_dim),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images."""
        self._check(images)
        embeddings: Tensor = self.layers(images)
        return embeddings

    def resized(self, image_size: int) -> "C19":
        """Copy the net for images of another size, so that it can go on learning there.

        The convolutions stay as they are; the weights of layer 17, a map of 512 channels for each
        output, are interpolated bilinearly to the new map and scaled by the ratio of the areas,
        so that its outputs keep their size. Training at half the size first costs a quarter.

        Args:
            image_size: Height and width of the new images, a multiple of 8.

        Returns:
            The new net, of the same dtype, on the same device, in the same mode.

        Example:
            >>> import torch
            >>> C19(image_size=32).resized(64)(torch.zeros(2, 3, 64, 64)).shape
            torch.Size([2, 1024])
        """
        net = C19(image_size).to(next(self.parameters())).train(self.training)
        old, new = self.image_size // 8, image_size // 8
        state = self.state_dict()
        maps = state["layers.16.weight"].view(-1, 512, old, old)
        maps = F.interpolate(maps, size=(new, new), mode="bilinear") * (old / new) ** 2
        state["layers.16.weight"] = maps.flatten(1)
        net.load_state_dict(state)
        return net

    def extra_repr(self) -> str:
        """Name the image size in the repr."""
        return f"image_size={self.image_size}"

    def _check(self, images: Tensor) -> None:
        hint = ""
        if isinstance(images, Tensor) and images.ndim == 4 and _fits(*images.shape[1:]):
            hint = f" (for these pass image_size={images.shape[2]} to C19)"
        check_images("C19", images, self.image_size, hint)
        if self.layers[-1].training and len(images) < 2:
            expected = "number at least 2 in training mode, where BatchNorm needs a batch"
            raise _check.refuse("C19", "images", expected, len(images))


def _block(channels_in: int, channels_out: int, kernel_size: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(channels_out),
    )


def _fits(channels: int, height: int, width: int) -> bool:
    return channels == 3 and height == width and height > 0 and height % 8 == 0
