"""A trained model together with everything needed to say "same person" about two photos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siameselib import _check
from siameselib.backbones import C19
from siameselib.data.augment import prepare
from siameselib.evaluation.calibration import Platt, fit_platt
from siameselib.evaluation.verification import fit_threshold
from siameselib.files import save_tensors
from siameselib.functional.distances import paired_distance
from siameselib.siamese import ConcatHead, DistanceHead, InteractionHead

FORMAT = 1
METRICS = ("cosine", "euclidean", "head")
_BACKBONES: dict[str, type[nn.Module]] = {"C19": C19}
_HEADS: dict[str, type[nn.Module]] = {
    head.__name__: head for head in (ConcatHead, InteractionHead, DistanceHead)
}


class Verdict(NamedTuple):
    """The answer about one pair of photos."""

    same: bool
    """Whether the score reaches the threshold."""

    probability: float
    """P(same), for photos drawn like the pairs that the verifier was fitted on."""

    score: float
    """The similarity, higher is more alike."""

    threshold: float
    """The lowest similarity called "same"."""

    def __str__(self) -> str:
        """Say it in words."""
        who = "same person" if self.same else "different people"
        return f"{who}, p = {self.probability if self.same else 1 - self.probability:.2f}"


class Verifier:
    """A backbone, how it wants its photos, how it compares them, and a fitted threshold.

    The score of a pair is the cosine of its embeddings (``metric="cosine"``), minus their
    Euclidean distance (``"euclidean"``), or the logit of ``head`` (``"head"``). With ``flip`` each
    embedding is the mean over a photo and its mirror image.

    There is no face detector in here: photos must be framed like the training images.

    Args:
        backbone: Turns images (n, 3, size, size) into embeddings (n, d).
        head: Compares two batches of embeddings; needed for ``metric="head"`` only.
        size: Height and width of the images the backbone takes, in pixels.
        crop: The central part of a photo's shorter side that is kept, as a fraction.
        metric: "cosine", "euclidean" or "head".
        flip: Average each embedding over the mirror image.

    Raises:
        ValueError: An unknown metric, or ``metric="head"`` without a head.

    Example:
        >>> verifier = Verifier(C19(image_size=32), size=32)
        >>> photos = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        >>> f = verifier.embed(photos)
        >>> verifier.fit(verifier.scores(f[::2], f[1::2]), [1, 0, 1, 0]).threshold is not None
        True
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None = None,
        *,
        size: int,
        crop: float = 1.0,
        metric: str = "cosine",
        flip: bool = True,
    ) -> None:
        _check.choice("Verifier", "metric", metric, METRICS)
        if (metric == "head") != (head is not None):
            raise _check.refuse("Verifier", "head", 'come with metric="head" only', repr(metric))
        self.backbone, self.head = backbone, head
        self.size, self.crop, self.metric, self.flip = size, crop, metric, flip
        self.threshold: float | None = None
        self.platt: Platt | None = None
        self.fitted_on: dict[str, Any] = {}

    def embed(self, images: Tensor | NDArray[np.uint8], *, batch_size: int = 256) -> Tensor:
        """Embed uint8 images (n, height, width, 3) in evaluation mode: (n, d), float32.

        Embeddings have length 1 when the metric is the cosine.

        Args:
            images: The photos, cropped; resized here if they are not size × size.
            batch_size: How many go through the backbone at a time.

        Returns:
            The embeddings, on the backbone's device.

        Raises:
            ValueError: The images have another shape or dtype.
        """
        x = torch.as_tensor(images)
        if x.ndim != 4 or x.dtype != torch.uint8 or x.shape[3] != 3:
            expected = "be uint8 of shape (n, height, width, 3)"
            raise _check.refuse("embed", "images", expected, f"{x.dtype} {tuple(x.shape)}")
        device = next(self.backbone.parameters()).device
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.inference_mode():
                parts = [self._embed(part.to(device)) for part in torch.split(x, batch_size)]
        finally:
            self.backbone.train(training)
        return torch.cat(parts) if parts else torch.empty(0, 0, device=device)

    def _embed(self, images: Tensor) -> Tensor:
        x = prepare(images, self.size)
        views = [x, x.flip(-1)] if self.flip else [x]
        embeddings = [self.backbone(view).float() for view in views]
        if self.metric == "cosine":
            return F.normalize(torch.stack([F.normalize(e) for e in embeddings]).mean(0))
        return torch.stack(embeddings).mean(0)

    @torch.inference_mode()
    def scores(self, a: Tensor, b: Tensor) -> NDArray[np.float64]:
        """Give the similarity of each row of ``a`` with the same row of ``b``.

        Args:
            a: Embeddings (n, d), from :meth:`embed`.
            b: As many others.

        Returns:
            The scores (n,), higher is more alike.
        """
        if self.head is not None:
            training = self.head.training
            score = self.head.eval()(a, b)
            self.head.train(training)
        elif self.metric == "cosine":
            score = 1 - paired_distance(a, b, metric="cosine")
        else:
            score = -paired_distance(a, b, metric="euclidean")
        return np.asarray(score.double().cpu().numpy(), dtype=np.float64)

    def fit(self, scores: ArrayLike, same: ArrayLike, **fitted_on: Any) -> Verifier:
        """Fit probabilities and threshold on pairs of people that were never trained on.

        The threshold is the score at which a pair is as likely same as different, so verdict and
        probability never contradict each other; it rests on all scores and moves less from one
        small set of pairs to the next than the most accurate cut does. Where same pairs do not
        score higher than different ones there is no such score, and the most accurate cut is
        taken.

        Args:
            scores: The similarities of the pairs, from :meth:`scores`.
            same: 1 where the pair shows one person.
            **fitted_on: What the pairs were (numbers and words); kept in the saved file.

        Returns:
            The verifier itself.
        """
        self.platt = fit_platt(scores, same)
        if self.platt.slope > 0:
            self.threshold = -self.platt.offset / self.platt.slope
        else:
            self.threshold = fit_threshold(scores, same)
        self.fitted_on = fitted_on
        return self

    def verify(self, a: object, b: object) -> Verdict:
        """Compare two photos.

        Args:
            a: A path, a PIL image, the bytes of a file, or uint8 pixels (height, width, 3).
            b: Another.

        Returns:
            The verdict; ``str()`` says it in words.

        Raises:
            ValueError: The verifier has not been fitted.
        """
        f = self.embed(np.stack([self.prepare_photo(a), self.prepare_photo(b)]))
        return self.judge(float(self.scores(f[:1], f[1:])[0]))

    def judge(self, score: float) -> Verdict:
        """Turn a score into a verdict.

        Args:
            score: A similarity, from :meth:`scores`.

        Returns:
            The verdict.

        Raises:
            ValueError: The verifier has not been fitted.
        """
        if self.threshold is None or self.platt is None:
            raise ValueError("verify: the verifier has no threshold yet: call fit first")
        return Verdict(
            score >= self.threshold, float(self.platt(score)), float(score), self.threshold
        )

    def prepare_photo(self, photo: object) -> NDArray[np.uint8]:
        """Read, crop and resize one photo as the training images were."""
        from siameselib.data.photo import read_photo

        return read_photo(photo, size=self.size, crop=self.crop)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one file, atomically; :meth:`load` reads it without pickle code.

        Args:
            path: The file, replaced if it is there.

        Raises:
            TypeError: The backbone is not one of siameselib's, so ``load`` could not rebuild it.
        """
        name = type(self.backbone).__name__
        if name not in _BACKBONES:
            known = ", ".join(_BACKBONES)
            raise _check.refuse("save", "backbone", f"be one of {known}", name, TypeError)
        head = None if self.head is None else _describe_head(self.head)
        kept = {
            "siameselib_verifier": FORMAT,
            "backbone": {"name": name, "image_size": self.size},
            "backbone_state": self.backbone.state_dict(),
            "head": head,
            "head_state": {} if self.head is None else self.head.state_dict(),
            "settings": {"crop": self.crop, "metric": self.metric, "flip": self.flip},
            "threshold": self.threshold,
            "platt": None if self.platt is None else tuple(self.platt),
            "fitted_on": self.fitted_on,
        }
        save_tensors(kept, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Verifier:
        """Read a saved verifier; no code in the file is run.

        Args:
            path: A file that :meth:`save` wrote.
            device: Where its nets go.

        Returns:
            The verifier, in evaluation mode.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a verifier, is damaged, or has another format version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Verifier.load: there is no file {path}")
        try:
            kept = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            reason = f"Verifier.load: {path} is no readable verifier file ({type(error).__name__})"
            raise ValueError(reason) from error
        if not isinstance(kept, dict) or "siameselib_verifier" not in kept:
            raise ValueError(f"Verifier.load: {path} was not written by Verifier.save")
        if kept["siameselib_verifier"] != FORMAT:
            raise ValueError(
                f"Verifier.load: {path} has format {kept['siameselib_verifier']}, "
                f"this siameselib reads format {FORMAT}"
            )
        size = kept["backbone"]["image_size"]
        backbone = _BACKBONES[kept["backbone"]["name"]](image_size=size).to(device)
        backbone.load_state_dict(kept["backbone_state"])
        head = None
        if kept["head"] is not None:
            head = _HEADS[kept["head"]["name"]](**kept["head"]["arguments"]).to(device)
            head.load_state_dict(kept["head_state"])
        verifier = cls(backbone, head, size=size, **kept["settings"])
        verifier.threshold = kept["threshold"]
        verifier.platt = None if kept["platt"] is None else Platt(*kept["platt"])
        verifier.fitted_on = kept["fitted_on"]
        backbone.eval()
        return verifier


def _describe_head(head: nn.Module) -> dict[str, Any]:
    if isinstance(head, (ConcatHead, InteractionHead)):
        return {"name": type(head).__name__, "arguments": {"embedding_dim": head.embedding_dim}}
    if isinstance(head, DistanceHead):
        return {"name": "DistanceHead", "arguments": {"metric": head.metric}}
    known = ", ".join(_HEADS)
    raise _check.refuse("save", "head", f"be one of {known}", type(head).__name__, TypeError)
