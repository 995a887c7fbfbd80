"""tl.predict_corpus: what a model says of every cell of a corpus."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._bar import Bar
from scbert_cll._checks.words import is_model
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.predictions import Store, pieces
from scbert_cll._corpus.shards import Shard, added
from scbert_cll._disk.formats import digest, plain
from scbert_cll._disk.in_place import remove
from scbert_cll._disk.left_overs import (
    claim,
    discard,
    goes_on,
    only_writer,
    read_note,
    refuse_another_call,
    write_note,
)
from scbert_cll._optional import require
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.corpus import checks as reading_checks
from scbert_cll.model.corpus.opened import OnDisk, opened
from scbert_cll.model.explain.attention import attention_shares
from scbert_cll.tl import _write
from scbert_cll.tl._gene_attention import warn_if_uniform
from scbert_cll.tl._predict_corpus.job import Job

_PLAN: Final = "plan.json"
_OURS: Final = (
    _PLAN,
    "laid.json",
    "store",
    "store.new",
    "share_*",
)  # in the folder in which it is done
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
        :class:`~scbert_cll.model.CorpusData`. Genes are matched by name, so the model may have been
        trained elsewhere.
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
        reading_checks.for_a_classifier(is_one=isinstance(model, ScBERTClassifier))
        _checks.words.share(unassigned_below, "unassigned_below")
        _checks.people.warn_of_a_class_called_unassigned(getattr(model, "classes", ()))
    number, n_shares = reading_checks.share_of(shard)
    out = Path(out)
    _checks.paths.new_folder(out)
    parts = [parts] if isinstance(parts, str) else list(parts)
    job = Job(
        opened(corpus, binning=model.binning), model, groupby, parts, unassigned_below, batch_size
    )
    job.check()
    work = _Work(job, out, n_shares)
    laid = work.begin()
    work.do(number)
    work.finish(laid)


@dataclass(frozen=True)
class _Work:
    """The folder in which a job is done, in shares."""

    job: Job
    out: Path
    n_shares: int

    @property
    def folder(self) -> Path:
        """Beside `out`."""
        return self.out.with_name(f"{self.out.name}.writing")

    @property
    def store(self) -> Store:
        """What will be `out`."""
        return Store(
            self.folder / "store", self.job.data.chunk_size * self.job.data.preload_nchunks
        )

    @property
    def n_cells(self) -> int:
        """Cells of all shares."""
        return self.job.data.corpus.n_cells(*self.job.parts)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """All that decides what is written, and by how many."""
        return self.job.plan() | {"shares": self.n_shares}

    @cached_property
    def call(self) -> str:
        """What every left-over of this call carries."""
        return digest(self.plan)

    def share(self, number: int) -> Shard:
        """One of the shares, as far as it is."""
        return Shard(
            self.folder, number, self.n_shares, -(-self.n_cells // self.store.window), self.call
        ).load()

    def begin(self) -> list[str]:
        """Lay the store out, or go on with the one that was.

        Of processes that begin together the first one does it. Names its files.
        """
        with self.one_at_a_time(), self.disk(self.n_cells):
            if self.out.exists():
                discard(self.folder, *_OURS)
            _checks.paths.new_folder(self.out)
            known = read_note(self.folder / _PLAN, _PLAN)
            if known is not None and self.store.folder.exists():
                refuse_another_call(plain(self.plan), known["asked"], self.folder, "predictions")
                if (laid := self.store.laid(self.call)) is not None:
                    return laid
            for old in (self.store.folder, *self.folder.glob("share_*")):
                remove(old)
            write_note(self.folder / _PLAN, {"asked": self.plan}, _PLAN)
            return self.store.create(
                self.job.data.corpus, self.job.parts, self.job.results(), self.call
            )

    def do(self, number: int) -> None:
        """Every window of a share that is not done."""
        share, size = self.share(number), self.store.window
        with only_writer(share.folder, "the predictions"):
            share = share.load()
            if not share.windows:
                share.note()
            cells = [min(size, self.n_cells - window * size) for window in share.windows]
            bar = {
                "desc": "Predicting",
                "unit": "cell",
                "unit_scale": True,
                "initial": sum(cells[: share.n_done]),
            }
            with Bar(total=sum(cells), disable=None, **bar) as shown:
                for window in share.windows[share.n_done :]:
                    with self.disk(sum(cells[share.n_done :])):
                        sums, without = self._window(window)
                        share.add(sums, without, self.store.chunks(window, self.job.results()))
                    _give_back()
                    shown.update(cells[share.n_done - 1])

    def _window(self, window: int) -> tuple[dict[str, np.ndarray], int]:
        """Predict the cells of a window and write that.

        Sums over them, and how many have no token.
        """
        size, sums, without = self.store.window, dict[str, np.ndarray](), 0
        self.store.clear(window, self.job.results())
        for part, start, stop, row in pieces(
            self.job.data.corpus, self.job.parts, window * size, (window + 1) * size
        ):
            known, cells = self.job.cells(part, np.arange(start, stop))
            without += stop - start - len(known)
            if not len(known):
                continue  # the store has no values from the start
            found = self.job.predicted(cells)
            self.store.write(
                row, {path: _in_rows(values, known, stop - start) for path, values in found.items()}
            )
            if self.job.groupby is not None:
                sums = added(
                    sums, self.job.attention(cells, self._codes(part, start, stop, row)[known])
                )
        return sums, without

    def _mended(self, shares: list[Shard]) -> list[str]:
        """Every file of results.

        A window that is not as it was written is predicted again, and its sums are as they were.
        """
        found: list[str] = []
        for share, window in ((one, window) for one in shares for window in one.windows):
            files = share.files(window)
            if files is None or not self.store.are_whole(files):
                self._window(window)
                files = self.store.chunks(window, self.job.results())
            found += files
        return found

    def _codes(self, part: str, start: int, stop: int, row: int) -> np.ndarray:
        """Which group each of some cells is of."""
        if self.job.groupby in self.job.numbers:
            return self.job.codes(part, start, stop)
        return self.store.read(f"obs/{_names.key(self.job.groupby)}/codes", row, stop - start)

    def finish(self, laid: list[str]) -> None:
        """Put the whole in its place, if all shares are done.

        `laid` are the files of the store before the first of them.
        """
        with self.one_at_a_time():
            shares = [self.share(number) for number in range(self.n_shares)]
            is_last = self.store.folder.exists() and all(share.is_done for share in shares)
            if is_last:
                slots = self._slots(shares)
                with self.disk(0):
                    self.store.finish(
                        slots, self.job.results(), self.out, [*laid, *self._mended(shares)]
                    )
        if self.out.exists():  # a process that waited for the last one made the folder anew
            discard(self.folder, *_OURS)
        if is_last:
            if _ATTENTION in slots:
                warn_if_uniform(slots[_ATTENTION]["attention_floor"])
            reading_checks.warn_of_cells_without_token(
                sum(share.n_without_token for share in shares), self.n_cells
            )

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Wait for processes that do other shares."""
        claim(self.folder, "the predictions")
        with FileLock(self.folder / ".lock"):
            yield

    def disk(self, n_left: int) -> AbstractContextManager[None]:
        """Say what to do when the disk is full."""
        n_bytes = n_left * self.job.results().bytes_per_cell()
        return goes_on(self.folder, "tl.predict_corpus", n_bytes)

    def _slots(self, shares: list[Shard]) -> dict[str, Any]:
        """What is of all cells together."""
        slots = {
            f"uns/{_keys.SCBERT_PREDICT}": self._record(
                sum(share.n_without_token for share in shares)
            )
        }
        if sums := [share.sums for share in shares if share.sums]:
            slots |= self._attention(sums)
        return slots

    def _record(self, without: int) -> dict[str, Any]:
        asked = {
            "groupby": self.job.groupby,
            "parts": self.job.parts,
            "unassigned_below": self.job.unassigned_below,
        }
        asked |= {"labels_key": getattr(self.job.model, "labels_key", None)}
        found = _write.record(self.job.model, _record.params(asked))
        return found | {"n_cells": self.n_cells, "n_without_token": without}

    def _attention(self, sums: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        """Shares of attention by group, as :func:`~scbert_cll.tl.gene_attention` writes them."""
        job, floor = self.job, self.job.floor()
        total, counts = (
            np.sum([found[name] for found in sums], axis=0) for name in ("attention", "n_cells")
        )
        there = np.flatnonzero(counts)
        names = [job.groups[i] for i in there]
        table = attention_shares(job.model, total[there], names).reindex(
            job.data.genes, fill_value=0.0
        )
        params = {"groupby": job.groupby, "per_cell": False, "layer": job.model.layer}
        n = dict(zip(names, counts[there].tolist(), strict=True))
        record = {"params": params, "attention_floor": floor, "n_cells": n}
        return {f"varm/{_keys.GENE_ATTENTION}": table, _ATTENTION: record}


def _give_back() -> None:
    """Hand memory that is free back to the system.

    Glibc keeps what lies between pieces in use, more with every window.
    """
    trim = (
        getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    )  # musl has none
    if trim is not None:
        trim(0)


def _in_rows(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Values in their rows of `n`; the others have none."""
    fill = -1 if values.dtype.kind == "i" else np.nan
    found = np.full((n, *values.shape[1:]), fill, values.dtype)
    found[rows] = values
    return found
