"""Siamese nets: one backbone for both images, a head that judges the pair, and `freeze`."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from siameselib import _check
from siameselib.functional.distances import METRICS, at_least_float32, paired_distance

M = TypeVar("M", bound=nn.Module)
_EPS = 1e-10  # below the variance of the products of unit vectors, which BatchNorm's 1e-5 is not


class SiameseNetwork(nn.Module):
    """One backbone for both images of a pair, and a head that says how alike they are.

    Computes ``head(f1, f2)`` with ``f1, f2 = backbone(x1), backbone(x2)``, except that both images
    go through the backbone in one pass: BatchNorm sees one batch of 2·B images, not two batches
    with statistics of their own.

    Args:
        backbone: Maps (n, ...) images to (n, d) embeddings.
        head: Maps two (B, d) embeddings to (B,) logits, positive for "same". Without one, an
            `InteractionHead` of the backbone's ``embedding_dim``.

    Shape:
        - x1, x2: (B, ...), equal shapes.
        - Output: (B,) logits, or what ``head`` returns.

    Raises:
        ValueError: If x1 and x2 differ in shape, if the backbone does not return one embedding
            an image, or if there is neither a head nor a ``backbone.embedding_dim``.

    Example:
        >>> net = SiameseNetwork(nn.Linear(5, 3), DistanceHead())
        >>> x1, x2 = torch.randn(4, 5), torch.randn(4, 5)
        >>> net(x1, x2).shape, net.embed(x1).shape
        (torch.Size([4]), torch.Size([4, 3]))
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        if head is None:
            width = getattr(backbone, "embedding_dim", None)
            if not isinstance(width, int):
                expected = "be given for a backbone without embedding_dim"
                raise _check.refuse("SiameseNetwork", "head", expected, type(backbone).__name__)
            head = InteractionHead(width)
        self.backbone = backbone
        self.head = head

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Judge pairs: row k of x1 against row k of x2."""
        _check.tensor("SiameseNetwork", "x1", x1)
        _check.tensor("SiameseNetwork", "x2", x2)
        _check.same_shape("SiameseNetwork", x1=x1, x2=x2)
        f = self.embed(torch.cat([x1, x2]))
        if f.ndim != 2 or len(f) != 2 * len(x1):
            expected = f"return embeddings of shape ({2 * len(x1)}, d)"
            raise _check.refuse("SiameseNetwork", "backbone", expected, tuple(f.shape))
        logits: Tensor = self.head(f[: len(x1)], f[len(x1) :])
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Embed images: (n, ...) to (n, d)."""
        f: Tensor = self.backbone(x)
        return f


class ConcatHead(nn.Module):
    r"""The reference head: one linear layer on both embeddings side by side.

    .. math:: \text{logit} = w \cdot [f_1, f_2] + b = w_1 \cdot f_1 + w_2 \cdot f_2 + b

    It is *additive*: each image contributes a number of its own, and there is no term in which
    the two meet. So it cannot express "same": if it scores (a, a) and (b, b) as same, then the
    scores of (a, b) and (b, a) have the same positive sum, and at least one of them is called
    same too. What it can learn is how often an image appears in positive pairs, which fits the
    training list (up to 100 %) and tells nothing about new people (50 to 53 %). It is also
    asymmetric: swapping the images changes the logit. Kept for comparison; use `InteractionHead`.

    Args:
        embedding_dim: Width d of one embedding.

    Shape:
        - f1, f2: (B, d).
        - Output: (B,) logits, positive for "same".

    Raises:
        ValueError: If the embeddings do not both have shape (B, d).

    Example:
        >>> head = ConcatHead(1024)
        >>> head.linear
        Linear(in_features=2048, out_features=1, bias=True)
        >>> head(torch.randn(4, 1024), torch.randn(4, 1024)).shape
        torch.Size([4])
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = _check.integer("ConcatHead", "embedding_dim", embedding_dim, 1)
        self.linear = nn.Linear(2 * embedding_dim, 1)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs of embeddings."""
        _check_pair("ConcatHead", f1, f2, self.embedding_dim)
        with torch.autocast(f1.device.type, enabled=False):
            logits: Tensor = self.linear(torch.cat([f1, f2], 1).to(self.linear.weight.dtype))
        return logits.squeeze(1)


