"""Files that must be whole: checksums, JSON, renaming into place, and one writer at a time."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

_LOCK: Final = ".lock"
_WRITER: Final = ".writer"  # who holds the lock, for the sentence to the others


class InUseError(RuntimeError):
    """Another process is writing there."""


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Checksum of plain values, whatever the order of their keys."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Turn arrays and NumPy numbers into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def write_json(path: Path, value: Any) -> None:
    """Write plain values aside and rename them into place, so that a crash leaves the old file or the new one."""
    text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object.")
    return value


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """Hold the one right to write to `folder`; the system gives it back when the process ends, however it ends.

    Raises
    ------
    InUseError
        Another process holds it; the sentence names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        writer = folder / _WRITER
        who = writer.read_text(encoding="utf-8").strip() if writer.is_file() else "another process"
        raise InUseError(
            f"{folder} is being written to by {who}. Wait until that has ended, stop it, or name another folder for {what}."
        ) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / _WRITER).write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
        yield
    finally:
        (folder / _WRITER).unlink(missing_ok=True)
        lock.release()
