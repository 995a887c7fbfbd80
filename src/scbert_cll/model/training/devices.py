"""Devices that a training or a model is asked for: whether they are there, and how much they hold.

Before a training a step is tried out: how long it will take, how much memory, which batch fits. And
there is one sentence when memory runs out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from scbert_cll._checks.words import choice
from scbert_cll.model.training.batches import Batch, Rows, TokenRows
from scbert_cll.nn import Config, Performer

LONG: Final = 60.0  # seconds; shorter trainings are not announced
_MOST_CELLS: Final = 256
_CELLS: Final = 4  # of a first rehearsal
_NO_TIME: Final = 0.2  # seconds
_STATUS: Final = Path("/proc/self/status")
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
        name = type(accelerator).__name__.removesuffix("Accelerator").lower()
        return name.replace("xla", "tpu")
    others = sorted(set(AcceleratorRegistry.available_accelerators()) - {"cpu"})
    choice(accelerator, ["auto", "cpu", "gpu", *others], "accelerator")
    if accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = str(accelerator)
    if kind == "gpu":
        has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        kind = "mps" if has_mps and not has_cuda else "cuda"
    if kind != "cpu" and not AcceleratorRegistry[kind]["accelerator"].is_available():
        names = {"cuda": "an NVIDIA GPU", "mps": "a GPU of Apple", "tpu": "a TPU"}
        raise ValueError(
            f"accelerator={accelerator!r} asks for {names.get(kind, kind)}, and PyTorch "
            f'{torch.__version__} finds none here. Pass accelerator="auto", which takes a GPU '
            f'where there is one, or "cpu".'
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
    if isinstance(wanted, bool) or not numbers or not set(numbers) <= set(range(n_here)):
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
    on_cuda = name.startswith("bf16") and kind == "cuda"
    if on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"precision={precision!r} needs a GPU with bfloat16, which "
            f'{torch.cuda.get_device_name()} has not; take "16-mixed".'
        )
    if name.startswith("64") and kind == "mps":
        raise ValueError(f"precision={precision!r} is not for GPUs of Apple; leave precision out.")


class Plan(Protocol):
    """What a rehearsal needs to know of a training."""

    module: Performer

    def loss(self, batch: Batch) -> torch.Tensor:
        """Loss of one batch."""


@dataclass(frozen=True)
class Step:
    """What one training step of some cells took."""

    n_cells: int
    n_tokens: int
    seconds: float
    n_bytes: int | None  # None where the system does not tell


@dataclass(frozen=True)
class Rehearsal:
    """Training steps that are tried out with some rows of the data, on the device."""

    plan: Plan
    data: TokenRows
    rows: np.ndarray
    device: torch.device
    precision: object = None

    def step(self, n_cells: int = _CELLS) -> Step:
        """Take a training step with the longest cells, twice, and leave the network as it was."""
        n_tokens = self.data.n_tokens()
        longest = self.rows[np.argsort(-n_tokens[self.rows], kind="stable")[:n_cells]]
        batch = move_data_to_device(self.data[Rows(longest.tolist())], self.device)
        module = self.plan.module.to(self.device).train()
        buffers = copy.deepcopy(dict(module.named_buffers()))
        precision = str(self.precision)
        low = torch.bfloat16 if precision.startswith("bf16") else torch.float16
        is_mixed, kind = "mixed" in precision, self.device.type
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                for _ in range(2):  # the first step warms up
                    before = _memory(self.device, start=True)
                    start = time.perf_counter()
                    with torch.autocast(kind, low, enabled=is_mixed):
                        loss = self.plan.loss(batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                    float(loss.detach())  # waits for a GPU
                    seconds, after = time.perf_counter() - start, _memory(self.device)
                    module.zero_grad(set_to_none=True)
        finally:
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
            module.zero_grad(set_to_none=True)
            module.eval()
        n_bytes = None if before is None or after is None else max(after - before, 0)
        return Step(len(longest), int(n_tokens[longest].sum()), seconds, n_bytes)

    def forecast(self, batch_size: int) -> Step:
        """Rehearse with few cells, and where these take no time with a whole batch."""
        step = self.step(min(_CELLS, batch_size))
        is_small = step.seconds <= _NO_TIME and batch_size > _CELLS
        return self.step(batch_size) if is_small else step

    def fitting_batch_size(self) -> int:
        """Most cells, a power of two up to 256, whose step fits into 80 % of the free memory."""
        step, free = self.step(), _free_memory(self.device)
        most = min(_MOST_CELLS, len(self.rows))
        if step.n_bytes and free:
            most = min(most, int(0.8 * free * step.n_cells / step.n_bytes))
        size: int = 2 ** int(np.log2(max(most, 2)))
        while self.device.type == "cuda" and size > 2:
            try:
                self.step(size)
                break
            except torch.OutOfMemoryError:
                size //= 2
        return size

    def announcement(
        self, step: Step, *, n_cells: int, batch_size: int, max_epochs: int
    ) -> str | None:
        """How long a training of `n_cells` takes at most, and what is cheaper; None if short."""
        per_cell = self.data.n_tokens()[self.rows].mean()
        epoch = step.seconds * per_cell * n_cells / step.n_tokens
        if epoch * max_epochs < LONG:
            return None
        memory = ""
        if step.n_bytes is not None:
            n = step.n_bytes * batch_size / step.n_cells
            in_words = f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"
            memory = f", and a step of {batch_size} cells about {in_words}"
        n_expressed = float(self.data.lengths()[self.rows].mean())
        cheaper = _cheaper(self.data.config, n_expressed)
        return (
            f"One epoch of {n_cells:,} cells will take about {_duration(epoch)}, {max_epochs} "
            f"epochs at most about {_duration(epoch * max_epochs)}{memory}. {cheaper}".strip()
        )


@contextmanager
def enough_memory(config: Config, batch_size: int | None, *, training: bool) -> Iterator[None]:
    """Say which choice to change when a GPU, PyTorch's allocator or Python runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not is_memory and "can't allocate memory" not in str(error):
            raise
        what, remedies = "a batch", "a smaller batch_size"
        if training:
            what = "a training step"
            remedies += (
                " (with accumulate_grad_batches to make up for it), recompute=True, "
                'precision="bf16-mixed"'
            )
        size = "" if batch_size is None else f" of batch_size={batch_size} cells"
        raise MemoryError(
            f'Memory ran out in {what}{size} with tokens="{config.tokens}". Try {remedies}. '
            f"{_cheaper(config, None)}".strip()
        ) from error


