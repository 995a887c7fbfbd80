"""Tables as R writes them, and what loaders of cohorts share: checksums, columns of obs, outcomes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.words import key_in, listed

Unit = Literal["years", "months", "days"]
type Table = pd.DataFrame | str | PathLike[str]

UNITS: Final = tuple(_checks.cohorts.PER_YEAR)
MISSING: Final = (
    "",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
    "#N/A",
    "<NA>",
    "--",
)
_LOG_MAX: Final = 50.0  # no logarithm of an intensity or a count comes near it


def read_tables(
    sources: Mapping[str, Table | None],
    *,
    sep: str | None = None,
    sha256: Mapping[str, str] | None = None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The tables by what they are, first columns as text.

    And the files they came from with their checksums.
    """
    given = {what: source for what, source in sources.items() if source is not None}
    for what, source in given.items():
        _checks.tables.table_source(source, what)
    paths = {
        what: Path(source) for what, source in given.items() if not isinstance(source, pd.DataFrame)
    }
    expected = {} if sha256 is None else sha256
    _checks.tables.known_files(expected, [path.name for path in paths.values()])
    sums = {what: checked_sum(path, expected.get(path.name)) for what, path in paths.items()}
    tables = {
        what: _in_memory(source) if isinstance(source, pd.DataFrame) else _read(Path(source), sep)
        for what, source in given.items()
    }
    rows = [(what, path.name, sums[what]) for what, path in paths.items()]
    return tables, pd.DataFrame(rows, columns=["table", "file", "sha256"], dtype=object).rename(
        index=str
    )


def checked_sum(path: Path, expected: str | None) -> str:
    """SHA-256 of a file, compared with the one that was given."""
    with _checks.paths.plain_file(path).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _checks.tables.same_sum(path.name, found, expected)
    return found


def _read(path: Path, sep: str | None) -> pd.DataFrame:
    """A table with its header; pandas would rename columns that have one name."""
    file, sep = _checks.text.open_table(path, sep)
    sep = _checks.tables.separated(sep, path.name)
    header = _checks.text.fields_of(file.readline(), sep, path.name)
    body = file.read()
    table = read_body(StringIO(body), sep, len(header))
    _checks.tables.as_wide_as_its_header(len(header), table.shape[1], path.name)
    table.columns = pd.Index([""] * (table.shape[1] - len(header)) + header, dtype=object)

    def texts() -> pd.DataFrame:
        return read_body(StringIO(body), sep, len(header), dtype=str)

    return _checks.text.numbers_as_written(table, texts, sep, path.name)


def read_body(file: TextIO, sep: str, n_columns: int, dtype: Any = {0: str}) -> pd.DataFrame:  # noqa: B006
    """What follows a header.

    The first column is text whatever it holds: 01005, and a gene called NA.
    """
    missing: Any = {i: list(MISSING) for i in range(1, n_columns + 1)}
    try:
        return pd.read_csv(
            file,
            sep=sep,
            header=None,
            dtype=dtype,
            keep_default_na=False,
            na_values=missing,
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=range(n_columns))


