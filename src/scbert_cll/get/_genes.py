"""get.gene_attention and get.signature: lists of genes, the first ones on top."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._checks.words import at_least, choice, key_in
from scbert_cll._signature.families import FAMILIES

REST = "rest"
_COLUMNS: Final = (
    "gene", "sign", "selected", "log2_fc", "error", "low", "high", "t", "p", "q", "coefficient",
    "agrees", "n_same_sign", "n_left_out", "abundance", "detected", "family",
)  # fmt: skip


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
    _checks.adata.anndata(adata)
    key_in(key, adata.varm, "adata.varm", "Run tl.gene_attention first.")
    table = adata.varm[key]
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"adata.varm[{key!r}] must be a DataFrame of genes × groups, as tl.gene_attention "
            f"writes it; found {type(table).__name__}."
        )
    table = _names.own_columns(table, adata.uns)
    groups = _groups(table, group, reference, key)
    if sort_by == "difference" and table.shape[1] < 2:
        raise ValueError(
            f"adata.varm[{key!r}] has one group, {table.columns[0]!r}: there is no other to take "
            "the difference to. Pass sort_by='attention', or run tl.gene_attention with a groupby "
            "of two groups or more."
        )
    if isinstance(exclude, str):
        exclude = [gene for gene in table.index if re.search(exclude, gene)]
    # names that do not occur are no error, so that one list can serve many data sets
    table = table[~table.index.isin(list(exclude))]
    n_rows = n_top or len(table)
    parts = [_compare(table, name, reference, sort_by).head(n_rows) for name in groups]
    return pd.concat(parts, ignore_index=True)


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


def _compare(table: pd.DataFrame, group: str, reference: str, by: str) -> pd.DataFrame:
    """One group's rows, sorted and ranked."""
    others = table.drop(columns=group)
    other = others.mean(axis=1) if reference == REST else table[reference]
    rows = pd.DataFrame({"attention": table[group], "reference": other})
    rows["difference"] = rows["attention"] - rows["reference"]
    rows = rows.rename_axis("gene").reset_index()
    rows = rows.sort_values(by, ascending=False, kind="stable", ignore_index=True)
    rows.insert(0, "group", group)
    return rows.assign(rank=range(1, len(rows) + 1))


@_docs.shared
def signature(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE,
    selected: bool = True,
    drop_families: bool | str | Iterable[str] = False,
    n_top: int | None = None,
) -> pd.DataFrame:
    """Genes of a signature, the clearest first.

    Parameters
    ----------
    %(adata_after tl.signature)s
    key
        Name under which it wrote.
    selected
        Only the genes of the signature; ``False`` lists all genes that were tested.
    drop_families
        Leave out genes that differ between donors or cells whatever is asked: a family or families
        (``"immunoglobulin"``, ``"HLA"`` with the mouse's H2, ``"sex"``, ``"mitochondrial"``,
        ``"ribosomal"``, ``"marker"``), or ``True`` for all of them.
    n_top
        Number of genes. By default all.

    Returns
    -------
    A copy of the rows of ``adata.uns[key]["genes"]``, see :func:`scbert_cll.tl.signature` for its
    columns; without rows if the signature is empty, for the reason in ``adata.uns[key]["reason"]``.

    Raises
    ------
    KeyError
        There is no such result.
    ValueError
        There is no such family, or `n_top` is less than 1.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_genes=100, rng=0)
    >>> sc_cll.tl.signature(adata, groupby="label")
    >>> sc_cll.get.signature(adata, n_top=2)[["gene", "sign", "selected"]]
           gene  sign  selected
    0  GENE0062     1      True
    1  GENE0090     1      True
    """
    table: pd.DataFrame = _record.read(adata, key, "tl.signature", ["genes"])["genes"]
    if n_top is not None:
        at_least(n_top, 1, "n_top")
    if table.empty:
        return pd.DataFrame(columns=list(_COLUMNS))
    if selected:
        table = table[table["selected"]]
    if isinstance(drop_families, bool):
        left_out = (table["family"] != "") & drop_families
    else:
        names = [drop_families] if isinstance(drop_families, str) else drop_families
        families = [choice(name, FAMILIES, "drop_families") for name in names]
        left_out = table["family"].isin(families)
    table = table[~left_out]
    return table.head(n_top or len(table)).reset_index(drop=True)
