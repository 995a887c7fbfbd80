"""tl.perturb: in-silico knock-out of genes, per donor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import choice, is_model
from scbert_cll._gene_names.resolver import in_data
from scbert_cll._signature.record import selected_genes

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

Kind = Literal["drop", "set"]

_KINDS: Final = ("drop", "set")
_NUMBERS: Final = ["log_odds", "low", "high", "shift"]


@_docs.shared
def perturb(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    kind: Kind = "drop",
    level: int | None = None,
    groupby: str | None = None,
    donor_key: str = _keys.DONOR,
    target: str | None = None,
    min_cells: int = 5,
    batch_size: int | None = None,
    key_added: str = _keys.PERTURB,
    copy: bool = False,
) -> AnnData | None:
    """Predict the cells as they would be without a gene, or with it at another level.

    What changes is the network's opinion. That a real knock-out would do the same to the protein is
    a hypothesis, and a weak one: genes of one module say the same to the network, so that dropping
    one of them changes little, and dropping all of them more.

    Parameters
    ----------
    %(adata_as_trained)s
    %(classifier)s
    genes
        Genes to change one at a time, or sets of genes by name, each changed together. None: the
        selected genes of :func:`~scbert_cll.tl.signature`.
    kind
        ``"drop"``: the genes are not expressed. ``"set"``: they are at `level` in every cell.
    level
        Token of ``"set"``, 1 to the number of bins.
    groupby
        `obs` column of groups: each is shown apart. None: all cells together.
    donor_key
        `obs` column of donors, the unit of the intervals.
    target
        Class whose log-odds are meant; None: the last one.
    min_cells
        Changed cells a donor needs to count.
    %(batch_size)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['perturb']`` : dict
        ``summary``, DataFrame: ``group``, ``name``, ``log_odds`` (mean over donors of the mean
        change over the cells that change), ``low`` and ``high`` (95 %, Student's t over donors),
        ``shift`` (how far the embedding moves), ``n_cells``, ``n_donors``; ``donors``, the same per
        donor; ``params``.
    ``adata.varm['perturb']`` : DataFrame (genes × "group|donor"), float64
        Mean change of the log-odds; missing for genes that were not changed and donors with too few
        cells. Not if sets were named.
    ``adata.varm['perturb_summary']`` : DataFrame (genes × "group|number"), float64
        ``log_odds``, ``low``, ``high`` and ``shift`` of the summary, per group; not if sets were
        named.

    Raises
    ------
    KeyError
        A gene, column or layer is missing, or `genes` is None and there is no signature.
    %(no_classifier)s
    ValueError
        The signature is empty, ``"set"`` without a `level`, or a level that is no token.
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERTClassifier",))
    choice(kind, _KINDS, "kind")
    _checks.adata.new_key(key_added)
    if genes is None:
        table = selected_genes(adata, _keys.SIGNATURE, "change", "name genes=")
        genes = table["gene"].tolist()
    if isinstance(genes, Mapping):
        sets = {str(name): list(members) for name, members in genes.items()}
    else:
        single = in_data([genes] if isinstance(genes, str) else genes, model.genes)
        sets = {gene: [gene] for gene in single}
    groups = _checks.adata.groups(adata, groupby)
    donors = _checks.people.donors(adata, donor_key)
    if kind == "set" and level is None:
        what = "the token to set: 1 to the number of bins"
        raise ValueError(f'kind="set" needs level=, {what}.')
    destination = _checks.adata.target(adata, copy=copy)
    token = 0 if kind == "drop" or level is None else level
    changes = model.perturb_genes(sets, adata, level=token, target=target, batch_size=batch_size)
    cells = pd.DataFrame({"group": groups.astype(object), "donor": donors})
    tables = []
    for change in changes:
        changed = cells.iloc[change.rows]
        changed = changed.assign(log_odds=change.log_odds, shift=change.shift)
        units = changed.dropna(subset=["group", "donor"]).groupby(["group", "donor"])
        means = units.mean().astype(float).assign(n_cells=units.size()).reset_index()
        means.insert(0, "name", change.name)
        tables.append(means)
    by_donor = pd.concat(tables, ignore_index=True)
    enough = by_donor[by_donor["n_cells"] >= min_cells]
    summary = _summary(enough, list(sets), groups.cat.categories)
    params |= {"level": level or 0, "target": target or model.classes[-1]}
    params |= _checks.people.left_out(donors)
    beside, varm = _keys.beside(key_added, "summary"), {}
    if not isinstance(genes, Mapping):
        wide = enough.pivot_table("log_odds", "name", ["group", "donor"], observed=True)
        by_group = summary.groupby("group", sort=False)
        parts = {group: rows.set_index("name")[_NUMBERS] for group, rows in by_group}
        varm[key_added] = wide.reindex(adata.var_names)
        varm[beside] = pd.concat(parts, axis=1).reindex(adata.var_names)
    uns = {key_added: {"summary": summary, "donors": by_donor, "params": params}}
    places = [("varm", key_added), ("varm", beside)]
    old = places if key_added in destination.uns else []
    _record.write(destination, varm=varm, uns=uns, replaces=old)
    return destination if copy else None


def _summary(donors: pd.DataFrame, names: list[str], groups: pd.Index) -> pd.DataFrame:
    """Mean over donors with Student's interval, of every name in every group."""
    rows = donors.groupby(["group", "name"], sort=False)
    table, n = rows[["log_odds", "shift"]].mean(), rows.size()
    # missing with one donor
    reach = stats.t.ppf(0.975, n - 1) * rows["log_odds"].std() / np.sqrt(n)
    table = table.assign(low=table["log_odds"] - reach, high=table["log_odds"] + reach)
    order = pd.MultiIndex.from_product([groups, names], names=["group", "name"])
    counts = pd.DataFrame({"n_cells": rows["n_cells"].sum(), "n_donors": n})
    counts = counts.reindex(order, fill_value=0)
    return table[_NUMBERS].reindex(order).join(counts).reset_index()
