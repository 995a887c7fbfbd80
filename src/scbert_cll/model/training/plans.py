"""What one training step is: a plain LightningModule for each kind of training.

With ``strategy="fsdp"`` each process keeps a share of the weights, of their gradients and of the
optimiser's state. PyTorch's `fully_shard` does all of it, through Lightning's
`ModelParallelStrategy`, which needs no GPU. What is shared out is a copy: the model's own network
stays whole in every process, and is given the weights at the end.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Final, cast

import lightning.pytorch as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from scbert_cll._disk.formats import Json
from scbert_cll.model.training.batches import Batch, Cells
from scbert_cll.model.training.options import Finetuning, Fit, Freeze, Pretraining
from scbert_cll.nn import Performer, mask_tokens

_F1_OF_TRAINING: Final = "macro_f1_train"
_IN_BAR: Final = ("train_loss", "validation_loss")  # what a progress bar shows
_APART: Final = 1_000_003  # between the seeds of two processes


class Plan(L.LightningModule):
    """AdamW with a linear warm-up and a cosine decay to zero, stepped per optimiser step."""

    # attributes that make it this plan
    chosen: tuple[str, ...] = ("lr", "weight_decay", "warmup")
    warmup = 0.1

    def __init__(self, module: Performer, options: Fit, seed: int) -> None:
        super().__init__()
        self.module, self.seed = module, seed
        self.lr, self.weight_decay = options.lr, options.weight_decay
        # of the epoch: sum over its cells, and their number
        self.so_far: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Share the network out where the strategy is one for that."""
        if is_sharded(self.trainer.strategy):
            share_out(self)

    def configure_optimizers(self) -> Any:
        """Give vectors and biases no weight decay, as usual."""
        trained = [p for p in self.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim > 1]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        rising = max(1, round(self.warmup * total))

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            fallen = min(1.0, (step - rising) / max(1, total - rising))
            return 0.5 * (1 + math.cos(math.pi * fallen))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one training batch, for a rehearsal."""
        raise NotImplementedError

    def step_seed(self) -> int:
        """Seed of this step in this process, the same in a resumed run."""
        step = self.trainer.fit_loop.total_batch_idx
        return self.seed + 1 + step + _APART * self.trainer.global_rank

    def on_train_batch_start(self, *_: object) -> None:
        """Draw dropout's random numbers from the seed and the step."""
        if self.device.type != "cpu":
            torch.manual_seed(self.step_seed())
        else:  # without a traceback for each kind of GPU that is not in use, a millisecond
            torch.default_generator.manual_seed(self.step_seed())

    def report(self, stage: str, n: int, **values: Tensor) -> None:
        """Log means over the epoch, in which this batch counts as `n` cells, by scvi-tools' names.

        These are train_loss, validation_loss, NAME_train, NAME_validation. Those of training are
        kept here, not by Lightning, so that a run which was interrupted goes on with them.
        """
        if not n:
            return
        for metric, value in values.items():
            name = f"{stage}_loss" if metric == "loss" else f"{metric}_{stage}"
            if stage == "train":
                mean = value.detach()
                self.count(name, torch.stack([mean * n, torch.full_like(mean, n)]))
            else:
                several = self.trainer.world_size > 1
                self._log(name, value, batch_size=n, sync_dist=several)

    def _log(self, name: str, value: Tensor | float, **how: Any) -> None:
        in_bar = name in _IN_BAR
        self.log(name, value, prog_bar=in_bar, on_step=False, on_epoch=True, **how)

    def count(self, name: str, sums: Tensor) -> None:
        """Add to the sums of the epoch."""
        self.so_far[name] = self.so_far[name] + sums if name in self.so_far else sums

    def on_train_batch_end(self, *_: object) -> None:
        """Log the training metrics of an epoch when it is over."""
        if self.trainer.is_last_batch:
            self.on_train_epoch_end()

    def on_train_epoch_end(self) -> None:
        """The same of an epoch that ended in the midst."""
        sums = {name: self._of_all(one) for name, one in sorted(self.so_far.items())}
        self.so_far = {}
        for name, one in sums.items():
            self._log(name, self.mean(one), batch_size=1)

    def on_save_checkpoint(self, checkpoint: Json) -> None:
        """For a checkpoint; of several processes what all of them found."""
        so_far = sorted(self.so_far.items())
        checkpoint["so_far"] = {name: self._of_all(sums).cpu() for name, sums in so_far}

    def on_load_checkpoint(self, checkpoint: Json) -> None:
        """From a checkpoint; one process goes on with what all had found."""
        if self.trainer.is_global_zero:
            sums = checkpoint["so_far"].items()
            self.so_far = {name: one.to(self.device) for name, one in sums}

    def mean(self, sums: Tensor) -> Tensor | float:
        """What is logged of an epoch."""
        return sums[0] / sums[1]

    def _of_all(self, sums: Tensor) -> Tensor:
        """Sum over the processes."""
        summed: Tensor = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        return summed


