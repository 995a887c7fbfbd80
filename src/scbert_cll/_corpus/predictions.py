"""What a model says of every cell of a corpus: an AnnData without X in a zarr store.

It is filled window by window: everything has its size from the start and is cut into chunks of one
window, so that processes can fill it at the same time. Nothing is held in memory but a window, or
the `obs` of one dataset.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, write_elem

from scbert_cll import _keys, _names, _record
from scbert_cll._corpus.format import SOURCE, Corpus
from scbert_cll._disk import formats
from scbert_cll._disk.formats import Json, digest, same
from scbert_cll._disk.in_place import NotAsWrittenError, put_in_place
from scbert_cll._disk.left_overs import read_kept, read_note, write_kept, write_note

PART: Final = "part"
_FORMAT: Final = "scbert_cll predictions"
_FORMAT_VERSION: Final = 1
_WRITERS: Final = ("anndata", "zarr", "numpy", "torch")
_INDEX: Final = "_index"
_LATENT: Final = f"obsm/{_keys.X_SCBERT}"
_NAMES_PER_CHUNK: Final = 2**16
_PROGRESS: Final = "progress.json"
_LAID: Final = "laid.json"  # files of the store before the first window
_VERSION: Final = {"encoding-version": "0.2.0"}  # anndata's
_FRAME: Final = {"encoding-type": "dataframe", **_VERSION, "_index": _INDEX}
_CATEGORICAL: Final = {"encoding-type": "categorical", **_VERSION, "ordered": False}

type Groups = Mapping[str, list[str]]  # columns of obs, and their categories
type Parts = Sequence[str]
type Sums = dict[str, np.ndarray]  # over cells, by what they are of


class Piece(NamedTuple):
    """Neighbouring cells of a part, and the row of the first among all that are predicted."""

    part: str
    start: int
    stop: int
    row: int


def pieces(corpus: Corpus, parts: Parts, start: int, stop: int) -> Iterator[Piece]:
    """Rows `start` to `stop` of the parts, put one after the other."""
    before = 0
    for part in parts:
        n = corpus.n_cells(part)
        first, last = max(start - before, 0), min(stop - before, n)
        if first < last:
            yield Piece(part, first, last, before + first)
        before += n


def categories(corpus: Corpus, parts: Parts) -> dict[str, list[str]]:
    """Columns of `obs` that are groups of cells, and the groups."""
    donors = sorted(set(chain(*corpus.record["donors"].values())))
    files = [source["file"] for source in corpus.record["sources"]]
    kinds = corpus.obs_columns.items()
    columns = {name: names for name, names in kinds if names is not None}
    return {_keys.DONOR: donors, SOURCE: files, PART: list(parts), **columns}


@dataclass(frozen=True)
class Results:
    """What there will be of every cell: an embedding; of a classifier classes and probabilities."""

    width: int
    classes: Sequence[str] = ()
    # of predictions: classes, and "unassigned" where that may be
    names: Sequence[str] = ()
    tables: Sequence[str] = ()  # of probabilities

    @property
    def columns(self) -> list[str]:
        """Columns of the tables."""
        return _names.keys(self.classes, "Classes")

    @property
    def numbers(self) -> list[str]:
        """Where in the store the embedding and the probabilities lie."""
        score = [f"obs/{_keys.SCORE}"] if self.classes else []
        tables = [f"obsm/{one}/{name}" for one in self.tables for name in self.columns]
        return [_LATENT, *score, *tables]

    @property
    def arrays(self) -> list[str]:
        """Where in the store the results lie."""
        return [*([f"obs/{_keys.PRED}/codes"] if self.classes else []), *self.numbers]

    def bytes_per_cell(self) -> int:
        """Size on disk, about."""
        n_tables = len(self.tables)
        return 4 * (self.width + n_tables * len(self.classes) + 2) + 16 * (1 + n_tables)


@dataclass(frozen=True)
class Store:
    """The zarr store."""

    folder: Path  # where it is, or will be
    window: int  # cells in a chunk
    corpus: Corpus
    parts: Parts
    results: Results

    @property
    def group(self) -> Any:
        """The store, open for changes."""
        import zarr

        return zarr.open_group(self.folder, mode="a", zarr_format=3)

    def create(self, call: str) -> list[str]:
        """Lay everything out, with the `obs` that the corpus has.

        The store appears when that is done and its files are listed.
        """
        aside = replace(self, folder=self.folder.with_name(f"{self.folder.name}.new"))
        shutil.rmtree(aside.folder, ignore_errors=True)
        groups = categories(self.corpus, self.parts)
        aside._lay(groups)
        aside._write_obs(groups)
        aside.group.attrs[_FORMAT] = {
            "format_version": _FORMAT_VERSION,
            "versions": formats.versions(*_WRITERS),
        }
        sums = aside.sums([aside.folder])
        write_note(self._laid, {"files": sums}, call)
        put_in_place(aside.folder, self.folder)
        return list(sums)

    @property
    def _laid(self) -> Path:
        return self.folder.with_name(_LAID)

    def laid(self, call: str) -> list[str] | None:
        """Files that this call laid out; None where they are not there as they were."""
        files = (read_note(self._laid, call) or {}).get("files")
        return list(files) if files and formats.are_whole(self.folder, files) else None

    def chunks(self, window: int) -> list[Path]:
        """Where the results of a window lie; no file is where no value is but the default."""
        return [self.folder / path / "c" / str(window) for path in self.results.arrays]

    def sums(self, places: Sequence[Path]) -> dict[str, str]:
        """Checksums of files, also of those in folders, by their names in the store."""
        return formats.checksums(self.folder, chain(*map(formats.files_of, places)))

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

    def finish(self, slots: Json, out: Path, files: Collection[str]) -> None:
        """Write what is of all cells together beside `files`, and put the whole into its place.

        What else was left goes.
        """
        listed = {self.folder / name for name in files}
        for file in set(formats.files_of(self.folder)) - listed:
            file.unlink()
        long = _names.long_ones(self.results.classes)
        elems = {
            path: _record.storable(value, long, rows=path.startswith("varm/"))
            for path, value in slots.items()
        }
        elems |= {f"uns/{_names.LONG}": long} if long else {}
        for path, value in elems.items():
            slot, name = path.split("/")
            write_elem(self.group[slot], name, value)
            stored = read_elem(self.group[path])
            if not same(formats.plain(stored), formats.plain(value)):
                raise NotAsWrittenError(self.folder, path)
        put_in_place(self.folder, out)

    def _lay(self, groups: Groups) -> None:
        """Every table and array, in its final size; `groups` are categories of columns."""
        group, results = self.group, self.results
        write_elem(group, "/", AnnData(var=pd.DataFrame(index=self.corpus.genes)))
        del group["obs"]
        columns = [_keys.DONOR, SOURCE, PART, *self.corpus.obs_columns]
        prediction = {_keys.PRED: list(results.names)} if results.classes else {}
        names = [*columns, *prediction, *([_keys.SCORE] if prediction else [])]
        for frame in self._frames:
            order = _names.keys(names) if frame == "obs" else results.columns
            group.create_group(frame, attributes=_FRAME | {"column-order": order})
            self._lay_array(f"{frame}/{_INDEX}", "str", "", _NAMES_PER_CHUNK)
        for name, kinds in {**groups, **prediction}.items():
            path = f"obs/{_names.key(name)}"
            group.create_group(path, attributes=_CATEGORICAL)
            write_elem(group[path], "categories", np.array(kinds, dtype=object))
            dtype = pd.Categorical.from_codes([], pd.Index(kinds)).codes.dtype
            rows = self.window if name in prediction else _NAMES_PER_CHUNK
            self._lay_array(f"{path}/codes", str(dtype), -1, rows)
        for name in [name for name in columns if name not in groups]:
            path = f"obs/{_names.key(name)}"
            self._lay_array(path, "float64", np.nan, _NAMES_PER_CHUNK)
        for path in results.numbers:
            width = [results.width] if path == _LATENT else []
            self._lay_array(path, "float32", np.nan, self.window, *width)

    @property
    def _frames(self) -> list[str]:
        return ["obs", *(f"obsm/{name}" for name in self.results.tables)]

    def _lay_array(self, path: str, dtype: str, fill: Any, n: int, *width: int) -> None:
        n_cells = self.corpus.n_cells(*self.parts)
        kind = "string-array" if dtype == "str" else "array"
        self.group.create_array(
            path,
            shape=(n_cells, *width),
            dtype=dtype,
            chunks=(min(n, n_cells), *width),
            fill_value=fill,
            attributes={"encoding-type": kind, **_VERSION},
        )

    def _write_obs(self, groups: Groups) -> None:
        """The `obs` of each dataset, with its part; `groups` are categories of columns."""
        import zarr

        row = 0
        corpus, parts = self.corpus, self.parts
        datasets = ((part, one) for part in parts for one in corpus.datasets(part))
        for part, dataset in datasets:
            place = corpus.path / part / dataset["name"] / "obs"
            obs: Any = read_elem(zarr.open_group(place, mode="r", zarr_format=3))
            names = obs.index.to_numpy(dtype=object)
            values = {f"{frame}/{_INDEX}": names for frame in self._frames}
            for name, column in obs.assign(**{PART: part}).items():
                path = f"obs/{_names.key(name)}"
                if name in groups:
                    values[f"{path}/codes"] = pd.Categorical(column, groups[name]).codes
                else:
                    values[path] = column.to_numpy(dtype=float)
            self.write(row, values)
            row += len(obs)


# ---- how far they are, shard by shard, so that each goes on where it was


class Shard:
    """How far one shard of the windows is.

    Sums over its cells are written first and the note that names them after. Each file says which
    call made it, with a checksum of its own; where one does not fit, the shard begins anew.

    Parameters
    ----------
    folder
        In which all shards have theirs.
    number, of
        Which one it is, of how many.
    n_windows
        Windows of all shards.
    call
        What every left-over of this call carries.
    """

    def __init__(self, folder: Path, number: int, of: int, n_windows: int, call: str) -> None:
        self.folder = folder / f"share_{number}"
        self.windows = list(range(number, n_windows, of))
        self.call = digest({"call": call, "share": number, "of": of})
        self.n_done, self.n_without_token = 0, 0
        self.sums: Sums = {}
        note = read_note(self.folder / _PROGRESS, self.call) or {}
        if note.get("has_sums"):
            parts = read_kept(self._sums(note["done"]), self.call)
            if parts is None or parts[0]["done"] != note["done"]:
                note = {}
            else:
                self.sums = parts[1]
        self._is_noted = bool(note)
        if note:
            self.n_done, self.n_without_token = note["done"], note["without_token"]

    @property
    def is_done(self) -> bool:
        """Whether every window is.

        A shard without any is when its job has said so, lest the whole appear before that job has
        begun.
        """
        return self.n_done == len(self.windows) and self._is_noted

    def add(self, sums: Sums, n_without_token: int, files: Mapping[str, str]) -> None:
        """Note that a window is done, and which files hold it."""
        window = self.windows[self.n_done]
        write_note(self._window(window), {"files": files}, self._call_of(window))
        self.sums = added(self.sums, sums)
        self.n_without_token += n_without_token
        self.n_done += 1
        self.note()
        self._sums(self.n_done - 1).unlink(missing_ok=True)

    def note(self) -> None:
        """Write down how far it is."""
        done = {"done": self.n_done}
        if self.sums:
            write_kept(self._sums(self.n_done), self.sums, done, self.call)
        note = {**done, "without_token": self.n_without_token}
        note["has_sums"] = bool(self.sums)
        write_note(self.folder / _PROGRESS, note, self.call)
        self._is_noted = True

    def files(self, window: int) -> dict[str, str] | None:
        """Files with the results of a window, and their checksums; None where no note fits."""
        note = read_note(self._window(window), self._call_of(window))
        return dict(note["files"]) if note else None

    def _window(self, window: int) -> Path:
        return self.folder / f"window_{window}.json"

    def _call_of(self, window: int) -> str:
        return digest({"share": self.call, "window": window})

    def _sums(self, done: int) -> Path:
        return self.folder / f"sums_{done}.npz"


def added(sums: Sums, others: Sums) -> Sums:
    """Sums by name, with others added to them."""
    return sums | {name: sums.get(name, 0) + values for name, values in others.items()}
