"""A training that diverges: seen where it happens, and said with what is left of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import lightning.pytorch as L
import torch
from torch import Tensor

from scbert_cll.model import _finite
from scbert_cll.model._tensors import not_finite
from scbert_cll.model.training.options import Fit

_NEVER: Final = 2**62  # a step that is not reached
_EVERY: Final = 50  # steps between two looks at what a GPU, or other processes, found

Wrong = Literal["loss", "validation loss", "weights"]


class DivergedError(ValueError):
    """A training whose loss or weights are not finite any more.

    `epoch` (of the history) and `step` (of the optimiser, in this training) say where; `kept` is
    the epoch whose weights `model` has, None where it has those from before the training.
    """

    epoch: int
    step: int
    kept: int | None
    model: Any


class NotFinite(Exception):  # noqa: N818
    """Where a training went wrong: the step, the epoch from 0, and what."""

    def __init__(self, what: Wrong, step: int, epoch: int) -> None:
        super().__init__(f"The {what} at step {step} is not finite.")
        self.what, self.step, self.epoch = what, step, epoch


def diverged(
    place: NotFinite, options: Fit, *, past: int, kept: int | None, model: Any
) -> DivergedError:
    """Where a training went wrong after `past` epochs of others, what is left, and what to do."""
    lr, precision, epoch = options.lr, options.trainer.get("precision"), past + place.epoch + 1
    left = {
        None: "There is no good epoch before it, and the model has the weights from before this "
        "training",
        0: "No epoch before it was better than the logistic regression alone, which is what the "
        "model has",
    }.get(kept, f"The model has the weights of epoch {kept}, the best of those before it")
    remedies = [f"a smaller lr= (the default is {Fit.lr:g})" if lr > Fit.lr else "a smaller lr="]
    if not options.trainer.get("gradient_clip_val"):
        remedies.append("gradient_clip_val=1.0")
    if str(precision)[:2] == "16":
        remedies.append("precision=None, since half precision ends at 65,504")
    elsewhere = ""
    if options.checkpoint_dir is not None:
        elsewhere = ", and with another checkpoint_dir=, since this run would come to the same end"
    error = DivergedError(
        f"Training diverged at step {place.step}, in epoch {epoch}: the {place.what} "
        f"{'are' if place.what == 'weights' else 'is'} not finite (lr={lr:g}). {left}. Train anew "
        f"with {' or '.join(remedies)}{elsewhere}."
    )
    error.epoch, error.step, error.kept, error.model = epoch, place.step, kept, model
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to go on from a checkpoint whose weights are not finite."""
        self._first, self._step = None, trainer.global_step
        if bad := not_finite(pl_module.state_dict()):
            remedy = (
                "It is of a training that had diverged. Name another checkpoint_dir= to start "
                "anew, with a smaller lr=."
            )
            _finite.tensors(bad, str(trainer.ckpt_path or "The network"), remedy)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the steps from 1."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Note a loss that is not finite."""
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        step = torch.where(loss.detach().isfinite(), _NEVER, self._step)
        self._first = step if self._first is None else torch.minimum(self._first, step)
        if self._is_at_hand(trainer, loss) or (batch_idx + 1) % _EVERY == 0:
            self._look_at_losses(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before an epoch can be the best."""
        if not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Not the best by minus infinity, and not stopped early by NaN without a word."""
        value = trainer.callback_metrics.get("validation_loss")
        if not trainer.sanity_checking and value is not None and not math.isfinite(float(value)):
            raise NotFinite("validation loss", self._step, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where nothing validates, or the epoch ended in the midst."""
        self._look(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Nothing that is not finite is written."""
        self._look(trainer, pl_module)

    @staticmethod
    def _is_at_hand(trainer: L.Trainer, loss: Tensor) -> bool:
        """Whether nobody has to be waited for."""
        return loss.device.type == "cpu" and trainer.world_size == 1

    def _look(self, trainer: L.Trainer, plan: L.LightningModule) -> None:
        self._look_at_losses(trainer)
        wrong = bool(not_finite(plan.state_dict()))
        if trainer.strategy.reduce_boolean_decision(
            wrong, all=False
        ):  # processes stop together, or wait for ever
            raise NotFinite("weights", self._step, trainer.current_epoch)

    def _look_at_losses(self, trainer: L.Trainer) -> None:
        """The first step whose loss was not finite in any process."""
        if self._first is None:
            return
        first = int(trainer.strategy.reduce(self._first, reduce_op="min"))
        if first < _NEVER:
            raise NotFinite("loss", first, trainer.current_epoch)
