"""The one file that reads cells through annbatch, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from annbatch import DatasetCollection, Loader
from annbatch.abc import Sampler
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll._corpus.format import Corpus, damage, refuse_damage


class _Asked(Sampler):  # type: ignore[misc]
    """Hands annbatch one request: rows, as one batch in their order."""

    batch_size: int | None = None
    shuffle = False

    def __init__(self) -> None:
        self.rows = np.zeros(0, np.int64)

    def n_batches(self, n_obs: int) -> int:
        """Always one."""
        return 1

    def validate(self, n_obs: int) -> None:
        """Rows are checked where they are made."""

    def _sample(self, n_obs: int) -> Iterator[Any]:
        yield {"requests": self.rows, "splits": [np.arange(len(self.rows))]}


class Reader:
    """Cells of one part of a corpus, by number; opened where it is first asked, so that every worker process has its own."""

    def __init__(self, corpus: Corpus, part: str) -> None:
        self.corpus, self.part = corpus, part
        self._loader: Loader[Any, Any] | None = None
        self._asked = _Asked()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loader": None, "_asked": _Asked()}

    def __len__(self) -> int:
        return self.corpus.n_cells(self.part)

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Matrix of these cells, in their order.

        Raises
        ------
        ValueError
            A shard is damaged; it is named.
        """
        self._asked.rows = rows
        try:
            (found,) = self._open()
        except Exception as error:
            refuse_damage(self.corpus, damage(self.corpus))
            raise RuntimeError(
                f"Cells of {self.corpus.path} could not be read, though its files are whole: {error}"
            ) from error
        return sparse.csr_matrix(found["X"])

    def lengths(self) -> np.ndarray:
        """Stored values of each cell."""
        counts = [
            np.diff(np.asarray(zarr.open_array(group.store, path=f"{group.path}/X/indptr", mode="r")[:]))
            for group in self._groups()
        ]
        return np.concatenate(counts).astype(np.int32)

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of `obs` of all cells."""
        found: pd.DataFrame = self._collection().obs(list(columns))
        return found

    def names(self) -> pd.Index:
        """Names of all cells."""
        frames = [cast("pd.DataFrame", read_elem(group["obs"])) for group in self._groups()]
        names: pd.Index = pd.Index(np.concatenate([frame.index for frame in frames]))
        return names

    def _open(self) -> Loader[Any, Any]:
        if self._loader is None:
            loader = Loader(batch_sampler=self._asked, preload_to_gpu=False)
            self._loader = loader.add_adatas([AnnData(X=sparse_dataset(group["X"])) for group in self._groups()])
        return self._loader

    def _collection(self) -> DatasetCollection:
        return DatasetCollection(zarr.open_group(self.corpus.path / self.part, mode="r"))

    def _groups(self) -> list[zarr.Group]:
        return list(self._collection())
