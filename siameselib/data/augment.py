"""Augmentation of a whole batch at once, on the device it lies on, and the normalisation after it.

Networks see ``(x / 255 - 0.45) / 0.25``: `prepare` in evaluation, `Augment` in training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from siameselib import _check

MEAN, STD = 0.45, 0.25


def prepare(images: Tensor, size: int | None = None, *, view: float = 1.0) -> Tensor:
    """Make images ready for a network, without augmentation.

    ``(x / 255 - 0.45) / 0.25``, after resizing (antialiased) where the size differs.

    Args:
        images: As stored.
        size: Height and width of the output; None keeps the stored one.
        view: Side of the central square that is seen, as a fraction of the stored side; above 1
            what lies beyond the border is its reflection.

    Shape:
        - images: uint8 (n, h, w, c) or (n, c, h, w), c = 1 or 3.
        - output: (n, c, size, size).

    Returns:
        Normalised images, channels last in memory.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If their shape is another, or the size or view makes no sense.

    Example:
        >>> grey = torch.full((2, 64, 64, 3), 115, dtype=torch.uint8)
        >>> prepare(grey, 32).shape
        torch.Size([2, 3, 32, 32])
    """
    _check_output("prepare", size, view, 2)
    x = _channels_first("prepare", images).float() / 255
    return _normalise(_still(x, size, view))


class Augment:
    """Random views of a batch: flip, shift, scale, rotation, colour, erasing; then normalisation.

    Every image has its own draw, so the two images of a pair differ too. Half of the images are
    mirrored, one affine map (reflected at the border) does shift, scale and rotation, and then,
    with x in [0, 1] and c = ``colour``,

        x ← (x - mean) · (1 ± 1.5 c) + mean ± c ± 0.3 c per channel,

    erasing, and the normalisation of `prepare`. Values beyond [0, 1] are kept, not clipped. Nothing
    waits for the device.

    Args:
        size: Height and width of the output; None keeps the stored one.
        flip: Mirror every other image, by chance.
        shift: Largest shift, as a fraction of the side.
        scale: Largest change of scale: 0.1 is ±10 %.
        rotate: Largest rotation, in radians.
        colour: Strength of the change of brightness, contrast and colour.
        erase: Chance that a rectangle (15 to 45 % of each side) of an image is painted over.
        view: Side of the central square that is seen, as a fraction of the stored side. Below 1,
            shifts show real surroundings rather than reflections.
        generator: Source of chance, on the device of the images; None takes torch's own.

    Raises:
        ValueError: If a strength is out of its range.

    Example:
        >>> augment = Augment(32, generator=torch.Generator().manual_seed(0))
        >>> images = torch.full((4, 64, 64, 3), 115, dtype=torch.uint8)
        >>> augment(images).shape
        torch.Size([4, 3, 32, 32])
        >>> bool(augment.prepare(images).equal(prepare(images, 32)))
        True
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        flip: bool = True,
        shift: float = 0.04,
        scale: float = 0.1,
        rotate: float = 0.12,
        colour: float = 0.2,
        erase: float = 0.0,
        view: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        strengths = {"shift": shift, "scale": scale, "rotate": rotate, "colour": colour}
        for name, value in {**strengths, "erase": erase}.items():
            if not 0 <= _check.real("Augment", name, value) <= 1:
                raise _check.refuse("Augment", name, "be from 0 to 1", value)
        _check_output("Augment", size, view, 1)
        self.size, self.view = size, view
        self.flip, self.shift, self.scale, self.rotate = flip, shift, scale, rotate
        self.colour, self.erase = colour, erase
        self.generator = generator

    def __repr__(self) -> str:
        names = ("flip", "shift", "scale", "rotate", "colour", "erase", "view")
        settings = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"Augment({self.size}, {settings})"

    def prepare(self, images: Tensor) -> Tensor:
        """Make images ready for evaluation: `prepare` with this size and view."""
        return prepare(images, self.size, view=self.view)

    def __call__(self, images: Tensor) -> Tensor:
        """Draw one random view of each image.

        Args:
            images: As stored.

        Shape:
            - images: uint8 (n, h, w, c) or (n, c, h, w), c = 1 or 3.
            - output: (n, c, size, size).

        Returns:
            Normalised images, channels last in memory.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If their shape is another, or they lie on another device than the generator.
        """
        x = _channels_first("Augment", images)
        if self.generator is not None and self.generator.device.type != x.device.type:
            expected = f"be on the device of the generator, {self.generator.device}"
            raise _check.refuse("Augment", "images", expected, x.device)
        n = len(x)
        chance = torch.rand(n, 18, generator=self.generator, device=x.device)
        columns = chance.view(n, 18, 1, 1, 1).unbind(1)
        if self.flip:
            x = torch.where(columns[0] < 0.5, x.flip(3), x)
        x = x.float() / 255
        if self.shift or self.scale or self.rotate:
            x = _sample(x, self._affine(2 * chance[:, 1:5] - 1), self.size, self.view)
        else:
            x = _still(x, self.size, self.view)
        if self.colour:
            mean = x.mean((1, 2, 3), keepdim=True)
            contrast = 1 + 1.5 * self.colour * (2 * columns[5] - 1)
            tint = 2 * chance[:, 7 : 7 + x.shape[1], None, None] - 1
            x = (x - mean) * contrast + mean + self.colour * (2 * columns[6] - 1 + 0.3 * tint)
        if self.erase:
            height, width = (0.15 + 0.3 * c for c in columns[10:12])
            rows = _within(x.shape[2], columns[12] * (1 - height), height).mT
            hole = rows & _within(x.shape[3], columns[13] * (1 - width), width)
            paint = chance[:, 14 : 14 + x.shape[1], None, None]
            x = torch.where(hole & (columns[17] < self.erase), paint, x)
        return _normalise(x)

    def _affine(self, signed: Tensor) -> Tensor:
        zoom = self.view * (1 + self.scale * signed[:, 0])
        turn = self.rotate * signed[:, 1]
        cos, sin = zoom * turn.cos(), zoom * turn.sin()
        right, down = (2 * self.shift * signed[:, 2:4]).unbind(1)
        return torch.stack([cos, -sin, right, sin, cos, down], 1).view(-1, 2, 3)


