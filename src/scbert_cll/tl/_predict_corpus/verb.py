"""tl.predict_corpus: what a model says of every cell of a corpus."""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from filelock import FileLock

from scbert_cll import _docs, _keys, _names, _record
from scbert_cll._checks import people
from scbert_cll._checks.files import new_folder
from scbert_cll._checks.words import is_model, share
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.predictions import Shard, Store, Sums, added, pieces
from scbert_cll._disk import left_overs
from scbert_cll._disk.formats import Json, are_whole, digest, plain
from scbert_cll._disk.in_place import remove
from scbert_cll._optional import require
from scbert_cll._process import Bar
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.corpus.data import OnDisk, opened
from scbert_cll.model.explain.attention import Attention
from scbert_cll.tl import _write
from scbert_cll.tl._gene_attention import warn_if_uniform
from scbert_cll.tl._predict_corpus.job import Job

_PLAN: Final = "plan.json"
# in the folder in which it is done
_OURS: Final = (_PLAN, "laid.json", "store", "store.new", "share_*")
_ATTENTION: Final = f"uns/{_keys.GENE_ATTENTION}"


@_docs.shared
def predict_corpus(
    corpus: OnDisk,
    model: ScBERT | ScBERTClassifier,
    out: str | PathLike[str],
    *,
    groupby: str | None = None,
    parts: Sequence[str] = PARTS,
    unassigned_below: float | None = None,
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Embed and predict every cell of a corpus that is larger than memory, straight to a file.

    Cells go from disk to disk, a window at a time, so memory does not grow with their number. The
    results are those of :func:`~scbert_cll.tl.predict` and :func:`~scbert_cll.tl.gene_attention` on
    the same cells in memory; labels are never read. The file appears when it is whole. A call that
    was interrupted, or killed, goes on when it is made the same way, and ends in the same bytes.

    Parameters
    ----------
    corpus
        The path of what :func:`~scbert_cll.pp.build_corpus` wrote, or a
        :class:`~scbert_cll.model.CorpusData`. Genes are matched by their exact names, so the model
        may have been trained elsewhere; build the corpus with ``vocab=list(model.genes)``, which
        finds genes under other names.
    model
        A model, pretrained or fine-tuned.
    out
        Zarr store to make, e.g. ``cells.zarr``. It is written in ``cells.zarr.writing`` beside it.
    groupby
        `obs` column of the corpus, of text or of numbers: also the mean attention each gene
        receives, per group of cells.
    parts
        Parts of the corpus, in the order in which their cells are written.
    unassigned_below
        Of a classifier: call a cell ``"unassigned"`` when its largest probability is below this (0
        to 1).
    %(batch_size)s
    shard
        ``(i, n)`` does the i-th of n shares, counted from 0: the jobs of an array on a cluster, at
        the same time or not, which share `out`. The one that ends last puts the whole in its place.

    Returns
    -------
    None. ``anndata.read_zarr(out)`` is then an AnnData without X, of cells × genes of the corpus:

    ``obs``
        Cells by their names in the corpus: ``donor``, ``source`` (the file), ``part``, the corpus'
        own columns, and of a classifier ``scbert_pred`` (categorical) and ``scbert_score``
        (float32).
    ``obsm``
        ``X_scbert``, float32 (cells, n_hidden), the mean of a cell's refined tokens. Of a
        classifier ``scbert_proba`` and ``linear_proba``, DataFrames cells × classes, float32.
    ``varm``
        With `groupby` ``gene_attention``, DataFrame genes × groups, float64; a column sums to 1.
    ``uns``
        ``scbert_predict``: parameters, network, version and the number of cells without a token.
        With `groupby` ``gene_attention``, as :func:`~scbert_cll.tl.gene_attention` writes it.

    Raises
    ------
    FileExistsError
        `out` exists, or the folder to work in does and is not one of ours.
    FileNotFoundError
        There is no corpus.
    KeyError
        The corpus has no column `groupby`.
    ValueError
        The corpus is damaged, was binned in another way, or lacks more than half of the model's
        genes; parameters out of range; or `out` was begun with another corpus, model or parameters,
        which are named.
    RuntimeError
        The classifier has not been trained, or another process does the same share.
    OSError
        The disk is full. The call goes on when it is made again.
    %(no_annbatch)s

    Warns
    -----
    UserWarning
        Cells have no token among the model's genes: their embedding and probabilities are NaN and
        their prediction is missing. With `groupby` also as :func:`~scbert_cll.tl.gene_attention`.

    Examples
    --------
    .. code-block:: python

        sc_cll.tl.predict_corpus("corpus.zarr", classifier, "cells.zarr", groupby="cd49d")
        adata = anndata.read_zarr("cells.zarr")
        sc.pp.neighbors(adata, use_rep="X_scbert")
    """
    require("annbatch", "A corpus")
    is_model(model, ("ScBERT", "ScBERTClassifier"))
    if unassigned_below is not None:
        people.unassigned_needs_classes(getattr(model, "classes", None))
        share(unassigned_below, "unassigned_below")
        people.warn_of_a_class_called_unassigned(getattr(model, "classes", ()))
    numbers = tuple(shard) if isinstance(shard, (tuple, list)) else ()
    if [type(n) for n in numbers] != [int, int] or not 0 <= numbers[0] < numbers[1]:
        raise ValueError(
            f"shard must be (i, n), the share's number from 0 to n - 1 and how many there are; "
            f"found {shard!r}."
        )
    out = Path(out)
    new_folder(out)
    parts = [parts] if isinstance(parts, str) else list(parts)
    data = opened(corpus, binning=model.binning)
    job = Job(data, model, groupby, parts, unassigned_below, batch_size)
    job.check()
    work = _Work(job, out, numbers[1])
    laid = work.begin()
    work.do(numbers[0])
    work.finish(laid)


@dataclass(frozen=True)
class _Work:
    """The folder in which a job is done, in shards."""

    job: Job
    out: Path
    n_shards: int

    @property
    def folder(self) -> Path:
        """Beside `out`."""
        return self.out.with_name(f"{self.out.name}.writing")

    @cached_property
    def store(self) -> Store:
        """What will be `out`."""
        job, data = self.job, self.job.data
        window = data.chunk_size * data.preload_nchunks
        return Store(self.folder / "store", window, data.corpus, job.parts, job.results)

    @cached_property
    def n_cells(self) -> int:
        """Cells of all shards."""
        return self.job.data.corpus.n_cells(*self.job.parts)

    @cached_property
    def plan(self) -> dict[str, object]:
        """All that decides what is written, and by how many."""
        return {**self.job.plan(), "shares": self.n_shards}

    @cached_property
    def call(self) -> str:
        """What every left-over of this call carries."""
        return digest(self.plan)

    def shard(self, number: int) -> Shard:
        """One of the shards, as far as it is."""
        n_windows = -(-self.n_cells // self.store.window)
        return Shard(self.folder, number, self.n_shards, n_windows, self.call)

    def begin(self) -> list[str]:
        """Lay the store out, or go on with the one that was, and name its files.

        Of processes that begin together the first one does it.
        """
        with self.one_at_a_time(), self.disk(self.n_cells):
            if self.out.exists():
                left_overs.discard(self.folder, *_OURS)
            new_folder(self.out)
            note = left_overs.read_note(self.folder / _PLAN, _PLAN)
            if note is not None and self.store.folder.exists():
                plan, begun = plain(self.plan), note["asked"]
                left_overs.refuse_another_call(plan, begun, self.folder, "predictions")
                if (laid := self.store.laid(self.call)) is not None:
                    return laid
            for old in (self.store.folder, *self.folder.glob("share_*")):
                remove(old)
            left_overs.write_note(self.folder / _PLAN, {"asked": self.plan}, _PLAN)
            return self.store.create(self.call)

    def do(self, number: int) -> None:
        """Every window of a shard that is not done."""
        size = self.store.window
        with left_overs.only_writer(self.shard(number).folder, "the predictions"):
            shard = self.shard(number)
            if not shard.windows:
                shard.note()
            n = self.n_cells
            n_cells = [min(size, n - window * size) for window in shard.windows]
            with Bar(
                total=sum(n_cells),
                initial=sum(n_cells[: shard.n_done]),
                desc="Predicting",
                unit="cell",
                unit_scale=True,
                disable=None,
            ) as bar:
                for window in shard.windows[shard.n_done :]:
                    with self.disk(sum(n_cells[shard.n_done :])):
                        shard.add(*self._window(window))
                    _give_back()
                    bar.update(n_cells[shard.n_done - 1])

    def _window(self, window: int) -> tuple[Sums, int, dict[str, str]]:
        """Predict the cells of a window and write that.

        Sums over them, how many have no token, and the files that hold the results.
        """
        job, store = self.job, self.store
        sums: Sums = {}
        n_without = 0
        # what was cut short: a file may hold cells of two pieces
        for path in store.chunks(window):
            remove(path)
        first, last = window * store.window, (window + 1) * store.window
        for part, start, stop, row in pieces(job.data.corpus, job.parts, first, last):
            places, cells = job.cells(part, np.arange(start, stop))
            n_without += stop - start - len(places)
            if not len(places):
                continue  # the store has no values from the start
            arrays = job.predicted(cells).items()
            n = stop - start
            store.write(row, {path: _in_rows(one, places, n) for path, one in arrays})
            if job.groupby is not None:
                codes = self._codes(part, start, stop, row)
                sums = added(sums, job.attention(cells, codes[places]))
        return sums, n_without, store.sums(store.chunks(window))

    def _codes(self, part: str, start: int, stop: int, row: int) -> np.ndarray:
        """Which group each of some cells is of, -1 for none."""
        job, groupby = self.job, str(self.job.groupby)
        columns = job.data.corpus.obs_columns
        if groupby in columns and columns[groupby] is None:  # a column of numbers
            names = people.class_names(job.data.obs(part, groupby).iloc[start:stop])
            return np.asarray(pd.Categorical(names, categories=job.groups).codes)
        codes = self.store.group[f"obs/{_names.key(groupby)}/codes"]
        return np.asarray(codes[row : row + stop - start])

    def _files(self, shards: list[Shard]) -> list[str]:
        """Every file of results.

        A window that is not as it was written is predicted again, and its sums are as they were.
        """
        names: list[str] = []
        for shard in shards:
            for window in shard.windows:
                files = shard.files(window)
                if files is None or not are_whole(self.store.folder, files):
                    *_, files = self._window(window)
                names += files
        return names

    def finish(self, laid: list[str]) -> None:
        """Put the whole in its place, if all shards are done.

        `laid` are the files of the store before the first of them.
        """
        with self.one_at_a_time():
            shards = [self.shard(number) for number in range(self.n_shards)]
            n_without = sum(shard.n_without_token for shard in shards)
            is_done = all(shard.is_done for shard in shards)
            is_last = is_done and self.store.folder.exists()
            if is_last:
                slots = {f"uns/{_keys.SCBERT_PREDICT}": self._record(n_without)}
                slots |= self._attention([shard.sums for shard in shards if shard.sums])
                with self.disk(0):
                    self.store.finish(slots, self.out, [*laid, *self._files(shards)])
        # a process that waited for the last one made the folder anew
        if self.out.exists():
            left_overs.discard(self.folder, *_OURS)
        if is_last and _ATTENTION in slots:
            warn_if_uniform(slots[_ATTENTION]["attention_floor"])
        if is_last and n_without:
            warnings.warn(
                f"{n_without:,} of {self.n_cells:,} cells have no gene above bin 0 among the "
                f"model's genes: their embedding is NaN, and they have no prediction.",
                stacklevel=3,
            )

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Wait for processes that do other shards."""
        left_overs.claim(self.folder, "the predictions")
        with FileLock(self.folder / ".lock"):
            yield

    def disk(self, n_left: int) -> AbstractContextManager[None]:
        """Say what to do when the disk is full."""
        n_bytes = n_left * self.job.results.bytes_per_cell()
        return left_overs.goes_on(self.folder, "tl.predict_corpus", n_bytes)

    def _record(self, n_without: int) -> Json:
        job = self.job
        names = "groupby", "parts", "unassigned_below"
        given = {name: getattr(job, name) for name in names}
        given["labels_key"] = getattr(job.model, "labels_key", None)
        record = _write.record(job.model, _record.params(given))
        return {**record, "n_cells": self.n_cells, "n_without_token": n_without}

    def _attention(self, sums: list[Sums]) -> Json:
        """Shares of attention by group, as :func:`~scbert_cll.tl.gene_attention` writes them."""
        if not sums:
            return {}
        job, floor = self.job, self.job.floor()
        total = np.sum([one["attention"] for one in sums], axis=0)
        n_cells = np.sum([one["n_cells"] for one in sums], axis=0)
        filled = np.flatnonzero(n_cells)
        names = [job.groups[i] for i in filled]
        attention = Attention(job.model, None, job.batch_size)
        table = attention.shares(total[filled], names)
        params = {"groupby": job.groupby, "per_cell": False, "layer": job.model.layer}
        record = {"params": params, "attention_floor": floor}
        record["n_cells"] = dict(zip(names, n_cells[filled].tolist(), strict=True))
        table = table.reindex(job.data.genes, fill_value=0.0)
        return {f"varm/{_keys.GENE_ATTENTION}": table, _ATTENTION: record}


def _give_back() -> None:
    """Hand memory that is free back to the system.

    Glibc keeps what lies between pieces in use, more with every window.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # musl has none


def _in_rows(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Values in their rows of `n`; the others have none."""
    fill = -1 if values.dtype.kind == "i" else np.nan
    block = np.full((n, *values.shape[1:]), fill, values.dtype)
    block[rows] = values
    return block
