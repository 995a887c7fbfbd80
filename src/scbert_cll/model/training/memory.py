"""Before a training: how long it will take, how much memory, which batch fits.

And one sentence when memory runs out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from scbert_cll.model.training.batches import Rows, TokenRows
from scbert_cll.model.training.plans import Plan
from scbert_cll.nn import Config

LONG: Final = 60.0  # seconds; shorter trainings are not announced
_MOST_CELLS: Final = 256
_CELLS: Final = 4  # of a first rehearsal
_NO_TIME: Final = 0.2  # seconds
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True)
class Rehearsal:
    """What one training step of some cells took."""

    n_cells: int
    n_tokens: int
    seconds: float
    n_bytes: int | None  # None where the system does not tell


def forecast(
    plan: Plan,
    data: TokenRows,
    rows: np.ndarray,
    device: torch.device,
    precision: object,
    batch_size: int,
) -> Rehearsal:
    """Rehearse with few cells, and where these take no time with a whole batch."""
    step = rehearse(plan, data, rows, device, precision, min(_CELLS, batch_size))
    if step.seconds > _NO_TIME or batch_size <= _CELLS:
        return step
    return rehearse(plan, data, rows, device, precision, batch_size)


def rehearse(
    plan: Plan,
    data: TokenRows,
    rows: np.ndarray,
    device: torch.device,
    precision: object,
    n_cells: int = _CELLS,
) -> Rehearsal:
    """Take a training step with the longest cells, twice, and leave the network as it was."""
    longest = rows[np.argsort(-data.n_tokens()[rows], kind="stable")[:n_cells]]
    batch = move_data_to_device(data[Rows(longest.tolist())], device)
    module = plan.module.to(device).train()
    buffers = copy.deepcopy(dict(module.named_buffers()))
    low = torch.bfloat16 if str(precision).startswith("bf16") else torch.float16
    mixed = "mixed" in str(precision)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            for _ in range(2):  # the first step warms up
                before, start = _memory(device, start=True), time.perf_counter()
                with torch.autocast(device.type, low, enabled=mixed):
                    loss = plan.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                float(loss.detach())  # waits for a GPU
                seconds, after = time.perf_counter() - start, _memory(device)
                module.zero_grad(set_to_none=True)
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
        module.zero_grad(set_to_none=True)
        module.eval()
    n_bytes = None if before is None or after is None else max(after - before, 0)
    return Rehearsal(len(longest), int(data.n_tokens()[longest].sum()), seconds, n_bytes)


def announcement(
    step: Rehearsal,
    data: TokenRows,
    rows: np.ndarray,
    *,
    n_cells: int,
    batch_size: int,
    max_epochs: int,
) -> str | None:
    """How long a training of `n_cells` cells takes at most, and what is cheaper; None if short."""
    lengths = data.n_tokens()
    epoch = step.seconds * lengths[rows].mean() * n_cells / step.n_tokens
    if epoch * max_epochs < LONG:
        return None
    sentence = (
        f"One epoch of {n_cells:,} cells will take about {_duration(epoch)}, {max_epochs} "
        f"epochs at most about "
        f"{_duration(epoch * max_epochs)}"
    )
    if step.n_bytes is not None:
        sentence += (
            f", and a step of {batch_size} cells about "
            f"{_gigabytes(step.n_bytes * batch_size / step.n_cells)}"
        )
    return f"{sentence}. {_cheaper(data.config, float(data.lengths()[rows].mean()))}".strip()


def fitting_batch_size(
    plan: Plan, data: TokenRows, rows: np.ndarray, device: torch.device, precision: object
) -> int:
    """Most cells, a power of two up to 256, whose step fits into four fifths of the free memory."""
    step = rehearse(plan, data, rows, device, precision)
    free = _free_memory(device)
    most = min(_MOST_CELLS, len(rows))
    if step.n_bytes and free:
        most = min(most, int(0.8 * free * step.n_cells / step.n_bytes))
    size: int = 2 ** int(np.log2(max(most, 2)))
    while device.type == "cuda" and size > 2:
        try:
            rehearse(plan, data, rows, device, precision, size)
            break
        except torch.OutOfMemoryError:
            size //= 2
    return size


@contextmanager
def enough_memory(config: Config, batch_size: int | None, *, training: bool) -> Iterator[None]:
    """Say which choice to change when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = "a training step" if training else "a batch"
        size = "" if batch_size is None else f" of batch_size={batch_size} cells"
        steps = (
            ["a smaller batch_size (with accumulate_grad_batches to make up for it)"]
            if training
            else []
        )
        steps += (
            ["recompute=True", 'precision="bf16-mixed"'] if training else ["a smaller batch_size"]
        )
        cheaper = _cheaper(config, None)
        raise MemoryError(
            (
                f'Memory ran out in {what}{size} with tokens="{config.tokens}". Try '
                f"{', '.join(steps)}. {cheaper}"
            ).strip()
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU, PyTorch's allocator or Python ran out of memory."""
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "can't allocate memory" in str(error)


def _cheaper(config: Config, n_expressed: float | None) -> str:
    """The token modes that cost less than this one, and by how much."""
    if config.tokens == "expressed" or config.n_genes < 4 * config.n_background:
        return ""
    head = ' (they need head="pool")' if config.head == "scbert" and config.n_classes else ""
    if n_expressed is None:
        modes = (
            'tokens="background" or tokens="expressed"'
            if config.tokens == "all"
            else 'tokens="expressed"'
        )
        return f"{modes} costs a fraction{head}."
    attend = {"background": n_expressed + config.n_background, "expressed": n_expressed}
    now = config.n_positions if config.tokens == "all" else attend["background"]
    shares = [f'tokens="{name}" {n / now:.0%}' for name, n in attend.items() if n < 0.9 * now]
    return f"Of these tokens {' and '.join(shares)} would attend{head}." if shares else ""


def _memory(device: torch.device, *, start: bool = False) -> int | None:
    """Bytes held now (`start`: and a new peak begins), or else the peak since then."""
    if device.type == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats(device)
            return int(torch.cuda.memory_allocated(device))
        return int(torch.cuda.max_memory_allocated(device))
    if not _STATUS.exists():
        return None
    if start:
        (_STATUS.parent / "clear_refs").write_text("5")
    return _status("VmRSS" if start else "VmHWM", _STATUS)


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    return _status("MemAvailable", info) if info.exists() else None


def _status(field: str, path: Path) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"
