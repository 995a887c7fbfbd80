"""The one file that imports scvi-tools, and only its public paths.

Renamed and removed names are what breaks packages built on scvi-tools; here is the whole surface in
one look.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi import __version__ as SCVI_VERSION
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.model import SCANVI, SCVI
from scvi.model.base import BaseModelClass
from scvi.train import Trainer, TrainRunner

from scbert_cll import _checks
from scbert_cll._disk.formats import Json
from scbert_cll._gene_names.resolver import known_in_data
from scbert_cll.model._protocols import Network

__all__ = ["SCVI_VERSION", "BaseModelClass", "TrainRunner", "Trainer"]  # passed on

# all cells train, in the order they come: scvi-tools draws its split from a generator of its own
_TRAINING: Final[Json] = {
    "train_size": 1.0,
    "shuffle_set_split": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def register(cls: type[BaseModelClass], adata: AnnData, called: Json) -> None:
    """Register the token layer with scvi-tools, as `setup_anndata` was called.

    Labels are read when they are needed, so that prediction needs none.
    """
    args = called["setup_args"]
    _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    _checks.counts.tokens(adata, args["layer"])
    if "labels_key" in args:
        _checks.adata.obs_column(adata, args["labels_key"])
    excluded = args["exclude_genes"], adata.var_names, "adata.var_names"
    args["exclude_genes"] = known_in_data(*excluded)
    fields = [LayerField(REGISTRY_KEYS.X_KEY, args["layer"], is_count_data=False)]
    manager = AnnDataManager(fields=fields, setup_method_args=called)
    manager.register_fields(adata)
    cls.register_manager(manager)


def detached[M: Network](
    cls: type[M],
    genes: Sequence[str] | pd.Index,
    setup_args: Json,
    labels: Mapping[str, Any] | None = None,
    **choices: Any,
) -> M:
    """A model without cells, of a folder, a corpus or another model, with a registry of its own."""
    names, n = list(genes), len(genes)
    x = {
        "data_registry": {"attr_name": "layers", "attr_key": setup_args["layer"]},
        "state_registry": {"n_obs": 0, "n_vars": n, "column_names": names},
        "summary_stats": {"n_vars": n, "n_cells": 0},
    }
    registry = {
        "scvi_version": SCVI_VERSION,
        "model_name": cls.__name__,
        "setup_method_name": "setup_anndata",
        "setup_args": setup_args,
        "field_registries": {REGISTRY_KEYS.X_KEY: x},
    }
    return cls(registry=registry, **(labels or {}), **choices)


def attach(model: Network, adata: AnnData | None) -> None:
    """Make cells those of a model, without registering them: genes are found by name anyway."""
    model._adata = adata  # type: ignore[attr-defined]


def hub_metadata(class_name: str) -> Json:
    """What scvi-tools' HubModel reads of a folder, to know whose `load` it calls."""
    from scvi.hub import HubMetadata  # imports much that nobody else needs

    metadata = HubMetadata(
        SCVI_VERSION, version("anndata"), class_name, model_parent_module="scbert_cll.model"
    )
    return asdict(metadata)


def train_scvi(adata: AnnData, *, max_epochs: int | None, seed: int) -> SCVI:
    """Train scVI on counts, without batches."""
    with _quietly(seed):
        SCVI.setup_anndata(adata)
        model = SCVI(adata)
        model.train(max_epochs, **_TRAINING)
    return model


def train_scanvi(
    adata: AnnData, labels_key: str, unlabelled: str, max_epochs: int | None, seed: int
) -> SCANVI:
    """Train scVI, and scANVI started from it."""
    first = train_scvi(adata, max_epochs=max_epochs, seed=seed)
    with _quietly(seed):
        model = SCANVI.from_scvi_model(first, unlabelled, labels_key=labels_key)
        model.train(max_epochs, **_TRAINING)
    return model


def latent(model: SCVI, adata: AnnData) -> np.ndarray:
    """Mean of each cell's place in the latent space."""
    with _quietly(0):
        return np.asarray(model.get_latent_representation(adata))


def class_probabilities(model: SCANVI, adata: AnnData) -> pd.DataFrame:
    """Probability of each class that scANVI was trained with, by name."""
    with _quietly(0):
        return pd.DataFrame(model.predict(adata, soft=True))


@contextmanager
def _quietly(seed: int) -> Iterator[None]:
    """Random numbers from `seed`, the user's own streams untouched, and nothing printed."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "scvi")]
    levels, state = [log.level for log in loggers], np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        # Lightning on loaders, scvi-tools on labels: nothing a user could act on
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
