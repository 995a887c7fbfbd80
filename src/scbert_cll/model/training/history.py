"""What a training says while it runs: its history, and how fast it is."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Final

import lightning.pytorch as L
import pandas as pd
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from scbert_cll._checks.words import choice
from scbert_cll.model.training.options import Logging

_EVERY: Final = 10  # steps between two looks at the speed
_LOGGED: Final = 100  # steps between two lines of a log file
Folder = str | PathLike[str] | None
_LOGGERS: Final = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}


class History(Logger):
    """Metrics per epoch, kept in memory as scvi-tools' models show them: a table for each name.

    The first epoch is 1.

    scvi-tools' own logger leaves a pickle in the working directory when several processes train. A
    training that goes on (`before`) counts on, and keeps what only one of the two recorded.
    """

    def __init__(self, before: Mapping[str, pd.DataFrame] | None = None) -> None:
        super().__init__()
        self._values: dict[str, dict[int, float]] = {}
        for name, table in (before or {}).items():
            rows = zip(table.index, table.iloc[:, 0], strict=True)
            self._values[name] = {int(epoch): float(value) for epoch, value in rows}
        epochs = [epoch for column in self._values.values() for epoch in column]
        self.past = max(epochs, default=0)

    name, version = "history", 0

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Tables with one column, by epoch."""
        return {
            name: pd.Series(values, dtype=float).rename_axis("epoch").to_frame(name)
            for name, values in self._values.items()
        }

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are in the model's folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Note what belongs to an epoch."""
        if "epoch" in metrics:
            epoch = self.past + int(metrics["epoch"]) + 1
            for name, value in metrics.items():
                if name != "epoch":
                    self._values.setdefault(name, {})[epoch] = float(value)

    def end_before(self, epoch: int) -> None:
        """Forget an epoch of this training, from 1, and those behind it."""
        for column in self._values.values():
            for later in [one for one in column if one >= self.past + epoch]:
                del column[later]
        self._values = {name: column for name, column in self._values.items() if column}

    def restore(self, values: Mapping[str, Mapping[int, float]]) -> None:
        """Take over the history of a run that is resumed."""
        self._values = {name: dict(column) for name, column in values.items()}


def loggers(further: Logging | Sequence[Logging], folder: Folder) -> list[Logger]:
    """Loggers that were named or brought along; `folder` is that of the run."""
    every = [further] if isinstance(further, (str, Logger)) else list(further or [])
    return [_logger(one, folder) for one in every if one is not None]


def _logger(logger: str | Logger, folder: Folder) -> Logger:
    if isinstance(logger, Logger):
        return logger
    choice(logger, list(_LOGGERS), "logger")
    if folder is None:
        raise ValueError(
            f'logger="{logger}" writes into the folder of the run: name checkpoint_dir="run", '
            f'or hand over a logger of Lightning, e.g. CSVLogger("logs").'
        )
    made: Logger = _LOGGERS[logger](folder, name="logs")
    return made


def step_bar() -> TQDMProgressBar:
    """Lightning's bar for long epochs; in a log file a line now and then."""
    return _StepBar(refresh_rate=1 if sys.stdout.isatty() else _LOGGED)


class _StepBar(TQDMProgressBar):
    """Epochs are counted as in the history: the first one is 1."""

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Begin anew, and name the epoch."""
        total = self.total_train_batches
        self.train_progress_bar.reset(None if math.isinf(total) else total)
        epoch = f"Epoch {trainer.current_epoch + 1}"
        of = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"
        self.train_progress_bar.set_description(epoch + of)


class Throughput(L.Callback):
    """Cells per second, and the share of the time spent waiting for data, in bar and loggers."""

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        """Begin to count."""
        self._begin(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        """A validation is not training."""
        self._begin(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, plan: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how fast the last steps were."""
        self._cells += len(batch["rows"]) * trainer.world_size
        if (batch_idx + 1) % _EVERY:
            return
        seconds = max(time.perf_counter() - self._start, 1e-9)
        waited = (_waited(trainer) - self._waited) / seconds
        data_wait = min(max(waited, 0.0), 1.0)
        speed = {"cells_per_second": self._cells / seconds, "data_wait": data_wait}
        plan.log_dict(speed, prog_bar=True, logger=False, on_step=True, batch_size=1)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        metrics = {"train_loss_step": _loss(outputs), "learning_rate": rate, **speed}
        for logger in trainer.loggers[1:]:
            logger.log_metrics(metrics, trainer.global_step)
        self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        self._start, self._cells = time.perf_counter(), 0
        self._waited = _waited(trainer)


def _waited(trainer: L.Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


def _loss(outputs: Any) -> float:
    if isinstance(outputs, dict):
        outputs = outputs.get("train_loss", outputs["loss"])
    return float(outputs.detach()) if isinstance(outputs, Tensor) else float("nan")