class InteractionHead(nn.Module):
    r"""The default head: a linear layer on what the two embeddings have to do with each other.

    .. math:: \text{logit} = w \cdot \text{standardise}([|f_1 - f_2|,\; f_1 f_2]) + b

    Differences and products, entry by entry, are *interactions*: unlike `ConcatHead` this head can
    express "same", and it is symmetric in the two images to the last bit.

    Standardised means a BatchNorm without affine part over the pairs of the batch, so that the
    scale of the embeddings does not matter (the products of unit vectors of 1,024 entries have a
    spread of 1e-3, on which a linear layer would starve). In eval mode the running statistics
    serve, and a single pair is fine; in training mode there must be two.

    The head starts as a similarity, b = 0 and w = ∓0.1/√(2d): minus for the differences, plus for
    the products. With random signs, half of the entries would first have to turn round.

    Args:
        embedding_dim: Width d of one embedding.

    Shape:
        - f1, f2: (B, d).
        - Output: (B,) logits, positive for "same".

    Raises:
        ValueError: If the embeddings do not both have shape (B, d), or B < 2 in training mode.

    Example:
        >>> head, f1, f2 = InteractionHead(8), torch.randn(4, 8), torch.randn(4, 8)
        >>> bool((head(f1, f2) == head(f2, f1)).all())
        True
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = _check.integer("InteractionHead", "embedding_dim", embedding_dim, 1)
        self.standardise = nn.BatchNorm1d(2 * embedding_dim, eps=_EPS, affine=False)
        self.linear = nn.Linear(2 * embedding_dim, 1)
        weight = 0.1 / math.sqrt(2 * embedding_dim)
        nn.init.constant_(self.linear.weight[:, :embedding_dim], -weight)
        nn.init.constant_(self.linear.weight[:, embedding_dim:], weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs of embeddings."""
        _check_pair("InteractionHead", f1, f2, self.embedding_dim)
        _check_batch("InteractionHead", f1, self.standardise)
        with torch.autocast(f1.device.type, enabled=False):
            f1, f2 = f1.to(self.linear.weight.dtype), f2.to(self.linear.weight.dtype)
            interactions = torch.cat([(f1 - f2).abs(), f1 * f2], 1)
            logits: Tensor = self.linear(self.standardise(interactions))
        return logits.squeeze(1)


