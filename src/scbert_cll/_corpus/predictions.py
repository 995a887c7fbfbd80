"""What a model says of every cell of a corpus: an AnnData without X in a zarr store, filled window by window.

Everything has its size from the start and is cut into chunks of one window, so that processes can
fill it at the same time; nothing is held in memory but a window, or the `obs` of one dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, write_elem

from scbert_cll import _keys, _names, _record
from scbert_cll._corpus.format import Corpus
from scbert_cll._corpus.write import SOURCE
from scbert_cll._disk.formats import digest, plain, same, sha256, versions
from scbert_cll._disk.in_place import NotAsWrittenError, put_in_place, remove
from scbert_cll._disk.left_overs import read_kept, read_note, write_kept, write_note

PART: Final = "part"
_FORMAT: Final = "scbert_cll predictions"
_FORMAT_VERSION: Final = 1
_WRITERS: Final = ("anndata", "zarr", "numpy", "torch")
_INDEX: Final = "_index"
_NAMES_PER_CHUNK: Final = 2**16
_PROGRESS: Final = "progress.json"
_LAID: Final = "laid.json"  # files of the store before the first window
_FRAME: Final = {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": _INDEX}
_CATEGORICAL: Final = {
    "encoding-type": "categorical",
    "encoding-version": "0.2.0",
    "ordered": False,
}


class Piece(NamedTuple):
    """Neighbouring cells of a part, and the row of the first among all that are predicted."""

    part: str
    start: int
    stop: int
    row: int


def n_cells(corpus: Corpus, parts: Sequence[str]) -> int:
    """Cells of some parts."""
    return sum(corpus.n_cells(part) for part in parts)


def pieces(corpus: Corpus, parts: Sequence[str], start: int, stop: int) -> Iterator[Piece]:
    """Rows `start` to `stop` of the parts, put one after the other."""
    before = 0
    for part in parts:
        first, last = max(start - before, 0), min(stop - before, corpus.n_cells(part))
        if first < last:
            yield Piece(part, first, last, before + first)
        before += corpus.n_cells(part)


def categories(corpus: Corpus, parts: Sequence[str]) -> dict[str, list[str]]:
    """Columns of `obs` that are groups of cells, and the groups."""
    donors = sorted({donor for names in corpus.record["donors"].values() for donor in names})
    files = [source["file"] for source in corpus.record["sources"]]
    columns = corpus.record["obs_columns"].items()
    known = {name: list(kinds) for name, kinds in columns if kinds is not None}
    return {_keys.DONOR: donors, SOURCE: files, PART: list(parts)} | known


@dataclass(frozen=True)
class Results:
    """What there will be of every cell: an embedding, and of a classifier its classes and tables of their probabilities."""

    width: int
    classes: Sequence[str] = ()
    names: Sequence[
        str
    ] = ()  # what a cell can be called: the classes, and "unassigned" where that may be
    tables: Sequence[str] = ()

    @property
    def keys(self) -> list[str]:
        """Columns of the tables."""
        return _names.keys(self.classes, "Classes")

    @property
    def arrays(self) -> list[str]:
        """Where in the store the results lie."""
        own = [f"obs/{_keys.PRED}/codes", f"obs/{_keys.SCORE}"] if self.classes else []
        return [
            f"obsm/{_keys.X_SCBERT}",
            *own,
            *(f"obsm/{table}/{name}" for table in self.tables for name in self.keys),
        ]

    def bytes_per_cell(self) -> int:
        """Size on disk, about."""
        return 4 * (self.width + len(self.tables) * len(self.classes) + 2) + 16 * (
            1 + len(self.tables)
        )


class Store:
    """The zarr store.

    Parameters
    ----------
    folder
        Where it is, or will be.
    window
        Cells in a chunk.
    """

    def __init__(self, folder: Path, window: int) -> None:
        self.folder, self.window = folder, window

    @property
    def group(self) -> Any:
        """The store, open for changes."""
        import zarr

        return zarr.open_group(self.folder, mode="a", zarr_format=3)

    def create(
        self, corpus: Corpus, parts: Sequence[str], results: Results, call: str
    ) -> list[str]:
        """Lay everything out, with the `obs` that the corpus has.

        The store appears when that is done and its files are listed.
        """
        aside = Store(self.folder.with_name(f"{self.folder.name}.new"), self.window)
        shutil.rmtree(aside.folder, ignore_errors=True)
        write_elem(aside.group, "/", AnnData(var=pd.DataFrame(index=corpus.genes)))
        n, groups = n_cells(corpus, parts), categories(corpus, parts)
        aside._lay_obs(n, groups, list(corpus.record["obs_columns"]), results)
        aside._lay_obsm(n, results)
        frames = ["obs", *(f"obsm/{name}" for name in results.tables)]
        for row, part, obs in _obs(corpus, parts):
            aside._write_obs(row, part, obs, frames, groups)
        aside.group.attrs[_FORMAT] = {
            "format_version": _FORMAT_VERSION,
            "versions": versions(*_WRITERS),
        }
        files = {name: sha256(aside.folder / name) for name in aside._names()}
        write_note(self._laid, {"files": files}, call)
        put_in_place(aside.folder, self.folder)
        return list(files)

    @property
    def _laid(self) -> Path:
        return self.folder.with_name(_LAID)

    def laid(self, call: str) -> list[str] | None:
        """Files that this call laid out; None where they are not there as they were."""
        note = read_note(self._laid, call)
        return list(note["files"]) if note is not None and self.are_whole(note["files"]) else None

    def are_whole(self, files: Mapping[str, str]) -> bool:
        """Whether these files of the store are as they were written."""
        there = all((self.folder / name).is_file() for name in files)
        return there and all(
            sha256(self.folder / name) == checksum for name, checksum in files.items()
        )

    def chunks(self, window: int, results: Results) -> dict[str, str]:
        """Files that hold the results of a window, and their checksums.

        Where no value is but the default, there is no file.
        """
        places = [self.folder / path / "c" / str(window) for path in results.arrays]
        found = [
            one
            for place in places
            for one in ([place] if place.is_file() else sorted(place.rglob("*")))
        ]
        return {
            one.relative_to(self.folder).as_posix(): sha256(one) for one in found if one.is_file()
        }

    def clear(self, window: int, results: Results) -> None:
        """Remove what is left of a window that was cut short: its cells may be written in two halves, which meet in one file."""
        for path in results.arrays:
            remove(self.folder / path / "c" / str(window))

    def _names(self) -> list[str]:
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file()
        )

    def write(self, row: int, values: Mapping[str, np.ndarray]) -> None:
        """Put results by path, e.g. ``obsm/X_scbert``, from a row on, and read them back.

        Raises
        ------
        NotAsWrittenError
            Something else is read back.
        """
        group = self.group
        for path, found in values.items():
            array, rows = group[path], slice(row, row + len(found))
            array[rows] = found
            if not same(np.asarray(array[rows], found.dtype), found):
                raise NotAsWrittenError(self.folder, path)

    def read(self, path: str, row: int, n: int) -> np.ndarray:
        """Some rows of an array."""
        return np.asarray(self.group[path][row : row + n])

    def finish(
        self, slots: Mapping[str, Any], results: Results, out: Path, files: Collection[str]
    ) -> None:
        """Write what is of all cells together beside `files`, and put the whole into its place.

        What else was left goes.
        """
        for name in set(self._names()).difference(files):
            (self.folder / name).unlink()
        long = _names.long_ones(results.classes)
        made = {
            path: _record.storable(value, long, rows=path.startswith("varm/"))
            for path, value in slots.items()
        }
        for path, value in (made | ({f"uns/{_names.LONG}": long} if long else {})).items():
            slot, name = path.split("/")
            write_elem(self.group[slot], name, value)
            if not same(plain(read_elem(self.group[path])), plain(value)):
                raise NotAsWrittenError(self.folder, path)
        put_in_place(self.folder, out)

    def _lay_obs(
        self, n: int, groups: Mapping[str, Sequence[str]], more: Sequence[str], results: Results
    ) -> None:
        columns = [_keys.DONOR, SOURCE, PART, *more]
        own = [_keys.PRED, _keys.SCORE] if results.classes else []
        del self.group["obs"]
        self._lay_frame("obs", n, _names.keys([*columns, *own]))
        for name in columns:
            path = f"obs/{_names.key(name)}"
            if name in groups:
                self._lay_categorical(path, n, groups[name], _NAMES_PER_CHUNK)
            else:
                self._lay_array(path, (n,), "float64", np.nan, _NAMES_PER_CHUNK)
        if results.classes:
            self._lay_categorical(f"obs/{_keys.PRED}", n, results.names, self.window)
            self._lay_array(f"obs/{_keys.SCORE}", (n,), "float32", np.nan, self.window)

    def _lay_obsm(self, n: int, results: Results) -> None:
        self._lay_array(
            f"obsm/{_keys.X_SCBERT}", (n, results.width), "float32", np.nan, self.window
        )
        for table in results.tables:
            self._lay_frame(f"obsm/{table}", n, results.keys)
            for name in results.keys:
                self._lay_array(f"obsm/{table}/{name}", (n,), "float32", np.nan, self.window)

    def _lay_frame(self, path: str, n: int, columns: Sequence[str]) -> None:
        self.group.create_group(path, attributes=_FRAME | {"column-order": list(columns)})
        self._lay_array(f"{path}/{_INDEX}", (n,), "str", "", _NAMES_PER_CHUNK, kind="string-array")

    def _lay_categorical(self, path: str, n: int, names: Sequence[str], rows: int) -> None:
        self.group.create_group(path, attributes=_CATEGORICAL)
        write_elem(self.group[path], "categories", np.array(names, dtype=object))
        dtype = str(pd.Categorical.from_codes([], pd.Index(names)).codes.dtype)
        self._lay_array(f"{path}/codes", (n,), dtype, -1, rows)

    def _lay_array(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: str,
        fill: Any,
        rows: int,
        kind: str = "array",
    ) -> None:
        encoding = {"encoding-type": kind, "encoding-version": "0.2.0"}
        chunks = (min(rows, shape[0]), *shape[1:])
        self.group.create_array(
            path, shape=shape, dtype=dtype, chunks=chunks, fill_value=fill, attributes=encoding
        )

    def _write_obs(
        self,
        row: int,
        part: str,
        obs: pd.DataFrame,
        frames: Sequence[str],
        groups: Mapping[str, Sequence[str]],
    ) -> None:
        values = {f"{frame}/{_INDEX}": obs.index.to_numpy(dtype=object) for frame in frames}
        obs = obs.assign(**{PART: pd.Categorical([part] * len(obs))})
        for name, column in obs.items():
            path = f"obs/{_names.key(name)}"
            if name in groups:
                codes = column.astype("category").cat.set_categories(groups[str(name)]).cat.codes
                values[f"{path}/codes"] = codes.to_numpy()
            else:
                values[path] = column.to_numpy(dtype=float)
        self.write(row, values)


def _obs(corpus: Corpus, parts: Sequence[str]) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """First row, part and `obs` of each dataset."""
    import zarr

    row = 0
    for part in parts:
        for dataset in corpus.datasets(part):
            obs: Any = read_elem(
                zarr.open_group(
                    corpus.path / part / dataset["name"] / "obs", mode="r", zarr_format=3
                )
            )
            yield row, part, obs
            row += dataset["n_cells"]


class Share:
    """How far one share of the windows is.

    Sums over its cells are written first and the note that names them after.

    Each file says which call made it, with a checksum of its own; where one does not fit, the share
    begins anew.
    """

    def __init__(self, folder: Path, number: int, n_shares: int, n_windows: int, call: str) -> None:
        self.folder = folder / f"share_{number}"
        self.windows = list(range(number, n_windows, n_shares))
        self.call = digest({"call": call, "share": number, "of": n_shares})
        self._begin()

    def _begin(self) -> None:
        self.done, self.without_token = 0, 0
        self.sums: dict[str, np.ndarray] = {}
        self._is_noted = False

    @property
    def is_done(self) -> bool:
        """Whether every window is.

        A share without any is when its job has said so, lest the whole appear before that job has
        begun.
        """
        return self.done == len(self.windows) and self._is_noted

    def load(self) -> Share:
        """Go on where the last note was made."""
        self._begin()
        note = read_note(self.folder / _PROGRESS, self.call)
        sums = (
            None
            if note is None
            else read_kept(self._sums(note["done"]), self.call)
            if note["has_sums"]
            else ({}, {})
        )
        if (
            note is not None
            and sums is not None
            and sums[0].get("done", note["done"]) == note["done"]
        ):
            self.done, self.without_token = note["done"], note["without_token"]
            self.sums, self._is_noted = sums[1], True
        return self

    def add(
        self, sums: Mapping[str, np.ndarray], without_token: int, files: Mapping[str, str]
    ) -> None:
        """Note that a window is done, and which files hold it."""
        window = self.windows[self.done]
        write_note(self._window(window), {"files": files}, self._of(window))
        self.sums = added(self.sums, sums)
        self.without_token += without_token
        self.done += 1
        self.note()
        self._sums(self.done - 1).unlink(missing_ok=True)

    def note(self) -> None:
        """Write down how far it is."""
        if self.sums:
            write_kept(self._sums(self.done), self.sums, {"done": self.done}, self.call)
        note = {"done": self.done, "without_token": self.without_token, "has_sums": bool(self.sums)}
        write_note(self.folder / _PROGRESS, note, self.call)
        self._is_noted = True

    def files(self, window: int) -> dict[str, str] | None:
        """Files that hold the results of a window, with their checksums.

        None where no note of it fits.
        """
        note = read_note(self._window(window), self._of(window))
        return None if note is None else dict(note["files"])

    def _window(self, window: int) -> Path:
        return self.folder / f"window_{window}.json"

    def _of(self, window: int) -> str:
        return digest({"share": self.call, "window": window})

    def _sums(self, done: int) -> Path:
        return self.folder / f"sums_{done}.npz"


def added(sums: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums by name, and more of them."""
    return {
        **sums,
        **{name: sums[name] + found if name in sums else found for name, found in more.items()},
    }
