"""Checks of sets of genes, and of what is weighed or written of a signature."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.counts import Counts, are_whole, noted_counts, slot, stored
from scbert_cll._checks.words import key_in, listed, unique

_KIND: Final = re.compile(r"object|bool|u?int(8|16|32|64)|float(16|32|64)")


def gene_set_source(source: Any) -> None:
    """Something that sets of genes can be read from."""
    if isinstance(source, pd.DataFrame) and not {"source", "target"} <= set(source):
        raise ValueError(
            "A table of gene sets needs the columns 'source' (the set) and 'target' (a gene), "
            "as decoupler has them; "
            f"it has {listed(source.columns, 12)}."
        )
    if not isinstance(source, Mapping | pd.DataFrame | str | Path):
        raise TypeError(
            "Gene sets are a mapping from a name to genes, the path of a .gmt file, or a "
            "DataFrame with the columns "
            f"'source' and 'target'; found {type(source).__name__}."
        )


def kinds_of_columns(kinds: Any, name: str) -> None:
    """Kinds of a table's columns, as the file beside it says them; None: it says none."""
    if kinds is not None and not (
        isinstance(kinds, Mapping)
        and all(isinstance(kind, str) and _KIND.fullmatch(kind) for kind in kinds.values())
    ):
        raise ValueError(
            f"{name} is damaged: its columns must map names to kinds such as 'float64'. "
            f"Remove it, or get it again."
        )


def gene_sets(sets: Mapping[str, Any], where: str) -> None:
    """Sets that each hold genes; at least one."""
    if not sets:
        raise ValueError(f"{where} holds no gene set.")
    texts = [
        name
        for name, genes in sets.items()
        if isinstance(genes, str) or not isinstance(genes, Iterable)
    ]
    if texts:
        raise TypeError(
            f"{where} must give a list of genes for every set; found something else for "
            f"{listed(texts)}."
        )
    if empty := [name for name, genes in sets.items() if not len(list(genes))]:
        raise ValueError(f"{where} has sets without a gene: {listed(empty)}; remove them.")


def gmt_lines(fields: list[list[str]], where: str) -> None:
    """Lines of a GMT file: a name, a description and genes, parted by tabs; no name twice."""
    short = [i + 1 for i, line in enumerate(fields) if len(line) < 3 or not line[0]]
    if short:
        raise ValueError(
            f"{where} is no GMT file: every line needs a name, a description and at least one "
            f"gene, parted by tabs; line {listed(short)} has not."
        )
    names = pd.Series([line[0] for line in fields])
    if len(twice := names[names.duplicated()].unique()):
        raise ValueError(f"{where} has sets of the same name: {listed(twice)}; rename them.")


def among_tested(chosen: Collection[str], universe: Collection[str]) -> None:
    """Chosen genes are among those that could have been chosen."""
    others = sorted(set(chosen) - set(universe))
    if others:
        raise ValueError(
            f"universe must hold all genes that could have been chosen, so all that were; it "
            f"lacks {listed(others)}."
        )


def signature_record(adata: AnnData, key: str) -> dict[str, Any]:
    """What tl.signature wrote."""
    key_in(key, adata.uns, "adata.uns", "Run tl.signature first, or hand over a signature.")
    record: Any = adata.uns[key]
    if not isinstance(record, Mapping) or not isinstance(record.get("genes"), pd.DataFrame):
        raise ValueError(
            f"adata.uns[{key!r}] was not written by tl.signature: it has no table 'genes'."
        )
    return dict(record)


def not_empty(n: int, reason: str, what: str) -> None:
    """A signature that holds a gene."""
    if not n:
        why = f" ({reason})" if reason else ""
        raise ValueError(f"The signature is empty{why}: {what}.")


