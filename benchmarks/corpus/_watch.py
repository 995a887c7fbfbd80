"""What a training on a corpus spends its time on: reading cells, making tokens, everything else."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as L

from scbert_cll.model import CorpusData


class WatchedData(CorpusData):
    """Counts the seconds in which tokens are made; the loader counts those in which it was waited
    for.
    """

    expanding = 0.0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Tokens, with a look at the clock before and after."""
        start = time.perf_counter()
        made = super().on_after_batch_transfer(batch, dataloader_idx)
        self.expanding += time.perf_counter() - start
        return made


class Clock(L.Callback):
    """Notes after every step how late it is, how many cells were seen, and what the data have cost
    so far.
    """

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.notes: list[tuple[float, int, float, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The first note: nothing done yet."""
        self._note(trainer, 0)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A note for each step."""
        self._note(trainer, len(batch["rows"]))

    def found(self) -> dict[str, Any]:
        """From the end of the warm-up to the end; cells are those of all processes."""
        first, last = self.notes[min(self.warm_up, len(self.notes) - 2)], self.notes[-1]
        seconds, cells, waited, expanding = (b - a for a, b in zip(first, last, strict=True))
        # the first batch of all waits for a whole window; later ones of the same window hardly at
        # all
        return {
            "steps": len(self.notes) - 1,
            "cells": cells * self.world,
            "training_seconds": seconds,
            "cells_per_second": cells * self.world / seconds,
            "waited": waited,
            "waited_for_first_window": self.notes[1][2] - self.notes[0][2],
            "expanding": expanding,
        }

    def _note(self, trainer: L.Trainer, cells: int) -> None:
        self.world = trainer.world_size
        data = trainer.datamodule
        waited = float(getattr(trainer.train_dataloader, "waited", 0.0))
        before = self.notes[-1][1] if self.notes else 0
        self.notes.append(
            (time.perf_counter(), before + cells, waited, getattr(data, "expanding", 0.0))
        )
