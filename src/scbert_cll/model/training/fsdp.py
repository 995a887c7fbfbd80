"""Training with ``strategy="fsdp"``: each process keeps a share of the weights.

So it does of their gradients and of the optimiser's state.

PyTorch's `fully_shard` does all of it, through Lightning's `ModelParallelStrategy`, which needs no
GPU. What is shared out is a copy: the model's own network stays whole in every process, and is
given the weights at the end.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import lightning.pytorch as L
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from scbert_cll.nn import Performer


def strategy_of(asked: Any) -> Any:
    """Lightning's strategy for what users pass.

    Its own of the name "fsdp" needs a GPU, and wraps modules in others.
    """
    return ModelParallelStrategy(save_distributed_checkpoint=False) if asked == "fsdp" else asked


def is_sharded(strategy: Any) -> bool:
    """Whether each process holds a share of the weights."""
    return isinstance(strategy, ModelParallelStrategy)


def share_out(plan: L.LightningModule) -> None:
    """Replace the plan's network by a copy that all processes hold together, block by block."""
    from torch.distributed.device_mesh import init_device_mesh  # not in every PyTorch
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    plan.module = copy.deepcopy(cast("Performer", plan.module))
    mesh = init_device_mesh(plan.trainer.strategy.root_device.type, (plan.trainer.world_size,))
    for block in plan.module.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(plan, mesh=mesh)  # with what the plan itself learns
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(plan, step)


def all_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights.

    Where they are shared out all processes have to ask, and all get them.
    """
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()
        for name, tensor in network.state_dict().items()
    }


class Sharded(L.Callback):
    """Give the whole network the weights at the end, and keep BatchNorm's means alike."""

    def __init__(self, whole: Performer) -> None:
        self.whole = whole

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """As in DDP, the first process' means count."""
        _spread_means(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate with the same means everywhere."""
        _spread_means(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the shares."""
        _spread_means(pl_module)
        self.whole.load_state_dict(all_weights(cast("Performer", pl_module.module)))


def _spread_means(network: nn.Module) -> None:
    """Broadcast what BatchNorm remembers, which is no weight and so is not shared out."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d):
            for tensor in layer.buffers():
                dist.broadcast(tensor, src=0)