class PretrainPlan(Plan):
    """Guess the bins of hidden genes: cross-entropy at the hidden genes only.

    With `feature_redraw_interval` the random features are drawn anew every so many steps.
    """

    chosen = (*Plan.chosen, "mask_fraction", "redraw_every")

    def __init__(self, module: Performer, options: Pretraining, seed: int) -> None:
        super().__init__(module, options, seed)
        self.mask_fraction = options.mask_fraction
        self.redraw_every = options.feature_redraw_interval

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
        return self._guess(batch, self.seed)[1]["loss"]

    def _step(self, batch: Batch, stage: str, seed: int) -> Tensor:
        n, values = self._guess(batch, seed)
        self.report(stage, n, **values)
        return values["loss"]

    def _guess(self, batch: Batch, seed: int) -> tuple[int, dict[str, Tensor]]:
        """Number of hidden genes, their loss, and how often the guess and the commonest hit."""
        rng, share = torch.Generator().manual_seed(seed), self.mask_fraction
        encodings, targets, majority = [], [], []
        for cells in batch["cells"]:
            tokens, mask = cells["tokens"], self.module.config.mask_token
            seen, chosen = mask_tokens(tokens, mask, fraction=share, generator=rng)
            encodings.append(self.module.encode(**{**cells, "tokens": seen}, at=chosen))
            commonest = _commonest_bin(tokens).unsqueeze(-1).expand_as(tokens)
            targets.append(tokens[chosen])
            majority.append(commonest[chosen])
        target, logits = torch.cat(targets), self.module.to_bins(torch.cat(encodings))
        return len(target), {  # logits: (hidden genes, bins)
            "loss": F.cross_entropy(logits.float(), target),
            "masked_accuracy": (logits.argmax(-1) == target).float().mean(),
            "majority_accuracy": (torch.cat(majority) == target).float().mean(),
        }


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
        self, module: Performer, options: Finetuning, seed: int, n_proteins: int = 0
    ) -> None:
        super().__init__(module, options, seed)
        self.token_drop = options.token_drop
        self._validated: Tensor | int = 0
        width = module.penultimate_width
        self.to_proteins = torch.nn.Linear(width, n_proteins) if n_proteins else None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step, with tokens left out.

        ``loss`` is minimised, ``train_loss`` the classes' part of it.
        """
        if self.token_drop:
            generator = torch.Generator().manual_seed(self.step_seed())
            whole, most = batch["cells"], self.token_drop
            dropped = [_drop(cells, most, generator) for cells in whole]
            batch = {**batch, "cells": dropped}
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
        classes = labels.clamp(min=0)
        losses = weights * F.cross_entropy(logits, classes, reduction="none")
        # validation weights have mean 1 over all cells, so that which of them share a batch makes
        # no difference
        if is_trained := stage == "train":
            loss = losses.sum() / weights.sum().clamp(min=1e-6)
        else:
            loss = losses.mean()
        if self.to_proteins is not None:
            self.report(stage, len(labels), protein_loss=proteins)
        has_label = labels >= 0
        labels, guess = labels[has_label], logits.argmax(-1)[has_label]
        n = self.module.config.n_classes
        # how many cells of each class were called what, for the macro-F1 of an epoch
        calls = torch.bincount(labels * n + guess, minlength=n * n).reshape(n, n)
        if is_trained:
            self.count(_F1_OF_TRAINING, calls)
        else:
            self._validated = self._validated + calls
        accuracy = (guess == labels).float().mean()
        self.report(stage, len(labels), loss=loss, accuracy=accuracy)
        return loss, proteins

    def on_validation_epoch_end(self) -> None:
        """Macro-F1 of all validation cells together; every process has seen them all."""
        if isinstance(self._validated, Tensor):
            self.log("macro_f1_validation", macro_f1(self._validated))
        self._validated = 0

    def mean(self, sums: Tensor) -> Tensor | float:
        """Of numbers of calls their macro-F1."""
        return macro_f1(sums) if sums.ndim > 1 else super().mean(sums)


def macro_f1(calls: Tensor) -> float:
    """Mean F1 of the classes that occur, as labels or as calls: (true class, called class)."""
    right, seen = calls.diagonal().double(), (calls.sum(0) + calls.sum(1)).double()
    return float((2 * right / seen)[seen > 0].mean())


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
    stays = torch.rand(tokens.shape, generator=generator) >= share
    left = weight * stays.to(weight.device)
    has_any = (left > 0).any(-1, keepdim=True)
    return {**cells, "weight": torch.where(has_any, left, weight)}


def leave_trainable(network: Performer, freeze: Freeze) -> None:
    """Everything, the head only, or as scBERT: head, last LayerNorm and last block but one."""
    network.requires_grad_(freeze == "none")
    # takes no part, which distributed training would complain about
    network.to_bins.requires_grad_(False)
    if network.head is not None:
        network.head.requires_grad_(True)
    if freeze == "scbert":
        network.norm.requires_grad_(True)
        network.blocks[-2 if len(network.blocks) > 1 else -1].requires_grad_(True)
    table, config = network.gene_embedding, network.config
    is_fixed = not config.train_gene_embedding or config.gene_embedding == "sinusoidal"
    if table is not None and is_fixed:
        table.weight.requires_grad_(False)


# ---- shared out


def strategy_of(strategy: Any) -> Any:
    """Lightning's strategy for what users pass.

    Its own of the name "fsdp" needs a GPU, and wraps modules in others.
    """
    if strategy != "fsdp":
        return strategy
    return ModelParallelStrategy(save_distributed_checkpoint=False)


def is_sharded(strategy: Any) -> bool:
    """Whether each process holds a share of the weights."""
    return isinstance(strategy, ModelParallelStrategy)


def share_out(plan: L.LightningModule) -> None:
    """Replace the plan's network by a copy that all processes hold together, block by block."""
    from torch.distributed.device_mesh import init_device_mesh  # not in every PyTorch
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    plan.module = copy.deepcopy(cast("Performer", plan.module))
    kind = plan.trainer.strategy.root_device.type
    mesh = init_device_mesh(kind, (plan.trainer.world_size,))
    for block in plan.module.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(plan, mesh=mesh)  # with what the plan itself learns
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(plan, step)


def all_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights.

    Where they are shared out all processes have to ask, and all get them.
    """
    weights = dict(network.state_dict())
    for name, tensor in weights.items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        weights[name] = whole.detach().clone()
    return weights


class Sharded(L.Callback):
    """Give the whole network the weights at the end, and keep BatchNorm's means alike."""

    def __init__(self, whole: Performer) -> None:
        self.whole = whole

    def on_train_batch_start(self, _: L.Trainer, plan: L.LightningModule, *__: object) -> None:
        """As in DDP, the first process' means count."""
        _spread_means(plan)

    def on_validation_start(self, _: L.Trainer, plan: L.LightningModule) -> None:
        """Validate with the same means everywhere."""
        _spread_means(plan)

    def on_train_end(self, _: L.Trainer, plan: L.LightningModule) -> None:
        """Collect the shares."""
        _spread_means(plan)
        self.whole.load_state_dict(all_weights(cast("Performer", plan.module)))


def _spread_means(network: nn.Module) -> None:
    """Broadcast what BatchNorm remembers, which is no weight and so is not shared out."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d):
            for tensor in layer.buffers():
                dist.broadcast(tensor, src=0)
