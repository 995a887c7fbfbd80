"""What a trained network says of each gene, in cells of donors it was not trained on."""

from __future__ import annotations

import warnings
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys
from scbert_cll._signature.linear_filter import threshold
from scbert_cll._signature.moderated import paired
from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.explain.held_out import held_out_auroc

_LEAST_DONORS: Final = 2  # for a z


class Asked(NamedTuple):
    """The class meant, where the split is, cells a donor needs, and cells at a time."""

    target: str
    split_key: str
    min_cells: int
    batch_size: int | None


def network_evidence(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: pd.DataFrame,
    labels: np.ndarray,
    donors: pd.Series,
    asked: Asked,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Columns beside the tested genes, and what was measured.

    `labels` has the class of each cell, missing where there is none. The attribution is the gate
    gradient, signed: how the logit of `target` changes with the presence of the gene's token, mean
    over the cells of a donor (without the token: zero) and over donors. Its z is that of a
    moderated t over donors.
    """
    held, which = _held_out(adata, asked.split_key)
    classes = pd.Series(labels, adata.obs_names)
    groups = donors.where(held & classes.notna())
    groups = groups.where(groups.map(groups.value_counts()) >= asked.min_cells)
    if not groups.notna().any():
        raise ValueError(
            f"No donor has {asked.min_cells} labelled cells that are {which}; the network's "
            f"evidence is that of cells it was not "
            "trained on. Run pp.split_donors so that test or validation donors have some, or "
            "lower min_cells=."
        )
    auroc = held_out_auroc(
        adata, model, asked.split_key, donors, asked.target, asked.batch_size, stacklevel=4
    )
    by_donor = model.get_gene_attribution(
        groups, adata, target=asked.target, batch_size=asked.batch_size
    ).values
    by_donor = by_donor.reindex(genes["gene"])
    columns = pd.DataFrame(
        {"attribution": by_donor.mean(axis=1), "attribution_z": _z(by_donor, genes)}
    )
    columns["attention"] = _attention(adata, model, classes.where(groups.notna()), asked)
    columns = columns.reset_index(drop=True)
    large = columns["attribution"].abs() > threshold(columns["attribution"].dropna().to_numpy())
    columns["attribution_agrees"] = large & (np.sign(columns["attribution"]) == genes["sign"])
    facts = {
        "auroc_within": auroc,
        "attribution_cells": which,
        "n_attribution_donors": by_donor.shape[1],
    }
    return columns, facts


def _attention(
    adata: AnnData, model: ScBERTClassifier, classes: pd.Series, asked: Asked
) -> pd.Series | float:
    """Plain attention in the cells of the class meant, by gene.

    Missing where there is no such cell.
    """
    of_class = classes.where(classes == asked.target)
    if not of_class.notna().any():
        return np.nan
    return model.get_gene_attention(of_class, adata, batch_size=asked.batch_size)[asked.target]


def _held_out(adata: AnnData, split_key: str) -> tuple[np.ndarray, str]:
    """Cells the network was not trained on, and what they are called."""
    if split_key not in adata.obs:
        warnings.warn(
            f"There is no adata.obs[{split_key!r}]: the network's evidence is that of all "
            f"cells, those it was trained on among "
            "them, and says what it has memorised, too.",
            stacklevel=4,
        )
        return np.ones(adata.n_obs, dtype=bool), "any"
    parts = _checks.adata.split(adata, split_key, need=()).to_numpy()
    return (parts == _keys.TEST) | (parts == _keys.VAL), "test or validation cells"


def _z(by_donor: pd.DataFrame, genes: pd.DataFrame) -> pd.Series:
    """Signed z of the mean over donors.

    Missing with one donor, and for genes the network does not know.
    """
    z = pd.Series(np.nan, by_donor.index)
    known = by_donor.notna().all(axis=1).to_numpy() & by_donor.to_numpy().any(axis=1)
    if by_donor.shape[1] >= _LEAST_DONORS and known.any():
        test = paired(by_donor.to_numpy()[known].T, genes["abundance"].to_numpy()[known])
        z[known] = np.sign(test.effect) * stats.norm.isf(np.maximum(test.p, 1e-300) / 2)
    return z