class DistanceHead(nn.Module):
    r"""A logit from one number, the distance of the two embeddings.

    .. math:: \text{logit} = b - w \cdot \frac{D(f_1, f_2) - \mu}{\sigma}, \qquad w = 1, b = 0
       \text{ at first}

    with the mean μ and the spread σ of the distances in the batch (running ones in eval mode): a
    BatchNorm of one feature whose learned scale starts at −1, since far means different. Without
    it a distance makes a poor logit: ‖a/‖a‖₁ − b/‖b‖₁‖₁ is at most 2 and its spread is far below
    that, while the Euclidean distances of BatchNorm outputs lie around √(2d).

    Args:
        metric: A metric of `siameselib.functional.paired_distance` ("euclidean", "sqeuclidean",
            "cosine", "manhattan"), or "l1_normalized" for the one above, in which a zero
            embedding stays zero.

    Shape:
        - f1, f2: (B, d).
        - Output: (B,) logits, positive for "same".

    Raises:
        ValueError: If the metric is none of these, if the embeddings differ in shape or are no
            matrices, or B < 2 in training mode.

    Example:
        >>> head = DistanceHead("cosine").eval()
        >>> head(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist()
        [0.0, -1.0]
    """

    def __init__(self, metric: str = "euclidean") -> None:
        super().__init__()
        _check.choice("DistanceHead", "metric", metric, (*METRICS, "l1_normalized"))
        self.metric = metric
        self.standardise = nn.BatchNorm1d(1, eps=_EPS)
        nn.init.constant_(self.standardise.weight, -1.0)

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Judge pairs of embeddings."""
        _check_pair("DistanceHead", f1, f2)
        _check_batch("DistanceHead", f1, self.standardise)
        with torch.autocast(f1.device.type, enabled=False):
            if self.metric == "l1_normalized":
                f1, f2 = _l1_unit(at_least_float32(f1)), _l1_unit(at_least_float32(f2))
                distance = paired_distance(f1, f2, "manhattan")
            else:
                distance = paired_distance(f1, f2, self.metric)
            distance = distance.unsqueeze(1).to(self.standardise.weight.dtype)
            logits: Tensor = self.standardise(distance)
        return logits.squeeze(1)

    def extra_repr(self) -> str:
        """Name the metric in the repr."""
        return f"metric={self.metric!r}"


def freeze(module: M) -> M:
    """Make a module constant: no gradients, eval mode, and no way back but `unfreeze`.

    Its parameters stop requiring gradients, and it and all it contains stay in eval mode
    whatever ``.train()`` is called later on it or on a module around it: BatchNorm statistics and
    dropout included, which ``requires_grad_(False)`` alone leaves running. Freezing survives
    deepcopy and pickle and leaves the state dict as it is; freezing twice is freezing once.

    Freeze before wrapping a model for distributed training or building its optimiser.

    Args:
        module: Any module, or any part of one.

    Returns:
        The same module.

    Raises:
        TypeError: If ``module`` is no module.

    Example:
        Train only the last layer of a net:

        >>> net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        >>> _ = unfreeze(freeze(net)[2])
        >>> [part.training for part in net.train()]
        [False, False, True]
    """
    _check_module("freeze", module)
    parts = [part for part in module.modules() if not _is_frozen(part)]
    locks = [_Frozen(part) for part in parts]  # before anything changes: parts may share parameters
    for part, lock in zip(parts, locks, strict=True):
        vars(part)["train"] = lock
        part.training = False
    module.requires_grad_(False)
    return module


def unfreeze(module: M) -> M:
    """Undo `freeze` for a module or for a part of a frozen one.

    All is as if it had never been frozen: the parameters that required gradients before do so
    again, and the module is in the mode last asked for, by ``.train()`` or ``.eval()``.

    Args:
        module: A frozen module; one that is not frozen is left alone.

    Returns:
        The same module.

    Raises:
        TypeError: If ``module`` is no module.

    Example:
        >>> net = freeze(nn.Dropout()).train()
        >>> net.training, unfreeze(net).training
        (False, True)
    """
    _check_module("unfreeze", module)
    for part in module.modules():
        if _is_frozen(part):
            lock = vars(part).pop("train")
            for name in lock.trainable:
                part.get_parameter(name).requires_grad_()
            part.training = lock.mode
    return module


class _Frozen:
    """Takes the place of a frozen module's ``train``: the module stays in eval mode.

    An object that can be copied and pickled along with the module it belongs to, as a closure
    could not. Modules within it are asked in turn, so that an unfrozen part of a frozen one obeys.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.mode = module.training
        self.trainable = [n for n, p in module.named_parameters(recurse=False) if p.requires_grad]

    def __call__(self, mode: bool = True) -> nn.Module:
        self.mode = mode
        for child in self.module.children():
            child.train(mode)
        return self.module


def _is_frozen(module: nn.Module) -> bool:
    return isinstance(vars(module).get("train"), _Frozen)


def _check_module(where: str, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise _check.refuse(where, "module", "be an nn.Module", type(module).__name__, TypeError)


def _check_pair(where: str, f1: Tensor, f2: Tensor, width: int | None = None) -> None:
    _check.matrix(where, "f1", f1)
    _check.matrix(where, "f2", f2)
    _check.same_shape(where, f1=f1, f2=f2)
    if width is not None and f1.shape[1] != width:
        raise _check.refuse(where, "f1", f"have shape (B, {width})", tuple(f1.shape))


def _check_batch(where: str, f1: Tensor, standardise: nn.BatchNorm1d) -> None:
    if standardise.training and len(f1) < 2:
        expected = "hold at least 2 pairs in training mode, where the batch gives the statistics"
        raise _check.refuse(where, "f1", expected, len(f1))


def _l1_unit(f: Tensor) -> Tensor:
    total = f.abs().sum(1, keepdim=True)
    return f / torch.where(total > 0, total, 1)
