"""Sets of genes, from wherever a user has them; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path

import pandas as pd

from scbert_cll import _checks
from scbert_cll._signature import checks as signature_checks

type GeneSets = Mapping[str, Iterable[str]] | str | PathLike[str] | pd.DataFrame


def read(source: GeneSets) -> dict[str, list[str]]:
    """Read sets by name from a mapping, a GMT file, or a table of decoupler's (`source`, `target`).

    A gene that is in a set twice counts once; order stays.
    """
    source = Path(fspath(source)) if isinstance(source, PathLike | str) else source
    signature_checks.gene_set_source(source)
    if isinstance(source, Path):
        return read_gmt(source)
    if isinstance(source, pd.DataFrame):
        source = {
            str(k): v.tolist()
            for k, v in source.groupby("source", sort=False, observed=True)["target"]
        }
    signature_checks.gene_sets(source, "The mapping of gene sets")
    return {str(name): list(dict.fromkeys(map(str, genes))) for name, genes in source.items()}


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Sets of a GMT file, compressed (``.gz``) or not; lines without content do not count."""
    fields = [
        line.rstrip().split("\t")
        for line in _checks.text.read_text(path).split("\n")
        if line.strip()
    ]
    signature_checks.gmt_lines(fields, str(path))
    sets = {name: [gene for gene in dict.fromkeys(genes) if gene] for name, _, *genes in fields}
    signature_checks.gene_sets(sets, str(path))
    return sets
