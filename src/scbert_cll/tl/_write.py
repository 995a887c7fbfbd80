"""What the verbs that run a model write to an AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.metrics import score
from scbert_cll._version import __version__
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.linear.ensemble import Predictions, described

_COMPARED = ("macro_f1", "balanced_accuracy", "auroc", "log_loss")


def record(model: ScBERT | ScBERTClassifier, params: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `uns`: parameters, network, version, and the last values of the training history."""
    history = model.history or {}
    return {
        "params": dict(params) | {"layer": model.layer},
        "network": asdict(model.config),
        "n_genes": len(model.genes),
        "n_genes_missing": max(0, model.missing_[0]),
        "version": __version__,
        **({"linear": linear} if (linear := described(model)) else {}),
        "history": {name: frame.iloc[:, 0].to_numpy(np.float64) for name, frame in history.items()},
    }


def predictions(
    model: ScBERTClassifier, found: Predictions, *, unassigned_below: float | None = None
) -> dict[str, dict[str, Any]]:
    """Slots of classes, their probability, all probabilities, those of the logistic regression alone, and the embedding."""
    values = found.joined.to_numpy()
    score = values.max(1)
    names = pd.Categorical.from_codes(values.argmax(1), pd.Index(model.classes))
    if unassigned_below is not None:
        names = names.set_categories(
            called(model, unassigned_below)
        ).copy()  # else pandas 3 may forbid to write
        names[score < unassigned_below] = _keys.UNASSIGNED
    tables = {_keys.PROBA: found.joined} | (
        {} if found.linear is None else {_keys.LINEAR_PROBA: found.linear}
    )
    return {
        "obs": {_keys.PRED: names, _keys.SCORE: score},
        "obsm": tables | {_keys.X_SCBERT: found.latent},
    }


def called(model: ScBERTClassifier, unassigned_below: float | None) -> list[str]:
    """What a cell can be called: a class, or unassigned where that may be (which a class may be called, too)."""
    return list(
        dict.fromkeys([*model.classes, *([] if unassigned_below is None else [_keys.UNASSIGNED])])
    )


def comparison(adata: AnnData, found: Predictions, labels_key: str, split_key: str) -> pd.DataFrame:
    """Network, logistic regression and what is predicted, on the same labelled validation and test cells."""
    classes = list(found.joined.columns)
    names = _checks.people.class_names(_checks.adata.obs_column(adata, labels_key))
    codes = names.map({c: i for i, c in enumerate(classes)}).to_numpy(dtype=float, na_value=np.nan)
    split = _checks.adata.split(adata, split_key).to_numpy()
    models = {
        "logistic regression": found.linear,
        "network": found.network,
        "predicted": found.joined,
    }
    rows: list[dict[str, Any]] = []
    for part in (_keys.VAL, _keys.TEST):
        cells = np.flatnonzero((split == part) & ~pd.isna(codes))
        for name, proba in models.items() if len(cells) else ():
            if proba is not None:
                truth, guess = codes[cells].astype(int), proba.to_numpy(np.float64)[cells]
                values = {
                    m: score(m, truth, guess / guess.sum(1, keepdims=True), classes).value
                    for m in _COMPARED
                }
                rows.append({"part": part, "model": name, "n_cells": len(cells)} | values)
    return pd.DataFrame(rows, columns=["part", "model", "n_cells", *_COMPARED]).rename(index=str)
