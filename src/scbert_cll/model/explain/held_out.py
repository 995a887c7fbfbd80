"""How well a network tells held-out cells apart: what its attribution of a gene is worth."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.metrics import score
from scbert_cll.model import ScBERTClassifier

_BLIND: Final = 0.6  # AUROC within donors, below which there is little to attribute


def held_out_auroc(
    adata: AnnData,
    model: ScBERTClassifier,
    split_key: str,
    donors: pd.Series | None,
    target: str | None,
    batch_size: int | None,
    stacklevel: int = 3,
) -> float:
    """AUROC of the network on cells it was not trained on, within donors where they are known.

    Missing if that cannot be told.
    """
    if split_key not in adata.obs or model.labels_key not in adata.obs:
        return float("nan")
    parts = _checks.adata.split(adata, split_key, need=()).to_numpy()
    labels = _checks.people.class_names(_checks.adata.obs_column(adata, model.labels_key))
    has_label = labels.isin(model.classes).to_numpy()
    has_label = has_label & (
        True if donors is None else donors.notna().to_numpy()
    )  # not in place: what pandas 3 hands out is read-only
    held_out = next(
        (cells for part in (_keys.TEST, _keys.VAL) if (cells := has_label & (parts == part)).any()),
        None,
    )
    if held_out is None:
        return float("nan")
    positive = (labels[held_out] == (target or model.classes[-1])).to_numpy().astype(np.int64)
    proba = (
        model.predict_parts(adata[held_out], batch_size=batch_size)
        .network[target or model.classes[-1]]
        .to_numpy()
    )
    who = None if donors is None else donors[held_out].to_numpy()
    name = "auroc" if who is None else "auroc_within"
    auroc = score(
        name, positive, np.column_stack([1 - proba, proba]), ["others", "target"], donors=who
    ).value
    if auroc < _BLIND:
        warnings.warn(
            f"On the {int(held_out.sum())} cells held out the network's "
            f"AUROC{' within donors' * (who is not None)} is {auroc:.2f}: it has learned little of "
            f"{model.labels_key!r} that holds for other cells, and there is little to attribute.",
            stacklevel=stacklevel,
        )
    return float(auroc)
