"""Files that are opened: plain ones, of a size that is known beforehand."""

from __future__ import annotations

import os
import stat
from os import PathLike
from pathlib import Path
from typing import Final

from scbert_cll._checks.words import bytes_in_words

type FilePath = str | PathLike[str]

# bytes of a text, unpacked (parsed it takes several times that); of one line (60,000 genes as
# columns take 1 MB); of a file of options
MOST_TEXT: Final = 10**9
MOST_LINE: Final = 16 * 10**6
MOST_OPTIONS: Final = 10**6
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def plain_file(path: FilePath, what: str = "file", *, most: int | None = None) -> Path:
    """A file that can be read to its end: no folder, pipe, socket or device.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is something else, or holds more bytes than `most`.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"There is no {what} {path}.") from error
    except PermissionError:
        raise
    except (ValueError, OSError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{str(path)[:80]!r} is not a file name: {why}.") from error
    if kind := _KINDS.get(stat.S_IFMT(status.st_mode)):
        remedy = "write what it holds to a file first"
        if kind == "a folder":
            remedy = "name the file"
        raise ValueError(f"{path} is {kind}, and a plain file is expected; {remedy}.")
    if most is not None and status.st_size > most:
        size, limit = bytes_in_words(status.st_size), bytes_in_words(most)
        raise ValueError(f"{path} holds {size}; at most {limit} are read here.")
    return path


def plain_or_folder(path: FilePath, what: str = "file") -> Path:
    """A plain file, or a folder where what is read may be one."""
    if not os.path.isdir(path):  # noqa: PTH112
        return plain_file(path, what)
    for place, _, files in os.walk(path):
        for name in files:
            if not (Path(place) / name).is_file():
                plain_file(Path(place) / name)
    return Path(path)


def new_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, unless it is a file and to be replaced."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        remedy = "pass overwrite=True to replace it, or name another file"
        raise FileExistsError(f"{path} exists; {remedy}.")


def new_folder(path: Path) -> None:
    """Refuse a place that is taken."""
    if path.exists():
        raise FileExistsError(f"{path} exists; delete it, or name another folder.")
