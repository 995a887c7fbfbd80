"""tl.gene_attribution: which genes speak for a class, by which measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _names, _record
from scbert_cll._checks.words import choice, is_model, listed
from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.explain.attention_layers import attention_layers
from scbert_cll.model.explain.attribution import Attribution
from scbert_cll.model.explain.groups import coded, evenly_spaced
from scbert_cll.model.explain.held_out import held_out_auroc

Method = Literal[
    "gate_gradient",
    "gradient_input",
    "integrated_gradients",
    "occlusion",
    "group_occlusion",
    "rollout",
    "attention",
    "attention_difference",
]

_BY_GRADIENT: Final = ("gate_gradient", "gradient_input", "integrated_gradients")
_BY_DROPPING: Final = ("occlusion", "group_occlusion")
_BY_ATTENTION: Final = ("attention", "attention_difference")
_METHODS: Final = (*_BY_GRADIENT, *_BY_DROPPING, "rollout", *_BY_ATTENTION)
_BETWEEN: Final = "\x1f"  # of donor and group, the separator of units: in no name


class _Asked(NamedTuple):
    """What is asked of the model."""

    method: Method
    target: str | None
    genes: Sequence[str] | None
    gene_sets: Mapping[str, Sequence[str]] | None
    n_cells: int | None
    n_steps: int
    batch_size: int | None


def gene_attribution(
    adata: AnnData,
    model: ScBERTClassifier,
    *,
    method: Method = "gate_gradient",
    groupby: str = _keys.CD49D,
    donor_key: str | None = None,
    target: str | None = None,
    genes: Sequence[str] | None = None,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    n_cells: int | None = 50,
    per_layer: bool = False,
    split_key: str = _keys.SPLIT,
    n_steps: int = 32,
    batch_size: int | None = None,
    key_added: str = _keys.GENE_ATTRIBUTION,
    copy: bool = False,
) -> AnnData | None:
    """Say what each gene does to the network's logit of a class, per group of cells and donor.

    An attribution describes the network, not the disease: with two classes it is nearly opposite
    for them, its sign says for which class a gene's token speaks, and what the network has not
    learned it cannot tell. Whether it has learned anything is measured on the cells held out.

    Parameters
    ----------
    adata
        Cells × genes with the layer the model was trained on.
    model
        A trained classifier.
    method
        ``"gate_gradient"`` (signed): derivative of the logit by how much a token counts, which is
        the first order of leaving it out; inside attention this is gradient × attention, centred
        and summed over all tokens that ask. ``"gradient_input"`` and ``"integrated_gradients"``
        (signed): by the expression part of the token, from no expression on; not with
        ``tokens="expressed"``, which has never seen a gene without. ``"occlusion"`` (signed): what
        the logit loses when the cell does not express the gene; one prediction for each gene of
        each cell, some hundred times the cost of a gradient. ``"group_occlusion"`` (signed): the
        same for sets of genes, dropped together. ``"rollout"`` and ``"attention"`` (unsigned):
        attention followed through the layers, and the mean attention a gene receives; both follow
        abundance and know no class. ``"attention_difference"`` (signed): attention in a group less
        its mean in the others, within donors where they are known; mostly differential expression,
        as a network without training has it, too.
    groupby
        `obs` column of groups; cells without one are left out.
    donor_key
        `obs` column of donors: also write the attribution of each donor's cells.
    target
        Class whose logit is meant, against the mean of the others; None: the last one.
    genes
        Genes of ``"occlusion"``; None: all of the model.
    gene_sets
        Sets of genes by name, for ``"group_occlusion"``.
    n_cells
        Cells of each group, or group and donor, that are predicted again when genes are dropped,
        evenly spaced; None: all.
    per_layer
        With attention: also write it for each layer and head.
    split_key
        `obs` column of the split, where there is one: its test cells (else its validation cells)
        say whether the network has learned anything.
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
        Mean over the cells of a group, a gene without token counting as zero. Genes the model does
        not know have 0, those that were not asked for are missing.
    ``adata.varm['gene_attribution_size']`` : DataFrame (genes × groups), float64, with
    ``"gate_gradient"``, ``"gradient_input"`` and ``"integrated_gradients"``
        Mean absolute value over the cells that express the gene. A gene that speaks for the class
        in some cells and against it in others, as in a combination of genes, has a size and no
        mean; it has no sign either.
    ``adata.varm['gene_attribution_donors']`` : DataFrame (genes × "donor|group"), float64, with
    `donor_key`
        The same for the cells of each donor; a difference is that within the donor.
    ``adata.varm['gene_attribution_layers']`` : DataFrame (genes × "group|layer|head"), float64,
    with `per_layer`
        Attention itself; a column sums to 1.
    ``adata.uns['gene_attribution']`` : dict
        ``params``; ``n_cells`` of each group; ``auroc_within`` of the cells held out, within donors
        where these are known (missing without a split); for ``"integrated_gradients"``
        ``completeness_error``, the mean distance of a cell's sum from the change of its logit; with
        `per_layer` ``layers``, DataFrame: ``group``, ``layer``, ``head`` (or ``"mean"``),
        ``abundance`` (Spearman's correlation of the attention with the mean token, over the genes
        the group expresses); and ``attention_floor`` of each layer, near 1 where attention is
        uniform.
    ``adata.uns['gene_attribution_sets']`` : dict, with ``"group_occlusion"`` instead of all others
        ``effects``, DataFrame (sets × groups); with `donor_key` ``donors``, DataFrame (sets ×
        "donor|group"); and as above.

    Raises
    ------
    KeyError
        `groupby`, `donor_key`, the layer or a gene is missing.
    TypeError
        `model` is no classifier.
    ValueError
        An unknown method or class, a method that the model's tokens do not allow, sets or layers
        that do not go with the method, one group where a difference is asked for, or too few of the
        model's genes.

    Warns
    -----
    UserWarning
        The AUROC of the cells held out is below 0.6: there is little to attribute.

    References
    ----------
    Sundararajan et al. 2017, arXiv:1703.01365, for integrated gradients; Abnar and Zuidema 2020,
    arXiv:2005.00928, for rollout.
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERTClassifier",))
    choice(method, _METHODS, "method")
    _checks.slots.new_key(key_added)
    groups = _checks.adata.groups(adata, groupby)
    _goes_together(method, groups, genes, gene_sets, per_layer=per_layer)
    donors = None if donor_key is None else _checks.people.donors(adata, donor_key)
    groups = (
        groups if donors is None else groups.where(donors.notna()).cat.remove_unused_categories()
    )
    destination = _checks.adata.target(adata, copy=copy)
    asked = _Asked(method, target, genes, gene_sets, n_cells, n_steps, batch_size)
    auroc = held_out_auroc(adata, model, split_key, donors, target, batch_size)
    found, more = _attributed(model, adata, _fine(groups, donors), asked)
    by_group = found if donors is None else _over_donors(found, groups, donors)
    if method == "attention_difference":
        found, by_group = _within_donors(found, groups, donors), _less_others(by_group)
    size = (
        _over_expressing(more.pop("of_expressing"), groups, donors)
        if "of_expressing" in more
        else None
    )
    layers = None
    if per_layer:
        layers, table = attention_layers(model, adata, groups, batch_size)
        more |= {"layers": table, "attention_floor": model.get_attention_floor(adata)}
    params |= {"layer": model.layer, "target": target or model.classes[-1]}
    params |= {"n_cells": "all"} if n_cells is None else {}
    params |= {} if donors is None else _checks.people.left_out(donors)
    record = {
        "params": params,
        "n_cells": {str(k): int(n) for k, n in groups.value_counts().items()},
    }
    record |= {"auroc_within": auroc} | more
    of_donors = {} if donors is None else {"donors": found.set_axis(_pairs(found.columns), axis=1)}
    if method == "group_occlusion":
        _record.write(
            destination, uns={f"{key_added}_sets": record | {"effects": by_group} | of_donors}
        )
        return destination if copy else None
    tables = {"": by_group, "_layers": layers, "_size": size, "_donors": of_donors.get("donors")}
    varm = {
        f"{key_added}{name}": _in_order(of_genes, adata.var_names, model.genes)
        for name, of_genes in tables.items()
        if of_genes is not None
    }
    own = [("varm", f"{key_added}{name}") for name in tables]
    _record.write(
        destination,
        varm=varm,
        uns={key_added: record},
        replaces=own if key_added in destination.uns else [],
    )
    return destination if copy else None


