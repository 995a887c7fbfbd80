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
from scbert_cll._checks.words import closest_first, key_in, listed
from scbert_cll._settings import settings

_PACKAGE: Final = f"{Path(__file__).parents[1]}/"
DONOR: Final = "donor"  # the default of every donor_key
_INVISIBLE: Final = "\ufeff\u200b\u200e\u200f\x00"
# Said with a name before or after it, these words are still no donor: DBL-P1-P2, pool2_unassigned.
# "negative" is not one of them: IGHV_negative.
_UNMISTAKABLE: Final = frozenset({"doublet", "multiplet", "dbl", "amb", "ambiguous", "unassigned"})
_MISSING: Final = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>"})
_LEFT_OUT: Final = "left_out"
_BETWEEN: Final = r"[-_+,/|;: ]"
MDATA_REMEDY: Final = (
    "If it is in the obs of a MuData: mdata['rna'].obs[{key!r}] = mdata.obs[{key!r}]."
)


def class_name(value: Any) -> str:
    """A value of a column as text: 1.0 is 1, as it is under a missing value, and bytes are text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def donor_name(value: Any) -> str:
    """The same for a person or sample: also without blanks around it, and "1.0" is 1."""
    text = unicodedata.normalize("NFC", class_name(value)).translate(
        dict.fromkeys(map(ord, _INVISIBLE))
    )
    text = " ".join(text.split())
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
        values = list(column.cat.categories)
        return list(dict.fromkeys(class_name(value) for value in values))
    values = list(column.dropna().unique())
    if all(isinstance(value, float | int | np.number) for value in values):
        return list(dict.fromkeys(class_name(value) for value in sorted(values)))
    return sorted_names(class_name(value) for value in values)


def categories_of(column: pd.Series) -> pd.Series:
    """A column as a categorical of text, in the order of its categories or values.

    Every category occurs.
    """
    ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.cat.ordered)
    found = pd.Categorical(class_names(column), categories=class_order(column), ordered=ordered)
    return pd.Series(found, index=column.index, name=column.name)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Text in the order that anndata gives it in a file: c2 is before c10."""
    return sorted(
        set(names),
        key=lambda name: [
            int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", name)
        ],
    )


def donor_key_of(adata: AnnData, donor_key: str | None) -> str | None:
    """The donor column that a verb uses: None, on purpose, is one donor.

    A missing column that nobody named is one donor, too, for one more release.
    """
    if donor_key != DONOR or DONOR in adata.obs:
        return donor_key
    warnings.warn(
        f"adata.obs has no column {DONOR!r}, so all cells count as one donor's. Name the column "
        f"with donor_key=…, or say donor_key=None for one donor. The next release refuses this.",
        FutureWarning,
        skip_file_prefixes=(_PACKAGE,),
    )
    return None


def warn_of_missing_words(classes: Iterable[str], key: str) -> None:
    """Say that a class has the name of what is missing: a column that was made text before its missing values were seen."""
    if words := [name for name in classes if name.strip().casefold() in _MISSING]:
        warnings.warn(
            f"adata.obs[{key!r}] has a class called {listed(words)}, and it is taken for a "
            f"class. If these cells have no label: "
            f"adata.obs[{key!r}] = adata.obs[{key!r}].where(adata.obs[{key!r}] != {words[0]!r}).",
            skip_file_prefixes=(_PACKAGE,),
        )


def mudata_column(mdata: Any, rna: AnnData, key: str) -> pd.Series:
    """A column of a modality's obs, or of the MuData's own for the cells of the modality.

    "rna:donor" is the modality's.
    """
    name = next(name for name, one in mdata.mod.items() if one is rna)
    obs, bare = cast("pd.DataFrame", rna.obs), key.removeprefix(f"{name}:")
    for found in (obs.get(key), mdata.obs.get(key), obs.get(bare)):
        if found is not None:
            return cast("pd.Series", found.reindex(rna.obs_names))
    elsewhere = [other for other, one in mdata.mod.items() if key in one.obs]
    remedy = (
        f" It is in that of another modality: mdata[{name!r}].obs[{key!r}] = "
        f"mdata[{elsewhere[0]!r}].obs[{key!r}]."
        if elsewhere
        else ""
    )
    there = listed(closest_first(key, dict.fromkeys([*obs, *mdata.obs])), 12)
    raise KeyError(
        f"{key!r} is neither in mdata[{name!r}].obs nor in mdata.obs; they have {there}.{remedy}"
    )


def warn_of_a_class_called_unassigned(classes: Iterable[str]) -> None:
    """Say that a cell may be called so for two reasons."""
    if _keys.UNASSIGNED in classes:
        warnings.warn(
            f"The model has a class called {_keys.UNASSIGNED!r}, and cells below "
            f"unassigned_below are called the same; their probability is below it, "
            f"too: adata.obs[{_keys.SCORE!r}] < unassigned_below.",
            skip_file_prefixes=(_PACKAGE,),
        )


def donors(
    adata: AnnData,
    key: str,
    *,
    cells: np.ndarray | None = None,
    allow_missing: bool = False,
    quiet: bool = False,
) -> pd.Series:
    """Donor of each cell as text.

    None for cells of no donor, which are named in a warning and left out by whoever asks.

    Parameters
    ----------
    adata, key
        Where the column is.
    cells
        Cells that matter, as a mask; of others nothing is said.
    allow_missing
        Whether a missing value is as good as a word that is no donor.
    quiet
        Whether the warning was given already.
    """
    key_in(
        key,
        adata.obs,
        "adata.obs",
        f"Name the column of donors: donor_key=. {MDATA_REMEDY.format(key=key)}",
    )
    column = cast("pd.DataFrame", adata.obs)[key]
    return donors_of(
        column, f"adata.obs[{key!r}]", cells=cells, allow_missing=allow_missing, quiet=quiet
    )


