"""Donors and classes by name: one text for each, whatever type their column has."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.words import key_in, listed
from scbert_cll._settings import settings

_PACKAGE: Final = f"{Path(__file__).parents[1]}/"
DONOR: Final = "donor"  # the default of every donor_key
_INVISIBLE: Final = "\ufeff\u200b\u200e\u200f\x00"
# Said with a name before or after it, these words are still no donor: DBL-P1-P2, pool2_unassigned.
# "negative" is not one of them: IGHV_negative.
_UNMISTAKABLE: Final = ("doublet", "multiplet", "dbl", "amb", "ambiguous", "unassigned")
_MISSING: Final = ("", "nan", "na", "n/a", "none", "null", "<na>")
_LEFT_OUT: Final = "left_out"
_BETWEEN: Final = r"[-_+,/|;: ]"


def class_name(value: object) -> str:
    """A value of a column as text: 1.0 is 1, as it is under a missing value, and bytes are text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def donor_name(value: object) -> str:
    """The same for a person or sample: also without blanks around it, and "1.0" is 1."""
    text = unicodedata.normalize("NFC", class_name(value))
    text = " ".join(text.translate(dict.fromkeys(map(ord, _INVISIBLE))).split())
    return text.split(".")[0] if re.fullmatch(r"-?[0-9]+\.0+", text) else text


def named(column: pd.Series, name: Callable[[Any], str]) -> pd.Series:
    """A column as text, None where a value is missing."""
    codes, values = pd.factorize(column)
    names = np.array([*(name(value) for value in values), None], dtype=object)
    return pd.Series(names[codes], index=column.index, name=column.name, dtype=object)


def class_names(column: pd.Series) -> pd.Series:
    """Classes as text, None where a cell has none."""
    return named(column, class_name)


def class_order(column: pd.Series, *, unused: bool = False) -> list[str]:
    """The classes that occur, or all that may: in the order of categories, else of their values."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column if unused else column.cat.remove_unused_categories()
        return list(dict.fromkeys(map(class_name, column.cat.categories)))
    values = list(column.dropna().unique())
    if all(isinstance(value, float | int | np.number) for value in values):
        return list(dict.fromkeys(map(class_name, sorted(values))))
    return sorted_names(map(class_name, values))


def categories_of(column: pd.Series) -> pd.Series:
    """A column as a categorical of text, in the order of its categories or values; all occur."""
    ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.cat.ordered)
    names = pd.Categorical(class_names(column), class_order(column), ordered=ordered)
    return pd.Series(names, index=column.index, name=column.name)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Text in the order that anndata gives it in a file: c2 is before c10."""

    def parts(name: str) -> list[int | str]:
        return [int(p) if p.isdecimal() else p for p in re.split("([0-9]+)", name)]

    return sorted(set(names), key=parts)


def donor_key_of(adata: AnnData, donor_key: str | None) -> str | None:
    """The donor column that a verb uses: None, on purpose, is one donor.

    A missing column that nobody named is one donor, too, for one more release.
    """
    if donor_key != DONOR or DONOR in adata.obs:
        return donor_key
    _warn(
        f"adata.obs has no column {DONOR!r}, so all cells count as one donor's. Name the column "
        "with donor_key=…, or say donor_key=None for one donor. The next release refuses this.",
        FutureWarning,
    )
    return None


def warn_of_missing_words(classes: Iterable[str], key: str) -> None:
    """Say that a class has the name of what is missing.

    A column was made text before its missing values were seen.
    """
    if words := [name for name in classes if name.strip().casefold() in _MISSING]:
        where = f"adata.obs[{key!r}]"
        _warn(
            f"{where} has a class called {listed(words)}, and it is taken for a class. If these "
            f"cells have no label: {where} = {where}.where({where} != {words[0]!r})."
        )


def unassigned_needs_classes(classes: Iterable[str] | None) -> None:
    """Only classes can be left unassigned."""
    if classes is None:
        raise ValueError(
            "unassigned_below is for a ScBERTClassifier; a ScBERT embeds cells and has no classes. "
            "Leave it out."
        )


def warn_of_a_class_called_unassigned(classes: Iterable[str]) -> None:
    """Say that a cell may be called so for two reasons."""
    if _keys.UNASSIGNED in classes:
        _warn(
            f"The model has a class called {_keys.UNASSIGNED!r}, and cells below unassigned_below "
            "are called the same; their probability is below it, too: "
            f"adata.obs[{_keys.SCORE!r}] < unassigned_below."
        )


