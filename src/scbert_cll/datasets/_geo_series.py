"""A series matrix of GEO: loaded when asked for, and read with its samples described."""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
import pandas as pd
from anndata import AnnData
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import HTTPError, IncompleteRead

from scbert_cll import _keys
from scbert_cll._checks.files import fields_of, odd_quotes, plain_file, read_text
from scbert_cll._checks.words import bytes_in_words, listed
from scbert_cll._disk.formats import write_text
from scbert_cll._disk.in_place import replace
from scbert_cll.datasets import _tables

type Lines = dict[str, list[list[str]]]  # fields of the lines that begin with a key

_SAMPLE: Final = "!Sample_"
_SERIES: Final = "!Series_"
_ACCESSION: Final = "!Sample_geo_accession"
_BEGIN, _END = "!series_matrix_table_begin", "!series_matrix_table_end"
_CHARACTERISTICS: Final = "characteristics_ch"
_OF_SERIES: Final = ("title", "geo_accession", "platform_id", "pubmed_id", "type")

_BASE: Final = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_TIMEOUT: Final = 60  # seconds without an answer
_LONGEST: Final = 3600  # seconds of one file: an answer may go on for ever
# seconds before an address is asked for the third time, and twice as long before the fourth
_WAIT: Final = 0.3
_MOST: Final = 10**9  # bytes of one file
_GZIP: Final = b"\x1f\x8b"
_AT_A_TIME: Final = 2**18  # bytes
_AGAIN: Final = (429, 500, 502, 503, 504)  # answers that may be others in a moment
_GSE: Final = re.compile(r"GSE\d+(-GPL\d+)?")
_SUM: Final = re.compile(r"[0-9a-fA-F]{64}")


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

        geo = read_geo_series(path)
        adata = read_cohort(
            geo.to_df().T,
            geo.obs,
            time_key="days to treatment",
            event_key="treated",
            unit="days",
            event_values={"yes": 1, "no": 0},
        )
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
    samples, odd = lines[_ACCESSION][0], odd_quotes(text)
    short = (
        (len(cells), key)
        for key, values in lines.items()
        for cells in values
        if key.startswith(_SAMPLE) and len(cells) != len(samples)
    )
    # an open quote makes one value of two, and those after it would be other samples'
    if odd is not None and (first := next(short, None)):
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


# ---- from GEO


