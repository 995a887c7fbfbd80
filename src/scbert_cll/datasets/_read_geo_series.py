"""datasets.read_geo_series: a series matrix of GEO, its samples described and its values."""

from __future__ import annotations

import warnings
from io import StringIO
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.datasets import _series, _tables

_SAMPLE: Final = "!Sample_"
_SERIES: Final = "!Series_"
_ACCESSION: Final = "!Sample_geo_accession"
_BEGIN, _END = "!series_matrix_table_begin", "!series_matrix_table_end"
_CHARACTERISTICS: Final = "characteristics_ch"
_OF_SERIES: Final = ("title", "geo_accession", "platform_id", "pubmed_id", "type")


def read_geo_series(path: str | PathLike[str], *, sha256: str | None = None) -> AnnData:
    """Read a series matrix of GEO (``GSE…_series_matrix.txt.gz``).

    What the authors say of a sample (``!Sample_characteristics``, ``key: value``) becomes columns,
    each cell by its own key, since the keys of a line may change between samples. Values are as
    deposited: GEO does not make them comparable, nor logarithms. Probes become genes with
    :func:`~scbert_cll.pp.collapse_probes`.

    Parameters
    ----------
    path
        The file, compressed or not; :func:`~scbert_cll.datasets.download_geo_series` gets it.
    sha256
        Checksum that the file must have.

    Returns
    -------
    AnnData of samples × probes, float64, with

    ``obs``
        By accession (``GSM…``): ``title``, the characteristics under their own names, and other
        lines that differ between samples. Numbers are numbers, words are categories. A name that is
        there twice gets ``_2``, and a ``/`` in it is ``_``.
    ``uns['cohort']`` : dict
        ``title``, ``geo_accession``, ``platform_id``, ``pubmed_id``, ``type`` (lists of text, as
        far as given), and ``files`` (file, sha256).

    Raises
    ------
    ValueError
        The file is no series matrix or not complete, probes are named twice, values are no numbers,
        or the checksum differs.

    Warns
    -----
    UserWarning
        The values cannot be logarithms (above 50; none is transformed), or there are none: series
        of sequencing have their counts in files of their own.

    Notes
    -----
    Outcomes come in any words and units. :func:`~scbert_cll.datasets.read_cohort` takes what was
    read here, and brings them in order::

        geo = read_geo_series(path) adata = read_cohort(geo.to_df().T, geo.obs, time_key="days to
        treatment", event_key="treated", unit="days", event_values={"yes": 1, "no": 0})
    """
    path = Path(path)
    found = _tables.checked_sum(path, sha256)
    about, table = parts(path, path.name)
    samples = pd.Index(about[_ACCESSION][0], dtype=object)
    _checks.cohorts.sample_names(samples, path.name)
    values = (
        _tables.expression_matrix(table, transpose=False, what=path.name)
        if len(table)
        else pd.DataFrame(index=samples)
    )
    obs = _tables.columns_of_obs(_described(about, samples))
    var = pd.DataFrame(index=pd.Index(values.columns, dtype=object))
    adata = AnnData(values.loc[samples].to_numpy(dtype=np.float64), obs=obs, var=var)
    if not adata.n_vars:
        warnings.warn(
            f"{path.name} holds no values; series of sequencing have their counts in "
            f"supplementary files.",
            stacklevel=2,
        )
    _tables.tell_scale(adata, path.name)
    series = {
        name: np.array([cell for line in about[_SERIES + name] for cell in line], dtype=object)
        for name in _OF_SERIES
        if _SERIES + name in about
    }
    files = pd.DataFrame({"file": [path.name], "sha256": [found]}, dtype=object).rename(index=str)
    adata.uns[_keys.COHORT] = series | {"files": files}
    return adata


def parts(path: Path, name: str) -> tuple[dict[str, list[list[str]]], pd.DataFrame]:
    """Lines of a whole series matrix by their name, each as its values; and the table."""
    about: dict[str, list[list[str]]] = {}
    table, is_complete = pd.DataFrame(), False
    try:
        text = _checks.text.read_text(path)
    except EOFError:  # a compressed file that was cut off
        about[_ACCESSION], text = [], ""
    file = StringIO(text)
    for line in iter(file.readline, ""):
        if line.startswith(_BEGIN):
            table, is_complete = _table(file, name)
            break
        if line.startswith("!"):
            key, *cells = _checks.text.fields_of(line.rstrip("\n"), "\t", name)
            about.setdefault(key, []).append([cell.strip() for cell in cells])
    _series.series_matrix(_ACCESSION in about, is_complete, name)
    _series.one_value_per_sample(about, _SAMPLE, _ACCESSION, _checks.text.odd_quotes(text), name)
    if len(table):
        _series.same_samples(table.columns[1:], pd.Index(about[_ACCESSION][0]), name)
    return about, table


def _table(file: TextIO, name: str) -> tuple[pd.DataFrame, bool]:
    """The values under their header (ID_REF and samples), and whether the line after them is the end."""
    header = _checks.text.fields_of(file.readline().rstrip("\r\n"), "\t", name)
    body = file.read()
    _series.no_open_quote(body, name)
    table = _tables.read_body(StringIO(body), "\t", len(header)).reindex(columns=range(len(header)))
    is_complete = bool(len(table)) and str(table.iloc[-1, 0]).startswith(_END)
    return table.iloc[:-1].set_axis(pd.Index(header, dtype=object), axis=1), is_complete


def _described(about: dict[str, list[list[str]]], samples: pd.Index) -> pd.DataFrame:
    """Samples × what is said of them."""
    columns: dict[str, dict[str, str]] = {}
    for name, lines in about.items():
        if not name.startswith(_SAMPLE) or name == _ACCESSION:
            continue
        field = name.removeprefix(_SAMPLE)
        is_own = field.startswith(_CHARACTERISTICS)
        for cells in lines:
            if is_own or field == "title" or len(set(cells)) > 1:
                for sample, cell in zip(samples, cells, strict=False):
                    key, said = _split(cell, field) if is_own else (field, cell)
                    _put(columns, key, sample, said)
    return pd.DataFrame(
        {
            key: _numbers(pd.Series(said, dtype=object).reindex(samples))
            for key, said in columns.items()
        },
        index=samples,
    )


def _split(cell: str, field: str) -> tuple[str, str]:
    """What a cell is about and what it says; without a colon it is about the line."""
    key, colon, said = cell.partition(":")
    return (key.strip(), said.strip()) if colon else (field, cell)


def _put(columns: dict[str, dict[str, str]], key: str, sample: str, said: str) -> None:
    """Under its name, or under name_2 where the sample has that one already."""
    if said in _tables.MISSING:
        return
    names = (key if i == 1 else f"{key}_{i}" for i in count(1))
    name = next(name for name in names if sample not in columns.get(name, {}))
    columns.setdefault(name, {})[sample] = said


def _numbers(column: pd.Series) -> pd.Series:
    """Numbers where all of a column are."""
    numbers = pd.to_numeric(column, errors="coerce")
    return column if (numbers.isna() & column.notna()).any() else numbers
