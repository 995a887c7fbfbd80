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
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry, Timeout
from urllib3.exceptions import HTTPError, IncompleteRead

from scbert_cll._checks.paths import plain_file
from scbert_cll._checks.words import bytes_in_words
from scbert_cll._disk.formats import write_text
from scbert_cll._disk.in_place import replace
from scbert_cll.datasets._read_geo_series import parts
from scbert_cll.datasets._tables import check_sum, checked_sum

_BASE: Final = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_TIMEOUT: Final = 60  # seconds without an answer
_LONGEST: Final = 3600  # seconds of one file: an answer may go on for ever
# seconds before an address is asked for the third time, and twice as long before the fourth
_WAIT: Final = 0.3
_MOST: Final = 10**9  # bytes of one file
_GZIP: Final = b"\x1f\x8b"
_AT_A_TIME: Final = 2**18  # bytes
_AGAIN: Final = (429, 500, 502, 503, 504)  # answers that may be others in a moment
_ACCESSION: Final = re.compile(r"GSE\d+(-GPL\d+)?")
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
    if not isinstance(accession, str) or not _ACCESSION.fullmatch(accession):
        raise ValueError(
            "Expected the accession of a series in GEO, e.g. 'GSE39671' or 'GSE22762-GPL570'; "
            f"found {accession!r}."
        )
    path = Path(folder) / f"{accession}_series_matrix.txt.gz"
    noted = path.with_name(f"{path.name}.sha256")
    if path.exists() and not overwrite:
        digest = checked_sum(path, sha256 or _noted(noted))
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
        check_sum(path.name, digests[0], sha256)
        with warnings.catch_warnings(action="ignore"):  # left to who reads it
            parts(aside, path.name)
        noted.unlink(missing_ok=True)

    replace(path, write, lambda aside: checked_sum(aside, None) == digests[0])
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
            n = one.partial + (one.expected or 0)
            why = f"{one.partial} of {n} bytes came"
    return ConnectionError(
        f"Could not load {address} ({why}). Without a network, load it elsewhere and put it at "
        f"{path}, then call this again or datasets.read_geo_series."
    )
