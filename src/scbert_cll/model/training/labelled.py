"""The labelled cells that a classifier is trained on, with their weights and a linear part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.model._inference import cells_of, token_rows
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model.linear.ensemble import fit_beside, loss_of_logits
from scbert_cll.model.training.batches import TokenSplits, random_split
from scbert_cll.model.training.options import Finetuning

_FARTHEST: Final = 4.0  # standard deviations of a protein; a doublet shall not decide a batch


def parts_of(model: Network, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
    """Rows of train, val and test; without a split a tenth of the cells validates."""
    cells = cells_of(model, None)
    if split_key is None:
        return random_split(cells.n_obs, 0.1, seed)
    column = _checks.adata.split(cells, split_key).to_numpy()
    return {part: np.flatnonzero(column == part) for part in _keys.SPLIT_ORDER}


def labelled(model: Classifier, options: Finetuning, seed: int) -> tuple[TokenSplits, float]:
    """Cells in memory, and the validation loss that the network has to beat."""
    adata, parts = cells_of(model, None), parts_of(model, options.split_key, seed)
    groups, model.not_donors_ = None, {}
    if options.donor_key is not None:
        has_label = _checks.adata.obs_column(adata, model.labels_key).notna().to_numpy()
        rows = np.concatenate([parts[_keys.TRAIN], parts[_keys.VAL]])
        used = np.isin(np.arange(adata.n_obs), rows)
        donors = _checks.people.donors(adata, options.donor_key, cells=has_label & used)
        parts = {part: rows[donors.iloc[rows].notna()] for part, rows in parts.items()}
        groups = donors.to_numpy(dtype=object)
        model.not_donors_ = _checks.people.left_out(donors)
    codes = _checks.adata.labels(adata, model.labels_key, model.classes, parts[_keys.TRAIN])
    unlabelled = parts[_keys.TRAIN][codes[parts[_keys.TRAIN]] < 0]
    parts = {part: rows[codes[rows] >= 0] for part, rows in parts.items()}
    weights = _weights(adata, options.weight_key, codes, parts)
    parts[_keys.TRAIN] = parts[_keys.TRAIN][weights[parts[_keys.TRAIN]] > 0]
    data = token_rows(model, None, seed=seed, labels=codes, weights=weights)
    offset = fit_beside(model, data.csr, codes, weights, parts, groups, seed)
    start = math.inf
    if offset is not None:
        data.columns["offset"] = torch.from_numpy(offset.astype(np.float32))
        if not model.is_trained_:  # begin with the linear part alone
            model.module.zero_head()
            if len(val := parts[_keys.VAL]):
                start = loss_of_logits(offset[val], codes[val], weights[val])
    if options.protein_key is not None:
        parts[_keys.TRAIN] = np.sort(np.concatenate([parts[_keys.TRAIN], unlabelled]))
        levels = _protein_levels(adata, options.protein_key, parts[_keys.TRAIN])
        data.columns["proteins"] = torch.from_numpy(levels)
    return TokenSplits(data, parts, seed=seed), start


def _weights(
    adata: AnnData, key: str | None, codes: np.ndarray, parts: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How much each cell counts.

    A validation cell as the mean training cell of its class, 1 over all of them.
    """
    weights = (codes >= 0).astype(np.float32)
    if key is None:
        return weights
    train, val = parts[_keys.TRAIN], parts[_keys.VAL]
    column = _checks.adata.obs_column(adata, key)
    weights[train] = pd.to_numeric(column.iloc[train], errors="coerce")
    used = weights[train]
    if not np.isfinite(used).all() or (used < 0).any() or used.sum() <= 0:
        raise ValueError(
            f"adata.obs[{key!r}] must hold finite weights of zero or more for all training "
            "cells; make it with pp.balance."
        )
    train = train[weights[train] > 0]
    n_classes = codes.max() + 1
    n = np.bincount(codes[train], minlength=n_classes)
    by_class = np.bincount(codes[train], weights[train], n_classes) / np.maximum(n, 1)
    if len(val):
        weights[val] = by_class[codes[val]] / max(by_class[codes[val]].mean(), 1e-12)
    return weights


def _protein_levels(adata: AnnData, key: str, train: np.ndarray) -> np.ndarray:
    """Logarithms of protein counts in units of their spread among the training cells.

    float32 (cells, proteins); proteins that do not vary there are left out.
    """
    level = np.log1p(_checks.adata.protein_counts(adata, key))
    spread = level[train].std(0)
    varying = spread > 0
    standard = (level[:, varying] - level[train][:, varying].mean(0)) / spread[varying]
    return np.asarray(np.clip(standard, -_FARTHEST, _FARTHEST), dtype=np.float32)
