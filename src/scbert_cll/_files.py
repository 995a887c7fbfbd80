"""Files that must be whole: checksums, writing and reading back, and renaming into place.

Every file and folder that the package writes goes through `replace` or `replace_all`: it is written aside, read back by what will read it,
compared, and only then put in the place of what was there. What lies in a folder that is itself still aside goes through `written`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

import scbert_cll

CHECKSUM: Final = "checksum"  # of a list or note, in itself


type Write = Callable[[Path], object]
type Same = Callable[[Path], bool]


class NotAsWrittenError(RuntimeError):
    """What is read back from a file is not what was to be written to it."""

    def __init__(self, path: Path, where: str = "") -> None:
        super().__init__(
            f"{path} was not written: {where or 'it'} reads back as something else. What was there before is as it was. "
            "The disk or a library may be at fault. Remedy: write to another disk; if that fails, too, "
            "pip install --upgrade safetensors h5py zarr anndata."
        )


class FigureError(RuntimeError):
    """A figure could not be drawn; everything else is written."""


def sha256(path: Path) -> str:
    """Checksum of a file, or of all files of a folder with their names."""
    if path.is_dir():
        return digest(
            {file.relative_to(path).as_posix(): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a file, or of all files of a folder, and when one was last written to."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    found = [file.stat() for file in files]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def digest(value: Any) -> str:
    """Checksum of plain values, whatever the order of their keys."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Turn arrays and NumPy numbers into what JSON knows.

    Raises
    ------
    ValueError
        Two keys of a mapping become one, such as 1 and "1": one of the values would be lost.
    """
    if isinstance(value, Mapping):
        found = {str(k): plain(v) for k, v in value.items()}
        if len(found) < len(value):
            raise ValueError(f"Two of these keys are written alike, so one would be lost: {sorted(map(repr, value))}.")
        return found
    if isinstance(value, np.ndarray | pd.api.extensions.ExtensionArray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with a checksum of themselves, which covers what no other file's checksum does."""
    found: dict[str, Any] = plain({name: one for name, one in value.items() if name != CHECKSUM})
    return found | {CHECKSUM: digest(found)}


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Whether plain values are what their checksum of themselves says."""
    return CHECKSUM in value and value[CHECKSUM] == sealed(value)[CHECKSUM]


def versions(*libraries: str) -> dict[str, str]:
    """Versions of this package and of the libraries that write a file; one that is not installed is left out."""
    found = {"scbert_cll": scbert_cll.__version__}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# ---- written aside, read back, put in place


def written(path: Path, write: Write, same: Same, what: Path | None = None) -> None:
    """Write a file or folder where it is, and read it back; `what` is the name that the user knows it by.

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
    """Write a file or folder aside, read it back, and only then put it in the place of what is there.

    Parameters
    ----------
    path
        The file or folder; its parents are made.
    write
        Writes to the path it is given.
    same
        Reads the path it is given, and says whether it holds what was to be written.

    Raises
    ------
    NotAsWrittenError
        It does not. What was there is as it was.
    """
    replace_all({path: (write, same)})


def replace_all(files: Mapping[Path, tuple[Write, Same]]) -> None:
    """Write several files or folders aside; when all are read back and right, put them in their places.

    A file aside has the ending of its name, since that says what it is.
    """
    aside = {path: path.with_name(f".new_{secrets.token_hex(4)}_{path.name}") for path in files}
    try:
        for path, (write, same) in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written(aside[path], write, same, path)
        for path in files:
            put_in_place(aside[path], path)
    finally:
        for left in aside.values():
            remove(left)


def put_in_place(aside: Path, path: Path) -> None:
    """Rename what is finished to the name it is looked for under; an old folder goes only when the new one is there."""
    if aside.is_file():
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    elif not path.exists():
        aside.rename(path)
    else:
        _swap(aside, path)


