"""Random numbers of a training: a seed of its own, one training at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import lightning.pytorch as L
import numpy as np
import torch

_APART: Final = 1_000_003  # between the seeds of two processes
one_at_a_time: Final = threading.RLock()


def as_seed(rng: int | np.random.Generator | None) -> int:
    """Draw an integer seed from what users pass as `rng`."""
    if isinstance(rng, (int, np.integer)):
        return int(rng)
    return int(np.random.default_rng(rng).integers(2**31))


def seed_of_step(trainer: L.Trainer, seed: int) -> int:
    """Seed of a training step and process, the same in a run that was resumed."""
    return seed + 1 + trainer.fit_loop.total_batch_idx + _APART * trainer.global_rank


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from `seed`, and the user's own stream untouched.

    There is one stream, so another thread waits.
    """
    with one_at_a_time, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
