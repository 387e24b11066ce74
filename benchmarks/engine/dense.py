"""Every batch loss as a plain dense PyTorch user writes it: the whole matrix, masks, autograd.

Written from the papers without a look at the library: in float64 these are the reference that the
library's losses have to meet before they are timed, in float32 they are one of the peers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN, TEMPERATURE = 0.2, 0.1


def _masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same


def _distances(x: Tensor) -> Tensor:
    square = x.square().sum(1)
    d2 = (square[:, None] + square - 2 * x @ x.T).clamp(min=0)
    zero = d2 == 0
    return torch.where(zero, 0, torch.where(zero, 1, d2).sqrt())


def batch_hard(x: Tensor, labels: Tensor) -> Tensor:
    """Farthest positive, nearest negative; mean over the anchors."""
    positive, negative = _masks(labels)
    d = _distances(x)
    hardest = d.masked_fill(~positive, -1).amax(1) - d.masked_fill(~negative, torch.inf).amin(1)
    return F.relu(hardest + MARGIN).mean()


def batch_all(x: Tensor, labels: Tensor) -> Tensor:
    """All triplets in a cube; mean over those above zero."""
    return _cube(x, labels, window=False)


def semi_hard_window(x: Tensor, labels: Tensor) -> Tensor:
    """All triplets whose negative is farther than the positive by less than the margin."""
    return _cube(x, labels, window=True)


def _cube(x: Tensor, labels: Tensor, window: bool) -> Tensor:
    positive, negative = _masks(labels)
    d = _distances(x)
    terms = F.relu(d[:, :, None] - d[:, None, :] + MARGIN)
    valid = positive[:, :, None] & negative[:, None, :]
    if window:
        valid &= d[:, None, :] > d[:, :, None]
    terms = terms * valid
    return terms.sum() / (terms > 0).sum().clamp(min=1)


def semi_hard(x: Tensor, labels: Tensor) -> Tensor:
    """For each (anchor, positive) the nearest negative beyond it, else the farthest."""
    positive, negative = _masks(labels)
    d = _distances(x)
    anchor, other = positive.nonzero(as_tuple=True)
    rows, threshold = d[anchor], d[anchor, other][:, None]
    beyond = rows.masked_fill(~negative[anchor] | (rows <= threshold), torch.inf).amin(1)
    farthest = rows.masked_fill(~negative[anchor], -1).amax(1)
    chosen = torch.where(beyond.isfinite(), beyond, farthest)
    return F.relu(threshold[:, 0] - chosen + MARGIN).mean()


def sup_con(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over an anchor's positives of -log softmax over all others."""
    positive, _ = _masks(labels)
    x = F.normalize(x)
    z = (x @ x.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    log_share = z - z.logsumexp(1, keepdim=True)
    return -(torch.where(positive, log_share, 0).sum(1) / positive.sum(1)).mean()


def nt_xent(x: Tensor, labels: Tensor) -> Tensor:
    """Each positive alone against the anchor's negatives; mean over the (anchor, positive)."""
    positive, negative = _masks(labels)
    x = F.normalize(x)
    z = x @ x.T / TEMPERATURE
    lse = z.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    return F.softplus(lse - z)[positive].mean()


def contrastive(x: Tensor, labels: Tensor) -> Tensor:
    """Mean of the positive distances plus mean of the hinges below 1 of the negative ones."""
    positive, negative = _masks(labels)
    d = _distances(x)
    pull, push = d * positive, F.relu(1 - d) * negative
    return sum(t.sum() / (t > 0).sum().clamp(min=1) for t in (pull, push))


def multi_similarity(x: Tensor, labels: Tensor) -> Tensor:
    """Soft maxima of the positives below and of the negatives above 0.5, no mining."""
    positive, negative = _masks(labels)
    x = F.normalize(x)
    s = x @ x.T - 0.5
    pull = F.softplus((-2 * s).masked_fill(~positive, -torch.inf).logsumexp(1)) / 2
    push = F.softplus((50 * s).masked_fill(~negative, -torch.inf).logsumexp(1)) / 50
    return (pull + push).mean()


def circle(x: Tensor, labels: Tensor) -> Tensor:
    """Self-paced weights, held constant in the gradient; margin 0.25, gamma 64."""
    positive, negative = _masks(labels)
    x = F.normalize(x)
    s = x @ x.T
    pull = -F.relu(1.25 - s).detach() * (s - 0.75)
    push = F.relu(s + 0.25).detach() * (s - 0.25)
    both = [
        (64 * z).masked_fill(~mask, -torch.inf).logsumexp(1)
        for z, mask in ((pull, positive), (push, negative))
    ]
    return F.softplus(both[0] + both[1]).mean()


def lifted_structure(x: Tensor, labels: Tensor) -> Tensor:
    """A smooth farthest positive against a smooth nearest negative, hinged."""
    positive, negative = _masks(labels)
    d = _distances(x)
    far = d.masked_fill(~positive, -torch.inf).logsumexp(1)
    near = (1 - d).masked_fill(~negative, -torch.inf).logsumexp(1)
    return F.relu(far + near).mean()


def bce_pairs(x: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of ten times the cosine less ten; mean over all pairs."""
    positive, negative = _masks(labels)
    x = F.normalize(x)
    z = 10 * (x @ x.T) - 10
    return F.softplus(torch.where(positive, -z, z))[positive | negative].mean()


def info_nce(x: Tensor, labels: Tensor) -> Tensor:
    """First half of the rows against the second, both ways; labels are not looked at."""
    x1, x2 = F.normalize(x).chunk(2)
    z, own = x1 @ x2.T / TEMPERATURE, torch.arange(len(x1), device=x.device)
    return (F.cross_entropy(z, own) + F.cross_entropy(z.T, own)) / 2