def set_aside(path: Path) -> Path:
    """Where the folder that is being replaced lies for a moment."""
    return path.with_name(f".{path.name}.old")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _swap(aside: Path, path: Path) -> None:
    old = set_aside(path)
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        aside.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def same(found: Any, expected: Any) -> bool:
    """Whether two values are the same to the bit: arrays of one dtype and shape, tables, mappings, lists, plain values.

    A list stands for a tuple and a missing number for another one, since that is what files make of them.
    """
    if isinstance(expected, pd.DataFrame):
        return isinstance(found, pd.DataFrame) and _same_tables(found, expected)
    if isinstance(expected, np.ndarray):
        return isinstance(found, np.ndarray) and _same_arrays(found, expected)
    if isinstance(expected, Mapping):
        there = isinstance(found, Mapping) and found.keys() == expected.keys()
        return there and all(same(found[name], value) for name, value in expected.items())
    if isinstance(expected, list | tuple):
        there = isinstance(found, list | tuple) and len(found) == len(expected)
        return there and all(same(*pair) for pair in zip(found, expected, strict=True))
    if isinstance(expected, float):
        return isinstance(found, float) and repr(found) == repr(expected)
    return found is expected or (type(found) is type(expected) and bool(found == expected))


def _same_arrays(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if expected.dtype == object:
        return same(found.tolist(), expected.tolist())
    return found.tobytes() == expected.tobytes()


def _same_tables(found: pd.DataFrame, expected: pd.DataFrame) -> bool:
    """Names of rows and columns, and every value; whether text is pandas' own kind or Python's makes no difference."""
    if found.shape != expected.shape:
        return False
    names = all(same(list(getattr(found, axis)), list(getattr(expected, axis))) for axis in ("columns", "index"))
    return names and all(
        same(found.iloc[:, i].tolist(), expected.iloc[:, i].tolist()) for i in range(expected.shape[1])
    )


# ---- kinds of files


def write_text(path: Path, text: str, same: Same | None = None) -> None:
    """Replace a text file (UTF-8, lines end as they do in `text`)."""
    replace(path, *as_text(text, same))


def as_text(text: str, same: Same | None = None) -> tuple[Write, Same]:
    """What writes a text, and reads it back; `same` reads it as its user will."""
    data = text.encode()
    return lambda path: path.write_bytes(data), lambda path: path.read_bytes() == data and (same is None or same(path))


def write_json(path: Path, value: Any) -> None:
    """Replace a file of plain values."""
    expected = plain(value)
    text = json.dumps(expected, indent=1, allow_nan=False) + "\n"
    write_text(path, text, lambda found: same(json.loads(found.read_text(encoding="utf-8")), expected))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace a file of arrays by name (.npz)."""
    replace(path, lambda aside: _savez(aside, arrays), lambda aside: same(read_arrays(aside), dict(arrays)))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name; nothing is unpickled."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return dict(found)


def _savez(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    contiguous: dict[str, Any] = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, **contiguous)


def write_names(path: Path, names: Iterable[str]) -> None:
    """Replace a file of names, one a line.

    Raises
    ------
    ValueError
        A name has a line break in it.
    """
    expected = list(names)
    if broken := [name for name in expected if "\n" in name or "\r" in name]:
        raise ValueError(f"A name with a line break cannot be written one a line: {broken[0]!r}. Rename it.")
    text = "".join(f"{name}\n" for name in expected)
    write_text(path, text, lambda found: read_names(found) == expected)


def read_names(path: Path) -> list[str]:
    """Read names, one a line; only a line break parts two names."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def write_numbers(path: Path, table: pd.DataFrame, index_label: str) -> None:
    """Replace a table of numbers (.csv) with names of rows and columns; every number comes back to the bit."""
    numbers = table.astype(np.float64)
    text = numbers.to_csv(index_label=index_label, lineterminator="\n")
    write_text(path, text, lambda found: same(read_numbers(found), numbers.rename(index=str, columns=str)))


def read_numbers(path: Path) -> pd.DataFrame:
    """Read a table of numbers; a row called NA or 7157 keeps its name."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers: pd.DataFrame = text.iloc[:, 1:].replace("", "nan").map(float)  # read_csv rounds in some versions of pandas
    return numbers.set_axis(pd.Index(text.iloc[:, 0].astype(object)), axis=0)


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
