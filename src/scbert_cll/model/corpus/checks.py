"""Checks of verbs that take cells in memory or a corpus on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

from scbert_cll._checks.words import listed

_MOST_GROUPS: Final = 1000  # whose attention is held beside that of every gene


def corpus_path(value: Any) -> Path:
    """Where a corpus is."""
    if not isinstance(value, (str, PathLike)):
        raise TypeError(
            f"Expected a corpus, its path or a CorpusData; found {type(value).__name__}."
        )
    if Path(value).suffix in (".h5ad", ".h5mu", ".h5"):
        raise ValueError(
            f"{value} is a file of cells; read it (ad.read_h5ad), or build a corpus of it and "
            f"others (pp.build_corpus)."
        )
    return Path(value)


def not_of_a_corpus(given: Mapping[str, bool]) -> None:
    """Nothing is asked for that only cells in memory have."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} belong to cells in memory; a corpus was binned and split by "
            f"donor when it was built. Leave them out."
        )


def only_of_a_corpus(given: Mapping[str, bool], *, remedy: str) -> None:
    """Nothing is asked for that only a corpus has."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} are for a corpus on disk, and the cells are in memory. {remedy}"
        )


def not_chosen_twice(given: Mapping[str, bool]) -> None:
    """How a corpus is read was said when it was opened."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(
            f"{listed(names)} belong into CorpusData(…), which was opened already; leave them "
            f"out here."
        )


def share_of(value: Any) -> tuple[int, int]:
    """The number of a share, counted from 0, and how many there are."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if (
        len(pair) != 2
        or not all(type(number) is int for number in pair)
        or not 0 <= pair[0] < pair[1]
    ):
        raise ValueError(
            f"shard must be (i, n), the share's number from 0 to n - 1 and how many there "
            f"are; found {value!r}."
        )
    return pair[0], pair[1]


def parts_with_cells(parts: Sequence[str], found: Mapping[str, int]) -> None:
    """Parts that a corpus has, each once, and a cell in them."""
    if not parts or len(set(parts)) < len(parts) or not set(parts) <= set(found):
        raise ValueError(
            f"parts must name some of {listed(found)}, each once; found {listed(parts)}."
        )
    if not any(found[part] for part in parts):
        raise ValueError(
            f"The corpus has no cell in {listed(parts)}; it has "
            f"{listed(f'{p}: {n}' for p, n in found.items())}."
        )


def groups_of_corpus(key: str | None, groups: Sequence[str]) -> None:
    """A column of `obs` that the corpus has."""
    if key is not None and key not in groups:
        raise KeyError(
            f"groupby={key!r} is no obs column of the corpus, which has {listed(groups, 12)}. "
            f"Name it in obs_columns= of pp.build_corpus."
        )


def not_too_many_groups(key: str | None, n: int) -> None:
    """Few enough for a table of genes × groups."""
    if n > _MOST_GROUPS:
        raise ValueError(
            f"groupby={key!r} has {n:,} different values, and groups are at most "
            f"{_MOST_GROUPS:,}. Name another column, or cut it into groups "
            "(pandas.cut) before the corpus is built."
        )


def free_columns(names: Sequence[str], taken: Sequence[str]) -> None:
    """Columns of a corpus that predictions do not replace."""
    if both := [name for name in names if name in taken]:
        raise ValueError(
            f"The corpus has obs columns {listed(both)}, which predictions would replace; "
            f"build it with other names."
        )


def for_a_classifier(*, is_one: bool) -> None:
    """Only classes can be left unassigned."""
    if not is_one:
        raise ValueError(
            "unassigned_below is for a ScBERTClassifier; a ScBERT embeds cells and has no "
            "classes. Leave it out."
        )


def warn_of_cells_without_token(n: int, n_cells: int) -> None:
    """Say that some cells have nothing to be predicted from."""
    if n:
        warnings.warn(
            f"{n:,} of {n_cells:,} cells have no gene above bin 0 among the model's genes: "
            f"their embedding is NaN, and they have no prediction.",
            stacklevel=3,
        )
