"""Devices that a training or a model is asked for: whether they are there, and can compute so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from scbert_cll._checks.words import choice

_PRECISIONS: Final = (
    "32-true",
    "32",
    "None",
    "bf16-mixed",
    "16-mixed",
    "bf16-true",
    "16-true",
    "64-true",
    "bf16",
    "16",
    "64",
)
_HELP: Final = 'Pass accelerator="auto", which takes a GPU where there is one, or "cpu".'


def training_device(trainer: Mapping[str, Any]) -> torch.device:
    """Where Lightning is going to train; refused if that is not there, or cannot compute so."""
    kind = _kind(trainer.get("accelerator", "auto"))
    _enough(trainer.get("devices", "auto"), kind)
    _can_compute(trainer.get("precision"), kind)
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, str):
        choice(strategy, ["auto", *StrategyRegistry.available_strategies()], "strategy")
    return torch.device("cpu" if kind == "tpu" else kind)


def device_of(accelerator: Any = "auto", device: int | Literal["auto"] = "auto") -> torch.device:
    """Where a model is to be; refused if that is not there."""
    kind = _kind(accelerator)
    if device == "auto" or kind != "cuda":
        return torch.device(kind)
    n = torch.cuda.device_count()
    if not isinstance(device, int) or isinstance(device, bool) or not 0 <= device < n:
        raise ValueError(
            f'device must be the number of a GPU, 0 to {n - 1}, or "auto"; found {device!r}.'
        )
    return torch.device(f"cuda:{device}")


def known_place(device: str | int) -> torch.device:
    """A device by PyTorch's name for it, e.g. ``"cuda:0"``; refused if that is not there."""
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f'device must be "cpu", "cuda", "cuda:0" or "mps"; found {device!r}.'
        ) from error
    device_of(place.type, "auto" if place.index is None else place.index)
    return place


def _kind(accelerator: Any) -> str:
    """Kind of device: cpu, cuda, mps or tpu."""
    if isinstance(accelerator, Accelerator):
        return type(accelerator).__name__.removesuffix("Accelerator").lower().replace("xla", "tpu")
    others = sorted(set(AcceleratorRegistry.available_accelerators()) - {"cpu"})
    choice(accelerator, ["auto", "cpu", "gpu", *others], "accelerator")
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = str(accelerator)
    if kind == "gpu":
        has_only_mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
        kind = "mps" if has_only_mps else "cuda"
    if kind != "cpu" and not AcceleratorRegistry[kind]["accelerator"].is_available():
        names = {"cuda": "an NVIDIA GPU", "mps": "a GPU of Apple", "tpu": "a TPU"}
        raise ValueError(
            f"accelerator={accelerator!r} asks for {names.get(kind, kind)}, and PyTorch "
            f"{torch.__version__} finds none here. {_HELP}"
        )
    return kind


def _enough(devices: Any, kind: str) -> None:
    """As many devices as there are; of a CPU it is a number of processes."""
    n_here = torch.cuda.device_count() if kind == "cuda" else 1
    wanted: Any = devices
    if isinstance(devices, str):
        if devices == "auto":
            return
        parts = [part.strip() for part in devices.split(",") if part.strip()]
        if not parts or not all(part.lstrip("-").isdigit() for part in parts):
            raise ValueError(
                f'devices must be "auto", a number or the numbers of GPUs; found {devices!r}.'
            )
        wanted = [int(part) for part in parts] if "," in devices else int(parts[0])
    if kind in ("cpu", "tpu"):
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise ValueError(
                f"devices must be a number of processes from 1 on a {kind.upper()}; found "
                f"{devices!r}."
            )
        return
    is_number = isinstance(wanted, int)
    numbers = list(range(n_here if wanted == -1 else wanted)) if is_number else list(wanted)
    if not numbers or isinstance(wanted, bool) or not set(numbers) <= set(range(n_here)):
        raise ValueError(
            f"devices={devices!r} asks for GPUs that are not here: there "
            f"{'is' if n_here == 1 else 'are'} {n_here}."
        )


def _can_compute(precision: Any, kind: str) -> None:
    """Numbers that the device can compute with."""
    name = str(precision)
    if name.startswith("transformer-engine"):
        return  # a package of its own, which says so itself
    choice(name, _PRECISIONS, "precision")
    if name in ("16", "16-mixed") and kind == "cpu":
        raise ValueError(
            f'precision={precision!r} needs a GPU; a CPU has "bf16-mixed", or leave precision out.'
        )
    if (
        name.startswith("bf16")
        and kind == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"precision={precision!r} needs a GPU with bfloat16, which "
            f'{torch.cuda.get_device_name()} has not; take "16-mixed".'
        )
    if name.startswith("64") and kind == "mps":
        raise ValueError(f"precision={precision!r} is not for GPUs of Apple; leave precision out.")
