"""`diagnose`: one look at a data loader, and at a net before or after its training."""

import inspect
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.diagnostics.collect import Sample, restless, sample_of, unwrap
from siameselib.diagnostics.evidence import Evidence, gather
from siameselib.diagnostics.findings import CHECKS, data, run_checks, vitals
from siameselib.diagnostics.modes import Modes, compare_modes, embed, evaluating
from siameselib.diagnostics.reading import read
from siameselib.diagnostics.report import Report, ranked

_WHERE = "diagnose"


@dataclass
class Seen:
    """What a loader gave: checksums of all images with their labels, and the first batches."""

    form: str = ""
    images: list[int] = field(default_factory=list)
    """The checksum of every image, in order; of pairs, the first images and the second ones."""
    labels: list[int] = field(default_factory=list)
    """The identity of each, where known."""
    pairs: list[tuple[int, int, bool]] = field(default_factory=list)
    batches: list[Tensor] = field(default_factory=list)
    """The labels of each batch."""
    kept: list[tuple[Tensor, ...]] = field(default_factory=list)
    """The first batches themselves, images and labels."""
    size: int | None = None
    """How many images the data set has, where the loader says so."""
    fixed: bool | None = None
    """Whether a second pass gives the same pairs."""


def diagnose(
    model: nn.Module,
    loader: Iterable[Any],
    test: Iterable[Any] | None = None,
    *,
    criterion: Any = None,
    images: int = 512,
) -> Report:
    """Examine a data loader, and a net before or after its training, without training it.

    Looks for equal images (inside pairs, under several identities, in training and test), people
    on both sides of a split, labels of the wrong kind, batches without positives; collapsed or
    dead embeddings; a head that cannot say "same" or starves; and a net that differs between
    training and evaluation mode.

    Equal images are found by their pixels: give loaders without random augmentation.

    Args:
        model: A net that maps images to embeddings, a siamese one, or any that maps two images to a
            logit. It is left as it is.
        loader: Gives batches (images, labels), (images1, images2, same), ((images1, images2),
            same) or (anchor, positive, negative); goes through it once, twice for pairs.
        test: A loader of the test images, in either form.
        criterion: The loss, if its margin is to be judged too.
        images: How many images to embed, at least; the rest is only compared.

    Returns:
        The findings, most important first; ``print(report)`` is the card.

    Raises:
        ValueError: If the loader is empty, or a batch has none of these forms.
        TypeError: If the model is no module.

    Example:
        >>> import siameselib as sl
        >>> x, labels = torch.randn(64, 8), torch.arange(64) // 4
        >>> sampler = sl.PKSampler(labels, P=8, K=4)
        >>> report = sl.diagnose(nn.Linear(8, 4), [(x[rows], labels[rows]) for rows in sampler])
        >>> report.healthy
        True
    """
    if not isinstance(model, nn.Module):
        raise _check.refuse(_WHERE, "model", "be an nn.Module", type(model).__name__, TypeError)
    seen = _look(loader, "loader", _check.integer(_WHERE, "images", images, 1))
    if seen.form == "pairs":
        again = _look(loader, "loader", 0)
        seen.fixed = sorted(again.pairs) == sorted(seen.pairs)
    other = None if test is None else _look(test, "test", 0)
    evidence = _evidence(unwrap(model), seen, criterion)
    found, looked_at = run_checks(CHECKS, evidence)
    of_data, of_data_at = run_checks(data.CHECKS, data.Loaded(seen, other, evidence))
    distinct = len(set(seen.images))
    subject = f"{len(seen.images):,} images ({distinct:,} distinct) of a loader, and the net"
    known = {finding.code for finding in of_data}
    findings = ranked([*of_data, *(f for f in found if f.code not in known)])
    return Report(findings, subject, vitals(evidence), [*looked_at, *of_data_at])


def _look(loader: Iterable[Any], name: str, keep: int) -> Seen:
    if not isinstance(loader, Iterable):
        got = type(loader).__name__
        raise _check.refuse(_WHERE, name, "give batches", got, TypeError)
    seen = Seen()
    dataset = getattr(loader, "dataset", None)
    if hasattr(dataset, "__len__"):
        seen.size = len(dataset)  # type: ignore[arg-type]
    for batch in loader:
        form, parts = _form(name, batch)
        if seen.form and form != seen.form:
            raise _check.refuse(_WHERE, name, f"give {seen.form} throughout", form)
        seen.form = form
        shapes = [tuple(each[0].shape[1:]) for each in (*seen.kept[:1], parts)]
        if keep > 0 and shapes[0] != shapes[-1]:
            got = " and ".join(map(str, shapes))
            raise _check.refuse(_WHERE, name, "give images of one shape", got)
        if keep > 0:
            seen.kept.append(parts)
            keep -= len(parts[0])
        if form == "batch":
            seen.images += _checksums(parts[0])
            seen.labels += parts[1].tolist()
            seen.batches.append(parts[1])
            continue
        sums = [_checksums(x) for x in parts[: 3 if form == "triplets" else 2]]
        seen.images += [each for side in sums for each in side]
        if form == "pairs":
            seen.batches.append(parts[2])
            seen.pairs += zip(sums[0], sums[1], (parts[2] > 0).tolist(), strict=True)
        else:
            seen.pairs += ((a, p, True) for a, p in zip(sums[0], sums[1], strict=True))
            seen.pairs += ((a, n, False) for a, n in zip(sums[0], sums[2], strict=True))
    if not seen.images:
        raise _check.refuse(_WHERE, name, "give at least one batch", "none")
    return seen


