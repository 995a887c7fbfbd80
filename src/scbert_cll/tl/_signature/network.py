"""What a trained network says of each gene, in cells of donors it was not trained on."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys
from scbert_cll._signature.data import Source
from scbert_cll._signature.linear_filter import threshold
from scbert_cll._signature.moderated import paired
from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.explain.attribution import held_out_auroc

_LEAST_DONORS: Final = 2  # for a z


def network_evidence(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: pd.DataFrame,
    source: Source,
    split_key: str,
    batch_size: int | None,
) -> tuple[pd.DataFrame, dict[str, object]]:
    """Columns beside the tested genes, and facts of the network.

    The attribution is by the method ``"gate_gradient"``: how the logit of the last class changes
    with the presence of the gene's token, mean over the cells of a donor (without the token: zero)
    and over donors. Its z is that of a moderated t over donors.
    """
    data, target = source.data, source.data.classes[-1]
    is_new, name = _new_to_network(adata, split_key)
    rows = source.rows[is_new[source.rows]]
    donors = source.donors.iloc[rows]
    rows = rows[donors.map(donors.value_counts()).to_numpy() >= data.limits.min_cells]
    if not len(rows):
        raise ValueError(
            f"No donor has {data.limits.min_cells} labelled cells that are {name}; the network's "
            "evidence is that of cells it was not trained on. Run pp.split_donors so that test or "
            "validation donors have some, or lower min_cells=."
        )
    asked_of = split_key, source.donors, target, batch_size
    auroc = held_out_auroc(adata, model, *asked_of, stacklevel=5)
    groups = source.donors.iloc[rows].reindex(adata.obs_names)
    attribution = model.get_gene_attribution(groups, adata, target=target, batch_size=batch_size)
    by_donor = attribution.values.reindex(genes["gene"])
    mean = by_donor.mean(axis=1)
    columns = pd.DataFrame({"attribution": mean, "attribution_z": _z(by_donor, genes)})
    columns["attention"] = np.nan
    positive = np.intersect1d(rows, source.rows[data.positive])
    if len(positive):
        of_class = pd.Series(target, adata.obs_names[positive]).reindex(adata.obs_names)
        attention = model.get_gene_attention(of_class, adata, batch_size=batch_size)
        columns["attention"] = attention[target]
    large = mean.abs() > threshold(mean.dropna().to_numpy())
    columns["attribution_agrees"] = large & (np.sign(mean) == genes["sign"].to_numpy())
    facts: dict[str, object] = {"auroc_within": auroc, "attribution_cells": name}
    facts["n_attribution_donors"] = by_donor.shape[1]
    return columns.set_axis(genes.index), facts


def _new_to_network(adata: AnnData, split_key: str) -> tuple[np.ndarray, str]:
    """Cells the network was not trained on, and what they are called."""
    if split_key not in adata.obs:
        warnings.warn(
            f"There is no adata.obs[{split_key!r}]: the network's evidence is that of all cells, "
            "those it was trained on among them, and says what it has memorised, too.",
            stacklevel=5,
        )
        return np.ones(adata.n_obs, dtype=bool), "any"
    parts = _checks.adata.split(adata, split_key, need=())
    return parts.isin([_keys.TEST, _keys.VAL]).to_numpy(), "test or validation cells"


def _z(by_donor: pd.DataFrame, genes: pd.DataFrame) -> pd.Series:
    """Signed z of the mean over donors.

    Missing with one donor, and for genes the network does not know.
    """
    z, values = pd.Series(np.nan, by_donor.index), by_donor.to_numpy()
    in_model = ~np.isnan(values).any(axis=1) & values.any(axis=1)
    if values.shape[1] >= _LEAST_DONORS and in_model.any():
        abundance = genes["abundance"].to_numpy()[in_model]
        test = paired(values[in_model].T, abundance)
        tail = np.maximum(test.p, 1e-300) / 2
        z[in_model] = np.sign(test.effect) * stats.norm.isf(tail)
    return z
