"""The labelled cells that a classifier is trained on, with their weights and a linear part."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.model._inference import cells_of, token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.linear.ensemble import fit_beside, loss_of_logits
from scbert_cll.model.training.batches import TokenSplits
from scbert_cll.model.training.fit import parts_of
from scbert_cll.model.training.proteins import protein_targets


def labelled(
    model: Classifier,
    seed: int,
    *,
    split_key: str | None,
    weight_key: str | None,
    donor_key: str | None,
    protein_key: str | None,
) -> tuple[TokenSplits, float]:
    """Cells in memory, and the validation loss that the network has to beat."""
    adata, parts = cells_of(model, None), parts_of(model, split_key, seed)
    groups, model.not_donors_ = None, {}
    if donor_key is not None:
        used = _checks.adata.obs_column(adata, model.labels_key).notna().to_numpy()
        used = used & np.isin(
            np.arange(adata.n_obs), np.concatenate([parts[_keys.TRAIN], parts[_keys.VAL]])
        )
        donors = _checks.people.donors(adata, donor_key, cells=used)
        parts = {part: rows[donors.iloc[rows].notna()] for part, rows in parts.items()}
        groups, model.not_donors_ = (
            donors.to_numpy(dtype=object),
            _checks.people.left_out(donors),
        )
    codes = _checks.adata.labels(adata, model.labels_key, model.classes, parts["train"])
    unlabelled = parts["train"][codes[parts["train"]] < 0]
    parts = {part: rows[codes[rows] >= 0] for part, rows in parts.items()}
    weights = _weights(model, adata, weight_key, codes, parts)
    parts["train"] = parts["train"][weights[parts["train"]] > 0]
    data = token_rows(model, None, seed=seed, labels=codes, weights=weights)
    offset = fit_beside(model, data.csr, codes, weights, parts, groups, seed)
    start = math.inf
    if offset is not None:
        data.columns["offset"] = torch.from_numpy(offset.astype(np.float32))
        start = _start_from(model, offset, codes, weights, parts[_keys.VAL])
    n_labelled = len(parts["train"])
    if protein_key is not None:
        parts["train"] = np.sort(np.concatenate([parts["train"], unlabelled]))
        data.columns["proteins"] = torch.from_numpy(
            protein_targets(adata, protein_key, parts["train"])
        )
    return TokenSplits(data, parts, seed=seed, n_labelled=n_labelled), start


def _start_from(
    model: Classifier, offset: np.ndarray, codes: np.ndarray, weights: np.ndarray, val: np.ndarray
) -> float:
    """Begin with the linear part alone; its validation loss, which the network has to beat."""
    if model.is_trained_:
        return math.inf
    model.module.zero_head()
    return loss_of_logits(offset[val], codes[val], weights[val]) if len(val) else math.inf


def _weights(
    model: Classifier,
    adata: AnnData,
    key: str | None,
    codes: np.ndarray,
    parts: Mapping[str, np.ndarray],
) -> np.ndarray:
    """How much each cell counts.

    A validation cell as the mean training cell of its class, 1 over all of them.
    """
    weights = (codes >= 0).astype(np.float32)
    if key is None:
        return weights
    train, val = parts[_keys.TRAIN], parts[_keys.VAL]
    weights[train] = pd.to_numeric(
        _checks.adata.obs_column(adata, key).iloc[train], errors="coerce"
    )
    _checks.adata.weights(weights[train], key)
    train = train[weights[train] > 0]
    n = np.bincount(codes[train], minlength=len(model.classes))
    by_class = np.bincount(codes[train], weights[train], len(model.classes)) / np.maximum(n, 1)
    weights[val] = by_class[codes[val]] / max(by_class[codes[val]].mean(), 1e-12) if len(val) else 1
    return weights
