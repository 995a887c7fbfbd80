"""What a data set calls its genes: the index of `var` or one of its columns, in one way."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._checks.words import key_in, listed
from scbert_cll._gene_names import table
from scbert_cll._gene_names.resolver import are_ensembl, places_of, without_version

# of CELLxGENE and its census, and of scanpy's readers of Cell Ranger's files
KNOWN: Final = ("feature_name", "feature_id", "gene_symbols", "gene_ids")
_MIXED: Final = 0.05  # of the rows, of either kind

type Kind = Literal["Ensembl ids", "numbers", "symbols"]


class GeneNames(NamedTuple):
    """Names of the rows of `var`, and the column they are from (None: the index)."""

    names: pd.Index
    column: str | None


def names_of(var: Any, vocabulary: pd.Index, gene_key: str | None = None) -> GeneNames:
    """The names of the rows of `var` to look for in a vocabulary.

    Those of `gene_key`. Without it those of the index; where that is of another kind than the
    vocabulary (Ensembl ids, or numbers, and symbols), or has no name of it, those of a column that
    other programs are known to write, if it is of that kind, or has such names.

    Raises
    ------
    KeyError
        There is no such column.
    ValueError
        Symbols and Ensembl ids are mixed.
    """
    index, column = pd.Index(var.index).astype(str), gene_key
    if gene_key is not None:
        key_in(gene_key, var, "adata.var", "Name the column that holds the genes' names.")
    else:
        columns = {key: _values(var, key) for key in KNOWN if key in var}
        if (kind := kind_of(vocabulary)) != kind_of(index):
            fitting = [key for key, names in columns.items() if kind_of(names) == kind]
        elif not index.isin(vocabulary).any():
            fitting = [key for key, names in columns.items() if names.isin(vocabulary).any()]
        else:
            fitting = []
        column = next(iter(fitting), None)
    names = index if column is None else _values(var, column)
    _refuse_mixed(names, "adata.var_names" if column is None else f"adata.var[{column!r}]")
    return GeneNames(names, column)


def places_in(var: Any, genes: pd.Index) -> tuple[np.ndarray, str | None]:
    """The row of `var` that each gene is (−1: none, or several may be it), and the column of names.

    A row whose index is one of the genes is that gene; the others are found as by `names_of` and
    the resolver. `genes` and the index hold each name once.
    """
    places = np.asarray(pd.Index(var.index).get_indexer(genes), dtype=np.int64)
    if (places >= 0).all():
        return places, None
    names, column = names_of(var, genes)
    others = places_of(genes, names)
    others[np.isin(others, places)] = -1
    return np.where(places >= 0, places, others), column


def kind_of(names: pd.Index) -> Kind:
    """What most names are."""
    if are_ensembl(names).mean() > 0.5:
        return "Ensembl ids"
    return "numbers" if all(map(str.isdecimal, names)) else "symbols"


def _values(var: Any, key: str) -> pd.Index:
    """Names of a column; of the index where it has none."""
    values = var[key].astype(object)
    index = var.index.to_series(index=values.index)
    names: pd.Index = pd.Index(values.where(values.notna(), index).astype(str), dtype=object)
    return names


def _refuse_mixed(names: pd.Index, where: str) -> None:
    """Refuse names of which some are symbols and others the ids of genes that have a symbol."""
    approved = table.shipped().approved
    is_known = np.array([without_version(name) in approved for name in names], dtype=bool)
    is_id = are_ensembl(names)
    ids, symbols = names[is_known & is_id], names[is_known & ~is_id]
    if min(len(ids), len(symbols)) <= _MIXED * len(names):
        return
    raise ValueError(
        f"{where} mixes symbols ({len(symbols) / len(names):.0%}: {listed(symbols, 3)}) and "
        f"Ensembl ids ({len(ids) / len(names):.0%}: {listed(ids, 3)}), so a gene may be there "
        "under two names. Put names of one kind into a column of adata.var and name it with "
        "gene_key=, or keep the rows of one kind: "
        "adata = adata[:, ~adata.var_names.str.startswith('ENSG')].copy()."
    )
