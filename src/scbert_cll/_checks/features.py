"""Which rows of `var` are genes: a 10x matrix may hold antibodies, hashtags, guides and peaks, too."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed

_COLUMNS: Final = (
    "featuretypes",
    "featuretype",
    "modality",
    "librarytype",
)  # without blanks and underscores
_GENES: Final = {
    "gene",
    "genes",
    "gene expression",
    "geneexpression",
    "genes expression",
    "expression",
    "gex",
    "rna",
    "mrna",
    "cdna",
    "transcript",
    "transcripts",
    "transcriptome",
}
_OTHERS: Final = re.compile(
    r"antibod.*|.*antibody capture|adts?|htos?|cmos?|ab ?seq|abs?|prot|proteins?|protein "
    r"expression|.*surface proteins?|"
    r"hash.*|.*multiplexing.*|crispr.*|.*guides?( "
    r".*)?|[sg]{1,2}rnas?|custom|peaks?|atac.*|chromatin.*|antigen.*|vdj.*|"
    r"feature barcod.*|.*controls?( .*)?|.*codewords?|sample tags?|tags?|spike ?ins?|ercc"
)
# In a name, marks of vendors that no gene has; where no column says what a row is.
MARKS: Final = "totalseq|hashtag|abseq|[|]pabo$"


class Features(NamedTuple):
    """Which rows are genes, and how that is known."""

    is_gene: np.ndarray
    column: str | None  # None: by the names alone
    genes: list[str]  # words of the column that are genes', if it has any
    others: list[str]  # words of the column that are not
    names: pd.Index

    @property
    def n_others(self) -> int:
        """Rows that are no genes."""
        return int((~self.is_gene).sum())

    @property
    def told(self) -> str:
        """How many rows are no genes, which, and what says so."""
        how = (
            "their names say so"
            if self.column is None
            else f"var[{self.column!r}] is {listed(self.others)}"
        )
        return (
            f"{self.n_others} of {len(self.names)} rows of var are no genes ({how}): "
            f"{listed(self.names[~self.is_gene], 3)}"
        )

    def selection(self, adata: str) -> str:
        """Python that chooses the genes."""
        if self.column is None:
            return f"~{adata}.var_names.str.contains({'(?i)' + MARKS!r})"
        chosen = f"{adata}.var[{self.column!r}].isin"
        return f"{chosen}({self.genes!r})" if self.genes else f"~{chosen}({self.others!r})"


def of(var: Any, where: str = "adata.var") -> Features:
    """Which rows are genes.

    A column ``feature_types`` (also ``feature_type``, ``modality``, ``library_type``) decides, if
    it has words that are known. Where some rows are called genes, all others are none. Where none
    are, those are no genes that are called something known (antibodies, peaks …), so that a column
    of biotypes leaves all. Without such a column the names decide, if they carry a vendor's mark of
    an antibody.
    """
    names = pd.Index(var.index).astype(str)
    for column in var.columns:
        if not may_tell(column):
            continue
        words = var[column].astype(object).where(var[column].notna(), None)
        kinds = {word: _kind(word) for word in words.unique() if word is not None}
        if any(kinds.values()):
            _none_missing(names[words.isna()], column, where)
            genes = [str(word) for word, kind in kinds.items() if kind == "gene"]
            is_gene = words.map(kinds).eq("gene") if genes else words.map(kinds).ne("other")
            others = [str(word) for word in words[~is_gene].unique()]
            return Features(is_gene.to_numpy(dtype=bool), str(column), genes, others, names)
    marked = np.asarray(names.str.contains(MARKS, case=False), dtype=bool)
    return Features(~marked, None, [], [], names)


def may_tell(column: object) -> bool:
    """Whether a column of this name says what rows are."""
    return re.sub(r"[\W_]", "", str(column)).lower() in _COLUMNS


def only_genes(found: Features, adata: str = "adata", then: str = "") -> None:
    """Nothing but genes: what else lies among them would be taken for expression."""
    if not found.n_others:
        return
    if found.is_gene.any():
        do = f"Leave them out: adata = {adata}[:, {found.selection(adata)}].copy(){then}"
    else:
        do = 'Take the object that holds the RNA, e.g. mdata["rna"]'
    raise ValueError(f"{found.told}. Counts are read of genes only. {do}.")


def _kind(word: object) -> str:
    """``gene``, ``other``, or an empty text for a word that is not known."""
    text = " ".join(re.sub(r"[\W_]+", " ", str(word)).lower().split())
    if text in _GENES:
        return "gene"
    return "other" if _OTHERS.fullmatch(text) else ""


def _none_missing(names: pd.Index, column: object, where: str) -> None:
    """A row of which nothing is said may be an antibody."""
    if len(names):
        raise ValueError(
            f"{where}[{str(column)!r}] says nothing of {len(names)} rows "
            f"({listed(names, 3)}): are they genes? If so: "
            f"{where}[{str(column)!r}] = {where}[{str(column)!r}].astype(object).fillna('Gene "
            f"Expression'); else fill in 'Antibody Capture'."
        )
