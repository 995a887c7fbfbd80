"""What one training step is: a plain LightningModule for each kind of training."""

from __future__ import annotations

import math
from typing import Any, Final

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor

from scbert_cll.model.training.batches import Batch, Cells
from scbert_cll.model.training.fsdp import is_sharded, share_out
from scbert_cll.model.training.seeds import seed_of_step
from scbert_cll.nn import Performer, mask_tokens

_F1_OF_TRAINING: Final = "macro_f1_train"


class Plan(L.LightningModule):
    """AdamW with a linear warm-up and a cosine decay to zero, stepped per optimiser step."""

    chosen: tuple[str, ...] = ("lr", "weight_decay", "warmup")  # attributes that make it this plan

    def __init__(
        self,
        module: Performer,
        *,
        lr: float,
        weight_decay: float,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.module, self.seed = module, seed
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.so_far: dict[str, Tensor] = {}  # of the epoch: sum over its cells, and their number

    def configure_model(self) -> None:
        """Share the network out where the strategy is one for that."""
        if is_sharded(self.trainer.strategy):
            share_out(self)

    def configure_optimizers(self) -> Any:
        """Give vectors and biases no weight decay, as usual."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        rising = max(1, round(self.warmup * total))

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return 0.5 * (
                1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising)))
            )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one training batch, for a rehearsal."""
        raise NotImplementedError

    def step_seed(self) -> int:
        """Seed of this step in this process, the same in a resumed run."""
        return seed_of_step(self.trainer, self.seed)

    def report(self, stage: str, n: int, loss: Tensor, **metrics: Tensor | float) -> Tensor:
        """Log under scvi-tools' names: train_loss, validation_loss, NAME_train, NAME_validation."""
        if n:
            named = {f"{name}_{stage}": value for name, value in metrics.items()}
            self.note({f"{stage}_loss": loss, **named}, stage, n)
        return loss

    def note(self, values: dict[str, Tensor | float], stage: str, n: int) -> None:
        """Log means over the epoch, in which this batch counts as `n` cells.

        Those of training are kept here, not by Lightning, so that a run which was interrupted goes
        on with them.
        """
        if stage == "train":
            for name, value in values.items():
                mean = torch.as_tensor(value).detach()
                self.count(name, torch.stack([mean * n, torch.full_like(mean, n)]))
            return
        several = self.trainer.world_size > 1
        for name, value in values.items():
            self.log(
                name,
                value,
                prog_bar=_in_bar(name),
                batch_size=n,
                on_step=False,
                on_epoch=True,
                sync_dist=several,
            )

    def count(self, name: str, sums: Tensor) -> None:
        """Add to the sums of the epoch."""
        self.so_far[name] = self.so_far[name] + sums if name in self.so_far else sums

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the training metrics of an epoch when it is over."""
        if self.trainer.is_last_batch:
            self._log_epoch()

    def on_train_epoch_end(self) -> None:
        """The same of an epoch that ended in the midst."""
        self._log_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """For a checkpoint; of several processes what all of them found."""
        checkpoint["so_far"] = {
            name: self._of_all(sums).cpu() for name, sums in sorted(self.so_far.items())
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """From a checkpoint; one process goes on with what all had found."""
        if self.trainer.is_global_zero:
            self.so_far = {
                name: sums.to(self.device) for name, sums in checkpoint["so_far"].items()
            }

    def _log_epoch(self) -> None:
        sums = {name: self._of_all(one) for name, one in sorted(self.so_far.items())}
        self.so_far = {}
        for name, one in sums.items():
            self.log(
                name,
                self.mean(one),
                prog_bar=_in_bar(name),
                batch_size=1,
                on_step=False,
                on_epoch=True,
            )

    def mean(self, sums: Tensor) -> Tensor | float:
        """What is logged of an epoch."""
        return sums[0] / sums[1]

    def _of_all(self, sums: Tensor) -> Tensor:
        """Sum over the processes."""
        summed: Tensor = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        return summed


class PretrainPlan(Plan):
    """Guess the bins of hidden genes: cross-entropy at the hidden genes only.

    With `redraw_every` the random features are drawn anew every so many steps.
    """

    chosen = (*Plan.chosen, "mask_fraction", "redraw_every")

    def __init__(
        self,
        module: Performer,
        *,
        mask_fraction: float = 0.15,
        redraw_every: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.mask_fraction, self.redraw_every = mask_fraction, redraw_every

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Hide other genes in every step, and in every process."""
        done = self.trainer.fit_loop.total_batch_idx
        if self.redraw_every and done and done % self.redraw_every == 0:
            self.module.redraw_features(torch.Generator().manual_seed(self.seed + done))
        return self._step(batch, "train", self.step_seed())

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Hide the same genes in every epoch, so that losses can be compared."""
        return self._step(batch, "validation", batch_idx)

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one batch."""
        return self._guess(batch, self.seed)[1]

    def _step(self, batch: Batch, stage: str, seed: int) -> Tensor:
        n, loss, metrics = self._guess(batch, seed)
        return self.report(stage, n, loss, **metrics)

    def _guess(self, batch: Batch, seed: int) -> tuple[int, Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        encodings, targets, majority = [], [], []
        for cells in batch["cells"]:
            tokens = cells["tokens"]
            seen, chosen = mask_tokens(
                tokens,
                self.module.config.mask_token,
                fraction=self.mask_fraction,
                generator=generator,
            )
            encodings.append(self.module.encode(**cells | {"tokens": seen}, at=chosen))
            targets.append(tokens[chosen])
            majority.append(_commonest_bin(tokens).unsqueeze(-1).expand_as(tokens)[chosen])
        logits, target = (
            self.module.to_bins(torch.cat(encodings)),
            torch.cat(targets),
        )  # (hidden genes, bins)
        accuracy = (logits.argmax(-1) == target).float().mean()
        commonest = (torch.cat(majority) == target).float().mean()
        loss = F.cross_entropy(logits.float(), target)
        return len(target), loss, {"masked_accuracy": accuracy, "majority_accuracy": commonest}


class ClassifyPlan(Plan):
    """Weighted cross-entropy on the labelled cells; macro-F1 over whole epochs.

    `token_drop` leaves out a random share (0 … token_drop, drawn per cell) of a training cell's
    tokens: augmentation that imitates a shallower cell. With ``tokens="all"`` it does nothing.
    Where a batch has an ``offset``, logits of the linear part, the network learns what these leave
    to be learned. Where it has ``proteins``, standardised levels, their mean squared error is
    learned from, too, and logged apart, so that both losses are the same quantity on training and
    validation cells; cells without a label (-1) count for the proteins alone. What guesses them is
    left behind with the plan.
    """

    chosen = (*Plan.chosen, "token_drop")

    def __init__(
        self,
        module: Performer,
        *,
        token_drop: float = 0.0,
        n_proteins: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.token_drop = token_drop
        self._validated: Tensor | None = None
        self.to_proteins = (
            torch.nn.Linear(module.penultimate_width, n_proteins) if n_proteins else None
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step, with tokens left out.

        ``loss`` is minimised, ``train_loss`` the classes' part of it.
        """
        if self.token_drop:
            generator = torch.Generator().manual_seed(self.step_seed())
            batch = batch | {
                "cells": [_drop(cells, self.token_drop, generator) for cells in batch["cells"]]
            }
        classes, proteins = self._step(batch, "train")
        return {"loss": classes + proteins, "train_loss": classes.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The whole cell; the classes' loss, by which epochs are told apart."""
        return self._step(batch, "validation")[0]

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one batch, whatever its labels."""
        logits, proteins = self._guess(batch)
        return F.cross_entropy(logits, batch["labels"].clamp(min=0)) + proteins

    def _guess(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Class logits, and the error of the guessed proteins, 0 without any."""
        features = self.module.penultimate(batch["cells"])
        logits = self.module.logits(features).float()
        logits = logits + batch["offset"] if "offset" in batch else logits
        if self.to_proteins is None:
            return logits, logits.new_zeros(())
        return logits, F.mse_loss(self.to_proteins(features).float(), batch["proteins"])

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the classes, and error of the proteins; each is logged."""
        logits, proteins = self._guess(batch)
        labels, weights = batch["labels"], batch["weights"]
        losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none") * weights
        # validation weights have mean 1 over all cells, so that which of them share a batch makes
        # no difference
        loss = (
            losses.mean() if stage == "validation" else losses.sum() / weights.sum().clamp(min=1e-6)
        )
        if self.to_proteins is not None:
            self.note({f"protein_loss_{stage}": proteins}, stage, len(labels))
        has_label = labels >= 0
        labels, guess = labels[has_label], logits.argmax(-1)[has_label]
        self._count_calls(stage, labels, guess)
        right = {"accuracy": (guess == labels).float().mean()}
        return self.report(stage, len(labels), loss, **right), proteins

    def _count_calls(self, stage: str, labels: Tensor, guess: Tensor) -> None:
        """How many cells of each class were called what, for the macro-F1 of an epoch."""
        n = self.module.config.n_classes
        calls = torch.bincount(labels * n + guess, minlength=n * n).reshape(n, n)
        if stage == "train":
            self.count(_F1_OF_TRAINING, calls)
        else:
            self._validated = calls if self._validated is None else self._validated + calls

    def on_validation_epoch_end(self) -> None:
        """Macro-F1 of all validation cells together; every process has seen them all."""
        if self._validated is not None:
            self.log("macro_f1_validation", macro_f1(self._validated))
            self._validated = None

    def mean(self, sums: Tensor) -> Tensor | float:
        """Of numbers of calls their macro-F1."""
        return macro_f1(sums) if sums.ndim > 1 else super().mean(sums)


def macro_f1(calls: Tensor) -> float:
    """Mean F1 of the classes that occur, as labels or as calls: (true class, called class)."""
    right, seen = calls.diagonal().double(), (calls.sum(0) + calls.sum(1)).double()
    return float((2 * right / seen)[seen > 0].mean())


def _in_bar(name: str) -> bool:
    """Whether a progress bar shows it."""
    return name in ("train_loss", "validation_loss")


def _commonest_bin(tokens: Tensor) -> Tensor:
    """Each cell's most frequent non-zero bin (b,), which needs no knowledge of genes to guess."""
    counts = F.one_hot(tokens).sum(1)
    counts[:, 0] = -1
    return counts.argmax(-1)


def _drop(cells: Cells, most: float, generator: torch.Generator) -> Cells:
    """Leave out a random share of the tokens, up to `most`, but never all of a cell's."""
    if "genes" not in cells:
        return cells
    tokens = cells["tokens"]
    weight = cells.get("weight", torch.ones_like(tokens, dtype=torch.float32))
    share = most * torch.rand(len(tokens), 1, generator=generator)
    left = weight * (torch.rand(tokens.shape, generator=generator) >= share).to(weight.device)
    return cells | {"weight": torch.where((left > 0).any(-1, keepdim=True), left, weight)}
