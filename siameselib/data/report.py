"""What is in a source of face images, in numbers, and what is wrong with it."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from siameselib.data.packed import absent_images, bad_images
from siameselib.data.pairs import Pair, read_pairs
from siameselib.data.protocols import Part, View1, View2
from siameselib.data.sources import ImageSource, check_source, identity


def describe(
    source: ImageSource,
    *,
    pair_files: Iterable[str | os.PathLike[str]] = (),
    check: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Count images, people and pairs, and look for problems.

    Args:
        source: from `open_lfw` or `open_folder`.
        pair_files: pair lists to look up beside those of the views.
        check: decode every image.
        progress: draw a progress bar, if standard error is a terminal.

    Returns:
        JSON-able facts: ``images``, ``people``, ``people_with_two_or_more``, ``most_images``,
        ``fingerprint``, ``protocol_dir``, ``view_1`` and ``view_2`` (None where files are missing;
        ``notes`` says which), ``pair_lists``, ``problems``.

    Raises:
        ValueError: If a pair list or a protocol file cannot be read.

    Example:
        >>> facts = describe(open_lfw("lfw"))  # doctest: +SKIP
        >>> facts["people_with_two_or_more"], facts["problems"]  # doctest: +SKIP
        (1680, [])
    """
    check_source("describe", source)
    images = Counter(map(identity, source.names))
    person, most = min(images.items(), key=lambda item: (-item[1], item[0]))
    facts: dict[str, Any] = {
        "images": len(source.names),
        "people": len(images),
        "people_with_two_or_more": sum(count > 1 for count in images.values()),
        "most_images": {"person": person, "images": most},
        "fingerprint": source.fingerprint,
        "protocol_dir": None if source.protocol_dir is None else str(source.protocol_dir),
        "view_1": None,
        "view_2": None,
        "notes": [],
    }
    problems = bad_images(source, progress=progress) if check else absent_images(source)
    lists = {str(file): read_pairs(file) for file in pair_files}
    if source.protocol_dir is not None:
        try:
            view1 = View1(source.protocol_dir)
            parts = {"train": view1.train, "test": view1.test}
            facts["view_1"] = {side: _part(part, images) for side, part in parts.items()}
            lists |= {f"view 1, {side}": part.pairs for side, part in parts.items()}
        except FileNotFoundError as error:
            facts["notes"].append(str(error))
        try:
            view2 = View2(source.protocol_dir)
            whole = Part(
                frozenset().union(*view2.people), [pair for fold in view2.pairs for pair in fold]
            )
            facts["view_2"] = {"folds": len(view2), **_part(whole, images)}
            lists["view 2"] = whole.pairs
        except FileNotFoundError as error:
            facts["notes"].append(str(error))
    facts["pair_lists"] = {}
    for file, pairs in lists.items():
        lost = _unresolved(pairs, source)
        facts["pair_lists"][file] = {
            "pairs": len(pairs),
            "same": sum(pair.same for pair in pairs),
            "unresolved_images": len(lost),
        }
        problems += [f"{file}: {name} is not among the images" for name in lost]
    return facts | {"problems": problems}


def _part(part: Part, images: Counter[str]) -> dict[str, int]:
    return {
        "people": len(part.people),
        "people_with_two_or_more": sum(images[person] > 1 for person in part.people),
        "images": sum(images[person] for person in part.people),
        "pairs": len(part.pairs),
    }


def _unresolved(pairs: list[Pair], source: ImageSource) -> list[str]:
    return sorted({name for pair in pairs for name in pair[:2]} - source.entries.keys())
