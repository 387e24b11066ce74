"""A trained model together with everything needed to say "same person" about two photos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from siameselib import _check
from siameselib.data.augment import prepare
from siameselib.evaluation.calibration import MAPS, Calibration
from siameselib.evaluation.fitting import checked_words, fit_decision, read_pairs
from siameselib.evaluation.gallery import check_name, gallery_scores, name_best, photos_of
from siameselib.evaluation.identification import RULES
from siameselib.evaluation.inputs import Values, check_images, check_threshold, check_zooms
from siameselib.evaluation.shared_people import Identities
from siameselib.evaluation.verdicts import Identity, Verdict
from siameselib.evaluation.verifier_file import Content, read, write
from siameselib.functional.distances import paired_distance

METRICS = ("cosine", "euclidean", "head")
_SETTINGS = ("size", "crop", "metric", "flip", "zooms")


class Verifier:
    """A backbone, how it wants its photos, how it compares them, and a fitted threshold.

    The score of a pair is the cosine of its embeddings (``metric="cosine"``), minus their
    Euclidean distance (``"euclidean"``), or the logit of ``head`` (``"head"``). An embedding is the
    mean over views of a photo: at each of the ``zooms``, and with ``flip`` mirrored too.

    A photo is a path, a PIL image, the bytes of a file, or uint8 pixels (height, width, 3) as
    array or tensor. There is no face detector in here: photos must be framed like the training
    images.

    Args:
        backbone: Turns images (n, 3, size, size) into embeddings (n, d).
        head: Compares two batches of embeddings; needed for ``metric="head"`` only.
        size: Height and width of the images the backbone takes, in pixels.
        crop: The central part of a photo's shorter side that is kept, as a fraction.
        metric: "cosine", "euclidean" or "head".
        flip: Average each embedding over the mirror image.
        zooms: Average it over these scales: 0.9 sees the central 90 % of the (cropped) photo, 1.1
            sees all of it, smaller, with its border reflected. Each costs a pass of the backbone,
            two with ``flip``.

    Attributes:
        threshold: The lowest score called "same"; None before `fit`.
        calibration: The map from scores to probabilities; None before `fit`.
        fitted_on: What `fit` was told about its pairs, and what it aimed at.
        gallery: The embeddings of each enrolled person.

    Raises:
        ValueError: An unknown metric, ``metric="head"`` without a head, or a size, a crop or a
            zoom that is none.
        TypeError: The backbone is no module, the size no integer, or the zooms no list of numbers.

    Example:
        >>> import siameselib as sl
        >>> verifier = Verifier(sl.C19(image_size=32), size=32)
        >>> photos = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        >>> f = verifier.embed(photos)
        >>> verifier.fit(verifier.scores(f[::2], f[1::2]), [1, 0, 1, 0]).threshold is not None
        True
        >>> verifier.enroll("ann", photos[:3])
        >>> print(verifier.identify(photos[0]))
        ann, score 1
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
        zooms: Sequence[float] = (1.0,),
    ) -> None:
        _check.choice("Verifier", "metric", metric, METRICS)
        if (metric == "head") != (head is not None):
            raise _check.refuse("Verifier", "head", 'come with metric="head" only', repr(metric))
        if not isinstance(backbone, nn.Module):
            got = type(backbone).__name__
            raise _check.refuse("Verifier", "backbone", "be an nn.Module", got, TypeError)
        size = _check.integer("Verifier", "size", size, 1)
        if not 0 < _check.real("Verifier", "crop", crop) <= 1:
            raise _check.refuse("Verifier", "crop", "be a share above 0, 1 at most", crop)
        self.backbone, self.head = backbone, head
        self.size, self.crop, self.metric, self.flip = size, crop, metric, flip
        self.zooms = check_zooms("Verifier", zooms)
        self.threshold: float | None = None
        self.calibration: Calibration | None = None
        self.fitted_on: dict[str, Any] = {}
        self.gallery: dict[str, Tensor] = {}

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
        x = check_images("embed", images)
        _check.integer("embed", "batch_size", batch_size, 1)
        device = next(self.backbone.parameters(), x).device
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.inference_mode():
                parts = [self._embed(part.to(device)) for part in torch.split(x, batch_size)]
        finally:
            self.backbone.train(training)
        return torch.cat(parts) if parts else torch.empty(0, 0, device=device)

    def _embed(self, images: Tensor) -> Tensor:
        views = [prepare(images, self.size, view=zoom) for zoom in self.zooms]
        if self.flip:
            views += [view.flip(-1) for view in views]
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

    def fit(
        self,
        scores: Values,
        same: Values,
        *,
        target: str = "accuracy",
        far: float | None = None,
        cost: tuple[float, float] | None = None,
        calibration: str = "platt",
        identities: Identities | None = None,
        **fitted_on: Any,
    ) -> Verifier:
        """Fit probabilities and threshold on pairs of people that were never trained on.

        The threshold is, as you choose,

        - by default the score at which a pair is as likely same as different, so that verdict and
          probability never contradict each other;
        - with ``cost`` = (of a false accept, of a false reject) = (c, r) the score at which
          P(same) is c / (c + r), where both decisions cost the same on average;
        - with ``far`` the lowest that lets at most this share of the different pairs through.

        The first two rest on the probabilities, hence on all scores, and hold for the share of same
        pairs that was fitted. Where the map is flat or falls, or never reaches such a probability,
        the cut that cost least on these pairs is taken.

        Args:
            scores: The similarities of the pairs, from :meth:`scores`.
            same: 1 where the pair shows one person.
            target: "accuracy", and nothing else but ``far`` or ``cost``.
            far: The false-accept rate to allow.
            cost: What a false accept and a false reject cost.
            calibration: "platt", "beta" (for the cosine) or "isotonic" (given thousands of pairs).
            identities: Who is on the first and who on the second image of each pair; then the
                intervals of the probabilities know that pairs share people.
            **fitted_on: What the pairs were (numbers and words); kept in the saved file.

        Returns:
            The verifier itself.

        Raises:
            ValueError: The scores are not finite or of one kind only, two aims are given at once,
                or ``far`` stands for fewer than ten false accepts among these pairs.
            TypeError: What the pairs were is said in other things than numbers and words.
        """
        _check.choice("fit", "target", target, ("accuracy",))
        _check.choice("fit", "calibration", calibration, tuple(MAPS))
        if calibration == "beta" and self.metric != "cosine":
            expected = 'be "platt" or "isotonic" for scores without two ends'
            raise _check.refuse("fit", "calibration", expected, repr(calibration))
        fitted, threshold = fit_decision(
            scores, same, far=far, cost=cost, kind=calibration, identities=identities
        )
        aim = f"far={far:g}" if far else f"cost={tuple(cost)}" if cost else target
        known = checked_words({**fitted_on, "target": aim, "calibration": calibration})
        self.calibration, self.threshold, self.fitted_on = fitted, threshold, known
        return self

    def fit_photos(
        self, pairs: Iterable[tuple[object, object, int | bool]], **options: Any
    ) -> Verifier:
        """Fit on pairs of photos.

        Args:
            pairs: Of each, two photos and whether they show one person. A path that comes again
                is read once.
            **options: As for :meth:`fit`.

        Returns:
            The verifier itself.

        Raises:
            ValueError: There is no pair, or as for :meth:`fit`.
        """
        photos, i, j, same = read_pairs(pairs, self.prepare_photo)
        f = self.embed(photos)
        return self.fit(self.scores(f[i], f[j]), same, **options)

    def verify(self, a: object, b: object) -> Verdict:
        """Compare two photos.

        Args:
            a: A photo.
            b: Another.

        Returns:
            The verdict; ``str()`` says it in words.

        Raises:
            ValueError: The verifier has not been fitted, or a photo cannot be read.
            TypeError: A photo is of another kind.
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
        if self.threshold is None or self.calibration is None:
            raise ValueError("verify: the verifier has no threshold yet: call fit first")
        score = _check.number("judge", "score", score)
        ends = self.calibration.interval(score)
        return Verdict(
            score >= self.threshold,
            float(self.calibration(score)),
            float(1 - score if self.metric == "cosine" else -score),
            self.threshold,
            None if ends is None else (float(ends[0]), float(ends[1])),
            float(score),
        )

    def enroll(self, name: str, images: object) -> None:
        """Put somebody into the gallery.

        Args:
            name: Of the person.
            images: One photo, or several: a list of photos, or pixels (n, height, width, 3).

        Raises:
            ValueError: Somebody of this name is enrolled (`forget` them first), there is no photo,
                or a photo cannot be read.
            TypeError: The name is no string, or a photo is of another kind.
        """
        check_name("enroll", name, self.gallery)
        several = photos_of("enroll", images)
        # Clones leave inference mode, so that they can be saved and moved like other tensors.
        self.gallery[name] = self.embed(np.stack([self.prepare_photo(p) for p in several])).clone()

    def forget(self, name: str) -> None:
        """Take somebody out of the gallery.

        Args:
            name: Of the person.

        Raises:
            ValueError: Nobody of this name is enrolled.
        """
        if name not in self.gallery:
            raise _check.refuse("forget", "name", "be enrolled", repr(name))
        del self.gallery[name]

    def identify(
        self,
        image: object,
        *,
        unknown: bool = True,
        threshold: float | None = None,
        rule: str = "max",
        top: int = 5,
    ) -> Identity:
        """Say who of the gallery it is.

        A stranger has a chance with every person enrolled, so with N of them up to N times as many
        strangers pass the verifier's threshold as different pairs do. For a large gallery take the
        threshold from `evaluate_identification`, measured on strangers.

        Args:
            image: A photo.
            unknown: Whether it may be nobody: those below the threshold. Else the best is named.
            threshold: The lowest score to accept; by default the verifier's.
            rule: How the scores of a person's photos are joined: "max" takes the nearest photo,
                "mean" their mean score, "template" the score of their mean embedding.
            top: How many candidates to list.

        Returns:
            The answer; ``str()`` says it in words.

        Raises:
            ValueError: The gallery is empty, there is no threshold, or the photo cannot be read.
            TypeError: The photo is of another kind.
        """
        _check.choice("identify", "rule", rule, RULES)
        _check.integer("identify", "top", top, 1)
        if not self.gallery:
            raise ValueError("identify: the gallery is empty: call enroll first")
        threshold = self.threshold if threshold is None else check_threshold("identify", threshold)
        if unknown and threshold is None:
            reason = "the verifier has no threshold yet: call fit first, or say unknown=False"
            raise ValueError(f"identify: {reason}")
        f = self.embed(np.stack([self.prepare_photo(image)]))
        unit = self.metric == "cosine"
        scores = gallery_scores(self.scores, f, self.gallery, rule=rule, unit=unit)
        return name_best(scores, self.calibration, threshold if unknown else None, top)

    def prepare_photo(self, photo: object) -> NDArray[np.uint8]:
        """Read, crop and resize one photo as the training images were."""
        from siameselib.data.photo import read_photo

        return read_photo(photo, size=self.size, crop=self.crop)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything into one file, atomically; :meth:`load` reads it without pickle code.

        Args:
            path: The file, replaced if it is there.

        Raises:
            TypeError: The head is not one of siameselib's, so ``load`` could not rebuild it.
            OSError: The file cannot be written; one that was there is left as it was.
        """
        path = _check.path("Verifier.save", "path", path)
        settings = {name: getattr(self, name) for name in _SETTINGS}
        fitted = self.threshold, self.calibration, self.fitted_on
        write(Content(self.backbone, self.head, settings, *fitted, self.gallery), path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        *,
        backbone: nn.Module | None = None,
    ) -> Verifier:
        """Read a saved verifier; no code in the file is run.

        Args:
            path: A file that :meth:`save` wrote.
            device: Where its nets go.
            backbone: A net of the saved one's kind to take its weights, where that is not one of
                siameselib's.

        Returns:
            The verifier, in evaluation mode.

        Raises:
            FileNotFoundError: There is no such file.
            IsADirectoryError: It is a folder, such as that of a run.
            ValueError: The file is not a verifier, is damaged, has another format version, or needs
                a ``backbone``.
        """
        kept = read(path, device, backbone)
        verifier = cls(kept.backbone, kept.head, **kept.settings)
        verifier.threshold, verifier.calibration = kept.threshold, kept.calibration
        verifier.fitted_on, verifier.gallery = kept.fitted_on, kept.gallery
        return verifier