def donors(
    adata: AnnData,
    key: str,
    *,
    column: pd.Series | None = None,
    cells: np.ndarray | None = None,
    allow_missing: bool = False,
    quiet: bool = False,
) -> pd.Series:
    """Donor of each cell as text, None for cells of no donor.

    These are named in a warning, and the caller leaves them out.

    Parameters
    ----------
    adata, key
        Where the column is.
    column
        Its values, where they lie elsewhere in the object.
    cells
        Cells that matter, as a mask; of others nothing is said.
    allow_missing
        Whether a missing value is as good as a word that is no donor.
    quiet
        Whether the warning was given already.
    """
    where = f"adata.obs[{key!r}]"
    if column is None:
        remedy = (
            "Name the column of donors: donor_key=. If it is in the obs of a MuData: "
            f"mdata['rna'].obs[{key!r}] = mdata.obs[{key!r}]."
        )
        key_in(key, adata.obs, "adata.obs", remedy)
        column = cast("pd.DataFrame", adata.obs)[key]
    else:
        where = f"obs[{key!r}]"
    matters = np.ones(len(column), dtype=bool)
    if cells is not None:
        matters = np.asarray(cells, dtype=bool)
    missing = column.index[column.isna().to_numpy() & matters]
    if not allow_missing and len(missing):
        raise ValueError(
            f"{where} is missing for {len(missing)} cells ({listed(missing)}); fill it or drop "
            f"these cells: adata = adata[{where}.notna()].copy()."
        )
    names = named(column, donor_name)
    people, others = people_of(names.dropna().unique())
    is_donor = names.isin(people)
    if not is_donor[matters].any():
        no_donor(others, where)
    n_left_out = Counter(names[matters & names.isin(list(others)).to_numpy()])
    if not quiet:
        warn_of_alike(people, where)
        warn_of_not_donors(n_left_out, others, where)
    names = names.where(is_donor, None)
    names.attrs[_LEFT_OUT] = dict(n_left_out)
    return names


def left_out(donor: pd.Series) -> dict[str, list[str] | list[int]]:
    """Record of the cells that :func:`donors` leaves out: the words, and the cells of each."""
    n_cells: dict[str, int] = donor.attrs.get(_LEFT_OUT, {})
    if not n_cells:
        return {}
    return {"not_donors": list(n_cells), "n_not_donors": list(n_cells.values())}


def no_donor(words: Collection[str], where: str) -> None:
    """Refuse a column in which nobody is left."""
    raise ValueError(
        f"No cell has a donor: {where} holds {listed(words)}, which are no donors. Name the "
        f"column that says who the donor is, or, if these are names, "
        f"scbert_cll.settings.not_donors = []."
    )


def people_of(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Names of donors, and names of none (doublets, unassigned) with the word that says so."""
    names = list(dict.fromkeys(names))
    words = {_folded(word): word for word in settings.not_donors}
    found_in = {name: _word_in(name, words) for name in names}
    others = {name: words[word] for name, word in found_in.items() if word is not None}
    if "doublet" in words:
        people = [name for name in names if name not in others]
        # freemuxlet's 0,0 is a single donor
        twice = (re.fullmatch(r"([^,]+),\1", name) for name in people)
        singles = {*people, *(match[1] for match in twice if match)}
        others |= {name: words["doublet"] for name in people if _is_pair(name, singles)}
    return [name for name in names if name not in others], others


def warn_of_not_donors(cells: Counter[str], words: dict[str, str], where: str) -> None:
    """Say whose cells are left out."""
    if cells:
        shown = ", ".join(f"{name!r} ({n})" for name, n in cells.most_common(8))
        name = next(iter(cells))
        _warn(
            f"{sum(cells.values())} cells are left out, since they have no donor: {where} says "
            f"{shown}{', …' * (len(cells) > 8)}. If {name!r} is a donor's name: "
            "scbert_cll.settings.not_donors = set(scbert_cll.settings.not_donors) - "
            f"{{{words[name]!r}}}."
        )


def warn_of_alike(names: Iterable[str], where: str) -> None:
    """Say which donors may be one: they differ by capitals or leading zeros.

    To merge them would be a guess.
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", name.casefold())
        alike.setdefault(plain, []).append(name)
    if same := [group for group in alike.values() if len(group) > 1]:
        pairs = "; ".join(" and ".join(map(repr, group)) for group in same[:5])
        first, second = same[0][:2]
        _warn(
            f"{where} has donors that may be one person under two names: {pairs}. They are taken "
            f"for different people. If they are one: {where} = "
            f"{where}.astype(str).replace({{{first!r}: {second!r}}})."
        )


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning at the line of the user's that called the package."""
    warnings.warn(message, category, skip_file_prefixes=(_PACKAGE,))


def _folded(text: str) -> str:
    """A word in any capitals and with any blanks."""
    return re.sub(r"[\s_.-]+", " ", text).strip().casefold()


def _word_in(name: str, words: Mapping[str, str]) -> str | None:
    """The word that a name is, or that is unmistakable before or after it."""
    if (folded := _folded(name)) in words:
        return folded
    parts = [part.casefold() for part in re.split(_BETWEEN, name)]
    ends = (parts[0], parts[-1]) if len(parts) > 1 else ()
    return next((end for end in ends if end in _UNMISTAKABLE and end in words), None)


def _is_pair(name: str, singles: Collection[str]) -> bool:
    """Whether a name is two donors of the column.

    So souporcell (0/1), freemuxlet (0,1) and GMM-Demux (A-B) call doublets.
    """
    borders = (match.span() for match in re.finditer(r"[-_+,/|]", name))
    pairs = ((name[:start], name[end:]) for start, end in borders)
    return any(one != two and one in singles and two in singles for one, two in pairs)
