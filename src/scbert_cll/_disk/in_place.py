"""Files and folders put in place: written aside, read back, forced to the disk, and renamed.

By one process at a time. Whatever the package writes goes through `replace`, `replace_all` or
`put_in_place`. A crash at any moment leaves the old or the new under the name. A folder that
replaces a folder takes two renames: where a crash came between them, `settle` ends the exchange.
Writers call it, and so does `whole`, through which folders are read. The order of writing, forcing
and renaming is SQLite's and git's; a rename may otherwise reach the disk before the bytes do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

OURS: Final = ".scbert_cll-"  # how the name of whatever lies aside begins
_NEW, _OLD, _BIN, _LOCK = "new", "old", "bin", "lock"
_LONGEST: Final = 200  # bytes of a name; file systems allow 255, and ours is longer
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_NO_SPACE: Final = os.strerror(errno.ENOSPC)
_BUSY: Final = {errno.EBUSY, errno.EXDEV}
# folders, on some network drives
_CANNOT_FORCE: Final = {
    getattr(errno, name) for name in ("EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EACCES")
}

type Write = Callable[[Path], object]
type Same = Callable[[Path], bool]


class NotAsWrittenError(RuntimeError):
    """What is read back from a file is not what was to be written to it."""

    def __init__(self, path: Path, where: str = "") -> None:
        super().__init__(
            f"{path} was not written: {where or 'it'} reads back as something else. What was there "
            f"before is as it was. The disk or a library may be at fault. Remedy: write to another "
            f"disk; if that fails, too, pip install --upgrade safetensors h5py zarr anndata."
        )


# ---- writing


def written(path: Path, write: Write, same: Same, what: Path | None = None) -> None:
    """Write a file or folder where it is, and read it back.

    `what` is the name that the user knows it by.

    Raises
    ------
    NotAsWrittenError
        `same` says that what is read back is something else, or cannot read it.
    """
    try:
        write(path)
    except NotAsWrittenError as error:  # of a file in a folder
        raise NotAsWrittenError(what or path) from error
    try:
        right = same(path)
    except (ValueError, KeyError, EOFError) as error:  # it cannot even be read
        raise NotAsWrittenError(what or path) from error
    if not right:
        raise NotAsWrittenError(what or path)


def replace(path: Path, write: Write, same: Same) -> None:
    """Write a file or folder aside, read it back, and only then replace what is there.

    Parameters
    ----------
    path
        The file or folder; its parents are made. Of a link, what it leads to.
    write
        Writes to the path it is given.
    same
        Reads the path it is given, and says whether it holds what was to be written.

    Raises
    ------
    NotAsWrittenError
        It does not. What was there is as it was.
    OSError
        The disk is full, or the place is a mount point. What was there is as it was.
    """
    replace_all({path: (write, same)})


def replace_all(files: Mapping[Path, tuple[Write, Same]]) -> None:
    """Write several files or folders aside.

    When all are read back and right, put them in their places.

    A file aside has the ending of its name, since that says what it is.
    """
    places = {_led_to(path): (path, *how) for path, how in files.items()}
    aside = {place: _beside(place, _NEW) for place in places}
    with _alone(*places):
        try:
            for place, (path, write, same) in places.items():
                _can_be_renamed(place)
                with _sentence_where_full(path):
                    written(aside[place], write, same, path)
                    force(aside[place])
            for place in places:
                _exchange(aside[place], place)
        finally:
            for left in aside.values():
                remove(left)


def put_in_place(aside: Path, path: Path) -> None:
    """Force what is finished to the disk, and rename it to the name it is looked for under.

    An old folder goes only when the new one is there.
    """
    place = _led_to(path)
    with _alone(place), _sentence_where_full(path):
        _can_be_renamed(place)
        force(aside)
        _exchange(aside, place)


def force(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk, not in the system's memory."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            force(inner)
        _force_folder(path)
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each with its name on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _force_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---- reading


def whole[Content](path: Path, read: Callable[[Path], Content]) -> Content:
    """What is read under the name of a folder.

    Where another process exchanges it meanwhile, the folder is read again.
    """
    while True:
        settle(path)
        before = _identity(path)
        try:
            return read(path)
        except (OSError, ValueError):
            settle(path)
            if _identity(path) == before:
                raise


def settle(path: Path) -> None:
    """Where nothing is under a name, wait for who is exchanging it, or end the exchange.

    Raises
    ------
    PermissionError
        There is such an exchange, and this user may not end it.
    """
    place = _led_to(path)
    left = [_beside(place, what) for what in (_OLD, _LOCK)]
    if not place.exists() and any(map(os.path.lexists, left)):
        try:
            with _alone(place):
                pass
        except PermissionError as error:
            raise PermissionError(
                error.errno,
                f"It was being replaced when the process that did so ended. Read it once as "
                f"somebody who may write to {place.parent}, which ends that",
                str(path),
            ) from error


# ---- the exchange


@contextmanager
def _alone(*places: Path) -> Iterator[None]:
    """Hold the one right to write under some names.

    The system gives it back however the process ends. Nothing is left of dead processes.
    """
    with ExitStack() as locks:
        # in one order, lest two processes wait for each other
        for place in sorted(places):
            make_folder(place.parent)
            locks.enter_context(FileLock(_beside(place, _LOCK), mode=0o664))
            locks.callback(_beside(place, _LOCK).unlink, missing_ok=True)
            _end(place)
        yield


def _end(place: Path) -> None:
    """End what a process that died has left.

    What is aside is whole once the old folder has been moved, and never before.
    """
    new, old = _beside(place, _NEW), _beside(place, _OLD)
    if old.exists() and not place.exists():
        (new if new.exists() else old).rename(place)
        _force_folder(place.parent)
    _discard(place)
    remove(new)


def _exchange(aside: Path, place: Path) -> None:
    """Rename.

    Of two folders the old one is moved first, and comes back where the new one cannot be put in its
    place.
    """
    old = _beside(place, _OLD)
    try:
        if aside.is_file():
            aside.replace(place)
        elif not place.exists():
            aside.rename(place)
        else:
            place.rename(old)
            _force_folder(place.parent)
            aside.rename(place)
    except BaseException as error:
        if old.exists() and not place.exists():
            old.rename(place)
        if isinstance(error, OSError) and error.errno in _BUSY:
            raise _mounted(place, error.errno) from error
        raise
    _force_folder(place.parent)
    _discard(place)


def _discard(place: Path) -> None:
    """Remove the old folder; it has another name first, since half of it must never come back."""
    old, waste = _beside(place, _OLD), _beside(place, _BIN)
    remove(waste)
    if os.path.lexists(old):
        old.rename(waste)
        remove(waste)


def _beside(place: Path, what: str) -> Path:
    """Where the new, the old or the lock of a place lies for a moment."""
    name = place.name
    if len(name.encode()) > _LONGEST:
        name = hashlib.sha256(name.encode()).hexdigest()[:32] + place.suffix
    return place.with_name(f"{OURS}{what}-{name}")


def _led_to(path: Path) -> Path:
    """What a link leads to; it is that which is replaced, not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_ctime_ns


def _force_folder(path: Path) -> None:
    """Have the names in a folder on the disk. Windows and some network drives cannot be told to."""
    if os.name == "nt":
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _CANNOT_FORCE:
            raise
    finally:
        os.close(opened)


# ---- what the system refuses


def _can_be_renamed(place: Path) -> None:
    if place.is_mount():
        raise _mounted(place, errno.EBUSY)


def _mounted(place: Path, number: int) -> OSError:
    return OSError(
        number,
        "This is a mount point (as a volume of a container is), which cannot be replaced as a "
        "whole; it is as it was. Name a place inside it",
        str(place),
    )


@contextmanager
def _sentence_where_full(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 says it either way
        if not _is_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"{_NO_SPACE}: not written, and what was there before is as it was. Make room, or "
            f"name a place on another disk",
            str(path),
        ) from error


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a quota, is behind an error."""
    if error is None:
        return False
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or _NO_SPACE in str(error) or _is_full(error.__cause__)
