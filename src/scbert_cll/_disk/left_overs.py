"""What a call that may be interrupted leaves, so that the same call goes on.

Notes and arrays say which call made them; working folders are marked; one process writes at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock, Timeout

from scbert_cll._checks.words import bytes_in_words, listed
from scbert_cll._disk import formats
from scbert_cll._disk.formats import Arrays, Json, is_sealed, sealed
from scbert_cll._disk.in_place import OURS, make_folder, remove, replace

MARKER: Final = ".scbert_cll"  # in a working folder: it is ours
_SEAL: Final = "seal"  # of arrays, among them
_LOCK: Final = ".lock"
_WRITER: Final = ".writer"  # who holds the lock, for the sentence to the others


class InUseError(RuntimeError):
    """Another process is writing there."""


def write_note(path: Path, note: Mapping[str, object], call: str) -> None:
    """Replace a note (.json) that says which call made it, with a checksum of itself."""
    formats.write_json(path, sealed({**note, "call": call}))


def read_note(path: Path, call: str) -> Json | None:
    """A note, if this call made it and it is whole; else None, so that it is made again."""
    try:
        note = formats.read_json(path)
    except (OSError, ValueError):
        return None
    return note if is_sealed(note) and note.get("call") == call else None


def refuse_another_call(call: Json, begun: Json, folder: Path, what: str) -> None:
    """Refuse to go on with what was begun with other parameters; these are named."""
    differing = [
        f"{name} (was {begun.get(name)!r}, now {value!r})"
        for name, value in call.items()
        if value != begun.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds {what}, begun differently: {'; '.join(differing)}. Call it the same "
            f"way to go on, or delete {folder} to begin anew."
        )


@contextmanager
def goes_on(folder: Path, verb: str, n_bytes: float) -> Iterator[None]:
    """Where the disk is full, say how much more is needed and that the same call goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"The disk is full; about {bytes_in_words(n_bytes)} more are needed. Free them and "
            f"call {verb} the same way: it goes on from {folder}",
        ) from error


def write_kept(path: Path, arrays: Arrays, note: Json, call: str) -> None:
    """Replace a file (.npz) of arrays, a note, which call made them, and their checksums."""
    seal = sealed({"note": note, "call": call, "arrays": _sums(arrays)})
    text = np.frombuffer(json.dumps(seal, allow_nan=False).encode(), np.uint8)
    replace(path, *formats.as_arrays({**arrays, _SEAL: text}))


def read_kept(path: Path, call: str) -> tuple[Json, dict[str, np.ndarray]] | None:
    """Note and arrays, if this call made them and they are whole.

    Else None, so that they are made again.
    """
    try:
        arrays = formats.read_arrays(path)
        seal = json.loads(arrays.pop(_SEAL).tobytes())
        is_of_call = is_sealed(seal) and seal["call"] == call
        is_right = is_of_call and seal["arrays"] == _sums(arrays)
    except Exception:  # noqa: BLE001
        return None
    return (seal["note"], arrays) if is_right else None


def _sums(arrays: Arrays) -> dict[str, str]:
    """Checksum of each array, of what kind and shape it is, and of its bytes."""
    sums = {}
    for name, array in arrays.items():
        head = f"{array.dtype.str}{array.shape}".encode()
        content = np.asarray(array, order="C").tobytes()
        sums[name] = hashlib.sha256(head + content).hexdigest()
    return sums


def claim(folder: Path, what: str) -> None:
    """Make a working folder, or go on in one of ours.

    A folder that somebody else put there is left as it is.

    Raises
    ------
    FileExistsError
        There is something without our marker.
    """
    if (folder / MARKER).is_file():
        return
    if names := _foreign(folder):
        raise FileExistsError(
            f"{folder} is the folder to work in for {what}, and what is there is not of "
            f"scbert_cll: {listed(names)}. Move it to another place, or name "
            f"another folder for {what}."
        )
    text = "Working folder of scbert_cll: what lies here is deleted when the work is done.\n"
    formats.write_text(folder / MARKER, text)


def discard(folder: Path, *names: str) -> None:
    """Remove what has these names (``*``: any) from a working folder of ours.

    The folder goes with it, if nothing else is in it.
    """
    if (folder / MARKER).is_file():
        for name in (*names, f"{OURS}*"):
            for path in folder.glob(name):
                remove(path)
    if not _foreign(folder):
        # the marker goes last: what is interrupted here is still ours
        for name in (_LOCK, _WRITER, MARKER):
            (folder / name).unlink(missing_ok=True)
        # another process has begun again, or has ended this before
        with suppress(OSError):
            folder.rmdir()


def _foreign(folder: Path) -> list[str]:
    """Names in a folder but our marker, locks and what lies aside; of a file, its name."""
    if not folder.is_dir():
        return [folder.name] if folder.exists() or folder.is_symlink() else []
    names = {path.name for path in folder.iterdir()} - {_LOCK, _WRITER, MARKER}
    return sorted(name for name in names if not name.startswith(OURS))


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """Hold the one right to write to `folder`.

    The system gives it back when the process ends, however it ends.

    Raises
    ------
    InUseError
        Another process holds it; the sentence names it.
    """
    make_folder(folder)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        writer = folder / _WRITER
        who = "another process"
        if writer.is_file():
            who = writer.read_text(encoding="utf-8").strip()
        raise InUseError(
            f"{folder} is being written to by {who}. Wait until that has ended, stop it, or "
            f"name another folder for {what}."
        ) from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / _WRITER).write_text(
            f"process {os.getpid()} on {socket.gethostname()}, since {since}\n"
        )
        yield
    finally:
        (folder / _WRITER).unlink(missing_ok=True)
        lock.release()
