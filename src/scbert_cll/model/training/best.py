"""The epoch that a training ends with, or leaves behind where it ends in an error."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import lightning.pytorch as L
from torch import Tensor

from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import not_finite
from scbert_cll.model.training.fsdp import all_weights
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

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "weights": self.weights, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        vars(self).update(state_dict)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what there is before training, where that may be the best."""
        if math.isfinite(self.best) and self.weights is None:
            self._keep(pl_module, epoch=0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep a copy when the loss is the lowest so far."""
        loss = trainer.callback_metrics.get("validation_loss")
        if loss is not None and not trainer.sanity_checking and float(loss) < self.best:
            self.best = float(loss)
            self._keep(pl_module, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep a copy of every epoch as long as nothing tells which is better."""
        if not math.isfinite(self.best):
            self._keep(pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the best weights back."""
        if self.restore:
            self._put_back()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Put them back after Ctrl-C in any case."""
        self._put_back()

    def _keep(self, plan: L.LightningModule, epoch: int) -> None:
        self.epoch, self.weights = epoch, all_weights(cast("Performer", plan.module))

    def _put_back(self) -> None:
        if self.weights is not None:
            self.network.load_state_dict(self.weights)


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
        model.is_trained_, model.kept_epoch_, self.has_good = True, past + best.epoch, True


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
