"""What the verbs that run a model write to an AnnData, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Slots:
    """Names of a model's results: `key_added` stands for ``scbert`` in each of them."""

    key: str = _keys.SCBERT

    @property
    def pred(self) -> str:
        """`obs` column of the called classes."""
        return _keys.beside(self.key, "pred")

    @property
    def score(self) -> str:
        """`obs` column of their probability."""
        return _keys.beside(self.key, "score")

    @property
    def proba(self) -> str:
        """`obsm` entry of the probabilities of all classes."""
        return _keys.beside(self.key, "proba")

    @property
    def linear_proba(self) -> str:
        """`obsm` entry of the same of the logistic regression; without a prefix by default."""
        is_default = self.key == _keys.SCBERT
        return _keys.LINEAR_PROBA if is_default else f"{self.key}_{_keys.LINEAR_PROBA}"

    @property
    def latent(self) -> str:
        """`obsm` entry of the embedding."""
        return f"X_{self.key}"

    @property
    def pretrain(self) -> str:
        """`uns` entry of tl.pretrain; that of tl.finetune is `key`."""
        return f"{self.key}_pretrain"

    @property
    def predict(self) -> str:
        """`uns` entry of tl.predict."""
        return f"{self.key}_predict"

    def check(
        self,
        tokens: str,
        obs: Mapping[str, str | None] | None = None,
        obsm: Mapping[str, str | None] | None = None,
    ) -> None:
        """Refuse a name that no file holds, or under which something is that is read here."""
        _checks.adata.new_key(self.key, [tokens], stems=("", "_pretrain", "_predict"))
        in_obs, in_obsm = (self.pred, self.score), (self.proba, self.linear_proba, self.latent)
        for slot, inputs, written in (("obs", obs, in_obs), ("obsm", obsm, in_obsm)):
            for name, key in (inputs or {}).items():
                if key in written:
                    copied = f"adata.{slot}['my_{key}'] = adata.{slot}[{key!r}]"
                    raise ValueError(
                        f"{name}={key!r} is where the result goes, and would be replaced. Copy it "
                        f"first and name the copy, e.g. {copied}, {name}='my_{key}'."
                    )


def record(model: ScBERT | ScBERTClassifier, params: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `uns`: parameters, network, version, and the training history."""
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
    model: ScBERTClassifier,
    parts: Predictions,
    slots: Slots,
    *,
    unassigned_below: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Slots of classes, their probability, all probabilities, the linear part's, the embedding."""
    values = parts.joined.to_numpy()
    score = values.max(1)
    names = pd.Categorical.from_codes(values.argmax(1), pd.Index(model.classes))
    if unassigned_below is not None:
        names = names.set_categories(called(model, unassigned_below))
        names = names.copy()  # else pandas 3 may forbid to write
        names[score < unassigned_below] = _keys.UNASSIGNED
    linear = {} if parts.linear is None else {slots.linear_proba: parts.linear}
    return {
        "obs": {slots.pred: names, slots.score: score},
        "obsm": {slots.proba: parts.joined, **linear, slots.latent: parts.latent},
    }


def called(model: ScBERTClassifier, unassigned_below: float | None) -> list[str]:
    """What a cell can be called: a class, or unassigned where that may be."""
    unassigned = [] if unassigned_below is None else [_keys.UNASSIGNED]
    return list(dict.fromkeys([*model.classes, *unassigned]))  # a class may be called so, too


def comparison(adata: AnnData, parts: Predictions, labels_key: str, split_key: str) -> pd.DataFrame:
    """Scores of network, logistic regression and both, on the same validation and test cells."""
    classes = list(parts.joined.columns)
    names = _checks.people.class_names(_checks.adata.obs_column(adata, labels_key))
    codes = pd.Categorical(names, categories=classes).codes
    split = _checks.adata.split(adata, split_key).to_numpy()
    models = {
        "logistic regression": parts.linear,
        "network": parts.network,
        "predicted": parts.joined,
    }
    rows: list[dict[str, Any]] = []
    for part in (_keys.VAL, _keys.TEST):
        cells = np.flatnonzero((split == part) & (codes >= 0))
        for name, table in models.items():
            if not len(cells) or table is None:
                continue
            truth, proba = codes[cells].astype(int), table.to_numpy(np.float64)[cells]
            proba = proba / proba.sum(1, keepdims=True)
            scores = {metric: score(metric, truth, proba, classes).value for metric in _COMPARED}
            rows.append({"part": part, "model": name, "n_cells": len(cells)} | scores)
    return pd.DataFrame(rows, columns=["part", "model", "n_cells", *_COMPARED]).rename(index=str)
