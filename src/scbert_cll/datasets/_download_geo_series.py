"""datasets.download_geo_series: a series matrix from GEO, when asked for."""

from __future__ import annotations

import secrets
import shutil
from os import PathLike
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from scbert_cll import _checks
from scbert_cll._files import write_text
from scbert_cll.datasets import _tables

_BASE: Final = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_TIMEOUT: Final = 60  # seconds without an answer


def download_geo_series(
    accession: str, folder: str | PathLike[str], *, sha256: str | None = None, overwrite: bool = False
) -> Path:
    """Get a series matrix from GEO, once.

    The only function of the package that uses the network. The file is written aside and renamed, so there is never half of one; its checksum is kept beside it, and a file that is
    there already is compared with it instead of being loaded again.

    Parameters
    ----------
    accession
        Of the series, ``"GSE39671"``; a series on several platforms has a file for each: ``"GSE22762-GPL570"``.
    folder
        Where to put it; made if it is not there.
    sha256
        Checksum that the file must have; otherwise the one that was noted when it was loaded.
    overwrite
        Load again.

    Returns
    -------
    Path of ``GSE…_series_matrix.txt.gz``, for :func:`~scbert_cll.datasets.read_geo_series`. Beside it is ``GSE…_series_matrix.txt.gz.sha256``, in the form of ``sha256sum``.

    Raises
    ------
    ConnectionError
        There is no network or no answer; the message has the address, and where a file goes that was loaded by hand.
    FileNotFoundError
        GEO has no such file.
    ValueError
        This is no accession of a series, or the checksum differs.
    """
    _checks.accession(accession)
    folder = Path(folder)
    path = folder / f"{accession}_series_matrix.txt.gz"
    noted = path.with_name(f"{path.name}.sha256")
    if path.exists() and not overwrite:
        expected = sha256 or (noted.read_text(encoding="utf-8").split()[0] if noted.exists() else None)
        found = _tables.checked_sum(path, expected)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        found = _load(_address(accession, path.name), path, sha256)
    write_text(noted, f"{found}  {path.name}\n")
    return path


def _address(accession: str, name: str) -> str:
    """Where GEO keeps the file: a thousand series a folder."""
    series = accession.partition("-")[0]
    return f"{_BASE}/{series[:3]}{series[3:-3]}nnn/{series}/matrix/{name}"


def _load(address: str, path: Path, sha256: str | None) -> str:
    """Write aside, compare, rename."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _copy(address, aside, path)
        found = _tables.checked_sum(aside, None)
        _checks.same_sum(path.name, found, sha256)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return found


def _copy(address: str, aside: Path, path: Path) -> None:
    """All of what the address holds."""
    try:
        with urlopen(address, timeout=_TIMEOUT) as answer, aside.open("wb") as file:  # noqa: S310 (https, see _BASE)
            shutil.copyfileobj(answer, file)
            announced = answer.headers.get("Content-Length")
        if announced is not None and aside.stat().st_size != int(announced):
            raise ConnectionError(f"{aside.stat().st_size} of {announced} bytes came")
    except HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(
                f"GEO has no {address}. A series on several platforms has a file for each: accession='GSE…-GPL…'; the folder of the address lists them."
            ) from error
        raise _not_loaded(address, path, error) from error
    except (URLError, OSError) as error:
        raise _not_loaded(address, path, error) from error


def _not_loaded(address: str, path: Path, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"Could not load {address} ({error}). Without a network, load it elsewhere and put it at {path}, then call this again or datasets.read_geo_series."
    )
