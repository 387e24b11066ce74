"""The file of a `Verifier`: written whole or not at all, read without running code from it.

Format 2 added the kinds of calibration and the gallery. Format 1 is still read.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.backbones import C19, InceptionResnetV1, SeparableC
from siameselib.evaluation.calibration import MAPS, Calibration
from siameselib.files import save_tensors
from siameselib.siamese import ConcatHead, DistanceHead, InteractionHead

FORMAT = 2
_READABLE = (1, 2)
_BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "C19": C19,
    "SeparableC": SeparableC,
    "InceptionResnetV1": lambda size: InceptionResnetV1(),
}
_HEADS: dict[str, type[nn.Module]] = {
    head.__name__: head for head in (ConcatHead, InteractionHead, DistanceHead)
}


class Content(NamedTuple):
    """What the file holds."""

    backbone: nn.Module
    head: nn.Module | None
    settings: dict[str, Any]
    threshold: float | None
    calibration: Calibration | None
    fitted_on: dict[str, Any]
    gallery: dict[str, Tensor]


def write(content: Content, path: str | os.PathLike[str]) -> None:
    """Write a verifier, all or nothing.

    Args:
        content: What to write.
        path: The file, replaced if it is there.

    Raises:
        TypeError: The head is not one of siameselib's.
        OSError: The file cannot be written.
    """
    head, calibration = content.head, content.calibration
    kept = {
        "siameselib_verifier": FORMAT,
        "backbone": type(content.backbone).__name__,
        "backbone_state": content.backbone.state_dict(),
        "head": None if head is None else _describe(head),
        "head_state": {} if head is None else head.state_dict(),
        "settings": content.settings,
        "threshold": content.threshold,
        "calibration": None
        if calibration is None
        else {"kind": type(calibration).__name__.lower(), "values": tuple(calibration)},
        "fitted_on": content.fitted_on,
        "gallery": {name: images.cpu() for name, images in content.gallery.items()},
    }
    save_tensors(kept, path)


def read(
    path: str | os.PathLike[str], device: str | torch.device, backbone: nn.Module | None
) -> Content:
    """Read a verifier; no code in the file is run.

    Args:
        path: A file that `write` wrote.
        device: Where its nets go.
        backbone: Takes the weights, where siameselib cannot build the net itself.

    Returns:
        The content, nets in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        ValueError: The file is not a verifier, is damaged, has another format version, or its
            weights do not fit the net.
    """
    path = _check.path("Verifier.load", "path", path)
    device = torch.device(device)
    torch.empty(0, device=device)  # a device that is not there is not the file's fault
    if path.is_dir():
        held = "the model.pt in it" if (path / "model.pt").is_file() else "a file"
        raise IsADirectoryError(f"Verifier.load: {path} is a folder; give {held}")
    if not path.is_file():
        raise FileNotFoundError(f"Verifier.load: there is no file {path}")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"Verifier.load: {path} is no readable verifier file ({type(error).__name__})"
        raise ValueError(reason) from error
    if not isinstance(kept, dict) or "siameselib_verifier" not in kept:
        raise ValueError(f"Verifier.load: {path} was not written by Verifier.save")
    version = kept["siameselib_verifier"]
    if version not in _READABLE:
        raise ValueError(
            f"Verifier.load: {path} has format {version}, this siameselib reads formats "
            f"{' and '.join(map(str, _READABLE))}"
        )
    try:
        return _content(kept if version == FORMAT else _upgraded(kept), device, backbone)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"Verifier.load: {path} is damaged ({error!r})") from error
    except RuntimeError as error:
        raise ValueError(f"Verifier.load: {path}: weights do not fit ({error})") from error


def _upgraded(kept: dict[str, Any]) -> dict[str, Any]:
    """A file of format 1 in the words of format 2."""
    platt = kept["platt"]
    return kept | {
        "backbone": kept["backbone"]["name"],
        "settings": kept["settings"] | {"size": kept["backbone"]["image_size"]},
        "calibration": None if platt is None else {"kind": "platt", "values": platt},
        "gallery": {},
    }


def _content(
    kept: dict[str, Any], device: str | torch.device, backbone: nn.Module | None
) -> Content:
    name, settings = kept["backbone"], kept["settings"]
    if backbone is None:
        if name not in _BACKBONES:
            expected = f"be given, an untrained {name}: siameselib cannot build one"
            raise _check.refuse("Verifier.load", "backbone", expected, None)
        backbone = _BACKBONES[name](settings["size"])
    backbone = backbone.to(device).eval()
    backbone.load_state_dict(kept["backbone_state"])
    head = None
    if kept["head"] is not None:
        head = _HEADS[kept["head"]["name"]](**kept["head"]["arguments"]).to(device).eval()
        head.load_state_dict(kept["head_state"])
    fitted = kept["calibration"]
    calibration = None if fitted is None else MAPS[fitted["kind"]](*fitted["values"])
    return Content(
        backbone,
        head,
        settings,
        kept["threshold"],
        calibration,
        kept["fitted_on"],
        dict(kept["gallery"]),
    )


def _describe(head: nn.Module) -> dict[str, Any]:
    if isinstance(head, (ConcatHead, InteractionHead)):
        return {"name": type(head).__name__, "arguments": {"embedding_dim": head.embedding_dim}}
    if isinstance(head, DistanceHead):
        return {"name": "DistanceHead", "arguments": {"metric": head.metric}}
    known = ", ".join(_HEADS)
    raise _check.refuse("save", "head", f"be one of {known}", type(head).__name__, TypeError)