def _check_output(where: str, size: int | None, view: float, most: int) -> None:
    if size is not None:
        _check.positive(where, "size", size)
    if not 0 < view <= most:
        raise _check.refuse(where, "view", f"be above 0, at most {most}", view)


def _channels_first(where: str, images: Tensor) -> Tensor:
    _check.tensor(where, "images", images)
    if images.dtype != torch.uint8:
        raise _check.refuse(where, "images", "be uint8, 0 to 255", images.dtype, TypeError)
    if images.ndim == 4 and images.shape[3] in {1, 3}:
        return images.permute(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in {1, 3}:
        return images
    expected = "have shape (n, h, w, c) or (n, c, h, w) with c = 1 or 3"
    raise _check.refuse(where, "images", expected, tuple(images.shape))


def _still(x: Tensor, size: int | None, view: float) -> Tensor:
    """The central square, unmoved; untouched where nothing is to be resized."""
    if view == 1 and x.shape[2:] == (size or x.shape[2], size or x.shape[3]):
        return x
    return _sample(x, view * torch.eye(2, 3, device=x.device)[None], size, view)


def _sample(x: Tensor, affine: Tensor, size: int | None, view: float) -> Tensor:
    """Resample by one map (1, 2, 3) for all images, or by one each."""
    n, c, *stored = x.shape
    if n == 0:
        return x.new_empty(0, c, *((size or side) for side in stored))
    height, width = (size or side for side in stored)
    # As many samples a pixel as keep a sample's neighbourhood from skipping stored pixels.
    fine = max(1, round(view * min(stored[0] / height, stored[1] / width)))
    maps = [len(affine), c, height * fine, width * fine]
    grid = F.affine_grid(affine, maps, align_corners=False).expand(n, -1, -1, -1)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(x, fine) if fine > 1 else x


def _within(side: int, start: Tensor, length: Tensor) -> Tensor:
    """Which pixel centres along a side lie in [start, start + length), fractions of the side."""
    centre = (torch.arange(side, device=start.device) + 0.5) / side
    return (centre >= start) & (centre < start + length)


def _normalise(x: Tensor) -> Tensor:
    return ((x - MEAN) / STD).contiguous(memory_format=torch.channels_last)
