"""Whatever a server answers: a whole series matrix under its name, or a sentence and nothing."""

from __future__ import annotations

import gzip
import hashlib
import socketserver
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scbert_cll import datasets
from scbert_cll.datasets import _geo_series as download

NAME = "GSE39671_series_matrix.txt.gz"
SERIES = (
    '!Series_title\t"CLL"\n!Sample_title\t"a"\t"b"\n!Sample_geo_accession\t"GSM1"\t"GSM2"\n'
    '!Sample_characteristics_ch1\t"age: 61"\t"age: '
    '70"\n!series_matrix_table_begin\n"ID_REF"\t"GSM1"\t"GSM2"\n'
    + "".join(f'"p{i}"\t{i % 7}.5\t{i % 5}.25\n' for i in range(200))
    + "!series_matrix_table_end\n"
)
PACKED = gzip.compress(SERIES.encode())
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def head(length: int | None, status: str = "HTTP/1.1 200 OK", *more: str) -> bytes:
    lines = [status, "Content-Type: application/x-gzip", "Connection: close", *more]
    return "\r\n".join(
        [*lines, *([] if length is None else [f"Content-Length: {length}"]), "", ""]
    ).encode()


def body(data: bytes, length: int | None = -1) -> bytes:
    return head(len(data) if length == -1 else length) + data


def changed(text: Callable[[str], str]) -> bytes:
    return body(gzip.compress(text(SERIES).encode()))


def endless(data: bytes) -> Iterator[bytes]:
    yield head(None)
    while True:
        yield data


def dripping() -> Iterator[bytes]:
    yield head(None)
    for i in range(len(PACKED)):
        yield PACKED[i : i + 1]
        time.sleep(0.05)


def chunked(data: bytes, *, end: bool) -> bytes:
    return (
        head(None, "HTTP/1.1 200 OK", "Transfer-Encoding: chunked")
        + f"{len(data):x}\r\n".encode()
        + data
        + b"\r\n"
        + b"0\r\n\r\n" * end
    )


