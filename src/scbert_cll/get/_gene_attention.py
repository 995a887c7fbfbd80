"""get.gene_attention: attention in each group, beside a reference."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._checks.words import at_least, choice, key_in

REST = "rest"


@_docs.shared
def gene_attention(
    adata: AnnData,
    *,
    group: str | Iterable[str] | None = None,
    reference: str = REST,
    key: str = _keys.GENE_ATTENTION,
    n_top: int | None = None,
    exclude: str | Iterable[str] = (),
    sort_by: Literal["difference", "attention"] = "difference",
) -> pd.DataFrame:
    """Attention the genes receive in each group, beside a reference.

    Attention follows abundance: most of the genes first in a group by attention are first in every
    group. What sets a group apart is the difference to the others, by which the table is sorted. It
    is a description of the network's input and weights, without a test: no number here says that a
    gene matters.

    Parameters
    ----------
    %(adata_after tl.gene_attention)s
    group
        Group or groups to list. By default all but the reference.
    reference
        Group to compare with. ``"rest"`` is the mean over the other groups, each counted once.
    %(key tl.gene_attention)s
    n_top
        Number of genes per group. By default all.
    exclude
        Genes to leave out: names, or a regular expression (``r"^(MT-|RP[LS]|IG[HKL])"``). Ranks are
        those of the genes left.
    sort_by
        ``"difference"``, largest first, or ``"attention"``.

    Returns
    -------
    One row per group and gene, with ``group``, ``gene``, ``attention`` (share of the group's
    total), ``reference`` (the same in the reference), ``difference`` of the two and ``rank`` within
    the group, from 1. With one group only, ``reference`` and ``difference`` are missing and the
    table can be sorted by attention.

    Raises
    ------
    %(no_such_group)s
    ValueError
        A difference is asked of a single group, or a group is compared with itself.

    Examples
    --------
    >>> import anndata, pandas as pd, scbert_cll
    >>> genes, cells = pd.Index(["MALAT1", "LPL", "IL4R"]), pd.Index(["cell"])
    >>> adata = anndata.AnnData(var=pd.DataFrame(index=genes), obs=pd.DataFrame(index=cells))
    >>> attention = {"low": [0.6, 0.1, 0.3], "high": [0.6, 0.3, 0.1]}
    >>> adata.varm["gene_attention"] = pd.DataFrame(attention, genes)
    >>> table = scbert_cll.get.gene_attention(adata, group="high", n_top=1)
    >>> table[["group", "gene", "attention", "reference"]]
      group gene  attention  reference
    0  high  LPL        0.3        0.1
    """
    choice(sort_by, ("difference", "attention"), "sort_by")
    if n_top is not None:
        at_least(n_top, 1, "n_top")
    table = _attention(adata, key)
    groups = _groups(table, group, reference, key)
    if sort_by == "difference" and table.shape[1] < 2:
        raise ValueError(
            f"adata.varm[{key!r}] has one group, {table.columns[0]!r}: there is no other to take "
            "the difference to. Pass sort_by='attention', or run tl.gene_attention with a groupby "
            "of two groups or more."
        )
    table = table[~_excluded(table.index, exclude)]
    n_rows = n_top or len(table)
    parts = [_compare(table, name, reference, sort_by).head(n_rows) for name in groups]
    return pd.concat(parts, ignore_index=True)


def _attention(adata: AnnData, key: str) -> pd.DataFrame:
    """The genes × groups table that `tl.gene_attention` wrote."""
    _checks.adata.anndata(adata)
    key_in(key, adata.varm, "adata.varm", "Run tl.gene_attention first.")
    table = adata.varm[key]
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"adata.varm[{key!r}] must be a DataFrame of genes × groups, as tl.gene_attention "
            f"writes it; found {type(table).__name__}."
        )
    return _names.own_columns(table, adata.uns)


def _groups(
    table: pd.DataFrame, group: str | Iterable[str] | None, reference: str, key: str
) -> list[str]:
    """Groups to list: those asked for, by default all but the reference."""
    where = f"adata.varm[{key!r}]"
    remedy = "These are the groups of tl.gene_attention's groupby."
    if reference != REST:
        key_in(reference, table, where, remedy)
    if group is None:
        return [name for name in table.columns if name != reference]
    groups = _record.named(group, table.columns, where, remedy)
    if reference in groups:
        raise ValueError(
            f"Group {reference!r} is its own reference; leave it out of group= or choose another "
            "reference."
        )
    return groups


def _excluded(
    genes: pd.Index[str], exclude: str | Iterable[str]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which genes to leave out.

    Names that do not occur are no error, so that one list can serve many data sets.
    """
    if isinstance(exclude, str):
        pattern = re.compile(exclude)
        matches = [pattern.search(gene) is not None for gene in genes]
        return np.array(matches, dtype=bool)
    return genes.isin(list(exclude))


def _compare(table: pd.DataFrame, group: str, reference: str, sort_by: str) -> pd.DataFrame:
    """One group's rows, sorted and ranked."""
    other = table.drop(columns=group).mean(axis=1)
    if reference != REST:
        other = table[reference]
    rows = pd.DataFrame({"attention": table[group], "reference": other})
    rows["difference"] = rows["attention"] - rows["reference"]
    rows = rows.rename_axis("gene").reset_index()
    rows = rows.sort_values(sort_by, ascending=False, kind="stable", ignore_index=True)
    rows.insert(0, "group", group)
    return rows.assign(rank=range(1, len(rows) + 1))
