"""The one file that imports scvi-tools, and only its public paths.

Renamed and removed names are what breaks packages built on scvi-tools; here is the whole surface in one look.
"""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi import __version__ as SCVI_VERSION
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField
from scvi.model.base import BaseModelClass
from scvi.train import TrainRunner

__all__ = ["SCVI_VERSION", "BaseModelClass", "TrainRunner", "detached_registry", "register"]


def register(cls: type[BaseModelClass], adata: AnnData, layer: str, setup_args: dict[str, Any]) -> None:
    """Register the token layer with scvi-tools; labels are read when they are needed, so that prediction needs none."""
    fields = [LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False)]
    manager = AnnDataManager(fields=fields, setup_method_args=setup_args)
    manager.register_fields(adata)
    cls.register_manager(manager)


def detached_registry(class_name: str, genes: list[str], setup_args: dict[str, Any]) -> dict[str, Any]:
    """Return a registry as scvi-tools keeps one, for a model that comes from a folder and has no AnnData yet."""
    x = {
        "data_registry": {"attr_name": "layers", "attr_key": setup_args["layer"]},
        "state_registry": {"n_obs": 0, "n_vars": len(genes), "column_names": genes},
        "summary_stats": {"n_vars": len(genes), "n_cells": 0},
    }
    return {
        "scvi_version": SCVI_VERSION,
        "model_name": class_name,
        "setup_method_name": "setup_anndata",
        "setup_args": setup_args,
        "field_registries": {REGISTRY_KEYS.X_KEY: x},
    }
