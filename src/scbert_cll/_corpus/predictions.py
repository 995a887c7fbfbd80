"""What a model says of every cell of a corpus: an AnnData without X in a zarr store.

It is filled window by window: everything has its size from the start and is cut into chunks of one
window, so that processes can fill it at the same time. Nothing is held in memory but a window, or
the `obs` of one dataset.
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
from scbert_cll._corpus.format import SOURCE, Corpus
from scbert_cll._disk.formats import are_whole, plain, same, sha256, versions
from scbert_cll._disk.in_place import NotAsWrittenError, put_in_place, remove
from scbert_cll._disk.left_overs import read_note, write_note

PART: Final = "part"
_FORMAT: Final = "scbert_cll predictions"
_FORMAT_VERSION: Final = 1
_WRITERS: Final = ("anndata", "zarr", "numpy", "torch")
_INDEX: Final = "_index"
_NAMES_PER_CHUNK: Final = 2**16
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


def pieces(corpus: Corpus, parts: Sequence[str], start: int, stop: int) -> Iterator[Piece]:
    """Rows `start` to `stop` of the parts, put one after the other."""
    before = 0
    for part in parts:
        n = corpus.n_cells(part)
        first, last = max(start - before, 0), min(stop - before, n)
        if first < last:
            yield Piece(part, first, last, before + first)
        before += n


def categories(corpus: Corpus, parts: Sequence[str]) -> dict[str, list[str]]:
    """Columns of `obs` that are groups of cells, and the groups."""
    donors = sorted({donor for names in corpus.record["donors"].values() for donor in names})
    files = [source["file"] for source in corpus.record["sources"]]
    columns = {name: kinds for name, kinds in corpus.obs_columns.items() if kinds is not None}
    return {_keys.DONOR: donors, SOURCE: files, PART: list(parts), **columns}


@dataclass(frozen=True)
class Results:
    """What there will be of every cell: an embedding; of a classifier classes and probabilities."""

    width: int
    classes: Sequence[str] = ()
    names: Sequence[str] = ()  # of predictions: classes, and "unassigned" where that may be
    tables: Sequence[str] = ()  # of probabilities

    @property
    def columns(self) -> list[str]:
        """Columns of the tables."""
        return _names.keys(self.classes, "Classes")

    @property
    def arrays(self) -> list[str]:
        """Where in the store the results lie."""
        prediction = [f"obs/{_keys.PRED}/codes", f"obs/{_keys.SCORE}"] if self.classes else []
        tables = [f"obsm/{table}/{name}" for table in self.tables for name in self.columns]
        return [f"obsm/{_keys.X_SCBERT}", *prediction, *tables]

    def bytes_per_cell(self) -> int:
        """Size on disk, about."""
        n_tables = len(self.tables)
        return 4 * (self.width + n_tables * len(self.classes) + 2) + 16 * (1 + n_tables)


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
        n, groups = corpus.n_cells(*parts), categories(corpus, parts)
        aside._lay_obs(n, groups, list(corpus.obs_columns), results)
        aside._lay_obsm(n, results)
        frames = ["obs", *(f"obsm/{name}" for name in results.tables)]
        for row, obs in _obs(corpus, parts):
            aside._write_obs(row, obs, frames, groups)
        aside.group.attrs[_FORMAT] = {
            "format_version": _FORMAT_VERSION,
            "versions": versions(*_WRITERS),
        }
        sums = aside._sums(aside.folder)
        write_note(self._laid, {"files": sums}, call)
        put_in_place(aside.folder, self.folder)
        return list(sums)

    @property
    def _laid(self) -> Path:
        return self.folder.with_name(_LAID)

    def laid(self, call: str) -> list[str] | None:
        """Files that this call laid out; None where they are not there as they were."""
        note = read_note(self._laid, call)
        is_whole = note is not None and self.are_whole(note["files"])
        return list(note["files"]) if note is not None and is_whole else None

    def are_whole(self, sums: Mapping[str, str]) -> bool:
        """Whether files of the store are as they were written."""
        return are_whole(self.folder, sums)

    def chunks(self, window: int, results: Results) -> dict[str, str]:
        """Files that hold the results of a window, and their checksums.

        Where no value is but the default, there is no file.
        """
        return self._sums(*self._chunks(window, results))

    def clear(self, window: int, results: Results) -> None:
        """Remove what is left of a window that was cut short.

        Its cells may be written in two halves, which meet in one file.
        """
        for path in self._chunks(window, results):
            remove(path)

    def _chunks(self, window: int, results: Results) -> list[Path]:
        return [self.folder / path / "c" / str(window) for path in results.arrays]

    def _sums(self, *places: Path) -> dict[str, str]:
        """Checksums of files, also of those in folders, by their names in the store."""
        paths = (path for place in places for path in (place, *sorted(place.rglob("*"))))
        return {
            path.relative_to(self.folder).as_posix(): sha256(path)
            for path in paths
            if path.is_file()
        }

    def write(self, row: int, values: Mapping[str, np.ndarray]) -> None:
        """Put results by path, e.g. ``obsm/X_scbert``, from a row on, and read them back.

        Raises
        ------
        NotAsWrittenError
            Something else is read back.
        """
        group = self.group
        for path, block in values.items():
            array, rows = group[path], slice(row, row + len(block))
            array[rows] = block
            if not same(np.asarray(array[rows], block.dtype), block):
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
        listed = {self.folder / name for name in files}
        for file in list(self.folder.rglob("*")):
            if file.is_file() and file not in listed:
                file.unlink()
        long = _names.long_ones(results.classes)
        elems = {
            path: _record.storable(value, long, rows=path.startswith("varm/"))
            for path, value in slots.items()
        }
        for path, value in (elems | ({f"uns/{_names.LONG}": long} if long else {})).items():
            slot, name = path.split("/")
            write_elem(self.group[slot], name, value)
            if not same(plain(read_elem(self.group[path])), plain(value)):
                raise NotAsWrittenError(self.folder, path)
        put_in_place(self.folder, out)

    def _lay_obs(
        self,
        n: int,
        groups: Mapping[str, Sequence[str]],
        obs_columns: Sequence[str],
        results: Results,
    ) -> None:
        columns = [_keys.DONOR, SOURCE, PART, *obs_columns]
        prediction = [_keys.PRED, _keys.SCORE] if results.classes else []
        del self.group["obs"]
        self._lay_frame("obs", n, _names.keys([*columns, *prediction]))
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
        shape = n, results.width
        self._lay_array(f"obsm/{_keys.X_SCBERT}", shape, "float32", np.nan, self.window)
        for table in results.tables:
            self._lay_frame(f"obsm/{table}", n, results.columns)
            for name in results.columns:
                self._lay_array(f"obsm/{table}/{name}", (n,), "float32", np.nan, self.window)

    def _lay_frame(self, path: str, n: int, columns: Sequence[str]) -> None:
        self.group.create_group(path, attributes=_FRAME | {"column-order": list(columns)})
        self._lay_array(f"{path}/{_INDEX}", (n,), "str", "", _NAMES_PER_CHUNK)

    def _lay_categorical(self, path: str, n: int, names: Sequence[str], rows: int) -> None:
        self.group.create_group(path, attributes=_CATEGORICAL)
        write_elem(self.group[path], "categories", np.array(names, dtype=object))
        dtype = str(pd.Categorical.from_codes([], pd.Index(names)).codes.dtype)
        self._lay_array(f"{path}/codes", (n,), dtype, -1, rows)

    def _lay_array(
        self, path: str, shape: tuple[int, ...], dtype: str, fill: float | str, rows: int
    ) -> None:
        kind = "string-array" if dtype == "str" else "array"
        self.group.create_array(
            path,
            shape=shape,
            dtype=dtype,
            chunks=(min(rows, shape[0]), *shape[1:]),
            fill_value=fill,
            attributes={"encoding-type": kind, "encoding-version": "0.2.0"},
        )

    def _write_obs(
        self,
        row: int,
        obs: pd.DataFrame,
        frames: Sequence[str],
        groups: Mapping[str, Sequence[str]],
    ) -> None:
        values = {f"{frame}/{_INDEX}": obs.index.to_numpy(dtype=object) for frame in frames}
        for name, column in obs.items():
            path = f"obs/{_names.key(name)}"
            if name in groups:
                text = column.astype("category")
                codes = text.cat.set_categories(groups[str(name)]).cat.codes
                values[f"{path}/codes"] = codes.to_numpy()
            else:
                values[path] = column.to_numpy(dtype=float)
        self.write(row, values)


def _obs(corpus: Corpus, parts: Sequence[str]) -> Iterator[tuple[int, pd.DataFrame]]:
    """First row and `obs`, with the part, of each dataset."""
    import zarr

    row = 0
    for part in parts:
        for dataset in corpus.datasets(part):
            place = corpus.path / part / dataset["name"] / "obs"
            obs: Any = read_elem(zarr.open_group(place, mode="r", zarr_format=3))
            yield row, obs.assign(**{PART: pd.Categorical([part] * len(obs))})
            row += dataset["n_cells"]
