"""What watches over a training: its history, how fast it is, the epoch that is kept, divergence."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final, Literal, cast

import lightning.pytorch as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from scbert_cll._checks.words import choice
from scbert_cll._disk.formats import Json
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import not_finite, usable
from scbert_cll.model.training.options import Fit, Logging
from scbert_cll.model.training.plans import all_weights
from scbert_cll.nn import Performer

# what a training changes besides the network
_STATE: Final = (
    "is_trained_",
    "history_",
    "kept_epoch_",
    "n_threads_",
    "linear_",
    "combine",
    "not_donors_",
)
_NEVER: Final = 2**62  # a step that is not reached
_LOOK: Final = 50  # steps between two looks at what a GPU, or other processes, found
_SPEED: Final = 10  # steps between two looks at the speed
_LINE: Final = 100  # steps between two lines of a log file

_LOGGERS: Final = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
Folder = str | PathLike[str] | None
Wrong = Literal["loss", "validation loss", "weights"]


# ---- what is said


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
    return _StepBar(refresh_rate=1 if sys.stdout.isatty() else _LINE)


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
        if (batch_idx + 1) % _SPEED:
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


# ---- what is kept


class KeepBest(L.Callback):
    """Remember the weights of the epoch with the lowest validation loss, and end with them.

    Without `restore` it ends with them after an error only. With `start`, the validation loss
    before training, the untrained network is among those to choose from. As long as nothing was
    validated, the last epoch is remembered.
    """

    def __init__(
        self, network: Performer, *, start: float = math.inf, restore: bool = True
    ) -> None:
        self.network, self.best, self.restore = network, start, restore
        self.epoch = 0  # epochs count from 1
        self.weights: dict[str, Tensor] | None = None

    def state_dict(self) -> Json:
        """For a checkpoint."""
        return {"best": self.best, "weights": self.weights, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Json) -> None:
        """From a checkpoint."""
        vars(self).update(state_dict)

    def on_fit_start(self, _: L.Trainer, plan: L.LightningModule) -> None:
        """Keep what there is before training, where that may be the best."""
        if math.isfinite(self.best) and self.weights is None:
            self._keep(plan, epoch=0)

    def on_validation_end(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        """Keep a copy when the loss is the lowest so far."""
        loss = trainer.callback_metrics.get("validation_loss")
        if loss is not None and not trainer.sanity_checking and float(loss) < self.best:
            self.best = float(loss)
            self._keep(plan, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        """Keep a copy of every epoch as long as nothing tells which is better."""
        if not math.isfinite(self.best):
            self._keep(plan, trainer.current_epoch + 1)

    def on_train_end(self, *_: object) -> None:
        """Put the best weights back."""
        if self.restore:
            self._put_back()

    def on_exception(self, *_: object) -> None:
        """Put them back after Ctrl-C in any case."""
        self._put_back()

    def _put_back(self) -> None:
        if self.weights is not None:
            self.network.load_state_dict(self.weights)

    def _keep(self, plan: L.LightningModule, epoch: int) -> None:
        self.epoch, self.weights = epoch, all_weights(cast("Performer", plan.module))


@dataclass
class Outcome:
    """What is left of a training that ended in an error."""

    has_good: bool = False  # an epoch that the model keeps

    def keep_good(self, model: Network, best: KeepBest, past: int, *, diverged: bool) -> None:
        """Give the model the best epoch's weights, if there is one; `past` epochs were before."""
        model.module.eval()
        if best.weights is None or not_finite(best.weights):
            return
        if diverged or not_finite(model.module.state_dict()):
            model.module.load_state_dict(best.weights)
        model.kept_epoch_ = past + best.epoch
        model.is_trained_ = self.has_good = True


@contextmanager
def trained_or_as_before(model: Network) -> Iterator[Outcome]:
    """A training that ends in an error without a good epoch leaves the model as it was."""
    outcome = Outcome()
    weights = all_weights(model.module)
    trains = {name: one.requires_grad for name, one in model.module.named_parameters()}
    state = {name: getattr(model, name) for name in _STATE}
    state["history_"] = copy.deepcopy(model.history_)  # scvi-tools writes to the tables
    try:
        yield outcome
    except BaseException:
        if not outcome.has_good:
            # precision="16-true" may have changed the type
            model.module.to(weights["token_embedding.weight"].dtype)
            model.module.load_state_dict(weights)
            model.module.eval()
            for name, one in model.module.named_parameters():
                one.requires_grad_(trains[name])
            for name, value in state.items():
                setattr(model, name, value)
        raise


# ---- divergence