def _pairs(columns: pd.Index) -> pd.Index:
    """Donor and group, of columns that hold both."""
    return _names.columns_of(
        *zip(*(str(column).split(_BETWEEN) for column in columns), strict=True)
    )


def _goes_together(
    method: Method,
    groups: pd.Series,
    genes: Sequence[str] | None,
    gene_sets: Mapping[str, Sequence[str]] | None,
    *,
    per_layer: bool,
) -> None:
    """What is given goes with the method."""
    if (gene_sets is not None) != (method == "group_occlusion"):
        raise ValueError(
            f'gene_sets= and method="group_occlusion" belong together; found method={method!r}.'
        )
    if genes is not None and method != "occlusion":
        raise ValueError(
            f'genes= restricts method="occlusion"; method={method!r} gives all genes at once.'
        )
    if per_layer and method not in _BY_ATTENTION:
        raise ValueError(
            f"per_layer=True keeps the layers of {listed(_BY_ATTENTION)}; found method={method!r}."
        )
    if method == "attention_difference" and len(groups.cat.categories) < 2:
        raise ValueError(
            f"A difference needs two groups; all cells are {groups.cat.categories[0]!r}. Name "
            f"another column: groupby=."
        )


def _in_order(table: pd.DataFrame, genes: pd.Index, known: pd.Index) -> pd.DataFrame:
    """Rows of the object's genes: zero for those the model does not know, missing for those it was not asked about."""
    whole = table.reindex(genes)
    whole.loc[~genes.isin(known)] = 0.0
    return whole


