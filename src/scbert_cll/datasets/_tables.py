"""Tables as R writes them, and what readers of cohorts share: checksums, columns, events."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from functools import partial
from io import StringIO
from operator import itemgetter
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.genes import gene_names
from scbert_cll._checks.people import donor_name
from scbert_cll._checks.words import key_in, listed, unique

type Record = dict[str, Any]  # an entry of `uns`
type Meanings = Mapping[str, int]  # events, 0 or 1, by the words of a file
type Sums = Mapping[str, str] | None  # SHA-256 by name of file
type Table = pd.DataFrame | str | PathLike[str]

MISSING: Final = (
    "", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A", "<NA>", "--"
)  # fmt: skip
_YES_NO: Final = {"0": 0, "1": 1, "FALSE": 0, "TRUE": 1, "F": 0, "T": 1}
_LARGEST_LOG: Final = 50.0  # no logarithm of an intensity or a count comes near it


def read_tables(
    sources: Mapping[str, object], *, sep: str | None = None, sha256: Sums = None
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The tables by their roles, first columns as text, and their files with checksums."""
    given = {role: source for role, source in sources.items() if source is not None}
    paths, tables = dict[str, Path](), dict[str, pd.DataFrame]()
    for role, source in given.items():
        if isinstance(source, pd.DataFrame):
            tables[role] = _in_memory(source)
        elif isinstance(source, str | PathLike):
            paths[role] = Path(source)
        else:
            hint = ""
            if isinstance(source, AnnData):
                tables_of = "adata.to_df().T is the expression and adata.obs the clinical table"
                hint = f" Of an AnnData, {tables_of}."
            kind = type(source).__name__
            raise TypeError(
                f"{role} must be a DataFrame or the path of a table; found {kind}.{hint}"
            )
    files: list[str] = [path.name for path in paths.values()]
    expected: Any = sha256 or {}
    names = [expected] if isinstance(expected, str) else expected
    if unknown := [name for name in names if name not in files]:
        raise ValueError(
            f"sha256 must map names of files ({listed(files)}) to their checksums; found "
            f"{listed(unknown)}."
        )
    sums = [checked_sum(path, expected.get(path.name)) for path in paths.values()]
    columns = {"table": list(paths), "file": files, "sha256": sums}
    tables |= {role: _read(path, sep) for role, path in paths.items()}
    return tables, pd.DataFrame(columns, dtype=object).rename(index=str)


def checked_sum(path: Path, expected: str | None) -> str:
    """SHA-256 of a file, compared with the one that was given."""
    with _checks.files.plain_file(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    check_sum(path.name, digest, expected)
    return digest


def check_sum(name: str, digest: str, expected: str | None) -> None:
    """The file is the one that was expected."""
    if expected is not None and digest != expected.strip().lower():
        raise ValueError(
            f"{name} is not the file that was expected: its SHA-256 is {digest}, not {expected}. "
            "Get the file again, or change the checksum on purpose."
        )


def _read(path: Path, sep: str | None) -> pd.DataFrame:
    """A table with its header; pandas would rename columns that have one name."""
    file, separator = _checks.files.open_table(path, sep)
    if separator is None:
        raise ValueError(
            f"{path.name} has no comma, tab or semicolon in its first line; say what separates "
            "its columns: sep="
        )
    header = _checks.files.fields_of(file.readline(), separator, path.name)
    n, body = len(header), file.read()
    table = read_body(body, separator, n)
    n_more = table.shape[1] - n
    if n_more not in (0, 1):  # R writes row names without a name of theirs
        raise ValueError(
            f"{path.name} has {n} names of columns, but {table.shape[1]} fields in its first row; "
            "write it with R's write.csv, or name the separator: sep="
        )
    table.columns = pd.Index([""] * n_more + header, dtype=object)

    texts = partial(read_body, body, separator, n, as_text=True)
    return _checks.files.numbers_as_written(table, texts, separator, path.name)


def read_body(body: str, sep: str, n: int, *, as_text: bool = False) -> pd.DataFrame:
    """What follows a header.

    The first column is text whatever it holds: 01005, and a gene called NA.
    """
    dtype = str if as_text else {0: str}
    how: Any = {"header": None, "dtype": dtype, "low_memory": False}
    how["keep_default_na"] = False
    how["na_values"] = {i: list(MISSING) for i in range(1, n + 1)}
    try:
        table: pd.DataFrame = pd.read_csv(StringIO(body), sep=sep, **how)
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=range(n))
    return table


