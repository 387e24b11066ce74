"""The doctor beside a training loop: `step` keeps a little of each step, `report` reads it."""

from collections import deque
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.diagnostics.collect import (
    Sample,
    Weights,
    restless,
    sample_of,
    unwrap,
    weights_of,
)
from siameselib.diagnostics.evidence import Evidence, gather
from siameselib.diagnostics.findings import examine
from siameselib.diagnostics.measures import Judged, judge_scores
from siameselib.diagnostics.modes import Modes, compare_modes, keep_images
from siameselib.diagnostics.reading import read
from siameselib.diagnostics.report import Report
from siameselib.evaluation.inputs import Values, check_pairs, check_threshold
from siameselib.functional.distances import Metric

_LOSSES = 1000  # the last so many
_EARLY = 12  # samples of the first steps, while the net is still as it was made
_RECENT = 16  # and from the end
_DENSE, _DENSE_EVERY = 60, 6  # the first steps are looked at more often


class Doctor:
    """Watches a training loop and says in words what is wrong with it.

    Two lines attach it: one before the loop, one in it, after ``loss.backward()`` and before the
    gradients are cleared. Any loss will do, ours or not:

    ========================================================  ====================================
    what the net gives                                        the line in the loop
    ========================================================  ====================================
    embeddings and identities                                 ``doctor.step(f, labels, loss)``
    pairs and ``same`` (1 = same identity)                    ``doctor.step((f1, f2), same, loss)``
    pairs, and logits of a head                               ``doctor.step((f1, f2), same, loss,
                                                              logits=logits)``
    logits only                                               ``doctor.step(logits, same, loss)``
    matching pairs only                                       ``doctor.step((f1, f2), None, loss)``
    triplets                                                  ``doctor.step((a, p, n), None, loss)``
    ========================================================  ====================================

    `step` copies some rows of every ``every``-th step, and the norms of the parameters and their
    gradients, on the device they are on; nothing waits for the device and nothing random is drawn,
    so training goes exactly as it would without. All work is done by `report`. With several
    processes each doctor sees its own, and none talks to another: report on one.

    Args:
        model: The net that is trained, wrapped for several processes or compiled as it may be.
        criterion: The loss. One that is unknown to the doctor is tried out on embeddings that
            know nothing, if it takes (embeddings, labels), to learn what it gives them.
        margin: Of a hand-written loss with a margin.
        metric: Of the distances it compares, see :func:`siameselib.functional.paired_distance`.
        head: What turns two embeddings into a logit; as a rule ``model.head``.
        every: Look at each so many-th step; the first ones are looked at more often.

    Raises:
        TypeError: If ``model`` is no module, ``every`` no integer or ``margin`` no number.
        ValueError: If ``every`` is not at least 1, or ``margin`` not positive.

    Example:
        >>> import siameselib as sl
        >>> x, labels = torch.randn(32, 8), torch.arange(32) // 4
        >>> net, criterion = nn.Linear(8, 4), sl.BatchHardTripletLoss(margin=0.2)
        >>> doctor = sl.Doctor(net, criterion)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.0)  # forgot to set it
        >>> for _ in range(60):
        ...     f = net(x)
        ...     loss = criterion(f, labels)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     doctor.step(f, labels, loss)
        >>> print(doctor.report().findings[0].code)
        weights-not-moving
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Any = None,
        *,
        margin: float | None = None,
        metric: Metric | None = None,
        head: Any = None,
        every: int = 25,
    ) -> None:
        if not isinstance(model, nn.Module):
            got = type(model).__name__
            raise _check.refuse("Doctor", "model", "be an nn.Module", got, TypeError)
        self.model, self.criterion, self.head = model, criterion, head
        if margin is not None:
            _check.positive("Doctor", "margin", margin)
        self.every = _check.integer("Doctor", "every", every, 1)
        self.reading = read(criterion, margin, metric)
        self.steps = 0
        self._losses: deque[Tensor] = deque(maxlen=_LOSSES)
        self._early: list[Sample] = []
        self._recent: deque[Sample] = deque(maxlen=_RECENT)
        self._first_weights: list[Weights] = []
        self._weights: deque[Weights] = deque(maxlen=_RECENT)
        self._restless: set[str] = set()
        self._validation: Judged | None = None

    def step(
        self,
        embeddings: Tensor | tuple[Tensor, ...] | list[Tensor] | None,
        labels: Tensor | None,
        loss: Tensor | float,
        *,
        logits: Tensor | None = None,
        images: Tensor | None = None,
    ) -> None:
        """Keep a little of a training step.

        Args:
            embeddings: What the net gave: see the table of the class.
            labels: The identities of a batch, or ``same`` of pairs; None for triplets and for
                matching pairs.
            loss: The loss, as it is.
            logits: Of the pairs, where a head gives them.
            images: The rows of a labelled batch as they went into the net: with them the report
                compares the net in training and in evaluation mode.

        Raises:
            ValueError: If shapes do not fit together.
            TypeError: If there is anything but tensors.
        """
        self._losses.append(_scalar(loss))
        often = self.steps < _DENSE and self.steps % _DENSE_EVERY == 0
        due = often or self.steps % self.every == 0
        if not due and self.steps >= _EARLY:
            self.steps += 1
            return
        with torch.no_grad():
            stats = getattr(self.criterion, "stats", None)
            sample = sample_of(self.steps, embeddings, labels, logits, images, stats)
            if self.steps < _EARLY:
                self._early.append(sample)
            self._recent.append(sample)
            if due:
                weights = weights_of(self.steps, unwrap(self.model))
                if len(self._first_weights) < _EARLY:
                    self._first_weights.append(weights)
                self._weights.append(weights)
                self._restless.update(restless(unwrap(self.model)))
        self.steps += 1

    def validation(self, scores: Values, same: Values, threshold: float | None = None) -> None:
        """Tell the doctor how pairs that are not trained on were scored, last of all.

        Args:
            scores: Similarities of the pairs, higher = more alike.
            same: 1 where a pair shows one identity.
            threshold: The one in use: accept from this score on.

        Raises:
            ValueError: Shapes differ or are not (n,), a score or the threshold is not finite, or
                one class is missing.
            TypeError: Anything is no number.
        """
        checked = check_pairs("Doctor.validation", scores, same)
        if threshold is not None:
            threshold = check_threshold("Doctor.validation", threshold)
        self._validation = judge_scores(*checked, threshold)

    def report(self) -> Report:
        """Read what was kept, and judge it. This is the only call that waits for the device.

        Returns:
            The findings, most important first; ``print(report)`` is the card.
        """
        return examine(self._evidence())

    def _evidence(self) -> Evidence:
        head = self.head if self.head is not None else getattr(unwrap(self.model), "head", None)
        return gather(
            criterion=self.criterion,
            reading=self.reading,
            steps=self.steps,
            losses=list(self._losses),
            early=self._early,
            recent=list(self._recent),
            weights=[*self._first_weights, *self._weights],
            restless=sorted(self._restless),
            head=head,
            modes=self._modes(),
            validation=self._validation,
        )

    def _modes(self) -> Modes | None:
        kept = keep_images([s for s in self._recent if s.images is not None])
        return None if kept is None else compare_modes(unwrap(self.model), *kept)


def _scalar(loss: Tensor | float) -> Tensor:
    if not isinstance(loss, Tensor):
        if not isinstance(loss, Real):
            raise _check.refuse("Doctor.step", "loss", "be a number", repr(loss), TypeError)
        return torch.tensor(float(loss))
    if loss.numel() != 1:
        expected = "be one number, the mean or sum that is trained on"
        raise _check.refuse("Doctor.step", "loss", expected, tuple(loss.shape))
    copied = loss.detach().clone()
    return copied if copied.ndim == 0 else copied.reshape(())
