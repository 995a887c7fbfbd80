"""Sizes that a folder asks for, compared with the tensors it holds before a network is made: 100 kB may ask for any number of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np
from torch import Tensor

from scbert_cll.model.exchange import problems
from scbert_cll.nn import Config

_BLOCK: Final = re.compile(r"blocks\.(\d+)\.")
_HEADS: Final = {"pool": "head.classify.weight", "scbert": "head.layers.6.weight"}


def as_saved(
    config: Config,
    weights: Mapping[str, Tensor],
    linear: Mapping[str, np.ndarray] | None,
    folder: object,
) -> None:
    """Every size of the network is that of the weights.

    Raises
    ------
    ValueError
        Some are not: they are named, with both numbers.
    """
    first = {name.removeprefix("blocks.0."): tuple(one.shape) for name, one in weights.items()}

    def size(name: str, at: int, per: int = 1) -> int | None:
        shape = first.get(name, ())
        return shape[at] // per if len(shape) > at else None

    inner, units = config.n_heads * config.dim_head, config.n_feedforward * config.n_hidden
    asked = {
        "n_layers": (
            config.n_layers,
            len({found[1] for name in weights if (found := _BLOCK.match(name))}),
        ),
        "n_hidden": (config.n_hidden, size("token_embedding.weight", 1)),
        "n_bins + 2": (config.n_bins + 2, size("token_embedding.weight", 0)),
        "n_heads × dim_head": (inner, size("attention.qkv.weight", 0, 3)),
        "dim_head": (config.dim_head, size("attention.projection", 1)),
        "n_random_features": (config.features, size("attention.projection", 0)),
        "n_feedforward × n_hidden": (units, size("feedforward.0.weight", 0)),
    }
    if config.gene_embedding != "none":
        asked["the number of genes"] = config.n_positions, size("gene_embedding.weight", 0)
    if config.n_classes:
        asked["the number of classes"] = config.n_classes, size(_HEADS[config.head], 0)
        if config.head == "scbert":
            asked["the number of positions"] = config.n_positions, size("head.layers.0.weight", 1)
    problems.sizes_as_saved(asked, folder)
    expected = {
        "coefficients": (config.n_classes, config.n_genes),
        "intercept": (config.n_classes,),
    }
    if linear is not None and {name: array.shape for name, array in linear.items()} != expected:
        raise ValueError(
            f"{folder} is damaged: its linear.safetensors does not fit {config.n_classes} "
            f"classes and {config.n_genes:,} genes. "
            "Restore the folder from a copy, or save the model again."
        )
