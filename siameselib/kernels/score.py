"""What softmax losses sum the exponential of: a function of the similarity, or of its lack."""

from typing import NamedTuple

from torch import Tensor


class Score(NamedTuple):
    r"""f: :math:`t \mapsto` scale·t, or with a relaxation m, scale·max(0, t + m)·(t - m).

    The gradient takes max(0, t + m) as a constant.
    """

    scale: float
    relaxation: float | None = None

    def of(self, t: Tensor) -> Tensor:
        """Return f(t)."""
        if self.relaxation is None:
            return self.scale * t
        return self.scale * (t.detach() + self.relaxation).relu() * (t - self.relaxation)
