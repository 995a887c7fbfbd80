"""Series from a server of the test's own: once, whole, and as they were asked for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scbert_cll import datasets
from scbert_cll.datasets import _geo_series
from tests.datasets._files import SERIES, written


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if "GSE66" in self.path:  # says more bytes than it sends
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\x1f\x8b\x08\x00")
        elif "GSE77" in self.path:
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def geo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that holds one series, in GEO's folders."""
    root = tmp_path / "server"
    folder = root / "GSE39nnn" / "GSE39671" / "matrix"
    folder.mkdir(parents=True)
    path = written(folder, "GSE39671_series_matrix.txt.gz", SERIES)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(_geo_series, "_BASE", f"http://127.0.0.1:{server.server_port}")
        yield path
        server.shutdown()
        thread.join()


def test_download_once(geo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    path = datasets.download_geo_series("GSE39671", folder)
    found = hashlib.sha256(geo.read_bytes()).hexdigest()
    assert path == folder / "GSE39671_series_matrix.txt.gz"
    assert path.read_bytes() == geo.read_bytes()
    assert (folder / f"{path.name}.sha256").read_text() == f"{found}  {path.name}\n"
    assert datasets.read_geo_series(path, sha256=found).n_obs == 3
    written(geo.parent, geo.name, SERIES.replace("8.25", "8.5"))  # GEO has another version now
    assert datasets.download_geo_series("GSE39671", folder) == path
    assert path.read_bytes() != geo.read_bytes(), "a file that is there is not loaded again"
    with pytest.raises(ValueError, match="not the file that was expected"):
        datasets.download_geo_series("GSE39671", folder, sha256=found, overwrite=True)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == found, "the old file stays"
    datasets.download_geo_series("GSE39671", folder, overwrite=True)
    assert path.read_bytes() == geo.read_bytes()
    assert len(list(folder.iterdir())) == 2, "nothing is left aside"


def test_a_file_that_changed_is_noticed(geo: Path, tmp_path: Path) -> None:
    path = datasets.download_geo_series("GSE39671", tmp_path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        ValueError, match=r"GSE39671_series_matrix\.txt\.gz is not the file that was expected"
    ):
        datasets.download_geo_series("GSE39671", tmp_path)


def test_a_file_that_was_put_there_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path, "GSE1_series_matrix.txt.gz", SERIES)
    assert datasets.download_geo_series("GSE1", tmp_path) == path
    assert (tmp_path / f"{path.name}.sha256").exists()


@pytest.mark.parametrize(
    ("accession", "error", "message"),
    [
        (
            "GSE39672",
            FileNotFoundError,
            (
                r"GEO has no "
                r".*/GSE39nnn/GSE39672/matrix/GSE39672_series_matrix.txt.gz.*GSE…-GPL…"
            ),
        ),
        (
            "GSE22762-GPL570",
            FileNotFoundError,
            "/GSE22nnn/GSE22762/matrix/GSE22762-GPL570_series_matrix.txt.gz",
        ),
        (
            "GSE66",
            ConnectionError,
            (
                r"Could not load .*/GSEnnn/GSE66/matrix/.* \(4 of 1000 bytes "
                r"came\)"
            ),
        ),
        (
            "GSE77",
            ConnectionError,
            (
                r"Could not load .* put it at .*GSE77_series_matrix.txt.gz, "
                r"then"
            ),
        ),
    ],
)
@pytest.mark.usefixtures("geo")
def test_download_that_fails(
    tmp_path: Path, accession: str, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(error, match=message):
        datasets.download_geo_series(accession, folder)
    assert list(folder.iterdir()) == []


def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_geo_series, "_BASE", "http://127.0.0.1:9")
    with pytest.raises(
        ConnectionError,
        match=r"Could not load http://127.0.0.1:9/GSEnnn/GSE12/.*refused.*put it at",
    ):
        datasets.download_geo_series("GSE12", tmp_path)


@pytest.mark.parametrize("accession", ["GPL570", "GSE", "../GSE1", "GSE1/..", "GSE1-570", ""])
def test_accessions_that_are_none(accession: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected the accession of a series in GEO"):
        datasets.download_geo_series(accession, tmp_path)


def test_the_address_is_geo() -> None:
    assert _geo_series._address("GSE39671", "x") == (
        "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE39nnn/GSE39671/matrix/x"
    )
    assert "/GSEnnn/GSE12/" in _geo_series._address("GSE12-GPL1", "x")