def donors_of(
    column: pd.Series,
    where: str,
    *,
    cells: np.ndarray | None = None,
    allow_missing: bool = False,
    quiet: bool = False,
) -> pd.Series:
    """The same, of a column."""
    own = np.ones(len(column), dtype=bool) if cells is None else np.asarray(cells, dtype=bool)
    missing = column.isna().to_numpy()
    if not allow_missing and (missing & own).any():
        of_a_donor(column.index[missing & own], where)
    found = named(column, donor_name)
    people, others = people_of(found.dropna().unique())
    left_out = Counter(found[own & found.isin(list(others)).to_numpy()])
    if not found[own].isin(people).any():
        no_donor(others, where)
    if not quiet:
        warn_of_alike(people, where)
        warn_of_not_donors(left_out, others, where)
    found = found.where(found.isin(people), None)
    found.attrs[_LEFT_OUT] = dict(left_out)
    return found


def left_out(donor: pd.Series) -> dict[str, Any]:
    """What of a column of donors is not in the results, for their record: the words, and how many cells have each."""
    found: dict[str, int] = donor.attrs.get(_LEFT_OUT, {})
    return {"not_donors": list(found), "n_not_donors": list(found.values())} if found else {}


def of_a_donor(cells: pd.Index | np.ndarray, where: str) -> None:
    """Every cell belongs to somebody, or is said to belong to nobody."""
    raise ValueError(
        f"{where} is missing for {len(cells)} cells ({listed(cells)}); fill it or drop these "
        f"cells: "
        f"adata = adata[{where}.notna()].copy()."
    )


def no_donor(words: Collection[str], where: str) -> None:
    """Somebody is left."""
    raise ValueError(
        f"No cell has a donor: {where} holds {listed(words)}, which are no donors. Name the "
        f"column that says who the donor is, or, if these are names, "
        f"scbert_cll.settings.not_donors = []."
    )


def people_of(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Names of donors.

    And what only looks like one (doublets, cells that were assigned to nobody), with the word it
    was told by.
    """
    names = list(dict.fromkeys(names))
    words = {_folded(word): word for word in settings.not_donors}
    others = {name: words[word] for name in names if (word := _word_in(name, words)) is not None}
    if "doublet" in words:
        singles = {
            single for name in names if name not in others for single in (name, *_twice(name))
        }
        others |= {
            name: words["doublet"]
            for name in names
            if name not in others and _is_pair(name, singles)
        }
    return [name for name in names if name not in others], others


def warn_of_not_donors(n_cells: Counter[str], words: Mapping[str, str], where: str) -> None:
    """Say whose cells are left out."""
    if n_cells:
        told = ", ".join(f"{name!r} ({n})" for name, n in n_cells.most_common(8)) + ", …" * (
            len(n_cells) > 8
        )
        name = next(iter(n_cells))
        warnings.warn(
            f"{sum(n_cells.values())} cells are left out, since they have no donor: {where} "
            f"says {told}. If {name!r} is a donor's name: "
            f"scbert_cll.settings.not_donors = set(scbert_cll.settings.not_donors) - "
            f"{{{words[name]!r}}}.",
            skip_file_prefixes=(_PACKAGE,),
        )


def warn_of_alike(names: Iterable[str], where: str) -> None:
    """Say which donors may be one: they differ by capitals or leading zeros.

    To merge them would be a guess.
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(re.sub(r"(?<![0-9.])0+(?=[0-9])", "", name.casefold()), []).append(name)
    if same := [
        " and ".join(repr(name) for name in group) for group in alike.values() if len(group) > 1
    ]:
        first, second = next(group for group in alike.values() if len(group) > 1)[:2]
        warnings.warn(
            f"{where} has donors that may be one person under two names: "
            f"{'; '.join(same[:5])}. They are taken for different people. If they are one: "
            f"{where} = {where}.astype(str).replace({{{first!r}: {second!r}}}).",
            skip_file_prefixes=(_PACKAGE,),
        )


def _folded(text: str) -> str:
    """A word in any capitals and with any blanks."""
    return re.sub(r"[\s_.-]+", " ", text).strip().casefold()


def _word_in(name: str, words: Mapping[str, str]) -> str | None:
    """The word that a name is, or that is unmistakable before or after it."""
    if (folded := _folded(name)) in words:
        return folded
    parts = [part.casefold() for part in re.split(_BETWEEN, name)]
    found = [part for part in (parts[0], parts[-1]) if part in _UNMISTAKABLE and part in words]
    return found[0] if found and len(parts) > 1 else None


def _is_pair(name: str, singles: Collection[str]) -> bool:
    """Two donors of the same column in one name, as souporcell (0/1), freemuxlet (0,1) and GMM-Demux (A-B) call doublets."""
    borders = [match.start() for match in re.finditer(r"[-_+,/|]", name)]
    return any(
        name[:at] in singles and name[at + 1 :] in singles and name[:at] != name[at + 1 :]
        for at in borders
    )


def _twice(name: str) -> list[str]:
    """Freemuxlet's 0,0 is a single donor."""
    first, _, second = name.partition(",")
    return [first] if second and first == second else []
