"""Which weights a fine-tuning may change."""

from __future__ import annotations

from typing import Final, Literal

from scbert_cll import _checks
from scbert_cll.nn import Performer

Freeze = Literal["none", "encoder", "scbert"]
_FREEZE: Final = ("none", "encoder", "scbert")


def leave_trainable(network: Performer, freeze: Freeze) -> None:
    """Everything, the head only, or what scBERT trains: the head, the last LayerNorm and the last block but one."""
    _checks.choice(freeze, _FREEZE, "freeze")
    network.requires_grad_(freeze == "none")
    network.to_bins.requires_grad_(False)  # takes no part, which distributed training would complain about
    if network.head is not None:
        network.head.requires_grad_(True)
    if freeze == "scbert":
        network.norm.requires_grad_(True)
        network.blocks[-2 if len(network.blocks) > 1 else -1].requires_grad_(True)
    table, config = network.gene_embedding, network.config
    if table is not None and not (config.train_gene_embedding and config.gene_embedding != "sinusoidal"):
        table.weight.requires_grad_(False)
