"""tl.gene_attribution: which genes speak for a class, by which measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

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
    question = _Question(method, target, genes, gene_sets, n_cells, n_steps, batch_size)
    _check_choices(question, groups, per_layer=per_layer)
    donor_key = _checks.people.donor_key_of(adata, donor_key)
    donors = None if donor_key is None else _checks.people.donors(adata, donor_key)
    if donors is not None:
        groups = groups.where(donors.notna()).cat.remove_unused_categories()
    destination = _checks.adata.target(adata, copy=copy)
    auroc = held_out_auroc(adata, model, split_key, donors, target, batch_size)
    units = groups if donors is None else _units(groups, donors)
    effects = _effects(model, adata, units, question)
    difference = method == "attention_difference"
    tables = _tables(effects, groups, units, difference=difference)
    params |= _record.params({"donor_key": donor_key})
    params |= {"layer": model.layer, "target": target or model.classes[-1]}
    params |= {"n_cells": "all"} if n_cells is None else {}
    params |= {} if donors is None else _checks.people.left_out(donors)
    sizes = {str(group): int(n) for group, n in groups.value_counts().items()}
    record = {"n_cells": sizes, "auroc_within": auroc, **effects.facts}
    record["params"] = params
    if per_layer:
        layers = attention_layers(model, adata, groups, batch_size)
        tables["_layers"], record["layers"] = layers
        record["attention_floor"] = model.get_attention_floor(adata)
    if method == "group_occlusion":
        names = {"": "effects", "_donors": "donors"}
        record |= {names[ending]: table for ending, table in tables.items()}
        _record.write(destination, uns={_keys.beside(key_added, "sets"): record})
        return destination if copy else None
    endings = ("", "_donors", "_size", "_layers")
    old = [("varm", f"{key_added}{ending}") for ending in endings]
    varm = {}
    for ending, table in tables.items():  # zero for genes that the model lacks
        varm[f"{key_added}{ending}"] = whole = table.reindex(adata.var_names)
        whole.loc[~adata.var_names.isin(model.genes)] = 0.0
    old = old if key_added in destination.uns else []
    _record.write(destination, varm=varm, uns={key_added: record}, replaces=old)
    return destination if copy else None


def _check_choices(question: _Question, groups: pd.Series, *, per_layer: bool) -> None:
    """Refuse what does not go with the method."""
    method, names = question.method, groups.cat.categories
    given, has_sets = f"method={method!r}", question.gene_sets is not None
    refusal = ""
    if has_sets != (method == "group_occlusion"):
        refusal = 'gene_sets= and method="group_occlusion" belong together; '
        refusal += f"found {given}."
    elif question.genes is not None and method != "occlusion":
        refusal = f'genes= restricts method="occlusion"; {given} gives all genes.'
    elif per_layer and method not in _BY_ATTENTION:
        refusal = f"per_layer=True keeps the layers of {listed(_BY_ATTENTION)}; found {given}."
    elif method == "attention_difference" and len(names) < 2:
        refusal = f"A difference needs two groups; all cells are {names[0]!r}. "
        refusal += "Name another groupby=."
    if refusal:
        raise ValueError(refusal)


def _units(groups: pd.Series, donors: pd.Series) -> pd.Series:
    """Donor and group of each cell, in one text."""
    names = groups.astype(object).where(groups.notna(), "").astype(str)
    return (donors.fillna("") + _BETWEEN + names).where(groups.notna())


def _effects(
    model: ScBERTClassifier, adata: AnnData, labels: pd.Series, question: _Question
) -> _Effects:
    """Effects of genes (or sets) on the logit of a class, mean over the cells of each label."""
    method, target, genes, gene_sets, n, n_steps, size = question
    match method:
        case "attention" | "attention_difference":
            return _Effects(model.get_gene_attention(labels, adata, batch_size=size))
        case "occlusion":
            effects = model.get_gene_occlusion(
                labels, adata, genes=genes, n_cells=n, target=target, batch_size=size
            )
            return _Effects(effects)
        case "group_occlusion":
            codes, names = coded(labels, adata)
            rows, sets = evenly_spaced(codes, n), gene_sets or {}
            cells = adata[rows]
            change = model.get_set_effects(sets, cells, target=target, batch_size=size)
            means = (-change).groupby(codes[rows]).mean()
            return _Effects(means.set_axis(names, axis=0).T)
    result = model.get_gene_attribution(
        labels, adata, method=method, target=target, n_steps=n_steps, batch_size=size
    )
    if method == "rollout":
        return _Effects(result.values)
    facts = {}
    if result.error is not None:
        facts["completeness_error"] = float(np.nanmean(np.abs(result.error)))
    return _Effects(result.values, result.size, result.n_expressing, facts)


def _tables(
    effects: _Effects, groups: pd.Series, units: pd.Series, *, difference: bool
) -> dict[str, pd.DataFrame]:
    """Effects by group, by donor and group, and their size by group, under the slots' endings."""
    values, size, n_expressing, _ = effects
    if units is groups:
        tables = {"": _less_others(values) if difference else values}
        return tables | ({} if size is None else {"_size": size})
    names = [str(unit).split(_BETWEEN) for unit in values.columns]
    donor, group = zip(*names, strict=True)
    of_group = np.array(group)
    member = pd.DataFrame({name: of_group == name for name in groups.cat.categories})
    member = member.set_axis(values.columns).astype(float)
    tables = {"": _mean(values, units.value_counts()[values.columns], member)}
    if size is not None and n_expressing is not None:
        tables["_size"] = _mean(size, n_expressing, member)
    if difference:
        of_donors = pd.Series(values.columns).groupby(list(donor))
        parts = [_less_others(values[columns.tolist()]) for _, columns in of_donors]
        values = pd.concat(parts, axis=1)[values.columns]
        tables[""] = _less_others(tables[""])
    tables["_donors"] = values.set_axis(_names.columns_of(donor, group), axis=1)
    return tables


def _mean(
    values: pd.DataFrame, n_cells: pd.DataFrame | pd.Series, member: pd.DataFrame
) -> pd.DataFrame:
    """Mean over the cells of a group, from the means over those of each donor (`member`: 1)."""
    return ((values * n_cells) @ member) / (n_cells @ member).clip(lower=1.0)


def _less_others(table: pd.DataFrame) -> pd.DataFrame:
    """Each column less the mean of the others; missing where there is no other."""
    others = {name: table.drop(columns=name).mean(axis=1) for name in table}
    return table - pd.DataFrame(others, index=table.index)
