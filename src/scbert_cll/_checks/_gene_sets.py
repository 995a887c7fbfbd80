"""Checks of sets of genes, and of what is weighed or written of a signature."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from scbert_cll._checks._words import listed


def gene_set_source(source: Any) -> None:
    """Something that sets of genes can be read from."""
    if isinstance(source, pd.DataFrame) and not {"source", "target"} <= set(source):
        raise ValueError(
            "A table of gene sets needs the columns 'source' (the set) and 'target' (a gene), as decoupler has them; "
            f"it has {listed(source.columns, 12)}."
        )
    if not isinstance(source, Mapping | pd.DataFrame | str | Path):
        raise TypeError(
            "Gene sets are a mapping from a name to genes, the path of a .gmt file, or a DataFrame with the columns "
            f"'source' and 'target'; found {type(source).__name__}."
        )


def gene_sets(sets: Mapping[str, Any], where: str) -> None:
    """Sets that each hold genes; at least one."""
    if not sets:
        raise ValueError(f"{where} holds no gene set.")
    texts = [name for name, genes in sets.items() if isinstance(genes, str) or not isinstance(genes, Iterable)]
    if texts:
        raise TypeError(f"{where} must give a list of genes for every set; found something else for {listed(texts)}.")
    if empty := [name for name, genes in sets.items() if not len(list(genes))]:
        raise ValueError(f"{where} has sets without a gene: {listed(empty)}; remove them.")


def gmt_lines(fields: list[list[str]], where: str) -> None:
    """Lines of a GMT file: a name, a description and genes, parted by tabs; no name twice."""
    short = [i + 1 for i, line in enumerate(fields) if len(line) < 3 or not line[0]]
    if short:
        raise ValueError(
            f"{where} is no GMT file: every line needs a name, a description and at least one gene, parted by tabs; line {listed(short)} has not."
        )
    names = pd.Series([line[0] for line in fields])
    if len(twice := names[names.duplicated()].unique()):
        raise ValueError(f"{where} has sets of the same name: {listed(twice)}; rename them.")


def among_tested(chosen: Collection[str], universe: Collection[str]) -> None:
    """Chosen genes are among those that could have been chosen."""
    others = sorted(set(chosen) - set(universe))
    if others:
        raise ValueError(
            f"universe must hold all genes that could have been chosen, so all that were; it lacks {listed(others)}."
        )
