"""What a `Verifier` answers: about a pair of photos, and about one photo and a gallery."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """The answer about one pair of photos."""

    same: bool
    """Whether the score reaches the threshold."""

    probability: float
    """P(same), for photos drawn like the pairs that the verifier was fitted on."""

    distance: float
    """1 - score for the cosine, -score otherwise: lower is more alike."""

    threshold: float
    """The lowest score called "same"."""

    interval: tuple[float, float] | None
    """95 % interval of the probability: what so many pairs leave open. None if not known."""

    score: float
    """The similarity, higher is more alike."""

    def __str__(self) -> str:
        """Say it in words."""
        likely = self.probability >= 0.5
        if self.same == likely:
            who = "same person" if self.same else "different people"
            return f"{who}, p = {self.probability if self.same else 1 - self.probability:.2f}"
        return (
            f"{'accepted as' if self.same else 'not accepted as'} the same person: score "
            f"{self.score:.3g}, threshold {self.threshold:.3g}; p(same) = {self.probability:.2f}"
        )


class Candidate(NamedTuple):
    """A person of the gallery, and how much the photo is like them."""

    name: str
    score: float
    probability: float | None
    """P(same) of a pair with this score; None for a verifier that was not fitted."""


class Identity(NamedTuple):
    """The answer about one photo and a gallery."""

    name: str | None
    """Who it is; None for nobody enrolled."""

    candidates: tuple[Candidate, ...]
    """The most alike people, best first, whether accepted or not."""

    threshold: float | None
    """The lowest score called "same"; None where somebody had to be named."""

    def __str__(self) -> str:
        """Say it in words."""
        best = self.candidates[0]
        if self.name is None:
            return f"nobody enrolled; most like {best.name}, score {best.score:.3g}"
        return f"{self.name}, score {best.score:.3g}"
