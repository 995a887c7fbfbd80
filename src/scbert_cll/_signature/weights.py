"""Weights by gene, from whatever a user has of a signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import pandas as pd

from scbert_cll._signature import checks as signature_checks
from scbert_cll._signature import gene_sets

type Weights = pd.DataFrame | Mapping[str, Any] | Iterable[str] | str | PathLike[str]

UP, DOWN = "_UP", "_DN"  # endings of MSigDB, for the two sets of one signature


def weights(source: Weights) -> pd.Series:
    """Weight of each gene: finite, not zero, no gene twice.

    A table has `gene` and `weight`, or is one of tl.signature: then the selected genes count, with
    `log2_fc`. Genes without weights get 1. Sets of genes, in a mapping or a GMT file, must be one
    set, or two of a name that end with ``_UP`` and ``_DN`` and get 1 and −1.
    """
    signature_checks.signature_source(source)
    if isinstance(source, pd.DataFrame):
        found = _of_table(source)
    elif isinstance(source, str | PathLike) or (
        isinstance(source, Mapping) and any(isinstance(v, Iterable) for v in source.values())
    ):
        found = _of_sets(gene_sets.read(source))
    elif isinstance(source, pd.Series) and pd.api.types.is_numeric_dtype(source):
        found = source  # weights under the names of genes; of text, the genes are the values
    elif isinstance(source, Mapping):
        found = pd.Series(dict(source), dtype=object)
    else:
        found = pd.Series(1.0, pd.Index(list(source), dtype=object))
    return signature_checks.gene_weights(found)


def _of_table(table: pd.DataFrame) -> pd.Series:
    column = "weight" if "weight" in table else "log2_fc"
    if column == "log2_fc" and "selected" in table:
        table = table[table["selected"].astype(bool)]
    return pd.Series(table[column].to_numpy(), pd.Index(table["gene"].astype(str), dtype=object))


def _of_sets(sets: Mapping[str, list[str]]) -> pd.Series:
    signature_checks.one_signature(sets, UP, DOWN)
    signs = {name: -1.0 if len(sets) == 2 and name.upper().endswith(DOWN) else 1.0 for name in sets}
    pairs = [(gene, signs[name]) for name, genes in sets.items() for gene in genes]
    return pd.Series(
        [sign for _, sign in pairs], pd.Index([gene for gene, _ in pairs], dtype=object)
    )
