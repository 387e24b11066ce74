"""Take a trained verifier to ONNX, in 32 bits and in 8, and measure what that costs and saves.

    python examples/lfw/to_onnx.py runs/people/model.pt --data path/to/lfw
    python examples/lfw/to_onnx.py runs/people/model.pt --faces folder

Writes model.onnx and model-int8.onnx beside the model. The 8-bit net is calibrated on photos of the
training half of View 1 (or the first people of a folder) and judged on pairs of others. Its
weights are whole numbers, and so are the activations between layers; scores stay floats.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from siameselib.data import View1, identity, open_folder, open_lfw
from siameselib.evaluation import Verifier, auc
from siameselib.export import Embedder, export_onnx

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Photos(CalibrationDataReader):
    """Photos one at a time, as the quantiser asks for them."""

    def __init__(self, photos: NDArray[np.uint8]) -> None:
        self.rest = iter(photos)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        photo = next(self.rest, None)
        return None if photo is None else {"images": photo[None]}


def quantise(source: Path, target: Path, photos: NDArray[np.uint8]) -> None:
    """Write the net in 8 bits: weights per channel, activations by their range on the photos."""
    quantize_static(
        source,
        target,
        Photos(photos),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm"],
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )


def session(path: Path, threads: int) -> Embed:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda photos: opened.run(None, {"images": photos})[0]


def milliseconds(nets: dict[str, Embed], pair: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """The median time to embed two photos, the nets taking turns."""
    times: dict[str, list[float]] = {name: [] for name in nets}
    for turn in range(rounds + 3):
        for name, embed in nets.items():
            start = time.perf_counter()
            embed(pair)
            if turn >= 3:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def load(
    args: argparse.Namespace, verifier: Verifier
) -> tuple[NDArray[np.uint8], list[tuple[NDArray[np.uint8], NDArray[np.uint8], bool]]]:
    """Calibration photos, and pairs of other people as (a, b, same)."""
    source = open_folder(args.faces) if args.faces else open_lfw(args.data)
    if args.faces:
        people = source.people
        first, other = set(people[: len(people) // 2]), set(people[len(people) // 2 :])
        names = [name for name in source.names if identity(name) in other]
        drawn = np.random.default_rng(0).choice(names, (20 * args.pairs, 2))
        listed = [(a, b, identity(a) == identity(b)) for a, b in drawn.tolist() if a != b]
    elif source.protocol_dir is None:
        raise ValueError(f"{args.data} holds no pairs*.txt files: put LFW's protocol files there")
    else:
        view = View1(source.protocol_dir)
        first, listed = set(view.train.people), [(a, b, same) for a, b, same in view.test.pairs]
    same, different = ([p for p in listed if p[2] == kind] for kind in (True, False))
    if not first or not same or not different:
        raise ValueError("there must be photos of four people or more, some of them with several")
    pairs = same[: args.pairs] + different[: args.pairs]

    def photo(name: str) -> NDArray[np.uint8]:
        return verifier.prepare_photo(source.read(name))

    names = [name for name in source.names if identity(name) in first]
    chosen = np.random.default_rng(0).permutation(len(names))[: args.calibrate]
    shown = {name: photo(name) for pair in pairs for name in pair[:2]}
    calibration = np.stack([photo(names[k]) for k in chosen])
    return calibration, [(shown[a], shown[b], kind) for a, b, kind in pairs]


def _parts(photos: NDArray[np.uint8], size: int = 32) -> list[NDArray[np.uint8]]:
    return [photos[k : k + size] for k in range(0, len(photos), size)]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Write both nets, and say how they differ from the one in PyTorch."""
    verifier = Verifier.load(args.model)
    whole, small = (
        args.model.with_suffix(".onnx"),
        args.model.with_name(f"{args.model.stem}-int8.onnx"),
    )
    calibration, pairs = load(args, verifier)
    difference = export_onnx(Embedder(verifier), whole)
    quantise(whole, small, calibration)
    nets = {
        "PyTorch, 32 bits": lambda photos: verifier.embed(photos).numpy(),
        "ONNX Runtime, 32 bits": session(whole, args.threads),
        "ONNX Runtime, 8 bits": session(small, args.threads),
    }
    times = milliseconds(nets, np.stack(pairs[0][:2]), args.rounds)
    same = [pair[2] for pair in pairs]
    report: dict[str, Any] = {"difference": difference, "threads": args.threads}
    scores = {}
    photos = np.stack([photo for pair in pairs for photo in pair[:2]])
    for name, embed in nets.items():
        f = torch.from_numpy(np.concatenate([embed(part) for part in _parts(photos)]))
        scores[name] = verifier.scores(f[::2], f[1::2])
        gap = np.abs(scores[name] - scores["PyTorch, 32 bits"]).max()
        report[name] = {
            "milliseconds": round(times[name], 2),
            "auc": round(auc(scores[name], same), 4),
            "largest_score_difference": float(gap),
        }
        if verifier.threshold is not None:
            correct = (scores[name] >= verifier.threshold) == np.array(same)
            report[name]["accuracy"] = round(float(correct.mean()), 4)
    report["megabytes"] = {
        path.name: round(path.stat().st_size / 1e6, 1) for path in (whole, small)
    }
    return report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path, help="model.pt, as train.py writes it")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", help="LFW, with its protocol files")
    where.add_argument("--faces", help="a folder that holds one folder of images per person")
    parser.add_argument("--calibrate", type=int, default=128, help="photos (default: 128)")
    parser.add_argument("--pairs", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--rounds", type=int, default=50, help="timings (default: 50)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        report = compare(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"to_onnx.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
