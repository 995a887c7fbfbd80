"""What the verbs that run a model write to an AnnData."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import scbert_cll
from scbert_cll import _keys
from scbert_cll.model import ScBERT, ScBERTClassifier


@contextmanager
def untouched_on_error(adata: AnnData) -> Iterator[None]:
    """Take back what scvi-tools wrote into `uns` when the step that follows fails."""
    before = set(adata.uns)
    try:
        yield
    except BaseException:
        for key in set(adata.uns) - before:
            del adata.uns[key]
        raise


def record(model: ScBERT | ScBERTClassifier, **params: Any) -> dict[str, Any]:
    """Plain values for `uns`: parameters, network, version, and the last values of the training history."""
    history = model.history or {}
    return {
        "params": {name: value for name, value in params.items() if value is not None} | {"layer": model.layer},
        "network": asdict(model.config),
        "n_genes": len(model.genes),
        "version": scbert_cll.__version__,
        "history": {name: frame.iloc[:, 0].to_numpy(np.float64) for name, frame in history.items()},
    }


def predictions(
    adata: AnnData,
    model: ScBERTClassifier,
    probabilities: pd.DataFrame,
    latent: np.ndarray,
    *,
    unassigned_below: float | None = None,
) -> None:
    """Write classes, their probability, all probabilities and the embedding."""
    values = probabilities.to_numpy()
    score = values.max(1)
    names = pd.Categorical.from_codes(values.argmax(1), pd.Index(model.classes))
    if unassigned_below is not None:
        names = names.add_categories(["unassigned"])
        names[score < unassigned_below] = "unassigned"
    adata.obs[_keys.PRED] = names
    adata.obs[_keys.SCORE] = score
    adata.obsm[_keys.PROBA] = probabilities
    adata.obsm[_keys.X_SCBERT] = latent