# an answer, and what is said; None: it is read
ANSWERS: dict[str, tuple[bytes | Callable[[], Iterator[bytes]], str | None]] = {
    "whole": (body(PACKED), None),
    "whole, without a length": (body(PACKED, None), None),
    "whole, in chunks": (chunked(PACKED, end=True), None),
    "latin-1": (body(gzip.compress(SERIES.replace("CLL", "Größe").encode("latin-1"))), None),
    "utf-16": (body(gzip.compress(SERIES.encode("utf-16"))), None),
    "several members": (
        body(gzip.compress(SERIES[:500].encode()) + gzip.compress(SERIES[500:].encode())),
        None,
    ),
    "short": (body(PACKED[:-50], len(PACKED)), "bytes came"),
    "short, without a length": (body(PACKED[:-50], None), "is not complete"),
    "short, at the start": (body(PACKED[:1], None), "no series matrix packed by gzip"),
    "cut chunks": (chunked(PACKED, end=False), "Could not load"),
    "longer than its length": (body(PACKED + b"more", len(PACKED) - 20), "is not complete"),
    "more behind it": (body(PACKED + b"<html>"), "is not complete"),
    "empty": (body(b""), "it is empty"),
    "empty, without a length": (body(b"", None), "it is empty"),
    "a page": (body(PAGE), "no series matrix packed by gzip: it begins with b'<!DOCTYPE"),
    "a packed page": (body(gzip.compress(PAGE)), "is not a series matrix"),
    "not packed": (body(SERIES.encode()), "no series matrix packed by gzip"),
    "nothing packed": (body(gzip.compress(b"")), "is not a series matrix"),
    "endless zeros": (lambda: endless(b"\0" * 2**16), "no series matrix packed by gzip"),
    "endless": (lambda: endless(PACKED * 100), "it goes on after"),
    "dripping": (dripping, "it goes on after"),
    "damaged": (body(PACKED[:200] + bytes(60) + PACKED[260:]), "is not complete"),
    "wrong sum": (body(PACKED[:-8] + bytes(4) + PACKED[-4:]), "is not complete"),
    "no end line": (
        changed(lambda text: text.replace("!series_matrix_table_end\n", "")),
        "is not complete",
    ),
    "no begin line": (
        changed(lambda text: text.replace("!series_matrix_table_begin\n", "")),
        "is not complete",
    ),
    "no samples": (
        changed(lambda text: text.replace("!Sample_geo", "!Sample_no")),
        "is not a series matrix",
    ),
    "cut within the table": (changed(lambda text: text[:900]), "is not complete"),
    "huge field": (
        changed(lambda text: text.replace('"a"', '"' + "a" * 200_000)),
        "field of more than 131,072",
    ),
    "unclosed quote of a row": (
        changed(lambda text: text.replace('"p50"', '"p50')),
        "a quote that is not closed in row 51",
    ),
    "unclosed quote of a sample": (
        changed(lambda text: text.replace('"age: 61"', '"age: 61')),
        "a quote in line 4 is not closed",
    ),
    "zeros": (body(gzip.compress(bytes(1000))), "not text"),
    "other samples": (
        changed(lambda text: text.replace('"ID_REF"\t"GSM1"', '"ID_REF"\t"GSM7"')),
        "name different samples",
    ),
    "garbage": (b"\x00\xff garbage\r\n\r\n", "Could not load"),
    "garbage status": (b"HTTP/1.1 what 200\r\n\r\n", "Could not load"),
    "no answer": (b"", "Could not load"),
    "endless status": (lambda: iter([b"HTTP/1.1 200 " + b"x" * 10**6]), "Could not load"),
    "many headers": (
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n" + PACKED,
        "Could not load",
    ),
    "bad length": (
        head(None, "HTTP/1.1 200 OK", "Content-Length: many") + PAGE,
        "no series matrix|Could not load",
    ),
    "503": (head(0, "HTTP/1.1 503 No"), "Could not load"),
    "503, later": (head(0, "HTTP/1.1 503 No", "Retry-After: 99999"), "Could not load"),
    "403": (head(0, "HTTP/1.1 403 No"), "403"),
    "404": (head(0, "HTTP/1.1 404 No"), "GEO has no"),
    "206": (head(len(PACKED), "HTTP/1.1 206 Partial") + PACKED, "206"),
    "going in circles": (head(0, "HTTP/1.1 302 Found", "Location: /again"), "Could not load"),
    "to a file": (head(0, "HTTP/1.1 302 Found", "Location: file:///etc/passwd"), "Could not load"),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """A server that says to everybody what it was told to say."""
    said: list[Any] = [b""]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while b"\r\n\r\n" not in self.request.recv(2**16):
                pass
            answer = said[0]
            try:
                for part in answer() if callable(answer) else [answer]:
                    self.request.sendall(part)
            except OSError:  # nobody listens any more
                pass

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr(download, "_BASE", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setattr(download, "_MOST", 10**7, raising=False)
        monkeypatch.setattr(download, "_WAIT", 0.01, raising=False)
        monkeypatch.setattr(download, "_LONGEST", 1.5, raising=False)
        yield lambda answer: said.__setitem__(0, answer)
        server.shutdown()
        thread.join()


def there(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("case", ANSWERS)
def test_a_whole_series_or_a_sentence(
    server: Callable[[Any], None], tmp_path: Path, case: str
) -> None:
    answer, message = ANSWERS[case]
    server(answer)
    if message is None:
        path = datasets.download_geo_series("GSE39671", tmp_path)
        with warnings.catch_warnings(action="ignore"):
            assert datasets.read_geo_series(path).shape == (2, 200)
        assert there(tmp_path) == [NAME, f"{NAME}.sha256"]
        return
    with pytest.raises((ValueError, OSError), match=message) as told:
        datasets.download_geo_series("GSE39671", tmp_path)
    assert type(told.value) in (ValueError, ConnectionError, FileNotFoundError)
    assert there(tmp_path) == []


@pytest.mark.parametrize("case", [case for case, (_, message) in ANSWERS.items() if message])
def test_the_file_that_is_there_stays(
    server: Callable[[Any], None], tmp_path: Path, case: str
) -> None:
    server(ANSWERS["whole"][0])
    path = datasets.download_geo_series("GSE39671", tmp_path)
    server(ANSWERS[case][0])
    with pytest.raises((ValueError, OSError)):
        datasets.download_geo_series("GSE39671", tmp_path, overwrite=True)
    assert path.read_bytes() == PACKED
    assert datasets.download_geo_series("GSE39671", tmp_path) == path
    assert there(tmp_path) == [NAME, f"{NAME}.sha256"]


def test_it_is_asked_again_where_that_may_help(
    server: Callable[[Any], None], tmp_path: Path
) -> None:
    answers = iter([head(0, "HTTP/1.1 503 No"), b"", body(PACKED)])
    server(lambda: iter([next(answers)]))
    assert datasets.download_geo_series("GSE39671", tmp_path).read_bytes() == PACKED


@pytest.mark.parametrize("noted", ["", "\n", "what", f"{'0' * 63} x", "é", "\0" * 64])
def test_a_damaged_note_of_the_checksum(tmp_path: Path, noted: str) -> None:
    (tmp_path / NAME).write_bytes(PACKED)
    (tmp_path / f"{NAME}.sha256").write_bytes(noted.encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"\.sha256 is damaged: it begins with no SHA-256.*overwrite=True"
    ):
        datasets.download_geo_series("GSE39671", tmp_path)
    found = hashlib.sha256(PACKED).hexdigest()
    assert datasets.download_geo_series("GSE39671", tmp_path, sha256=found).exists(), (
        "a sum that is given needs no note"
    )
    assert (tmp_path / f"{NAME}.sha256").read_text() == f"{found}  {NAME}\n"