def _in_memory(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose names are its first column, as in a file."""
    if isinstance(table.index, pd.RangeIndex):
        table = table.copy()
    else:
        table = table.reset_index(names=str(table.index.name or ""))
    table.columns = pd.Index([str(name) for name in table.columns], dtype=object)
    table.isetitem(0, _text(table.iloc[:, 0]))
    return table


def named_rows(table: pd.DataFrame, key: str | None, what: str) -> pd.DataFrame:
    """The table with the names of its samples as index: of a column, or of the first one."""
    _checks.cohorts.column_names(table.columns, f"the {what} table")
    if key is not None:
        key_in(
            key, table, f"the {what} table", "Name the column that holds the samples: sample_key="
        )
    at = 0 if key is None else list(table.columns).index(key)
    names = pd.Index(_text(table.iloc[:, at]), dtype=object)
    _checks.cohorts.sample_names(names, f"the {what} table")
    return table.drop(columns=table.columns[at]).set_axis(names, axis=0)


def expression_matrix(
    table: pd.DataFrame, *, transpose: bool, what: str = "expression"
) -> pd.DataFrame:
    """Samples × genes as float64."""
    numbers = table.iloc[:, 1:]
    values = _checks.cohorts.expression_numbers(numbers, f"The {what} table")
    rows, columns = (
        pd.Index(_text(table.iloc[:, 0]), dtype=object),
        pd.Index(numbers.columns, dtype=object),
    )
    if not transpose:
        values, rows, columns = values.T, columns, rows
    _checks.cohorts.sample_names(rows, f"the {what} table")
    _checks.genes.gene_names(columns, f"the {what} table (its genes)")
    return pd.DataFrame(values, index=rows, columns=columns)


def _text(column: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in column]


def joined(expression: pd.DataFrame | None, obs: pd.DataFrame) -> tuple[AnnData, dict[str, Any]]:
    """The samples that both have, in the order of the expression; who is left out is told."""
    if expression is None:
        expression = pd.DataFrame(index=obs.index)
    is_in = expression.index.isin(obs.index)
    only = {
        "only_expression": expression.index[~is_in],
        "only_clinical": obs.index[~obs.index.isin(expression.index)],
    }
    told = [
        f"{len(names)} that are {key.replace('_', ' in the ')} table ({listed(names, 3)})"
        for key, names in only.items()
        if len(names)
    ]
    if told:
        warnings.warn(
            f"{is_in.sum()} samples are in both tables; left out: {' and '.join(told)}.",
            stacklevel=3,
        )
    found = expression[is_in]
    var = pd.DataFrame(index=pd.Index(found.columns, dtype=object))
    adata = AnnData(found.to_numpy(dtype=np.float64), obs=obs.loc[found.index], var=var)
    return adata, {key: np.array(names, dtype=object) for key, names in only.items()} | {
        "n_samples": adata.n_obs
    }


def columns_of_obs(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that a file can hold: numbers, 0 and 1 with NaN, categories, text.

    No slash in a name.
    """
    names = [
        name.replace("/", "_") or f"column_{i + 1}"
        for i, name in enumerate(map(str, table.columns))
    ]
    obs = pd.DataFrame(
        {i: typed(table.iloc[:, i]) for i in range(table.shape[1])}, index=table.index
    )
    obs.columns = pd.Index(names, dtype=object)
    _checks.cohorts.column_names(obs.columns, "the clinical table, with _ for /,")
    return obs


def typed(column: pd.Series) -> pd.Series:
    """One column; the missing values of yes and no are NaN, those of words are no category."""
    present = column.dropna()
    if isinstance(column.dtype, pd.CategoricalDtype) or not len(present):
        return column if len(present) else column.astype(np.float64)
    if present.map(lambda value: isinstance(value, bool | np.bool_)).all():
        return present.astype(bool if len(present) == len(column) else np.float64).reindex(
            column.index
        )
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.float64) if len(present) < len(column) else column
    text = present.map(str).astype(object).reindex(column.index)
    return text if present.is_unique and len(present) == len(column) else text.astype("category")


def yes_or_no(values: pd.Series) -> pd.Series:
    """0 and 1 as whole numbers where none is missing."""
    return values if values.isna().any() else values.astype(np.int64)


def tell_scale(adata: AnnData, where: str) -> None:
    """Say so if values cannot be logarithms."""
    values = np.asarray(adata.X)
    highest = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    if highest > _LOG_MAX:
        warnings.warn(
            f"The values of {where} go up to {highest:g}, so they are not on a log scale; a "
            f"score of a signature needs log values: "
            "np.log2(adata.X + 1), or a variance-stabilising transformation of counts.",
            stacklevel=3,
        )