class DivergedError(ValueError):
    """A training whose loss or weights are not finite any more.

    `epoch` (of the history) and `step` (of the optimiser, in this training) say where; `kept` is
    the epoch whose weights `model` has, None where it has those from before the training.
    """

    epoch: int
    step: int
    kept: int | None
    model: Network


class NotFinite(Exception):  # noqa: N818
    """Where a training went wrong: the step, the epoch from 0, and what."""

    def __init__(self, what: Wrong, step: int, epoch: int) -> None:
        super().__init__(f"The {what} at step {step} is not finite.")
        self.what, self.step, self.epoch = what, step, epoch


def diverged(
    place: NotFinite, options: Fit, *, past: int, kept_epoch: int | None, model: Network
) -> DivergedError:
    """Where a training went wrong after `past` epochs of others, what is left, and what to do."""
    lr, epoch = options.lr, past + place.epoch + 1
    left = f"The model has the weights of epoch {kept_epoch}, the best of those before it"
    if kept_epoch is None:
        left = (
            "There is no good epoch before it, and the model has the weights from before this "
            "training"
        )
    elif kept_epoch == 0:
        left = (
            "No epoch before it was better than the logistic regression alone, which is what the "
            "model has"
        )
    remedies = ["a smaller lr=" + f" (the default is {Fit.lr:g})" * (lr > Fit.lr)]
    if not options.trainer.get("gradient_clip_val"):
        remedies.append("gradient_clip_val=1.0")
    if str(options.trainer.get("precision"))[:2] == "16":
        remedies.append("precision=None, since half precision ends at 65,504")
    elsewhere = ""
    if options.checkpoint_dir is not None:
        elsewhere = ", and with another checkpoint_dir=, since this run would come to the same end"
    error = DivergedError(
        f"Training diverged at step {place.step}, in epoch {epoch}: the {place.what} "
        f"{'are' if place.what == 'weights' else 'is'} not finite (lr={lr:g}). {left}. Train anew "
        f"with {' or '.join(remedies)}{elsewhere}."
    )
    error.epoch, error.step = epoch, place.step
    error.kept, error.model = kept_epoch, model
    return error


class StopWhereNotFinite(L.Callback):
    """End a training at the first loss, or after the first epoch, that is not finite.

    The loss of a step is at hand, but where a GPU computes it, reading it means to wait. The step
    is therefore noted on the device, and read every 50 steps, at the end of an epoch and before a
    checkpoint: nothing is kept in between, and the step is still named. Weights become NaN in the
    step whose loss does so or in the one before, so that looking at all of them once an epoch is
    enough.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        """Refuse to go on from a checkpoint whose weights are not finite."""
        self._first, self._step = None, trainer.global_step
        remedy = (
            "It is of a training that had diverged. Name another checkpoint_dir= to start "
            "anew, with a smaller lr=."
        )
        usable(plan.state_dict(), str(trainer.ckpt_path or "The network"), remedy)

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        """Count the steps from 1."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(
        self, trainer: L.Trainer, _: object, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Note a loss that is not finite."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        step = torch.where(loss.detach().isfinite(), _NEVER, self._step)
        self._first = step if self._first is None else torch.minimum(self._first, step)
        if self._is_at_hand(trainer, loss) or (batch_idx + 1) % _LOOK == 0:
            self._look_at_losses(trainer)

    def on_validation_start(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        """Before an epoch can be the best."""
        if not trainer.sanity_checking:
            self._look(trainer, plan)

    def on_validation_end(self, trainer: L.Trainer, *_: object) -> None:
        """Not the best by minus infinity, and not stopped early by NaN without a word."""
        value = float(trainer.callback_metrics.get("validation_loss", 0))
        if not trainer.sanity_checking and not math.isfinite(value):
            raise NotFinite("validation loss", self._step, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        """Where nothing validates, or the epoch ended in the midst."""
        self._look(trainer, plan)

    def on_save_checkpoint(self, trainer: L.Trainer, plan: L.LightningModule, _: Json) -> None:
        """Nothing that is not finite is written."""
        self._look(trainer, plan)

    @staticmethod
    def _is_at_hand(trainer: L.Trainer, loss: Tensor) -> bool:
        """Whether nobody has to be waited for."""
        return loss.device.type == "cpu" and trainer.world_size == 1

    def _look(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        self._look_at_losses(trainer)
        is_wrong = bool(not_finite(plan.state_dict()))
        # processes stop together, or wait for ever
        if trainer.strategy.reduce_boolean_decision(is_wrong, all=False):
            raise NotFinite("weights", self._step, trainer.current_epoch)

    def _look_at_losses(self, trainer: L.Trainer) -> None:
        """The first step whose loss was not finite in any process."""
        if self._first is None:
            return
        first = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if first < _NEVER:
            raise NotFinite("loss", first, trainer.current_epoch)
