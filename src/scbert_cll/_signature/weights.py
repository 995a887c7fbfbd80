"""Weights by gene, from whatever a user has of a signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.words import listed, unique
from scbert_cll._signature import gene_sets

type Weights = pd.DataFrame | Mapping[str, Any] | Iterable[str] | str | PathLike[str]

UP, DOWN = "_UP", "_DN"  # endings of MSigDB, for the two sets of one signature


def weights(source: Weights) -> pd.Series:
    """Weight of each gene: finite, not zero, no gene twice.

    A table has `gene` and `weight`, or is one of tl.signature: then the selected genes count, with
    `log2_fc`. Genes without weights get 1. Sets of genes, in a mapping or a GMT file, must be one
    set, or two of a name that end with ``_UP`` and ``_DN`` and get 1 and −1.
    """
    values = _values(source)
    weight = pd.to_numeric(values, errors="coerce").astype(np.float64)
    weight.index = weight.index.astype(str)
    check_not_empty(len(weight), "", "there is no gene to weigh")
    unique(weight.index, "The genes of a signature", "keep one of each")
    if len(unusable := weight.index[~np.isfinite(weight) | (weight == 0)]):
        raise ValueError(
            "The weights of a signature must be finite and not zero; they are not for "
            f"{listed(unusable)}. Leave these genes out."
        )
    return weight


def _values(source: Any) -> pd.Series:
    """Weights as they are given, under the names of genes."""
    if isinstance(source, pd.DataFrame):
        check_table(source)
        column = "weight" if "weight" in source else "log2_fc"
        if column == "log2_fc" and "selected" in source:
            source = source[source["selected"].astype(bool)]
        genes = pd.Index(source["gene"].astype(str), dtype=object)
        return pd.Series(source[column].to_numpy(), genes)
    if isinstance(source, str) and not source.endswith((".gmt", ".gmt.gz")):
        raise ValueError(
            f"signature={source!r} is not the path of a .gmt file; to score one gene, pass "
            f"[{source!r}]."
        )
    if isinstance(source, Mapping):
        if not any(isinstance(value, Iterable) for value in source.values()):
            return pd.Series(dict(source), dtype=object)
        return _of_sets(gene_sets.read(source))
    if isinstance(source, str | PathLike):
        return _of_sets(gene_sets.read(source))
    if isinstance(source, pd.Series) and pd.api.types.is_numeric_dtype(source):
        return source  # weights under the names of genes; of text, the genes are the values
    if not isinstance(source, Iterable):
        hint = ""
        if isinstance(source, AnnData):
            hint = " Of an object that holds one, pass get.signature(adata)."
        raise TypeError(
            "A signature is a DataFrame, a mapping from genes to weights, a list of genes or the "
            f"path of a .gmt file; found {type(source).__name__}.{hint}"
        )
    return pd.Series(1.0, pd.Index(list(source), dtype=object))


def _of_sets(sets: Mapping[str, list[str]]) -> pd.Series:
    """Weights of one set, or of the two halves of one signature."""
    stems = {name.upper().removesuffix(UP).removesuffix(DOWN) for name in sets}
    ends = {name.upper()[-len(UP) :] for name in sets}
    halves = len(sets) == 2 and len(stems) == 1 and ends == {UP, DOWN}
    if len(sets) != 1 and not halves:
        raise ValueError(
            f"Expected one set of genes, or two whose names end with {UP!r} and {DOWN!r}; found "
            f"{len(sets)}: {listed(sets)}. Choose one: io.read_gmt(path)[name]."
        )
    weight = []
    for name, genes in sets.items():
        sign = -1.0 if halves and name.upper().endswith(DOWN) else 1.0
        weight.append(pd.Series(sign, pd.Index(genes, dtype=object)))
    return pd.concat(weight)


def check_table(table: Any) -> None:
    """Refuse what is no table of genes with something that can be their weights."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"Expected an AnnData or the table of a signature, found {type(table).__name__}."
        )
    if "gene" not in table or not {"weight", "log2_fc"} & set(table):
        if table.empty:
            raise ValueError("The signature is empty: its table has no gene.")
        raise ValueError(
            "A table of a signature needs the columns 'gene' and 'weight' (or 'log2_fc', as "
            f"tl.signature has it); it has {listed(table.columns, 12)}."
        )
    columns = pd.Index([str(name) for name in table])
    unique(columns, "the columns of the table", "keep one of each")
    if n := int(table["gene"].isna().sum()):
        raise ValueError(
            f"{n} genes of the table have no name: pandas.read_csv takes a gene called NA for a "
            "missing one. Read the file with sc_cll.io.read_csv(path), or remove these rows: "
            "table.dropna(subset=['gene'])."
        )


def check_not_empty(n: int, reason: str, what: str) -> None:
    """Refuse a signature without a gene."""
    if not n:
        why = f" ({reason})" if reason else ""
        raise ValueError(f"The signature is empty{why}: {what}.")


def check_matched(
    weight: pd.Series, present: np.ndarray, where: str, *, min_matched: float
) -> None:
    """Refuse a signature of which too little weight lies on genes that are in the data."""
    share = float(weight.abs()[present].sum() / weight.abs().sum())
    if share < min_matched or not present.any():
        raise ValueError(
            f"{present.sum()} of the {len(weight)} genes of the signature, with {share:.0%} of its "
            f"weight, are in {where}; expected at least {min_matched:.0%} of the weight. Missing: "
            f"{listed(weight.index[~present])}. Use the same kind of name on both sides (symbols "
            "or Ensembl), or lower min_matched."
        )
