"""A model saved as a folder, and loaded from one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd
import torch
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll.model import _scvi
from scbert_cll.model._network import choices, config_of
from scbert_cll.model._protocols import Network
from scbert_cll.model.exchange import folder
from scbert_cll.model.exchange.sizes import as_saved
from scbert_cll.model.linear.ensemble import described
from scbert_cll.model.linear.regression import LinearPart


def save(model: Network, dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
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
    edges = model.binning["edges"]
    learned = edges if isinstance(edges, pd.DataFrame) else None
    saved = folder.Saved(
        config={
            "class": type(model).__name__,
            "is_trained": bool(model.is_trained_),
            "kept_epoch": model.kept_epoch_,
            "joined": described(model),
            "setup": model.registry["setup_args"],
            "network": asdict(model.config),
            "binning": model.binning | {"edges": None if learned is not None else edges},
        },
        genes=list(model.genes),
        weights=model.module.state_dict(),
        labels=model.labels,
        history=_wide(model.history_),
        edges=learned,
        linear=None if model.linear_ is None else model.linear_.arrays(),
    )
    folder.save_folder(dir_path, saved, overwrite=overwrite)


def load[M: Network](
    cls: type[M], dir_path: str | os.PathLike[str], adata: AnnData | None, place: torch.device
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
        as_saved(expected, saved, dir_path)
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
        model.combine = config["joined"]["combine"]
        model.linear_ = LinearPart(**saved.linear, strength=config["joined"]["strength"])
    model.history_ = _long(saved.history)
    if adata is not None:
        _scvi.attach(model, _checks.adata.anndata(adata))
    return model


def _wide(history: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame | None:
    """Tables by name as one."""
    return pd.concat(list(history.values()), axis=1) if history else None


def _long(history: pd.DataFrame | None) -> dict[str, pd.DataFrame] | None:
    """One table as tables by name."""
    if history is None:
        return None
    return {str(name): history[[name]].dropna() for name in history}
