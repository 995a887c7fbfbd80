"""tl.gene_attribution: which genes speak for a class, by which measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._checks.words import choice, is_model, listed
from scbert_cll.model.explain.attention import attention_layers
from scbert_cll.model.explain.attribution import held_out_auroc
from scbert_cll.model.explain.groups import coded, evenly_spaced

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

Method = Literal[
    "gate_gradient", "gradient_input", "integrated_gradients", "occlusion", "group_occlusion",
    "rollout", "attention", "attention_difference",
]  # fmt: skip

_BY_ATTENTION: Final = ("attention", "attention_difference")
_BETWEEN: Final = "\x1f"  # of donor and group, the separator of units: in no name


class _Question(NamedTuple):
    """What the model is asked."""

    method: Method
    target: str | None
    genes: Sequence[str] | None
    gene_sets: Mapping[str, Sequence[str]] | None
    n_cells: int | None
    n_steps: int
    batch_size: int | None


class _Effects(NamedTuple):
    """Of genes (or sets) × columns of cells: mean effects; of gradients also their sizes.

    The size is the mean over the cells that express the gene, of which there are `n_expressing`.
    """

    values: pd.DataFrame
    size: pd.DataFrame | None = None
    n_expressing: pd.DataFrame | None = None
    facts: Mapping[str, float] = {}


@_docs.shared
def gene_attribution(
    adata: AnnData,
    model: ScBERTClassifier,
    *,
    method: Method = "gate_gradient",
    groupby: str = _keys.CD49D,
    donor_key: str | None = _keys.DONOR,
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
    %(adata_as_trained)s
    %(classifier)s
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
        `obs` column of donors: also write the attribution of each donor's cells. None: all cells
        are one donor's.
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
    %(batch_size)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.varm['gene_attribution']`` : DataFrame (genes × groups), float64
        Mean over the cells of a group, a gene without token counting as zero. Genes the model does
        not know have 0, those that were not asked for are missing.
    ``adata.varm['gene_attribution_size']`` : DataFrame (genes × groups), float64
        Only with ``"gate_gradient"``, ``"gradient_input"`` and ``"integrated_gradients"``: mean
        absolute value over the cells that express the gene. A gene that speaks for the class
        in some cells and against it in others, as in a combination of genes, has a size and no
        mean; it has no sign either.
    ``adata.varm['gene_attribution_donors']`` : DataFrame (genes × "donor|group"), float64
        Only with `donor_key`: the same for the cells of each donor; a difference is that within the
        donor.
    ``adata.varm['gene_attribution_layers']`` : DataFrame (genes × "group|layer|head"), float64
        Only with `per_layer`: attention itself; a column sums to 1.
    ``adata.uns['gene_attribution']`` : dict
        ``params``; ``n_cells`` of each group; ``auroc_within`` of the cells held out, within donors
        where these are known (missing without a split); for ``"integrated_gradients"``
        ``completeness_error``, the mean distance of a cell's sum from the change of its logit; with
        `per_layer` ``layers``, DataFrame: ``group``, ``layer``, ``head`` (or ``"mean"``),
        ``abundance`` (Spearman's correlation of the attention with the mean token, over the genes
        the group expresses); and ``attention_floor`` of each layer, near 1 where attention is
        uniform.
    ``adata.uns['gene_attribution_sets']`` : dict
        With ``"group_occlusion"``, instead of all others: ``effects``, DataFrame (sets × groups);
        with `donor_key` ``donors``, DataFrame (sets × "donor|group"); and as above.

    Raises
    ------
    KeyError
        `groupby`, `donor_key`, the layer or a gene is missing.
    %(no_classifier)s
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
    choice(method, get_args(Method), "method")
    _checks.adata.new_key(key_added)
    groups = _checks.adata.groups(adata, groupby)
    _check_choices(method, groups, genes, gene_sets, per_layer=per_layer)
    donor_key = _checks.people.donor_key_of(adata, donor_key)
    donors = None if donor_key is None else _checks.people.donors(adata, donor_key)
    if donors is not None:
        groups = groups.where(donors.notna()).cat.remove_unused_categories()
    destination = _checks.adata.target(adata, copy=copy)
    auroc = held_out_auroc(adata, model, split_key, donors, target, batch_size)
    units = _Units(groups, donors)
    question = _Question(method, target, genes, gene_sets, n_cells, n_steps, batch_size)
    effects = _effects(model, adata, units.labels, question)
    by_unit, by_group = effects.values, units.over_groups(effects.values)
    if method == "attention_difference":
        by_unit, by_group = units.within_donors(by_unit), _less_others(by_group)
    params |= _record.params({"donor_key": donor_key})
    params |= {"layer": model.layer, "target": target or model.classes[-1]}
    params |= {"n_cells": "all"} if n_cells is None else {}
    record: dict[str, Any] = {
        "n_cells": {str(group): int(n) for group, n in groups.value_counts().items()},
        "auroc_within": auroc,
        **effects.facts,
    }
    tables = {"": by_group}
    if donors is not None:
        params |= _checks.people.left_out(donors)
        tables["_donors"] = by_unit.set_axis(units.names(by_unit.columns), axis=1)
    if effects.size is not None and effects.n_expressing is not None:
        tables["_size"] = units.size_over_groups(effects.size, effects.n_expressing)
    if per_layer:
        tables["_layers"], record["layers"] = attention_layers(model, adata, groups, batch_size)
        record["attention_floor"] = model.get_attention_floor(adata)
    record["params"] = params
    if method == "group_occlusion":
        parts = {"_donors": "donors", "": "effects"}
        record |= {parts[name]: table for name, table in tables.items()}
        _record.write(destination, uns={_keys.beside(key_added, "sets"): record})
        return destination if copy else None
    slots = [("varm", f"{key_added}{name}") for name in ("", "_donors", "_size", "_layers")]
    _record.write(
        destination,
        varm={
            f"{key_added}{name}": _in_order(table, adata.var_names, model.genes)
            for name, table in tables.items()
        },
        uns={key_added: record},
        replaces=slots if key_added in destination.uns else [],
    )
    return destination if copy else None


def _check_choices(
    method: Method,
    groups: pd.Series,
    genes: Sequence[str] | None,
    gene_sets: Mapping[str, Sequence[str]] | None,
    *,
    per_layer: bool,
) -> None:
    """Refuse what does not go with the method."""
    given, names = f"method={method!r}", groups.cat.categories
    refusals = {
        f'gene_sets= and method="group_occlusion" belong together; found {given}.': (
            (gene_sets is not None) != (method == "group_occlusion")
        ),
        f'genes= restricts method="occlusion"; {given} gives all genes at once.': (
            genes is not None and method != "occlusion"
        ),
        f"per_layer=True keeps the layers of {listed(_BY_ATTENTION)}; found {given}.": (
            per_layer and method not in _BY_ATTENTION
        ),
        f"A difference needs two groups; all cells are {names[0]!r}. Name another groupby=.": (
            method == "attention_difference" and len(names) < 2
        ),
    }
    for sentence, applies in refusals.items():
        if applies:
            raise ValueError(sentence)


def _effects(
    model: ScBERTClassifier, adata: AnnData, labels: pd.Series, question: _Question
) -> _Effects:
    """Effects of genes (or sets) on the logit of a class, mean over the cells of each label."""
    method, target, genes, gene_sets, n_cells, n_steps, batch_size = question
    match method:
        case "attention" | "attention_difference":
            return _Effects(model.get_gene_attention(labels, adata, batch_size=batch_size))
        case "occlusion":
            effects = model.get_gene_occlusion(
                labels, adata, genes=genes, n_cells=n_cells, target=target, batch_size=batch_size
            )
            return _Effects(effects)
        case "group_occlusion":
            codes, names = coded(labels, adata)
            rows = evenly_spaced(codes, n_cells)
            change = model.get_set_effects(
                gene_sets or {}, adata[rows], target=target, batch_size=batch_size
            )
            return _Effects((-change).groupby(codes[rows]).mean().set_axis(names, axis=0).T)
    attribution = model.get_gene_attribution(
        labels, adata, method=method, target=target, n_steps=n_steps, batch_size=batch_size
    )
    if method == "rollout":
        return _Effects(attribution.values)
    facts = {}
    if attribution.error is not None:
        facts["completeness_error"] = float(np.nanmean(np.abs(attribution.error)))
    return _Effects(attribution.values, attribution.size, attribution.n_expressing, facts)


@dataclass(frozen=True)
class _Units:
    """Columns of an attribution: groups of cells, or groups of each donor's cells."""

    groups: pd.Series
    donors: pd.Series | None

    @cached_property
    def labels(self) -> pd.Series:
        """Unit of each cell."""
        if self.donors is None:
            return self.groups
        names = self.groups.astype(object).where(self.groups.notna(), "").astype(str)
        return (self.donors.fillna("") + _BETWEEN + names).where(self.groups.notna())

    @cached_property
    def table(self) -> pd.DataFrame:
        """Donor, group and number of cells of each unit."""
        units, n_cells = np.unique(self.labels.dropna().astype(str), return_counts=True)
        parts = [unit.split(_BETWEEN) for unit in units]
        table = pd.DataFrame(parts, index=units, columns=["donor", "group"])
        return table.assign(n_cells=n_cells)

    def names(self, columns: pd.Index) -> pd.Index:
        """Donor and group of each column."""
        table = self.table.loc[columns]
        return _names.columns_of(table["donor"].tolist(), table["group"].tolist())

    def membership(self, columns: pd.Index) -> pd.DataFrame:
        """Units × groups: 1 where a unit is of a group."""
        group = self.table.loc[columns, "group"]
        names = [str(name) for name in self.groups.cat.categories]
        return pd.DataFrame({name: (group == name).astype(float) for name in names})

    def over_groups(self, values: pd.DataFrame) -> pd.DataFrame:
        """Mean over the cells of a group, from the means over those of each donor."""
        if self.donors is None:
            return values
        n_cells = self.table.loc[values.columns, "n_cells"]
        weight = self.membership(values.columns).mul(n_cells, axis=0)
        return values @ (weight / weight.sum())

    def size_over_groups(self, size: pd.DataFrame, n_expressing: pd.DataFrame) -> pd.DataFrame:
        """Mean size over the expressing cells of a group, from those of each donor in it."""
        if self.donors is None:
            return size
        member = self.membership(size.columns)
        return ((size * n_expressing) @ member) / (n_expressing @ member).clip(lower=1.0)

    def within_donors(self, values: pd.DataFrame) -> pd.DataFrame:
        """Each group of a donor less the mean of the donor's others."""
        if self.donors is None:
            return _less_others(values)
        units = self.table.groupby("donor").groups.values()
        return pd.concat([_less_others(values[list(names)]) for names in units], axis=1)[
            values.columns
        ]


def _less_others(table: pd.DataFrame) -> pd.DataFrame:
    """Each column less the mean of the others; missing where there is no other."""
    others = {name: table.drop(columns=name).mean(axis=1) for name in table}
    return table - pd.DataFrame(others, index=table.index)


def _in_order(table: pd.DataFrame, genes: pd.Index, in_model: pd.Index) -> pd.DataFrame:
    """Rows of the object's genes: zero for those that the model lacks, missing if not asked for."""
    whole = table.reindex(genes)
    whole.loc[~genes.isin(in_model)] = 0.0
    return whole
