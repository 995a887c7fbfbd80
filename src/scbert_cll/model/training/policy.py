"""Which weights a fine-tuning may change, and for how long."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from scbert_cll._checks.words import choice
from scbert_cll.nn import Performer

Freeze = Literal["none", "encoder", "scbert"]
_FREEZE: Final = ("none", "encoder", "scbert")
_CELL_PASSES: Final = 10_000
_EPOCHS: Final = (8, 20)


def usual_epochs(n_cells: int) -> int:
    """Fewer passes over more cells: some hundred steps of 16 cells are needed, and more passes than 20 overfit."""
    return int(np.clip(_CELL_PASSES // max(n_cells, 1), *_EPOCHS))


def leave_trainable(network: Performer, freeze: Freeze) -> None:
    """Everything, the head only, or what scBERT trains: the head, the last LayerNorm and the last block but one."""
    choice(freeze, _FREEZE, "freeze")
    network.requires_grad_(freeze == "none")
    network.to_bins.requires_grad_(
        False
    )  # takes no part, which distributed training would complain about
    if network.head is not None:
        network.head.requires_grad_(True)
    if freeze == "scbert":
        network.norm.requires_grad_(True)
        network.blocks[-2 if len(network.blocks) > 1 else -1].requires_grad_(True)
    table, config = network.gene_embedding, network.config
    if table is not None and not (
        config.train_gene_embedding and config.gene_embedding != "sinusoidal"
    ):
        table.weight.requires_grad_(False)