def download_geo_series(
    accession: str,
    folder: str | PathLike[str],
    *,
    sha256: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Get a series matrix from GEO, once.

    The only function of the package that uses the network. What came is read before it gets its
    name: it is as long as was said, unpacks to its end, and is a whole series matrix. Its checksum
    is kept beside it, and a file that is there already is compared with it instead of being loaded
    again.

    Parameters
    ----------
    accession
        Of the series, ``"GSE39671"``; a series on several platforms has a file for each:
        ``"GSE22762-GPL570"``.
    folder
        Where to put it; made if it is not there.
    sha256
        Checksum that the file must have; otherwise the one that was noted when it was loaded.
    overwrite
        Load again.

    Returns
    -------
    Path of ``GSE…_series_matrix.txt.gz``, for :func:`~scbert_cll.datasets.read_geo_series`. Beside
    it is ``GSE…_series_matrix.txt.gz.sha256``, in the form of ``sha256sum``.

    Raises
    ------
    ConnectionError
        There is no network, or no whole answer of at most 1 GB in an hour; the message has the
        address, and where a file goes that was loaded by hand.
    FileNotFoundError
        GEO has no such file.
    ValueError
        This is no accession of a series, what came is no series matrix, the checksum differs, or
        the file of the checksum is damaged.
    """
    if not isinstance(accession, str) or not _GSE.fullmatch(accession):
        raise ValueError(
            "Expected the accession of a series in GEO, e.g. 'GSE39671' or 'GSE22762-GPL570'; "
            f"found {accession!r}."
        )
    path = Path(folder) / f"{accession}_series_matrix.txt.gz"
    noted = path.with_name(f"{path.name}.sha256")
    if path.exists() and not overwrite:
        digest = _tables.checked_sum(path, sha256 or _noted(noted))
    else:
        digest = _load(_address(accession, path.name), path, noted, sha256)
    write_text(noted, f"{digest}  {path.name}\n")
    return path


def _address(accession: str, name: str) -> str:
    """Where GEO keeps the file: a thousand series a folder."""
    series = accession.partition("-")[0]
    return f"{_BASE}/{series[:3]}{series[3:-3]}nnn/{series}/matrix/{name}"


def _noted(path: Path) -> str | None:
    """The checksum that was noted beside a file; None where none was."""
    if not path.exists():
        return None
    text = plain_file(path, most=_AT_A_TIME).read_bytes()
    digest = _SUM.match(text.decode("utf-8", "replace"))
    if digest is None:
        raise ValueError(
            f"{path} is damaged: it begins with no SHA-256. Load the file again with "
            f"overwrite=True; or delete {path.name}, if the file is right."
        )
    return digest[0]


def _load(address: str, path: Path, noted: Path, sha256: str | None) -> str:
    """Write aside, read, put in place; the checksum.

    The note of an older file goes first, so that none is beside a file that it is not of.
    """
    digests: list[str] = []

    def write(aside: Path) -> None:
        try:
            digests.append(_copy(address, aside))
        except FileNotFoundError:
            raise
        except (HTTPError, OSError) as error:
            raise _not_loaded(address, path, error) from error
        _tables.check_sum(path.name, digests[0], sha256)
        with warnings.catch_warnings(action="ignore"):  # left to who reads it
            parts(aside, path.name)
        noted.unlink(missing_ok=True)

    replace(path, write, lambda aside: _tables.checked_sum(aside, None) == digests[0])
    return digests[0]


def _copy(address: str, aside: Path) -> str:
    """All of what the address holds, as it comes; its checksum."""
    digest, n, start, until = hashlib.sha256(), 0, b"", time.monotonic() + _LONGEST
    with _answer(address) as answer, aside.open("wb") as file:
        # as it comes, not as much as was asked for
        while part := answer.read1(_AT_A_TIME, decode_content=False):
            start = (start + part)[:20]
            if not _GZIP.startswith(start[:2]):
                raise _not_packed(address, f"it begins with {start!r}")
            n += file.write(part)
            digest.update(part)
            if n > _MOST or time.monotonic() > until:
                raise ConnectionError(
                    f"it goes on after {bytes_in_words(n)}; at most 1 GB in an hour is taken"
                )
    if len(start) < 2:
        came = f"it begins with {start!r}" if start else "it is empty"
        raise _not_packed(address, came)
    return digest.hexdigest()


def _not_packed(address: str, came: str) -> ValueError:
    """A proxy may answer with a page of its own."""
    return ValueError(
        f"What {address} answered is no series matrix packed by gzip: {came}. A proxy or a page "
        "to log in may have answered; look at the address in a browser."
    )


@contextmanager
def _answer(address: str) -> Iterator[BaseHTTPResponse]:
    """The answer of the address.

    Asked again where that may help, and through the proxy that the environment names.
    """
    retries = Retry(
        total=3,
        redirect=5,
        status_forcelist=_AGAIN,
        backoff_factor=_WAIT,
        respect_retry_after_header=False,
    )
    url = urlsplit(address)
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    with PoolManager() if proxy is None else ProxyManager(proxy) as pool:
        answer = pool.request(
            "GET",
            address,
            preload_content=False,
            retries=retries,
            timeout=Timeout(_TIMEOUT),
            headers={"Accept-Encoding": "identity"},
        )
        try:
            if answer.status == 404:
                raise FileNotFoundError(
                    f"GEO has no {address}. A series on several platforms has a file for each: "
                    "accession='GSE…-GPL…'; the folder of the address lists them."
                )
            if answer.status != 200:
                raise ConnectionError(f"the answer is {answer.status} {answer.reason}")
            yield answer
        finally:
            answer.close()


def _not_loaded(address: str, path: Path, error: Exception) -> ConnectionError:
    why = str(error)
    for one in (error, *error.args):
        if isinstance(one, IncompleteRead):
            why = f"{one.partial} of {one.partial + (one.expected or 0)} bytes came"
    return ConnectionError(
        f"Could not load {address} ({why}). Without a network, load it elsewhere and put it at "
        f"{path}, then call this again or datasets.read_geo_series."
    )
