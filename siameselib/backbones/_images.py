"""The check of what goes into a backbone."""

from torch import Tensor

from siameselib import _check


def check_images(where: str, images: Tensor, size: int | None, hint: str = "") -> None:
    """Refuse anything that is not a floating-point batch (n, 3, size, size).

    Args:
        where: the net that asks.
        images: what came.
        size: height and width; None where any will do.
        hint: what to add to the expected shape.
    """
    _check.tensor(where, "images", images)
    wanted = (3, size, size) if size else (3, *images.shape[2:])
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
        expected = f"have shape (n, 3, {size or 'h'}, {size or 'w'}){hint}"
        raise _check.refuse(where, "images", expected, tuple(images.shape))
    if not images.is_floating_point():
        raise _check.refuse(where, "images", "be floating point", images.dtype, TypeError)
