"""Checks of gene names and vocabularies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.words import listed, unique

# Share of a model's genes. Measured on three simulated data sets, genes left out at random:
# balanced accuracy on donors held out .87 with all genes, .82 without 5 %, .74 without 10 %, .62
# without 50 % (AUROC .95, .95, .94 and .89): calls suffer before the order of the cells does.
_FEW_MISSING = 0.05


def gene_names(names: pd.Index, what: str) -> pd.Index:
    """Gene names that can be written one a line: at least one, none empty, none twice."""
    bad = names[[not n or n != n.strip() or len(n.splitlines()) > 1 for n in names]]
    if len(bad) or not len(names):
        raise ValueError(
            f"{what} needs names without blanks around them or line breaks; found {listed(bad)}."
        )
    unique(names, what, "keep one of each")
    return names


def known_genes(genes: Sequence[str], adata: AnnData) -> None:
    """Genes that are in the data."""
    unknown = [g for g in genes if g not in adata.var_names]
    if unknown:
        raise KeyError(
            f"{listed(unknown)} not in adata.var_names, which has e.g. "
            f"{listed(adata.var_names, 3)}."
        )


def two_columns(table: pd.DataFrame, what: str) -> None:
    """A table of aliases in a form that is known."""
    if table.shape[1] != 2:
        raise ValueError(
            f"{what} must have columns 'alias' and 'symbol', or HGNC's 'symbol' and "
            f"'alias_symbol' / 'prev_symbol', "
            f"or two columns without a header; it has {listed(table.columns, 12)}."
        )


def vocabulary_coverage(
    found: pd.DataFrame, missing: pd.Index, n_vocab: int, *, min_matched: float
) -> None:
    """Enough of a vocabulary is in the data (`found` as `GeneVocab.resolve` makes it)."""
    n_matched = n_vocab - len(missing)
    if n_matched and n_matched >= min_matched * n_vocab:
        return
    other = found.loc[found["index"] < 0, "name"]
    ensembl = [
        pd.Series(names, dtype=object).str.match(r"ENS[A-Z]*G\d").mean() > 0.5
        for names in (other, missing)
    ]
    if len(other) and ensembl[0] != ensembl[1]:
        kinds = ("Ensembl ids", "symbols") if ensembl[0] else ("symbols", "Ensembl ids")
        hint = (
            f"The data are named by {kinds[0]}, the vocabulary by {kinds[1]}: put the same kind "
            f"into adata.var_names."
        )
    elif other.str.upper().isin(missing).sum() > max(n_matched, 0.2 * len(other)):
        hint = "The names look like mouse symbols: map them to their human orthologues first."
    else:
        hint = (
            "Give the matrix with all genes (not only highly variable ones), an alias table "
            "(aliases=), "
            "or lower min_matched on purpose."
        )
    raise ValueError(
        f"{n_matched} of {n_vocab} vocabulary genes are in adata ({n_matched / n_vocab:.1%}), "
        f"expected at least "
        f"{min_matched:.0%}. Only in adata ({len(other)}): {listed(other, 3)}; only in the "
        f"vocabulary "
        f"({len(missing)}): {listed(missing, 3)}. {hint}"
    )


def enough_matched(names: pd.Index, known: pd.Index, what: str, *, min_matched: float) -> None:
    """Enough of the genes of an AnnData are known by name to `what`."""
    matched = names.isin(known)
    if matched.mean() < min_matched or not matched.any():
        raise ValueError(
            f"{matched.sum()} of {len(names)} genes of adata are in {what}, expected at least "
            f"{min_matched:.0%}. "
            f"adata has {listed(names[~matched], 3)}; {what} has "
            f"{listed(known[~known.isin(names)], 3)}. "
            "Use the same kind of name on both sides (symbols or Ensembl), or lower min_matched."
        )


def model_genes(
    genes: pd.Index, adata: AnnData, *, min_matched: float = 0.5, is_corpus: bool = False
) -> pd.Index:
    """Enough of a model's genes are in the data by name.

    Those that are missing, with a warning where they are many.

    Genes that `pp.align_genes` filled in with zeros are missing, too. Who lowered its `min_matched`
    did so on purpose.
    """
    measured = adata.var_names
    if _keys.IN_QUERY in adata.var:
        measured = measured[np.asarray(adata.var[_keys.IN_QUERY], dtype=bool)]
        params = adata.uns.get(_keys.ALIGN_GENES, {}).get("params", {})
        min_matched = min(min_matched, float(params.get("min_matched", min_matched)))
    found = genes.isin(measured)
    if found.mean() < min_matched or not found.any():
        other = measured[~measured.isin(genes)]
        raise ValueError(
            f"{found.sum()} of the model's {len(genes)} genes are in adata, expected at least "
            f"{min_matched:.0%}. "
            f"Only the model has {listed(genes[~found], 3)}; only adata has {listed(other, 3)}. "
            + (
                "Build a corpus of the model's genes: pp.build_corpus(…, "
                "vocab=list(model.genes), edges=model.binning, aliases=…)."
                if is_corpus
                else (
                    "Bring the counts to the model's genes: pp.align_genes(adata, "
                    "list(model.genes), aliases=…)."
                )
            )
        )
    missing = genes[~found]
    if len(missing) > _FEW_MISSING * len(genes):
        warnings.warn(
            f"{len(missing):,} of the model's {len(genes):,} genes are not in adata "
            f"({listed(missing, 3)}), and count as not expressed. "
            "What the model says of these cells is less certain than of cells it was tested on.",
            stacklevel=3,
        )
    return missing


def places_in_model(names: Sequence[str], genes: pd.Index) -> np.ndarray:
    """Where named genes are among a model's."""
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in genes]
    if unknown or not names:
        raise KeyError(
            f"Name genes of the model; {listed(unknown) if unknown else 'none'} is not among "
            f"its {len(genes)}, "
            f"e.g. {listed(genes, 3)}."
        )
    return np.asarray(genes.get_indexer(pd.Index(names)))
