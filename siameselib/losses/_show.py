"""How a loss prints its keywords."""

from torch import nn


def show(criterion: nn.Module, *keywords: str) -> str:
    """Return "margin=0.2, metric='cosine'" for the attributes named; functions by their name."""
    values = {keyword: getattr(criterion, keyword) for keyword in keywords}
    return ", ".join(
        f"{keyword}={value.__qualname__ if callable(value) else repr(value)}"
        for keyword, value in values.items()
    )
