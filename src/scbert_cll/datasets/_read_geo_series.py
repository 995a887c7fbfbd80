"""datasets.read_geo_series: a series matrix of GEO, its samples described and its values."""

from __future__ import annotations

import warnings
from io import StringIO
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Final, TextIO

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.text import fields_of, odd_quotes, read_text
from scbert_cll._checks.words import listed
from scbert_cll.datasets import _tables

type Lines = dict[str, list[list[str]]]  # fields of the lines that begin with a key

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
    digest = _tables.checked_sum(path, sha256)
    lines, table = parts(path, path.name)
    samples = pd.Index(lines[_ACCESSION][0], dtype=object)
    _tables.check_samples(samples, path.name)
    values = pd.DataFrame(index=samples)
    if len(table):
        values = _tables.expression_matrix(table, what=path.name)
    obs = _tables.columns_of_obs(_described(lines, samples))
    adata = _tables.as_anndata(values.loc[samples], obs)
    if not adata.n_vars:
        warnings.warn(
            f"{path.name} holds no values; series of sequencing have their counts in "
            "supplementary files.",
            stacklevel=2,
        )
    _tables.warn_of_scale(adata, path.name)
    adata.uns[_keys.COHORT] = {
        name: np.array(list(chain.from_iterable(lines[_SERIES + name])), dtype=object)
        for name in _OF_SERIES
        if _SERIES + name in lines
    }
    files = pd.DataFrame({"file": [path.name], "sha256": [digest]}, dtype=object)
    adata.uns[_keys.COHORT]["files"] = files.rename(index=str)
    return adata


def parts(path: Path, name: str) -> tuple[Lines, pd.DataFrame]:
    """Lines of a whole series matrix by their name, each as its values; and the table."""
    lines: Lines = {}
    table, is_complete = pd.DataFrame(), False
    try:
        text = read_text(path)
    except EOFError:  # a compressed file that was cut off
        lines[_ACCESSION], text = [], ""
    file = StringIO(text)
    for line in iter(file.readline, ""):
        if line.startswith(_BEGIN):
            table, is_complete = _table(file, name)
            break
        if line.startswith("!"):
            key, *cells = fields_of(line.rstrip("\n"), "\t", name)
            lines.setdefault(key, []).append([cell.strip() for cell in cells])
    if _ACCESSION not in lines:
        raise ValueError(
            f"{name} is not a series matrix of GEO: it has no line {_ACCESSION}. Get "
            "GSE..._series_matrix.txt.gz."
        )
    if not is_complete:
        raise ValueError(
            f"{name} ends before its table does (no line {_END}), so it is not complete; get it "
            "again."
        )
    samples, odd = next(iter(lines[_ACCESSION]), []), odd_quotes(text)
    short = (
        (len(cells), key)
        for key, values in lines.items()
        for cells in values
        if key.startswith(_SAMPLE) and len(cells) != len(samples)
    )
    # an open quote makes one value of two, and those after it would be other samples'
    if odd is not None and samples and (first := next(short, None)):
        n, key = first
        raise ValueError(
            f"{name} has {len(samples)} samples and {n} values in a line {key}, and a quote in "
            f"line {odd} is not closed. Get the file again, or close it."
        )
    if len(table) and (other := set(table.columns[1:]) ^ set(samples)):
        raise ValueError(
            f"{name}: the table and the !Sample_ lines name different samples: "
            f"{listed(sorted(other))}. Get the file again."
        )
    return lines, table


def _table(file: TextIO, name: str) -> tuple[pd.DataFrame, bool]:
    """The values under their header (ID_REF and samples), and whether the end follows them."""
    header = fields_of(file.readline().rstrip("\r\n"), "\t", name)
    body = file.read()
    if (line := odd_quotes(body)) is not None:
        raise ValueError(
            f"{name} has a quote that is not closed in row {line} of its table, so the rows "
            "behind it would be lost. Get the file again, or close it."
        )
    table = _tables.read_body(body, "\t", len(header))
    table = table.reindex(columns=range(len(header)))
    is_complete = bool(len(table)) and str(table.iloc[-1, 0]).startswith(_END)
    return table.iloc[:-1].set_axis(pd.Index(header, dtype=object), axis=1), is_complete


def _described(lines: Lines, samples: pd.Index[str]) -> pd.DataFrame:
    """Samples × what their authors say of them; a name that a sample has twice gets ``_2``."""
    columns: dict[str, dict[str, str]] = {}
    for line, rows in lines.items():
        if not line.startswith(_SAMPLE) or line == _ACCESSION:
            continue
        field = line.removeprefix(_SAMPLE)
        has_keys = field.startswith(_CHARACTERISTICS)
        for cells in rows:
            if not has_keys and field != "title" and len(set(cells)) < 2:
                continue
            for sample, cell in zip(samples, cells, strict=False):
                key, colon, value = cell.partition(":")
                if not has_keys or not colon:
                    key, value = field, cell
                if (value := value.strip()) in _tables.MISSING:
                    continue
                free, i = key.strip(), 1
                while sample in columns.get(free, {}):
                    free, i = f"{key.strip()}_{i + 1}", i + 1
                columns.setdefault(free, {})[sample] = value
    table = pd.DataFrame(columns, index=samples, dtype=object)
    for name, column in table.items():
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.isna().equals(column.isna()):
            table[name] = numbers
    return table
