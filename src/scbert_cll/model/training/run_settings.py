"""What makes a run the run that was begun: every argument of a training, but for those that change nothing in its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from scbert_cll import _record
from scbert_cll._disk.formats import plain
from scbert_cll.model.training.checkpoint_file import MAY_CHANGE

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


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a `train` method, from the `locals()` of its first line, that are compared by their own names."""
    asked = dict(given)
    del asked["self"]
    asked |= asked.pop("trainer")
    found = _record.params(asked)
    return {
        name: value for name, value in found.items() if name not in FREE.keys() | ELSEWHERE.keys()
    }


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain values that a file can hold: what is not finite as text."""
    found: dict[str, Any] = {name: _finite(value) for name, value in plain(settings).items()}
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def refuse_other_run(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Name what differs between the run that was begun and this one."""
    said = [_said(*one) for one in _differences(_compared(there), _compared(now))]
    if said:
        more = f" and {len(said) - 6} more" if len(said) > 6 else ""
        raise ValueError(
            f"{folder} holds checkpoints of another run: {'; '.join(said[:6])}{more}. Start "
            f"with the same data and settings to go on with it, "
            "or name another folder."
        )


def news(there: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What has changed of that which may, in a sentence; empty where nothing has."""
    said = [_said(*one) for one in _differences(there.get(MAY_CHANGE, {}), now.get(MAY_CHANGE, {}))]
    return (
        f"Since it was written {', '.join(said)}: the weights may differ in their last digits."
        if said
        else ""
    )


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != MAY_CHANGE}


def _differences(
    there: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Names, of entries of dicts their own, with the value that was and that is."""
    for name in sorted(there.keys() | now.keys()):
        was, is_now = there.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from _differences(was, is_now)
        elif was != is_now:
            yield name, was, is_now


def _said(name: str, was: Any, is_now: Any) -> str:
    return f"{name} has changed" if "sha256" in name else f"{name} was {was!r}, is {is_now!r}"
