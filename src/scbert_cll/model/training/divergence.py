"""A training that diverges: seen where it happens, and the model's tensors looked at before they are used or saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import lightning.pytorch as L
import torch
from torch import Tensor

from scbert_cll.model import _finite
from scbert_cll.model._finite import Wrong
from scbert_cll.model._tensors import not_finite

_NEVER: Final = 2**62  # a step that is not reached
_EVERY: Final = 50  # steps between two looks at what a GPU, or other processes, found


class NotFinite(Exception):  # noqa: N818
    """Where a training went wrong: the step, the epoch from 0, and what."""

    def __init__(self, what: Wrong, step: int, epoch: int) -> None:
        super().__init__(f"The {what} at step {step} is not finite.")
        self.what, self.step, self.epoch = what, step, epoch


class StopWhereNotFinite(L.Callback):
    """End a training at the first loss that is not finite, and at the end of an epoch whose weights are not.

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
