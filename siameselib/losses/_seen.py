"""The ``stats`` of a criterion, worked out when somebody looks at them."""

from typing import Any

from siameselib.functional.stats import Later, Stats


class Seen:
    """An attribute that is set to stats, or to what will work them out, and read as stats."""

    def __get__(self, criterion: Any, kind: type) -> Stats | None:
        """Return the stats of the last call, None before the first."""
        found: Stats | Later | None = None if criterion is None else vars(criterion).get("_seen")
        if found is None or isinstance(found, Stats):
            return found
        found = vars(criterion)["_seen"] = found()
        return found

    def __set__(self, criterion: Any, value: Stats | Later) -> None:
        """Remember the last call."""
        vars(criterion)["_seen"] = value
