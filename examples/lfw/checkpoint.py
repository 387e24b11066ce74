"""What survives a crash: the state after the last finished epoch."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from learner import Learner

from siameselib.files import replacing, save_tensors


def save(
    out: Path, settings: dict[str, Any], learner: Learner, optimizer: Any, history: list
) -> None:
    state = {
        "settings": settings,
        "history": history,
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    save_tensors(state, out / "checkpoint.pt")
    with replacing(out / "history.jsonl") as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in history))


def resume(out: Path, settings: dict[str, Any], learner: Learner) -> tuple[list, Any]:
    if not (out / "checkpoint.pt").is_file():
        raise ValueError(f"--resume: {out} holds no checkpoint.pt")
    try:
        kept = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"--resume: {out / 'checkpoint.pt'} is damaged ({error})") from error
    differ = [
        f"--{k.replace('_', '-')} was {kept['settings'].get(k)}, is {v}"
        for k, v in settings.items()
        if kept["settings"].get(k) != v
    ]
    if differ:
        raise ValueError(f"--resume: {out} was trained otherwise: {'; '.join(differ)}")
    if 0 < settings["start_epochs"] < len(kept["history"]):
        learner.grow()
    learner.load_state_dict(kept["learner"])
    optimizer = learner.optimizer()
    optimizer.load_state_dict(kept["optimizer"])
    return kept["history"], optimizer
