"""The head that judges a pair: what it cannot say, and on what it starves."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from siameselib.diagnostics.evidence import Evidence
from siameselib.diagnostics.findings.need import enough, need, share
from siameselib.diagnostics.measures import spread
from siameselib.diagnostics.modes import evaluating
from siameselib.diagnostics.report import Finding

_PROBES = 256
_ADDITIVE = 1e-3  # rounding is 1e-6
_ASYMMETRIC = 0.05
_STARVED = 0.02  # in logits: answers within 0.5 %
_THIN = 0.1  # standard deviation of the logits, in lengths of the last layer's weights
_FLAT = 0.95  # of the trivial loss
_SETTLED = 60


def head_additive(e: Evidence) -> Finding | None:
    """The mixed second difference of the head is zero: the two images never meet."""
    judge, rows = _probe(e)
    a, b, c, d = rows.chunk(4)
    ab, cd, ad, cb = judge(a, b), judge(c, d), judge(a, d), judge(c, b)
    mixed = float((ab - ad - cb + cd).square().mean().sqrt())
    wide = float(torch.cat([ab, cd, ad, cb]).std())
    enough(wide > 0)
    if mixed >= _ADDITIVE * wide:
        return None
    return Finding(
        "head-additive",
        "critical",
        f"For images a, b, c, d the head gives z(a,b) - z(a,d) - z(c,b) + z(c,d) = {mixed:.1g}, "
        f"while its logits vary by {wide:.2g}: each image adds a number of its own.",
        "A head like a linear layer on [f1, f2] has no term in which the two images meet, so it "
        "cannot say that they are alike. It can learn which images are often in same pairs, which "
        "fits the training list and is worth nothing on new people (50 to 53 %).",
        "Use InteractionHead (|f1 - f2| and f1·f2), DistanceHead, or at least a hidden layer after "
        "the concatenation.",
    )


def head_asymmetric(e: Evidence) -> Finding | None:
    """Swapping the images changes the logit."""
    judge, rows = _probe(e)
    a, b = rows.chunk(2)
    there, back = judge(a, b), judge(b, a)
    wide = float(torch.cat([there, back]).std())
    enough(wide > 0)
    ratio = float((there - back).square().mean().sqrt()) / (2**0.5 * wide)
    if ratio < _ASYMMETRIC:
        return None
    flips = float(((there > 0) != (back > 0)).double().mean())
    return Finding(
        "head-asymmetric",
        "warning",
        f"Swapping the two images changes the logit by {share(ratio)} of what two unrelated pairs "
        f"differ by; the answer flips for {share(flips)} of the pairs.",
        "Whether two images show one person does not depend on their order: half of what the head "
        "learns is wasted, and figures depend on how a list was written.",
        "Use a symmetric head (InteractionHead, DistanceHead), or train and judge with the mean of "
        "both orders.",
    )


def logits_starved(e: Evidence) -> Finding | None:
    """Logits that barely differ after many steps."""
    z, _ = need(e.logits)
    enough(e.steps >= _SETTLED and len(z) >= 32 and not e.reading.probabilities)
    if e.reading.family != "bce" or (z.std() >= _STARVED and not _creeps(e, float(z.std()))):
        return None
    rows = e.rows
    cause = ""
    if rows is not None and bool(((rows.abs().sum(1) - 1).abs() < 0.01).all()):
        cause = (
            f" The embeddings are L1-normalised: the {rows.shape[1]} entries of |f1 - f2| sum to 2 "
            "at most."
        )
    elif rows is not None and spread(rows) > 0:
        entry = float(rows.std(0).mean())
        cause = f" The entries of the embeddings have a standard deviation of {entry:.1g}."
    return Finding(
        "logits-starved",
        "critical",
        f"After {e.steps:,} steps the logits still have a mean of {z.mean():.3f} and a standard "
        f"deviation of {z.std():.1g}: all answers are within {z.std() / 2:.1g} of each "
        f"other.{cause}",
        "A linear layer on tiny differences needs weights hundreds of times larger than those it "
        "starts from; until then all answers are nearly the same and the loss stays near ln 2.",
        f"Standardise what the last layer sees (DistanceHead and InteractionHead do), which "
        f"multiplies it by about {1 / max(float(z.std()), 1e-9):.0g}; do not L1-normalise "
        f"embeddings.",
    )


def _creeps(e: Evidence, spread_of_logits: float) -> bool:
    """Whether the loss stays flat because a last linear layer sees next to nothing."""
    parts = e.head.modules() if isinstance(e.head, nn.Module) else ()
    last = [part for part in parts if isinstance(part, nn.Linear) and part.out_features == 1]
    if not last or e.trivial is None or e.learns or len(e.losses) < 2:
        return False
    flat = _FLAT < float(e.tail().mean()) / e.trivial < 2 - _FLAT
    return flat and spread_of_logits < _THIN * float(last[-1].weight.detach().norm())


def _probe(e: Evidence) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Give the head as a function, and `_PROBES` embeddings to try it on."""
    head = need(e.head)
    enough(callable(head) and (e.reading.family == "bce" or e.logits is not None))
    parameters = list(head.parameters()) if isinstance(head, nn.Module) else []
    like = parameters[0] if parameters else torch.zeros(1)
    generator = torch.Generator().manual_seed(0)
    rows = e.probe if e.probe is not None else e.rows
    if rows is None:
        width = need(getattr(head, "embedding_dim", None))
        rows = torch.randn(_PROBES, width, generator=generator)
    enough(bool(rows.isfinite().all()) and spread(rows.flatten(1)) > 0)
    chosen = rows[torch.randint(len(rows), (_PROBES,), generator=generator)].to(like)

    def judge(f1: Tensor, f2: Tensor) -> Tensor:
        mode = evaluating(head) if isinstance(head, nn.Module) else nullcontext()
        with torch.no_grad(), mode:
            logits: Tensor = head(f1, f2)
        return logits.flatten().double().cpu()

    return judge, chosen