def signature_table(table: Any) -> None:
    """A table of genes with something that can be their weights."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"Expected an AnnData or the table of a signature, found {type(table).__name__}."
        )
    if "gene" not in table or not {"weight", "log2_fc"} & set(table):
        if table.empty:
            raise ValueError("The signature is empty: its table has no gene.")
        raise ValueError(
            "A table of a signature needs the columns 'gene' and 'weight' (or 'log2_fc', as "
            "tl.signature has it); "
            f"it has {listed(table.columns, 12)}."
        )
    unique(pd.Index([str(name) for name in table]), "the columns of the table", "keep one of each")
    if n := int(table["gene"].isna().sum()):
        raise ValueError(
            f"{n} genes of the table have no name: pandas.read_csv takes a gene called NA for "
            f"a missing one. "
            "Read the file with sc_cll.io.read_csv(path), or remove these rows: "
            "table.dropna(subset=['gene'])."
        )


def signature_source(source: Any) -> None:
    """Something that weights of genes can be read from."""
    if isinstance(source, pd.DataFrame):
        signature_table(source)
    elif isinstance(source, str) and not source.endswith((".gmt", ".gmt.gz")):
        raise ValueError(
            f"signature={source!r} is not the path of a .gmt file; to score one gene, pass "
            f"[{source!r}]."
        )
    elif not isinstance(source, Iterable | PathLike):
        hint = " Of an object that holds one, pass get.signature(adata)." * isinstance(
            source, AnnData
        )
        raise TypeError(
            "A signature is a DataFrame, a mapping from genes to weights, a list of genes or "
            "the path of a .gmt file; "
            f"found {type(source).__name__}.{hint}"
        )


def one_signature(sets: Mapping[str, Any], up: str, down: str) -> None:
    """One set of genes, or the two halves of one signature."""
    names = list(sets)
    stems = {name.upper().removesuffix(up).removesuffix(down) for name in names}
    ends = {name.upper()[-len(up) :] for name in names}
    if len(names) != 1 and not (len(names) == 2 and len(stems) == 1 and ends == {up, down}):
        raise ValueError(
            f"Expected one set of genes, or two whose names end with {up!r} and {down!r}; "
            f"found {len(names)}: {listed(names)}. "
            "Choose one: io.read_gmt(path)[name]."
        )


def gene_weights(found: pd.Series) -> pd.Series:
    """Weights of genes as numbers: at least one, finite, none zero, no gene twice."""
    weights = pd.to_numeric(found, errors="coerce").astype(np.float64)
    weights.index = weights.index.astype(str)
    not_empty(len(weights), "", "there is no gene to weigh")
    unique(weights.index, "The genes of a signature", "keep one of each")
    bad = weights.index[~np.isfinite(weights) | (weights == 0)]
    if len(bad):
        raise ValueError(
            f"The weights of a signature must be finite and not zero; they are not for "
            f"{listed(bad)}. Leave these genes out."
        )
    return weights


def enough_weight(
    weights: pd.Series, present: np.ndarray, where: str, *, min_matched: float
) -> None:
    """Enough of a signature's weight lies on genes that are in the data."""
    share = float(weights.abs()[present].sum() / weights.abs().sum())
    if share < min_matched or not present.any():
        raise ValueError(
            f"{present.sum()} of the {len(weights)} genes of the signature, with {share:.0%} "
            f"of its weight, are in {where}; expected at "
            f"least {min_matched:.0%} of the weight. Missing: "
            f"{listed(weights.index[~present])}. Use the same kind of name on both "
            "sides (symbols or Ensembl), or lower min_matched."
        )


def counts_to_normalize(adata: AnnData, layer: str | None) -> Counts:
    """Raw counts, or a hint at what to do with other values."""
    try:
        return noted_counts(adata, layer)
    except ValueError as error:
        raise ValueError(
            f"{error} If these are log-expression values, pass normalize=False."
        ) from error


def log_values(adata: AnnData, layer: str | None) -> np.ndarray | sparse.csr_matrix:
    """Values that are on a log scale already: finite, and not all of them whole numbers."""
    found = slot(adata, layer)
    where, values = found.where, stored(adata, found)
    is_dense = isinstance(found.values, np.ndarray)
    if not np.isfinite(values.data).all():
        n = int((~np.isfinite(values.data)).sum())
        raise ValueError(f"{where} holds {n} values that are NaN or infinite; fill them.")
    if are_whole(values.data):
        raise ValueError(
            f"{where} holds whole numbers only, so no log-expression; leave normalize=True "
            f"for raw counts."
        )
    return values.toarray() if is_dense else values


def can_be_scored(
    values: np.ndarray | sparse.csr_matrix, weights: pd.Series, adata: AnnData, method: str
) -> None:
    """Values that differ within each cell, and weights that differ between genes."""
    if values.shape[1] == len(weights) and weights.nunique() == 1:
        raise ValueError(
            f"method={method!r} holds a signature against other genes, and adata has none but "
            f"the {len(weights)} of the signature; "
            "score an object with all genes."
        )
    ends: list[Any] = [values.max(axis=1), values.min(axis=1)]
    most, least = (end.toarray().ravel() if sparse.issparse(end) else end for end in ends)
    flat = adata.obs_names[most == least]
    if len(flat):
        raise ValueError(
            f"{len(flat)} cells have one value for all genes, so method={method!r} has no "
            f"score for them: {listed(flat)}; remove them."
        )


def gmt_name(name: str) -> None:
    """A name of a set that every reader takes whole."""
    if not name or name.split() != [name]:
        raise ValueError(f"name must be one word without blanks; found {name!r}.")


def gmt_genes(genes: Iterable[str]) -> None:
    """Names of genes that every reader takes whole."""
    if bad := [gene for gene in genes if gene.split() != [gene]]:
        raise ValueError(
            f"A GMT file is parted by blanks, so names of genes must have none; found "
            f"{listed(bad)}."
        )
