"""Sizes that a folder asks for, against its tensors, before a network is made.

100 kB may ask for any number of layers.
"""

from __future__ import annotations

import re
from typing import Final

from scbert_cll.model.exchange.folder import Saved
from scbert_cll.nn import Config

_BLOCK: Final = re.compile(r"blocks\.(\d+)\.")
_HEADS: Final = {"pool": "head.classify.weight", "scbert": "head.layers.6.weight"}
_REMEDY: Final = "Restore the folder from a copy, or save the model again."


def as_saved(config: Config, saved: Saved, folder: object) -> None:
    """Every size of the network is that of the weights.

    Raises
    ------
    ValueError
        Some are not: they are named, with both numbers.
    """
    weights = saved.weights
    shapes = {name.removeprefix("blocks.0."): weights[name].shape for name in weights}

    def size(name: str, axis: int, per: int = 1) -> int | None:
        shape = shapes.get(name, ())
        return shape[axis] // per if len(shape) > axis else None

    inner = config.n_heads * config.dim_head
    units = config.n_feedforward * config.n_hidden
    n_layers = len({block[1] for name in weights if (block := _BLOCK.match(name))})
    sizes = {
        "n_layers": (config.n_layers, n_layers),
        "n_hidden": (config.n_hidden, size("token_embedding.weight", 1)),
        "n_bins + 2": (config.n_bins + 2, size("token_embedding.weight", 0)),
        "n_heads × dim_head": (inner, size("attention.qkv.weight", 0, 3)),
        "dim_head": (config.dim_head, size("attention.projection", 1)),
        "n_random_features": (config.features, size("attention.projection", 0)),
        "n_feedforward × n_hidden": (units, size("feedforward.0.weight", 0)),
    }
    if config.gene_embedding != "none":
        n_genes = size("gene_embedding.weight", 0)
        sizes["the number of genes"] = config.n_positions, n_genes
    if config.n_classes:
        sizes["the number of classes"] = config.n_classes, size(_HEADS[config.head], 0)
        if config.head == "scbert":
            n_positions = size("head.layers.0.weight", 1)
            sizes["the number of positions"] = config.n_positions, n_positions
    if wrong := [
        f"{name} is {asked:,}, and the weights have {'none' if stored is None else f'{stored:,}'}"
        for name, (asked, stored) in sizes.items()
        if asked != stored
    ]:
        raise ValueError(
            f"{folder} is damaged: its config.json does not fit its weights: {'; '.join(wrong)}. "
            f"{_REMEDY}"
        )
    n = config.n_classes
    expected = {"coefficients": (n, config.n_genes), "intercept": (n,)}
    linear = saved.linear
    if linear is not None and {name: one.shape for name, one in linear.items()} != expected:
        raise ValueError(
            f"{folder} is damaged: its linear.safetensors does not fit {n} classes and "
            f"{config.n_genes:,} genes. {_REMEDY}"
        )