def _in_memory(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose names are its first column, as in a file."""
    if isinstance(table.index, pd.RangeIndex):
        table = table.copy()
    else:
        table = table.reset_index(names=str(table.index.name or ""))
    table.columns = pd.Index([str(name) for name in table.columns], dtype=object)
    table.isetitem(0, list(_text(table.iloc[:, 0])))
    return table


def _text(column: pd.Series) -> pd.Index:
    names = ["" if pd.isna(value) else str(value) for value in column]
    return pd.Index(names, dtype=object)


def check_samples(names: pd.Index, where: str) -> None:
    """Every sample has a name of its own."""
    if blank := int(sum(not str(name).strip() for name in names)):
        remedy = "name them or leave them out"
        raise ValueError(f"{blank} samples of {where} have no name; {remedy}.")
    unique(names, f"Samples of {where}", "keep one sample of each patient")


def named_rows(table: pd.DataFrame, key: str | None, role: str) -> pd.DataFrame:
    """The table with the names of its samples as index: of a column, or of the first one."""
    where = f"the {role} table"
    unique(table.columns, f"Columns of {where}", "rename one of them")
    if key is not None:
        key_in(key, table, where, "Name the column that holds the samples: sample_key=")
    place = 0 if key is None else list(table.columns).index(key)
    names = _text(table.iloc[:, place])
    check_samples(names, where)
    return table.drop(columns=table.columns[place]).set_axis(names, axis=0)


def expression_matrix(
    table: pd.DataFrame, *, transpose: bool = False, what: str = "expression"
) -> pd.DataFrame:
    """Samples × genes as float64."""
    numbers = table.iloc[:, 1:]
    values = expression_numbers(numbers, f"The {what} table")
    rows, columns = _text(table.iloc[:, 0]), pd.Index(numbers.columns, dtype=object)
    if not transpose:
        values, rows, columns = values.T, columns, rows
    check_samples(rows, f"the {what} table")
    gene_names(columns, f"the {what} table (its genes)")
    return pd.DataFrame(values, index=rows, columns=columns)


def expression_numbers(table: pd.DataFrame, what: str) -> np.ndarray:
    """Numbers, or NaN where nothing was measured."""
    is_number = pd.api.types.is_numeric_dtype
    if text := [name for name, dtype in table.dtypes.items() if not is_number(dtype)]:
        column = table[text[0]]
        bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        hint = "the first column holds the names, all others numbers, and a missing number is NA"
        if bad.astype(str).str.fullmatch(r"-?\d+,\d+").all():
            hint = (
                "these look like decimal commas, so write it with write.csv, not write.csv2, or "
                "pass pd.read_csv(path, decimal=',')"
            )
        raise ValueError(
            f"{what} must hold numbers; {listed(text)} has e.g. {listed(bad, 3)}: {hint}."
        )
    values = table.to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        infinite = table.columns[np.isinf(values).any(axis=0)]
        raise ValueError(
            f"{what} holds infinite values in {listed(infinite)}; the logarithm of zero? Add 1 "
            "before it is taken."
        )
    return values


def joined(values: pd.DataFrame | None, obs: pd.DataFrame) -> tuple[AnnData, Record]:
    """The samples that both have, in the order of the expression; others are left out and named."""
    if values is None:
        values = pd.DataFrame(index=obs.index)
    names, shared = values.index, values.index.isin(obs.index)
    only = {"expression": names[~shared], "clinical": obs.index[~obs.index.isin(names)]}
    if left_out := [
        f"{len(others)} that are only in the {name} table ({listed(others, 3)})"
        for name, others in only.items()
        if len(others)
    ]:
        warnings.warn(
            f"{shared.sum()} samples are in both tables; left out: {' and '.join(left_out)}.",
            stacklevel=3,
        )
    adata = as_anndata(values[shared], obs.loc[names[shared]])
    warn_of_scale(adata, "the expression table", stacklevel=4)
    record: Record = {"n_samples": adata.n_obs}
    for name, others in only.items():
        record[f"only_{name}"] = np.array(others, dtype=object)
    return adata, record


def as_anndata(values: pd.DataFrame, obs: pd.DataFrame) -> AnnData:
    """Samples × genes, and what is known of the samples, in one order."""
    var = pd.DataFrame(index=pd.Index(values.columns, dtype=object))
    return AnnData(values.to_numpy(dtype=np.float64), obs=obs, var=var)


def check_shared(expression: pd.DataFrame, clinical: pd.DataFrame, key: str) -> None:
    """Some sample is in both tables; if none is, say where they are.

    `key` is the column of the samples in the clinical table.
    """
    samples = expression.index
    if samples.isin(clinical.index).any():
        return
    n_in = {k: int(samples.isin(clinical[k].astype(str)).sum()) for k in clinical}
    name, n = max(n_in.items(), key=itemgetter(1), default=("", 0))
    hint = "Use the same names in both."
    if expression.columns.isin(clinical.index).any():
        hint = "They are named in the other direction of the expression table: transpose=True "
        hint += "(or not)."
    elif n:
        hint = f"The column {name!r} has {n} of them: sample_key={name!r}."
    raise ValueError(
        f"No sample is in both tables. The expression has {listed(samples, 3)}; {key!r} of the "
        f"clinical table has {listed(clinical.index, 3)}. {hint}"
    )


def warn_of_scale(adata: AnnData, where: str, *, stacklevel: int = 3) -> None:
    """Say so if values cannot be logarithms."""
    values = np.asarray(adata.X)
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    if largest > _LARGEST_LOG:
        warnings.warn(
            f"The values of {where} go up to {largest:g}, so they are not on a log scale; a score "
            "of a signature needs log values: np.log2(adata.X + 1), or a variance-stabilising "
            "transformation of counts.",
            stacklevel=stacklevel,
        )


def columns_of_obs(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that a file can hold: numbers, 0 and 1 with NaN, categories, text.

    No slash in a name.
    """
    columns = enumerate(table.columns)
    names = [column_name(name) or f"column_{i + 1}" for i, name in columns]
    typed = {i: _typed(table.iloc[:, i]) for i in range(table.shape[1])}
    obs = pd.DataFrame(typed, index=table.index)
    obs.columns = pd.Index(names, dtype=object)
    what = "Columns of the clinical table, with _ for /,"
    unique(obs.columns, what, "rename one of them")
    return obs


def column_name(name: object) -> str:
    """The name that a column has in `obs`."""
    return str(name).replace("/", "_")


def _typed(column: pd.Series) -> pd.Series:
    """One column; the missing values of yes and no are NaN, those of words are no category."""
    present = column.dropna()
    complete = len(present) == len(column)
    if present.empty:
        return column.astype(np.float64)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if present.map(lambda value: isinstance(value, bool | np.bool_)).all():
        return present.astype(bool if complete else np.float64).reindex(column.index)
    if pd.api.types.is_numeric_dtype(column):
        return column if complete else column.astype(np.float64)
    text = present.map(str).astype(object).reindex(column.index)
    return text if present.is_unique and complete else text.astype("category")


def yes_or_no(values: pd.Series) -> pd.Series:
    """0 and 1 as whole numbers where none is missing."""
    return values if values.isna().any() else values.astype(np.int64)


def event_meanings(values: Any) -> Meanings | None:
    """The meaning of each word of a file, as a user gives it: 0 or 1."""
    if values is None:
        return None
    is_map = isinstance(values, Mapping) and len(values) > 0
    if not is_map or not set(values.values()) <= {0, 1}:
        raise ValueError(
            "event_values must map the file's words to 0 (censored) or 1 (event), e.g. "
            f"{{'dead': 1, 'alive': 0}}; found {values!r}."
        )
    return {word_of(word): int(meaning) for word, meaning in values.items()}


def events(column: pd.Series, key: str, meanings: Meanings | None = None) -> pd.Series:
    """Events as 0 and 1, NaN where they are unknown; 0/1, TRUE/FALSE and T/F without `meanings`."""
    words = column.dropna().astype(object).map(word_of)
    codes = words.str.upper().map(_YES_NO) if meanings is None else words.map(meanings)
    if len(bad := words[codes.isna()]):
        hint = "say what they mean: event_values={'dead': 1, 'alive': 0}"
        if set(words) <= {"1", "2"}:
            hint = "if they are R's (2 is the event): event_values={1: 0, 2: 1}"
        elif meanings is not None:
            hint = "add them to event_values, or make them missing"
        raise ValueError(
            f"{key!r} must be 0 (censored) or 1 (event); found {listed(bad.unique())}, e.g. in "
            f"{listed(bad.index, 3)}: {hint}."
        )
    return codes.astype(np.float64).reindex(column.index).rename(key)


def are_plain(column: pd.Series) -> bool:
    """Whether a column says 0 and 1, or TRUE and FALSE."""
    return {word_of(value).upper() for value in column.dropna()} <= set(_YES_NO)


def word_of(value: object) -> str:
    """A value as text; 1.0, 1 and '1' are one word."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).upper()
    return donor_name(value)
