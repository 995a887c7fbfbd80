"""Finished folds on disk, so that a run that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._disk.formats import digest
from scbert_cll._disk.in_place import make_folder
from scbert_cll._disk.left_overs import read_kept, write_kept

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Done(NamedTuple):
    """What one model made of one fold."""

    proba: np.ndarray  # (test cells, classes)
    seconds: float


class FoldStore:
    """A folder with one small file per finished fold of a model; without a folder nothing is kept.

    A file's name holds a fingerprint of everything its numbers depend on, so that a run with other
    data, folds or settings computes its own folds and never takes over another's.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"checkpoint={str(folder)!r} is a file; name a folder for the finished folds."
            )
        make_folder(self.folder)
        # a place that cannot be written to is found now, not after the first model was fitted
        TemporaryFile(dir=self.folder).close()

    def load(self, name: str, fingerprint: str) -> Done | None:
        """The result of an earlier run; None where there is none.

        A file that is damaged, or of another model or run, counts as none.
        """
        if self.folder is None:
            return None
        stored = read_kept(self._path(name, fingerprint), digest([name, fingerprint]))
        return None if stored is None else Done(stored[1]["proba"], stored[0]["seconds"])

    def save(self, name: str, fingerprint: str, done: Done) -> None:
        """Write aside, read back and rename, so that a file is whole or not there."""
        if self.folder is not None:
            path, seal = self._path(name, fingerprint), digest([name, fingerprint])
            numbers = {"seconds": float(done.seconds)}
            write_kept(path, {"proba": done.proba}, numbers, seal)

    def _path(self, name: str, fingerprint: str) -> Path:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:60]
        return Path(str(self.folder)) / f"{slug}.{fingerprint[:16]}.npz"


def fingerprint(*parts: object) -> str:
    """Hash of arrays and plain values.

    Of other objects what they say of themselves, less where they lie in memory.
    """
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            sha.update(json.dumps(part, default=_plain, sort_keys=True).encode())
    return sha.hexdigest()


def _plain(value: object) -> object:
    """What json can write of a value."""
    if isinstance(value, np.ndarray):
        return fingerprint(value) if value.dtype != object else value.tolist()
    if isinstance(value, AnnData):
        return [value.obs_names.tolist(), value.var_names.tolist(), _plain(value.X)]
    if sparse.issparse(value):
        csr = sparse.csr_matrix(value)
        return [list(csr.shape), *map(fingerprint, (csr.data, csr.indices, csr.indptr))]
    if isinstance(value, pd.DataFrame | pd.Series):
        names = list(value.columns) if isinstance(value, pd.DataFrame) else value.name
        return [names, fingerprint(pd.util.hash_pandas_object(value).to_numpy())]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "get_params"):
        return {"class": type(value).__qualname__} | dict(value.get_params(deep=False))
    return dict(value) if isinstance(value, Mapping) else _ADDRESS.sub("", repr(value))
