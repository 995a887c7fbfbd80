"""tl.gene_attribution: which genes speak for a class, by which measure."""

from __future__ import annotations

import warnings
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.metrics import score
from scbert_cll.model import ScBERTClassifier

Method = Literal["gate_gradient", "gradient_input", "integrated_gradients", "rollout", "attention"]

_METHODS: Final = ("gate_gradient", "gradient_input", "integrated_gradients", "rollout", "attention")
_BLIND: Final = 0.6  # AUROC within donors of held-out cells, below which there is little to attribute
_BETWEEN: Final = "|"


def gene_attribution(
    adata: AnnData,
    model: ScBERTClassifier,
    *,
    method: Method = "gate_gradient",
    groupby: str = _keys.CD49D,
    donor_key: str | None = None,
    target: str | None = None,
    split_key: str = _keys.SPLIT,
    n_steps: int = 32,
    batch_size: int | None = None,
    key_added: str = _keys.GENE_ATTRIBUTION,
    copy: bool = False,
) -> AnnData | None:
    """Say what each gene does to the network's logit of a class, per group of cells and donor.

    An attribution describes the network, not the disease: with two classes it is nearly opposite for them, its sign says for which class a
    gene's token speaks, and what the network has not learned it cannot tell. Whether it has learned anything is measured on the cells held out.

    Parameters
    ----------
    adata
        Cells × genes with the layer the model was trained on.
    model
        A trained classifier.
    method
        ``"gate_gradient"`` (signed): derivative of the logit by how much a token counts, which is the first order of leaving it out.
        ``"gradient_input"`` and ``"integrated_gradients"`` (signed): by the expression part of the token, from no expression on; not with
        ``tokens="expressed"``, which has never seen a gene without. ``"rollout"`` and ``"attention"`` (unsigned): attention followed
        through the layers, and the mean attention a gene receives; both follow abundance and know no class.
    groupby
        `obs` column of groups; cells without one are left out.
    donor_key
        `obs` column of donors: also write the attribution of each donor's cells.
    target
        Class whose logit is meant, against the mean of the others; None: the last one.
    split_key
        `obs` column of the split, where there is one: its test cells (else its validation cells) say whether the network has learned anything.
    n_steps
        Points of ``"integrated_gradients"``.
    batch_size
        Cells at a time; affects speed and memory, not results.
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.varm['gene_attribution']`` : DataFrame (genes × groups), float64
        Mean over the cells of a group, a gene without token counting as zero. Genes the model does not know have 0.
    ``adata.varm['gene_attribution_donors']`` : DataFrame (genes × "donor|group"), float64, with `donor_key`
        The same for the cells of each donor.
    ``adata.uns['gene_attribution']`` : dict
        ``params``; ``n_cells`` of each group; ``auroc_within`` of the cells held out, within donors where these are known (missing without a split);
        for ``"integrated_gradients"`` ``completeness_error``, the mean distance of a cell's sum from the change of its logit.

    Raises
    ------
    KeyError
        `groupby`, `donor_key` or the layer is missing.
    TypeError
        `model` is no classifier.
    ValueError
        An unknown method or class, a method that the model's tokens do not allow, or too few of the model's genes.

    Warns
    -----
    UserWarning
        The AUROC of the cells held out is below 0.6: there is little to attribute.

    References
    ----------
    Sundararajan et al. 2017, arXiv:1703.01365, for integrated gradients; Abnar and Zuidema 2020, arXiv:2005.00928, for rollout.
    """
    _checks.anndata(adata)
    _checks.is_model(model, ("ScBERTClassifier",))
    _checks.choice(method, _METHODS, "method")
    groups = _checks.groups(adata, groupby)
    donors = None if donor_key is None else _checks.obs_column(adata, donor_key, allow_missing=False).astype(str)
    destination = _checks.target(adata, copy=copy)
    asked: dict[str, Any] = {"method": method, "target": target, "n_steps": n_steps, "batch_size": batch_size}
    auroc = _held_out_auroc(adata, model, split_key, donors, asked["target"], batch_size)
    found, error = _attributed(model, adata, _fine(groups, donors), asked)
    by_group = found if donors is None else _over_donors(found, groups, donors)
    destination.varm[key_added] = by_group.reindex(adata.var_names, fill_value=0.0)
    if donors is not None:
        destination.varm[f"{key_added}_donors"] = found.reindex(adata.var_names, fill_value=0.0)
    params: dict[str, Any] = {
        "method": method,
        "groupby": groupby,
        "donor_key": donor_key or "none",
        "layer": model.layer,
    }
    params |= {"target": target or model.classes[-1], "n_steps": n_steps, "split_key": split_key}
    record = {"params": params, "n_cells": {str(k): int(n) for k, n in groups.value_counts().items()}}
    destination.uns[key_added] = record | {"auroc_within": auroc} | error
    return destination if copy else None


def _fine(groups: pd.Series, donors: pd.Series | None) -> pd.Series:
    """Donor and group in one column, where donors are asked for."""
    if donors is None:
        return groups
    both = donors + _BETWEEN + groups.astype(object).where(groups.notna(), "").astype(str)
    return both.where(groups.notna())


def _over_donors(found: pd.DataFrame, groups: pd.Series, donors: pd.Series) -> pd.DataFrame:
    """Mean over the cells of a group, from the means over those of each donor."""
    of = pd.DataFrame({"column": _fine(groups, donors), "group": groups.astype(object)}).dropna()
    n_cells = pd.crosstab(of["column"].astype(str), of["group"].astype(str))
    weight = n_cells.reindex(index=found.columns, columns=[str(g) for g in groups.cat.categories])
    return (found @ (weight / weight.sum())).rename_axis(columns=None)


def _attributed(
    model: ScBERTClassifier, adata: AnnData, groups: pd.Series, asked: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Genes × groups, and the completeness error where there is one."""
    if asked["method"] == "attention":
        return model.get_gene_attention(groups, adata, batch_size=asked["batch_size"]), {}
    values, error = model.get_gene_attribution(groups, adata, **asked)
    return values, {} if error is None else {"completeness_error": float(np.nanmean(np.abs(error)))}


def _held_out_auroc(
    adata: AnnData,
    model: ScBERTClassifier,
    split_key: str,
    donors: pd.Series | None,
    target: str | None,
    batch_size: int | None,
) -> float:
    """AUROC of the network on cells it was not trained on, within donors where they are known; missing if that cannot be told."""
    if split_key not in adata.obs or model.labels_key not in adata.obs:
        return float("nan")
    parts = _checks.split(adata, split_key, need=()).to_numpy()
    labels = adata.obs[model.labels_key].astype(object)
    known = labels.notna().to_numpy() & labels.astype(str).isin(model.classes).to_numpy()
    held = next((found for part in (_keys.TEST, _keys.VAL) if (found := known & (parts == part)).any()), None)
    if held is None:
        return float("nan")
    positive = (labels[held].astype(str) == (target or model.classes[-1])).to_numpy().astype(np.int64)
    proba = model.predict_parts(adata[held], batch_size=batch_size).network[target or model.classes[-1]].to_numpy()
    who = None if donors is None else donors[held].to_numpy()
    name = "auroc" if who is None else "auroc_within"
    found = score(name, positive, np.column_stack([1 - proba, proba]), ["others", "target"], donors=who).value
    if found < _BLIND:
        warnings.warn(
            f"On the {int(held.sum())} cells held out the network's AUROC{' within donors' * (who is not None)} is {found:.2f}: it has learned little of "
            f"{model.labels_key!r} that holds for other cells, and there is little to attribute.",
            stacklevel=3,
        )
    return float(found)