def _cheaper(config: Config, n_expressed: float | None) -> str:
    """The token modes that cost less than this one, and by how much."""
    if config.tokens == "expressed" or config.n_genes < 4 * config.n_background:
        return ""
    is_published = config.head == "scbert" and config.n_classes > 0
    head = ' (they need head="pool")' * is_published
    if n_expressed is None:
        background = 'tokens="background" or ' * (config.tokens == "all")
        return f'{background}tokens="expressed" costs a fraction{head}.'
    attend = {"background": n_expressed + config.n_background, "expressed": n_expressed}
    now = config.n_positions if config.tokens == "all" else attend["background"]
    shares = {name: n / now for name, n in attend.items() if n < 0.9 * now}
    modes = " and ".join(f'tokens="{name}" {n:.0%}' for name, n in shares.items())
    return f"Of these tokens {modes} would attend{head}." if shares else ""


def _memory(device: torch.device, *, start: bool = False) -> int | None:
    """Bytes in use now (`start`: and a new peak begins), or else the peak since then."""
    if device.type == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats(device)
            return int(torch.cuda.memory_allocated(device))
        return int(torch.cuda.max_memory_allocated(device))
    clear_refs = _STATUS.parent / "clear_refs"
    if not clear_refs.exists():
        return None
    if start:
        clear_refs.write_text("5")
    return _of_linux(_STATUS, "VmRSS" if start else "VmHWM")


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _of_linux(Path("/proc/meminfo"), "MemAvailable")


def _of_linux(path: Path, field: str) -> int | None:
    """Bytes, as the system tells; None where it does not."""
    if not path.exists():
        return None
    _, _, rest = path.read_text().partition(f"{field}:")
    return 1024 * int(rest.split()[0]) if rest else None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
