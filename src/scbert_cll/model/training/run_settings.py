"""What makes a run the run that was begun: all that changes the weights that come out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import lightning.pytorch as L

from scbert_cll import _record
from scbert_cll._disk.formats import Json, digest, plain, versions
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import tensors_digest
from scbert_cll.model.training.batches import ResumableData
from scbert_cll.model.training.callbacks import is_sharded
from scbert_cll.model.training.options import Fit
from scbert_cll.model.training.plans import Plan

MAY_CHANGE: Final = "may_change"  # what a run can go on without
# on which the last digits of weights depend
LIBRARIES: Final = ("torch", "lightning", "numpy")
_MOST: Final = 6  # differences that are named

FREE: Final[Mapping[str, str]] = {
    "accelerator": "a run may go on on another machine; weights differ by no more than rounding",
    "callbacks": "objects of the user, which only he can compare",
    "checkpoint_dir": "where checkpoints are, not what is trained",
    "checkpoint_minutes": "when checkpoints are written, not what is trained",
    "checkpoint_steps": "when checkpoints are written, not what is trained",
    "default_root_dir": "where others than this package may write",
    "devices": "which ones; how many processes there are is compared as `processes`",
    "enable_model_summary": "what is shown",
    "enable_progress_bar": "what is shown",
    "log_every_n_steps": "what is shown",
    "logger": "what is shown, and where it is written",
    "num_nodes": "how many processes there are is compared as `processes`",
    "plugins": "objects of the user, which only he can compare",
    "profiler": "what is measured while it runs",
    "resume": "whether to go on, not with what",
    "simple_progress_bar": "what is shown",
    "strategy": "what it makes of the run is compared as `processes` and `sharded`",
}
ELSEWHERE: Final[Mapping[str, str]] = {  # what they become, under which name
    "batch_size": "batch_size",  # "auto" becomes a number
    "datamodule": "data_sha256",
    "lr": "lr",
    "mask_fraction": "mask_fraction",
    "max_epochs": "max_epochs",  # None becomes a number
    "rng": "seed",
    "token_drop": "token_drop",
    "weight_decay": "weight_decay",
}


def compared(options: Fit) -> Json:
    """Options of a training that are compared by their own names, as plain values."""
    values = dict(vars(options))
    trainer = values.pop("trainer")
    values, elsewhere = _record.params({**values, **trainer}), {*FREE, *ELSEWHERE}
    return {name: values[name] for name in values if name not in elsewhere}


def settings_of(
    model: Network, plan: Plan, data: ResumableData, options: Fit, trainer: L.Trainer
) -> Json:
    """All that decides what comes out of a training: a run with other settings is another run."""
    trained = [name for name, one in plan.named_parameters() if one.requires_grad]
    linear = {} if model.linear_ is None else model.linear_.arrays()
    return compared(options) | {
        "class": type(model).__name__,
        "network": asdict(model.config),
        "genes_sha256": digest(list(model.genes)),
        "labels_sha256": digest(model.labels),
        "start_sha256": tensors_digest(plan.state_dict()),
        "linear_sha256": tensors_digest(linear),
        "trained_sha256": digest(trained),
        "data_sha256": data.digest(),
        "plan": {name: getattr(plan, name) for name in plan.chosen},
        "batch_size": data.batch_size,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "sharded": is_sharded(trainer.strategy),
        "seed": data.seed,
        MAY_CHANGE: {"threads": model.n_threads_, "versions": versions(*LIBRARIES)},
    }


def comparable(settings: Json) -> Json:
    """Settings as plain values that a file can hold: what is not finite as text."""
    text = json.dumps(plain(settings))
    values: Json = json.loads(text, parse_constant=lambda name: str(float(name)))
    return values


def refuse_other_run(folder: Path, begun: Json, now: Json) -> None:
    """Name what differs between the run that was begun and this one."""
    pairs = _differences(begun, now)
    if differences := [words for name, words in pairs if name != MAY_CHANGE]:
        n_more = len(differences) - _MOST
        raise ValueError(
            f"{folder} holds checkpoints of another run: {'; '.join(differences[:_MOST])}"
            f"{f' and {n_more} more' if n_more > 0 else ''}. Start with the same data and "
            f"settings to go on with it, or name another folder."
        )


def news(begun: Json, now: Json) -> str:
    """What has changed of that which may, in a sentence; empty where nothing has."""
    pairs = _differences(begun.get(MAY_CHANGE, {}), now[MAY_CHANGE])
    if not (changes := ", ".join(words for _, words in pairs)):
        return ""
    differ = "the weights may differ in their last digits"
    return f"Since it was written {changes}: {differ}."


def _differences(begun: Json, now: Json) -> Iterator[tuple[str, str]]:
    """Names of what differs, and the value that was and that is; entries of dicts one by one."""
    for name in sorted(begun.keys() | now.keys()):
        was, is_now = begun.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from ((name, words) for _, words in _differences(was, is_now))
        elif was != is_now and "sha256" in name:
            yield name, f"{name} has changed"
        elif was != is_now:
            yield name, f"{name} was {was!r}, is {is_now!r}"
