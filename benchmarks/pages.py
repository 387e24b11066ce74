"""What a benchmark leaves: result files, and text between two markers of a Markdown page.

Everything is written whole or not at all.
"""

import json
from pathlib import Path
from typing import Any

from siameselib.files import replacing


def insert(page: str, name: str, content: str) -> str:
    """Put the content between the lines ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page must hold {begin} and then {end}, each once")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    middle = f"\n\n{content.strip()}\n\n" if content.strip() else "\n"
    return f"{before}{begin}{middle}{end}{after}"


def update(path: Path, name: str, content: str, *, write: bool = True) -> bool:
    """Write a page's part anew, or only look; tell whether it was out of date."""
    old = path.read_text("utf-8")
    try:
        new = insert(old, name, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if write and new != old:
        write_text(path, new)
    return new != old


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write a result."""
    write_text(path, json.dumps(found, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
