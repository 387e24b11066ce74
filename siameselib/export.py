"""A trained net outside of this library: torch.export, ONNX and safetensors.

What is exported embeds photos as `Verifier.embed` does, normalisation of pixels and embeddings
included, for any number of photos at a time. The score of two photos is then one line in any
language, the dot product of their embeddings (cosine) or minus their distance (Euclidean), and the
threshold a number to compare it with. Every ONNX file is run and compared before it is handed over.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siameselib import _check
from siameselib.evaluation.verifier import Verifier
from siameselib.files import replacing

TOLERANCE = 1e-5  # of the largest entry; of 1 for smaller ones
_EXTRA = 'python -m pip install "siameselib[export]"'
_BATCH = "images"


class Embedder(nn.Module):
    """Photos in, embeddings out: a `Verifier`'s way to embed, as a module that can be exported.

    It holds the verifier's backbone, not a copy, and puts it into evaluation mode.

    Args:
        verifier: any; of one with a head the embeddings are exported, not the head.

    Shape:
        - Input: (n, size, size, 3), uint8, cropped as the training images were
          (`Verifier.prepare_photo`).
        - Output: (n, d), float32.

    Raises:
        TypeError: It is given no `Verifier`.

    Example:
        >>> import siameselib as sl
        >>> verifier = Verifier(sl.C19(image_size=16), size=16)
        >>> photos = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
        >>> bool((Embedder(verifier)(photos) == verifier.embed(photos)).all())
        True
    """

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        if not isinstance(verifier, Verifier):
            got = type(verifier).__name__
            raise _check.refuse("Embedder", "verifier", "be a Verifier", got, TypeError)
        self.backbone = verifier.backbone
        self.size = verifier.size
        self._embed = verifier._embed
        self.eval()

    def forward(self, photos: Tensor) -> Tensor:
        """Embed a batch of photos."""
        return self._embed(photos)

    def example(self, n: int = 2) -> Tensor:
        """Photos of noise, of the right shape, on the backbone's device."""
        device = next(self.backbone.parameters()).device
        noise = torch.Generator().manual_seed(0)
        shape = (n, self.size, self.size, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise).to(device)


