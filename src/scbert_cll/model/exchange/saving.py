"""A model saved as a folder, and loaded from one."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Final

import pandas as pd
import torch
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.files import FilePath
from scbert_cll.model import _scvi
from scbert_cll.model._inference import described
from scbert_cll.model._protocols import Network
from scbert_cll.model.exchange import folder
from scbert_cll.model.linear.regression import LinearPart
from scbert_cll.model.training.options import choices, config_of
from scbert_cll.nn import Config

_BLOCK: Final = re.compile(r"blocks\.(\d+)\.")
_HEADS: Final = {"pool": "head.classify.weight", "scbert": "head.layers.6.weight"}


def save(model: Network, dir_path: FilePath, *, overwrite: bool = False) -> None:
    """Save the model as a folder that is enough to predict, without the training data.

    Text files and safetensors; nothing in them is executed when they are read.

    Parameters
    ----------
    dir_path
        The folder; it appears whole or not at all.
    overwrite
        Replace a model that is there. A folder that holds anything else is never replaced.

    Raises
    ------
    FileExistsError
        The folder exists and `overwrite` is False, or it holds other files.
    ValueError
        Weights are not finite.
    """
    edges, history = model.binning["edges"], model.history_
    learned = edges if isinstance(edges, pd.DataFrame) else None
    saved = folder.Saved(
        config={
            "class": type(model).__name__,
            "is_trained": bool(model.is_trained_),
            "kept_epoch": model.kept_epoch_,
            "joined": described(model),
            "setup": model.registry["setup_args"],
            "network": asdict(model.config),
            "binning": model.binning | {"edges": edges if learned is None else None},
        },
        genes=list(model.genes),
        weights=model.module.state_dict(),
        labels=model.labels,
        history=pd.concat(list(history.values()), axis=1) if history else None,
        edges=learned,
        linear=None if model.linear_ is None else model.linear_.arrays(),
    )
    folder.save_folder(dir_path, saved, overwrite=overwrite)


def load[M: Network](
    cls: type[M], dir_path: FilePath, adata: AnnData | None, place: torch.device
) -> M:
    """The model that :func:`save` wrote, on the device `place`."""
    saved = folder.load_folder(dir_path)
    config = saved.config
    if config["class"] != cls.__name__:
        raise ValueError(
            f"{dir_path} holds a {config['class']}, not a {cls.__name__}; use "
            f"{config['class']}.load."
        )
    # excluded genes are not in the saved vocabulary, so nothing is left to exclude
    genes, setup = saved.genes, config["setup"]
    network, labels = choices(config["network"]), saved.labels or {}
    try:
        n_classes, binning = len(labels.get("classes", ())), saved.binning
        expected = config_of(len(genes), binning, "small", network, n_classes)
        _as_saved(expected, saved, dir_path)
        model = _scvi.detached(cls, genes, setup, labels, binning=binning, **network)
        model.module.load_state_dict(saved.weights)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{dir_path} is damaged: its config.json does not fit its weights. {error}"
        ) from error
    model.module.to(place)
    model.is_trained_ = config["is_trained"]
    model.kept_epoch_ = config.get("kept_epoch")  # models of before did not say
    if saved.linear is not None:
        joined = config["joined"]
        model.combine = joined["combine"]
        model.linear_ = LinearPart(**saved.linear, strength=joined["strength"])
    if (history := saved.history) is not None:
        model.history_ = {str(name): history[[name]].dropna() for name in history}
    if adata is not None:
        _scvi.attach(model, _checks.adata.anndata(adata))
    return model


def _as_saved(config: Config, saved: folder.Saved, place: object) -> None:
    """Every size of the network is that of the weights, before a network is made.

    A folder of 100 kB may ask for any number of layers.

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
        f"{name} is {n:,}, and the weights have {'none' if stored is None else f'{stored:,}'}"
        for name, (n, stored) in sizes.items()
        if n != stored
    ]:
        raise ValueError(
            f"{place} is damaged: its config.json does not fit its weights: {'; '.join(wrong)}. "
            f"{folder.REMEDY}"
        )
    n = config.n_classes
    expected = {"coefficients": (n, config.n_genes), "intercept": (n,)}
    arrays = saved.linear
    if arrays is not None and {name: arrays[name].shape for name in arrays} != expected:
        raise ValueError(
            f"{place} is damaged: its linear.safetensors does not fit {n} classes and "
            f"{config.n_genes:,} genes. {folder.REMEDY}"
        )
