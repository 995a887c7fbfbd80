"""Sets of genes, from wherever a user has them; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import Path

import pandas as pd

from scbert_cll._checks.files import read_text
from scbert_cll._checks.words import listed
from scbert_cll._gene_names.resolver import in_data

type GeneSets = Mapping[str, Iterable[str]] | str | PathLike[str] | pd.DataFrame


def read(source: GeneSets, names: pd.Index | None = None) -> dict[str, list[str]]:
    """Read sets by name from a mapping, a GMT file, or a table of decoupler's (`source`, `target`).

    A gene that is in a set twice counts once; order stays. With the `names` of a data set, genes
    are called what they are called there; those that it lacks keep their names.
    """
    sets = _read(source)
    if names is None:
        return sets
    absent = sorted({gene for genes in sets.values() for gene in genes} - set(names))
    called = dict(zip(absent, in_data(absent, names), strict=True))
    return {name: list(dict.fromkeys(called.get(g, g) for g in sets[name])) for name in sets}


def _read(source: GeneSets) -> dict[str, list[str]]:
    if isinstance(source, PathLike | str):
        return read_gmt(Path(fspath(source)))
    if isinstance(source, pd.DataFrame):
        if not {"source", "target"} <= set(source):
            raise ValueError(
                "A table of gene sets needs the columns 'source' (the set) and 'target' (a gene), "
                f"as decoupler has them; it has {listed(source.columns, 12)}."
            )
        groups = source.groupby("source", sort=False, observed=True)["target"]
        source = {str(name): genes.tolist() for name, genes in groups}
    if not isinstance(source, Mapping):
        raise TypeError(
            "Gene sets are a mapping from a name to genes, the path of a .gmt file, or a DataFrame "
            f"with the columns 'source' and 'target'; found {type(source).__name__}."
        )
    return _lists(source, "The mapping of gene sets")


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Sets of a GMT file, compressed (``.gz``) or not; lines without content do not count."""
    lines = [line.rstrip().split("\t") for line in read_text(path).split("\n")]
    lines = [line for line in lines if any(line)]
    if short := [i + 1 for i, line in enumerate(lines) if len(line) < 3 or not line[0]]:
        raise ValueError(
            f"{path} is not a GMT file: every line needs a name, a description and at least one "
            f"gene, separated by tabs; line {listed(short)} has not."
        )
    names = pd.Series([line[0] for line in lines])
    if len(repeated := names[names.duplicated()].unique()):
        twice = listed(repeated)
        raise ValueError(f"{path} has sets of the same name: {twice}; rename them.")
    sets = {name: list(filter(None, genes)) for name, _, *genes in lines}
    return _lists(sets, str(path))


def _lists(sets: Mapping[str, Iterable[str]], where: str) -> dict[str, list[str]]:
    """Genes of each set, once; refused without a set, or with one that has no genes."""
    if not sets:
        raise ValueError(f"{where} holds no gene set.")
    no_lists = [name for name in sets if not pd.api.types.is_list_like(sets[name])]
    if no_lists:
        raise TypeError(
            f"{where} must give a list of genes for every set; found something else for "
            f"{listed(no_lists)}."
        )
    lists = {str(name): list(dict.fromkeys(map(str, genes))) for name, genes in sets.items()}
    if empty := [name for name, genes in lists.items() if not genes]:
        raise ValueError(f"{where} has sets without a gene: {listed(empty)}; remove them.")
    return lists


def check_gmt_genes(genes: Iterable[str]) -> None:
    """Refuse names of genes that some reader would split."""
    if unusable := [gene for gene in genes if gene.split() != [gene]]:
        raise ValueError(
            "Some readers of GMT files split at blanks, so names of genes must have none; found "
            f"{listed(unusable)}."
        )


def check_gmt_name(name: str) -> None:
    """Refuse a name of a set that some reader would split."""
    if not name or name.split() != [name]:
        raise ValueError(f"name must be one word without blanks; found {name!r}.")