def export_program(
    module: nn.Module, path: str | os.PathLike[str], example: Tensor | None = None
) -> Path:
    """Write a module with ``torch.export``, for any batch size.

    Read it with ``torch.export.load(path).module()``; siameselib is not needed for that.

    Args:
        module: an `Embedder`, or any module of one tensor.
        path: the file, customarily ``.pt2``; replaced if it is there.
        example: a batch of two inputs or more; an `Embedder` has its own.

    Returns:
        The path.

    Raises:
        ValueError: No example, or one of fewer than two inputs.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "net.pt2"
        >>> _ = export_program(nn.Linear(3, 2), path, torch.zeros(2, 3))
        >>> torch.export.load(path).module()(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    path = _check.path("export_program", "path", path)
    program = _program("export_program", module, example)
    with replacing(path) as temporary:
        torch.export.save(program, temporary)
    return path


def export_onnx(
    module: nn.Module, path: str | os.PathLike[str], example: Tensor | None = None
) -> float:
    """Write a module as ONNX, for any batch size, and compare it with the module in onnxruntime.

    The input is called ``images``, the output ``embeddings``.

    Args:
        module: an `Embedder`, or any module of one tensor.
        path: the file, replaced if it is there; weights lie inside it.
        example: a batch of two inputs or more; an `Embedder` has its own.

    Returns:
        The largest difference from the module's output, over the batch and over its first input
        alone, in units of the largest entry, or of 1 if that is smaller.

    Raises:
        ValueError: No example, one of fewer than two inputs, or a difference above 1e-5: then
            nothing is written.
        ImportError: The extra ``export`` is not installed.

    Example:
        >>> import tempfile, pytest
        >>> _ = pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
        >>> path = Path(tempfile.mkdtemp()) / "net.onnx"
        >>> export_onnx(nn.Linear(3, 2), path, torch.ones(2, 3)) < 1e-5
        True
    """
    path = _check.path("export_onnx", "path", path)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"export_onnx needs ONNX: {_EXTRA}") from error
    batch = _example("export_onnx", module, example)
    program = _program("export_onnx", module, example)
    with replacing(path) as temporary:
        with warnings.catch_warnings():
            # The exporter calls what PyTorch itself has deprecated: nothing a caller can change.
            for kind in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", kind)
            torch.onnx.export(
                program,
                (),
                temporary,
                input_names=[_BATCH],
                output_names=["embeddings"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        difference = max(_difference(session, module, part) for part in (batch, batch[:1]))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"export_onnx: onnxruntime is {difference:.2g} away from the module, more than "
                f"{TOLERANCE:g}: {path} was not written"
            )
    return difference


def save_weights(module: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a module's weights and buffers as safetensors, which no reader has to trust.

    Args:
        module: any; its structure is not written.
        path: the file, replaced if it is there.

    Returns:
        The path.

    Raises:
        ImportError: The extra ``export`` is not installed.
    """
    path = _check.path("save_weights", "path", path)
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError(f"save_weights needs safetensors: {_EXTRA}") from error
    # Copies: channels-last weights are not contiguous, and tied ones may not share memory there.
    state = {
        name: value.detach().clone().contiguous() for name, value in module.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt", "module": type(module).__name__})
    return path


def load_weights(module: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read weights and buffers that `save_weights` wrote, or any safetensors of the same names.

    Args:
        module: of the structure that was saved; changed only if all of it fits.
        path: the file.

    Returns:
        The module.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no safetensors file, is cut short, or holds other names or shapes.
        ImportError: The extra ``export`` is not installed.
    """
    path = _check.path("load_weights", "path", path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"load_weights needs safetensors: {_EXTRA}") from error
    if not path.is_file():
        raise _check.refuse("load_weights", "path", "exist", str(path), FileNotFoundError)
    try:
        kept = load_file(path)
    except SafetensorError as error:
        expected = "be a whole safetensors file"
        raise _check.refuse("load_weights", "path", expected, f"{path} ({error})") from error
    state: dict[str, Tensor] = module.state_dict()
    for names, verb in ((state.keys() - kept.keys(), "lacks"), (kept.keys() - state.keys(), "has")):
        if names:
            expected, first = f"hold the weights of this {type(module).__name__}", sorted(names)[0]
            got = f"{path}, which {verb} {first!r}" + (" too" if verb == "has" else "")
            raise _check.refuse("load_weights", "path", expected, got)
    for name, value in state.items():
        if value.shape != kept[name].shape:
            expected = f"hold {name!r} of shape {tuple(value.shape)}"
            raise _check.refuse("load_weights", "path", expected, tuple(kept[name].shape))
    module.load_state_dict(kept)
    return module


def _program(where: str, module: nn.Module, example: Tensor | None) -> Any:
    batch = _example(where, module, example)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return torch.export.export(
                module, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    finally:
        module.train(training)


def _example(where: str, module: nn.Module, example: Tensor | None) -> Tensor:
    if example is None and isinstance(module, Embedder):
        example = module.example()
    if example is None:
        raise _check.refuse(where, "example", "be given for a module that is no Embedder", None)
    _check.tensor(where, "example", example)
    if example.ndim == 0 or len(example) < 2:
        # torch.export takes a dimension of 1 for a constant.
        raise _check.refuse(where, "example", "hold two inputs or more", tuple(example.shape))
    return example


def _difference(session: Any, module: nn.Module, batch: Tensor) -> float:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            expected: NDArray[np.float32] = module(batch).cpu().numpy()
    finally:
        module.train(training)
    (found,) = session.run(None, {_BATCH: batch.cpu().numpy()})
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
