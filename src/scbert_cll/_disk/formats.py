"""Kinds of files: what writes each and reads it back, and checksums.

A pair of `as_...` goes to `replace` in `in_place`, or, for a file of a folder that is itself still
aside, to `written`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from scbert_cll._disk.in_place import Same, Write, replace
from scbert_cll._version import __version__

CHECKSUM: Final = "checksum"  # of a list or note, in itself

type Json = dict[str, Any]  # an object of a JSON file, whose values are of any kind
type Arrays = Mapping[str, np.ndarray]


class FigureError(RuntimeError):
    """A figure could not be drawn; everything else is written."""


def sha256(path: Path) -> str:
    """Checksum of a file, or of all files of a folder with their names."""
    if path.is_dir():
        return digest(checksums(path, files_of(path)))
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{path} is a pipe, socket or device, and a plain file is expected. Remove it."
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path) -> list[Path]:
    """A file itself, or all files of a folder."""
    return [file for file in sorted((path, *path.rglob("*"))) if file.is_file()]


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Checksums of files, by their names in the folder."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def are_whole(folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether files of a folder, by their names in it, have these checksums."""
    if not all((folder / name).is_file() for name in sums):
        return False
    return all(sha256(folder / name) == checksum for name, checksum in sums.items())


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a file, or of all files of a folder, and when one was last written to."""
    files = files_of(path) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    times = [one.st_mtime_ns for one in stats]
    return sum(one.st_size for one in stats), max(times, default=0)


def digest(value: object) -> str:
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
        values = {str(k): plain(v) for k, v in value.items()}
        if len(values) < len(value):
            raise ValueError(
                f"Two of these keys are written alike, so one would be lost: "
                f"{sorted(map(repr, value))}."
            )
        return values
    if isinstance(value, np.ndarray | pd.api.extensions.ExtensionArray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, str) else value


def sealed(value: Mapping[str, object]) -> Json:
    """Plain values with a checksum of themselves, which no other file's checksum covers."""
    values: Json = plain({name: one for name, one in value.items() if name != CHECKSUM})
    return values | {CHECKSUM: digest(values)}


def is_sealed(value: Mapping[str, object]) -> bool:
    """Whether plain values are what their checksum of themselves says."""
    return CHECKSUM in value and value[CHECKSUM] == sealed(value)[CHECKSUM]


def versions(*libraries: str) -> dict[str, str]:
    """Versions of this package and of the installed ones of the libraries that write a file."""
    numbers = {"scbert_cll": __version__}
    for name in libraries:
        with suppress(PackageNotFoundError):
            numbers[name] = version(name)
    return numbers


# ---- what is read back


def same(value: Any, expected: Any) -> bool:
    """Whether two values are the same to the bit: arrays, tables, mappings, lists, plain values.

    A list stands for a tuple and a missing number for another one, since that is what files make of
    them.
    """
    if isinstance(expected, pd.DataFrame):
        # whether text is pandas' own kind or Python's makes no difference
        is_like = isinstance(value, pd.DataFrame) and value.shape == expected.shape
        return is_like and same(value.to_dict("split"), expected.to_dict("split"))
    if isinstance(expected, np.ndarray):
        return isinstance(value, np.ndarray) and _same_arrays(value, expected)
    if isinstance(expected, Mapping):
        is_like = isinstance(value, Mapping) and value.keys() == expected.keys()
        return is_like and all(same(value[name], one) for name, one in expected.items())
    if isinstance(expected, list | tuple):
        is_like = isinstance(value, list | tuple) and len(value) == len(expected)
        return is_like and all(map(same, value, expected))
    if isinstance(expected, float):
        return isinstance(value, float) and repr(value) == repr(expected)
    is_like = type(value) is type(expected)
    return value is expected or (is_like and bool(value == expected))


def _same_arrays(array: np.ndarray, expected: np.ndarray) -> bool:
    if array.dtype != expected.dtype or array.shape != expected.shape:
        return False
    if expected.dtype == object:
        return same(array.tolist(), expected.tolist())
    return array.tobytes() == expected.tobytes()


# ---- kinds of files


def as_text(text: str, same: Same | None = None) -> tuple[Write, Same]:
    """What writes a text (UTF-8, lines end as they do in `text`), and reads it back.

    `same` reads it as its user will.
    """
    data = text.encode()

    def is_written(path: Path) -> bool:
        return path.read_bytes() == data and (same is None or same(path))

    return lambda path: path.write_bytes(data), is_written


def as_json(value: object) -> tuple[Write, Same]:
    """What writes plain values, and reads them back."""
    expected = plain(value)
    text = json.dumps(expected, indent=1, allow_nan=False) + "\n"
    return as_text(text, lambda path: same(json.loads(path.read_bytes()), expected))


def as_arrays(arrays: Arrays) -> tuple[Write, Same]:
    """What writes arrays by name (.npz), and reads them back."""
    expected = {name: np.asarray(array, order="C") for name, array in arrays.items()}

    def write(path: Path) -> None:
        contiguous: Any = expected  # savez has parameters of its own
        with path.open("wb") as file:
            np.savez(file, **contiguous)

    return write, lambda path: same(read_arrays(path), expected)


def as_names(names: Iterable[str]) -> tuple[Write, Same]:
    """What writes names, one a line, and reads them back.

    Raises
    ------
    ValueError
        A name has a line break in it.
    """
    expected = list(names)
    if broken := [name for name in expected if "\n" in name or "\r" in name]:
        raise ValueError(
            f"A name with a line break cannot be written one a line: {broken[0]!r}. Rename it."
        )
    text = "".join(f"{name}\n" for name in expected)
    return as_text(text, lambda path: read_names(path) == expected)


def as_numbers(table: pd.DataFrame, index_label: str) -> tuple[Write, Same]:
    """What writes a table of numbers (.csv) with names of rows and columns, and reads it back.

    Every number comes back to the bit.
    """
    numbers = table.astype(np.float64)
    text = numbers.to_csv(index_label=index_label, lineterminator="\n")
    expected = numbers.rename(index=str, columns=str)
    return as_text(text, lambda path: same(read_numbers(path), expected))


def write_text(path: Path, text: str, same: Same | None = None) -> None:
    """Replace a text file."""
    replace(path, *as_text(text, same))


def write_json(path: Path, value: object) -> None:
    """Replace a file of plain values."""
    replace(path, *as_json(value))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read arrays by name; nothing is unpickled."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def read_names(path: Path) -> list[str]:
    """Read names, one a line; only a line break parts two names."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_numbers(path: Path) -> pd.DataFrame:
    """Read a table of numbers; a row called NA or 7157 keeps its name."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    # read_csv rounds in some versions of pandas
    numbers: pd.DataFrame = text.iloc[:, 1:].replace("", "nan").map(float)
    return numbers.set_axis(pd.Index(text.iloc[:, 0].astype(object)), axis=0)


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises
    ------
    ValueError
        The file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # brackets within brackets
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object.")
    return value
