"""What every finding uses: its type, its severity, and the way out where nothing was seen."""

from collections.abc import Callable
from typing import TypeVar

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.report import Finding

T = TypeVar("T")
Check = Callable[[Evidence], Finding | None]


class Unseen(Exception):
    """There is nothing that this finding could be drawn from."""


def need(value: T | None) -> T:
    """Give the value, or leave the check where it was not seen."""
    if value is None:
        raise Unseen
    return value


def enough(condition: bool) -> None:
    """Leave the check where too little was seen."""
    if not condition:
        raise Unseen


def share(part: float) -> str:
    """Say a share in per cent, and never 100 % of what is not all."""
    if 0.995 <= part < 1:
        return "over 99 %"
    return "under 1 %" if 0 < part < 0.005 else f"{part:.0%}".replace("%", " %")