def _form(name: str, batch: Any) -> tuple[str, tuple[Tensor, ...]]:
    parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    if len(parts) == 2 and isinstance(parts[0], (tuple, list)):
        parts = [*parts[0], parts[1]]
    try:
        parts = [torch.as_tensor(part) for part in parts]
    except (TypeError, ValueError, RuntimeError) as error:
        got = ", ".join(type(part).__name__ for part in parts)
        expected = "give tensors, and identities as integers"
        raise _check.refuse(_WHERE, name, expected, f"{got} ({error})", TypeError) from error
    shapes = [tuple(part.shape) for part in parts]
    match shapes:
        case [(n, _, *_), (m,)] if n == m:
            return "batch", tuple(parts)
        case [(n, _, *_) as first, second, (m,)] if first == second and n == m:
            return "pairs", tuple(parts)
        case [(_, _, *_) as first, second, third] if first == second == third:
            return "triplets", tuple(parts)
    expected = "give (images, labels), (images1, images2, same) or (anchor, positive, negative)"
    raise _check.refuse(_WHERE, name, expected, shapes)


def _checksums(images: Tensor) -> list[int]:
    array = images.detach().cpu().contiguous()
    array = array.float() if array.is_floating_point() else array
    rows = array.flatten(1).numpy()
    # two checksums of 32 bits: equal by accident once in 10^19 pairs
    return [zlib.crc32(row.tobytes()) << 32 | zlib.adler32(row.tobytes()) for row in rows]


def _evidence(model: nn.Module, seen: Seen, criterion: Any) -> Evidence:
    like = next(iter(model.parameters()), torch.zeros(1))
    head = getattr(model, "head", None)
    two = len(_required(model)) > 1 and not any(hasattr(model, x) for x in ("embed", "backbone"))
    samples, probe = [], []
    with evaluating(model), torch.no_grad():
        for k, parts in enumerate(seen.kept):
            parts = tuple(x.to(like) if x.is_floating_point() else x.to(like.device) for x in parts)
            if two:
                if seen.form == "pairs":
                    with _given(parts[:2]):
                        z = model(parts[0], parts[1])
                    samples.append(sample_of(k, z.flatten(), parts[2], None, None, None))
                    probe += [parts[0], parts[1]]
            else:
                samples.append(_sample(k, model, seen.form, parts, head))
    evidence = gather(
        criterion=criterion,
        reading=read(criterion),
        steps=0,
        losses=[],
        early=[],
        recent=samples,
        weights=[],
        restless=[],
        head=model if two else head,
        modes=None if two else _modes(model, seen, like),
        validation=None,
    )
    return evidence.of_one_look(torch.cat(probe).cpu() if probe else None, restless(model))


def _sample(k: int, model: nn.Module, form: str, parts: tuple[Tensor, ...], head: Any) -> Sample:
    if form == "batch":
        with _given(parts[:1]):
            embeddings = embed(model, parts[0])
        return sample_of(k, embeddings, parts[1], None, None, None)
    count = 2 if form == "pairs" else 3
    with _given(parts[:count]):
        f = embed(model, torch.cat(parts[:count])).chunk(count)
    logits = head(*f).flatten() if form == "pairs" and isinstance(head, nn.Module) else None
    return sample_of(k, tuple(f), parts[2] if form == "pairs" else None, logits, None, None)


@contextmanager
def _given(images: tuple[Tensor, ...]) -> Iterator[None]:
    """Say what the net was given when torch says that it does not fit."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        got = " and ".join(f"{x.dtype} {tuple(x.shape)}" for x in images)
        expected = "give images that the net takes"
        raise _check.refuse(_WHERE, "loader", expected, f"{got}: {error}") from error


def _modes(model: nn.Module, seen: Seen, like: Tensor) -> Modes | None:
    if seen.form != "batch":
        return None
    images = torch.cat([parts[0] for parts in seen.kept])[:256]
    labels = torch.cat([parts[1] for parts in seen.kept])[:256]
    images = images.to(like) if images.is_floating_point() else images.to(like.device)
    return compare_modes(model, images, labels)


def _required(model: nn.Module) -> list[str]:
    parameters: Iterator[inspect.Parameter] = iter(
        inspect.signature(model.forward).parameters.values()
    )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]
