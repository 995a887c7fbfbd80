"""datasets.download_geo_series: a series matrix from GEO, when asked for."""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import HTTPError, IncompleteRead

from scbert_cll import _checks
from scbert_cll._checks.words import bytes_in_words
from scbert_cll._disk.formats import write_text
from scbert_cll._disk.in_place import replace
from scbert_cll.datasets import _series, _tables
from scbert_cll.datasets._read_geo_series import parts

_BASE: Final = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_TIMEOUT: Final = 60  # seconds without an answer
_LONGEST: Final = 3600  # seconds of one file: an answer may go on for ever
# seconds before an address is asked for the third time, and twice as long before the fourth
_WAIT: Final = 0.3
_MOST: Final = 10**9  # bytes of one file
_GZIP: Final = b"\x1f\x8b"
_AT_A_TIME: Final = 2**18  # bytes
_AGAIN: Final = (429, 500, 502, 503, 504)  # answers that may be others in a moment
_SUM: Final = re.compile(r"[0-9a-fA-F]{64}")


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
    _series.accession(accession)
    folder = Path(folder)
    path = folder / f"{accession}_series_matrix.txt.gz"
    noted = path.with_name(f"{path.name}.sha256")
    if path.exists() and not overwrite:
        found = _tables.checked_sum(path, sha256 or _noted(noted))
    else:
        found = _load(_address(accession, path.name), path, noted, sha256)
    write_text(noted, f"{found}  {path.name}\n")
    return path


def _noted(path: Path) -> str | None:
    """The checksum that was noted beside a file; None where none was."""
    if not path.exists():
        return None
    found = _SUM.match(
        _checks.paths.plain_file(path, most=_AT_A_TIME).read_text(
            encoding="utf-8", errors="replace"
        )
    )
    if found is None:
        raise ValueError(
            f"{path} is damaged: it begins with no SHA-256. Load the file again with "
            f"overwrite=True; or delete {path.name}, if the file is right."
        )
    return found[0]


def _address(accession: str, name: str) -> str:
    """Where GEO keeps the file: a thousand series a folder."""
    series = accession.partition("-")[0]
    return f"{_BASE}/{series[:3]}{series[3:-3]}nnn/{series}/matrix/{name}"


def _load(address: str, path: Path, noted: Path, sha256: str | None) -> str:
    """Write aside, read, put in place.

    The note of an older file goes first, so that none is beside a file that it is not of.
    """
    sums: list[str] = []

    def write(aside: Path) -> None:
        sums.append(_copy(address, aside, path))
        _checks.tables.same_sum(path.name, sums[0], sha256)
        with warnings.catch_warnings(action="ignore"):  # told by who reads it
            parts(aside, path.name)
        noted.unlink(missing_ok=True)

    replace(path, write, lambda aside: _tables.checked_sum(aside, None) == sums[0])
    return sums[0]


def _copy(address: str, aside: Path, path: Path) -> str:
    """All of what the address holds, as it comes; its checksum."""
    found, n, start, until = hashlib.sha256(), 0, b"", time.monotonic() + _LONGEST
    try:
        with _answer(address) as answer, aside.open("wb") as file:
            while part := answer.read1(
                _AT_A_TIME, decode_content=False
            ):  # as it comes, not as much as was asked for
                start = (start + part)[:20]
                _series.packed_series(_GZIP.startswith(start[:2]), start, address)
                n += file.write(part)
                found.update(part)
                if n > _MOST or time.monotonic() > until:
                    raise ConnectionError(
                        f"it goes on after {bytes_in_words(n)}; at most 1 GB in an hour is taken"
                    )
    except FileNotFoundError:
        raise
    except (HTTPError, OSError) as error:
        raise _not_loaded(address, path, error) from error
    _series.packed_series(len(start) > 1, start, address)
    return found.hexdigest()


@contextmanager
def _answer(address: str) -> Iterator[BaseHTTPResponse]:
    """What the address answers.

    Asked again where that may help, and through the proxy that the environment names.
    """
    again = Retry(
        total=3,
        redirect=5,
        status_forcelist=_AGAIN,
        backoff_factor=_WAIT,
        respect_retry_after_header=False,
    )
    options: dict[str, Any] = {
        "retries": again,
        "timeout": Timeout(_TIMEOUT),
        "headers": {"Accept-Encoding": "identity"},
    }
    parts_of = urlsplit(address)
    proxy = None if proxy_bypass(parts_of.hostname or "") else getproxies().get(parts_of.scheme)
    with PoolManager(**options) if proxy is None else ProxyManager(proxy, **options) as pool:
        answer = pool.request("GET", address, preload_content=False)
        try:
            if answer.status == 404:
                raise FileNotFoundError(
                    f"GEO has no {address}. A series on several platforms has a file for "
                    f"each: accession='GSE…-GPL…'; the folder of the address lists them."
                )
            if answer.status != 200:
                raise ConnectionError(f"the answer is {answer.status} {answer.reason}")
            yield answer
        finally:
            answer.close()


def _not_loaded(address: str, path: Path, error: Exception) -> ConnectionError:
    short = next((one for one in (error, *error.args) if isinstance(one, IncompleteRead)), None)
    said = (
        error
        if short is None
        else f"{short.partial} of {short.partial + (short.expected or 0)} bytes came"
    )
    return ConnectionError(
        f"Could not load {address} ({said}). Without a network, load it elsewhere and put it "
        f"at {path}, then call this again or datasets.read_geo_series."
    )