def _fine(groups: pd.Series, donors: pd.Series | None) -> pd.Series:
    """Donor and group in one column, where donors are asked for."""
    if donors is None:
        return groups
    both = (
        donors.fillna("") + _BETWEEN + groups.astype(object).where(groups.notna(), "").astype(str)
    )
    return both.where(groups.notna())


def _over_donors(found: pd.DataFrame, groups: pd.Series, donors: pd.Series) -> pd.DataFrame:
    """Mean over the cells of a group, from the means over those of each donor."""
    of = pd.DataFrame({"column": _fine(groups, donors), "group": groups.astype(object)}).dropna()
    n_cells = pd.crosstab(of["column"].astype(str), of["group"].astype(str))
    weight = n_cells.reindex(index=found.columns, columns=[str(g) for g in groups.cat.categories])
    return (found @ (weight / weight.sum())).rename_axis(columns=None)


def _over_expressing(
    found: Attribution, groups: pd.Series, donors: pd.Series | None
) -> pd.DataFrame:
    """Mean size over the expressing cells of a group, from those of each donor in it."""
    if donors is None:
        return found.size
    of = (
        pd.DataFrame({"column": _fine(groups, donors), "group": groups.astype(object)})
        .dropna()
        .astype(str)
    )
    of = of.drop_duplicates().set_index("column").loc[found.size.columns]
    names = [str(group) for group in groups.cat.categories]
    member = pd.DataFrame({name: (of["group"] == name).astype(float) for name in names})
    n_cells = found.n_expressing @ member
    return (((found.size * found.n_expressing) @ member) / n_cells.clip(lower=1.0)).rename_axis(
        columns=None
    )


def _less_others(table: pd.DataFrame) -> pd.DataFrame:
    """Each column less the mean of the others; missing where there is no other."""
    others = {name: table.drop(columns=name).mean(axis=1) for name in table}
    return table - pd.DataFrame(others, index=table.index)


def _within_donors(
    found: pd.DataFrame, groups: pd.Series, donors: pd.Series | None
) -> pd.DataFrame:
    """Each group of a donor less the mean of the donor's others."""
    if donors is None:
        return _less_others(found)
    column = _fine(groups, donors)
    parts = [
        _less_others(found[column[donors == donor].dropna().unique()]) for donor in donors.unique()
    ]
    return pd.concat(parts, axis=1)[found.columns]


def _attributed(
    model: ScBERTClassifier, adata: AnnData, groups: pd.Series, asked: _Asked
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Genes (or sets) × groups, and the completeness error where there is one."""
    of_class: dict[str, Any] = {"target": asked.target, "batch_size": asked.batch_size}
    if asked.method in _BY_ATTENTION:
        return model.get_gene_attention(groups, adata, batch_size=asked.batch_size), {}
    if asked.method == "occlusion":
        found = model.get_gene_occlusion(
            groups, adata, genes=asked.genes, n_cells=asked.n_cells, **of_class
        )
        return found, {}
    if asked.gene_sets is not None:
        return _without_sets(model, adata, groups, asked, of_class), {}
    how = of_class | {"method": asked.method, "n_steps": asked.n_steps}
    every = model.get_gene_attribution(groups, adata, **how)
    more: dict[str, Any] = {"of_expressing": every} if asked.method in _BY_GRADIENT else {}
    if every.error is not None:
        more["completeness_error"] = float(np.nanmean(np.abs(every.error)))
    return every.values, more


def _without_sets(
    model: ScBERTClassifier,
    adata: AnnData,
    groups: pd.Series,
    asked: _Asked,
    of_class: dict[str, Any],
) -> pd.DataFrame:
    """Sets × groups: mean over cells of what the logit loses without the set."""
    codes, names = coded(groups)
    rows = evenly_spaced(codes, asked.n_cells)
    effects = model.get_set_effects(asked.gene_sets or {}, adata[rows], **of_class)
    return (-effects).groupby(codes[rows]).mean().set_axis(names, axis=0).T
