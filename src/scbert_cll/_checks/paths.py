"""Files that are opened: plain ones, of a size that is known beforehand.

And what a packed one may hold.
"""

from __future__ import annotations

import os
import stat
import zipfile
from os import PathLike
from pathlib import Path
from typing import Final

from scbert_cll._checks.words import bytes_in_words

MOST_TEXT: Final = 10**9  # bytes of a text, unpacked; once parsed it takes several times that
MOST_LINE: Final = 16 * 10**6  # bytes of one line: 60,000 genes as columns take one of 1 MB
MOST_OPTIONS: Final = 10**6  # bytes of a file of options
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_file(path: str | PathLike[str], what: str = "file", *, most: int | None = None) -> Path:
    """A file that can be read to its end: no folder, and no pipe, socket or device, which may never end.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is something else, or holds more bytes than `most`.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"There is no {what} {path}.") from error
    except ValueError as error:  # a zero byte in the name
        raise ValueError(f"{str(path)!r} is no name of a file: {error}.") from error
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{str(path)[:80]!r} is no name of a file: {error.strerror}.") from error
    if kind := next((words for is_one, words in _KINDS if is_one(found.st_mode)), None):
        remedy = "name the file" if kind == "a folder" else "write what it holds to a file first"
        raise ValueError(f"{path} is {kind}, and a plain file is expected; {remedy}.")
    if most is not None and found.st_size > most:
        raise ValueError(
            f"{path} holds {bytes_in_words(found.st_size)}; at most {bytes_in_words(most)} "
            f"are read here."
        )
    return path


def plain_or_folder(path: str | PathLike[str], what: str = "file") -> Path:
    """A plain file, or a folder where what is read may be one."""
    if not os.path.isdir(path):  # noqa: PTH112
        return plain_file(path, what)
    for place, _, files in os.walk(path):
        for name in files:
            if not (Path(place) / name).is_file():
                plain_file(Path(place) / name)
    return Path(path)


def stored_archive(path: Path) -> None:
    """A zip archive whose members are not compressed, as torch and NumPy write them: none is larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # whoever reads it says what is wrong
    held, size = sum(member.file_size for member in members), path.stat().st_size
    if held > size:
        raise ValueError(
            f"{path} holds {bytes_in_words(held)} in {bytes_in_words(size)}: its members are "
            f"compressed, and those that "
            "torch.save or numpy.savez write are not. Write it again with them."
        )


def new_file(path: Path, *, overwrite: bool) -> None:
    """A place for a file, which only replaces another file that it is told to."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; pass overwrite=True to replace it, or name another file."
        )
