"""The one file that reads cells through annbatch, which is an extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr
from annbatch import Loader
from annbatch.abc import Sampler
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll._corpus.format import Corpus, refuse_damage


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
    """Cells of one part of a corpus, by number.

    Opened where it is first asked, so that every worker process has its own.
    """

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
            refuse_damage(self.corpus)
            raise RuntimeError(
                f"Cells of {self.corpus.path} could not be read, though its files are whole: "
                f"{error}"
            ) from error
        return sparse.csr_matrix(found["X"])

    def lengths(self) -> np.ndarray:
        """Stored values of each cell."""
        counts = [
            np.diff(np.asarray(cast("Any", group["X/indptr"])[:])) for group in self._groups()
        ]
        return np.concatenate([np.zeros(0, np.int64), *counts]).astype(np.int32)

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of `obs` of all cells."""
        frames = [
            pd.DataFrame(
                {name: read_elem(obs[name]) for name in columns if name in obs},
                index=self._index(obs),
            )
            for obs in self._obs()
        ]
        return pd.concat(frames) if frames else pd.DataFrame(columns=list(columns))

    def names(self) -> pd.Index:
        """Names of all cells."""
        names: pd.Index = pd.Index(
            np.concatenate([np.zeros(0, object), *(self._index(obs) for obs in self._obs())])
        )
        return names

    def _open(self) -> Loader[Any, Any]:
        if self._loader is None:
            loader = Loader(batch_sampler=self._asked, preload_to_gpu=False)
            self._loader = loader.add_adatas(
                [AnnData(X=sparse_dataset(group["X"])) for group in self._groups()]
            )
        return self._loader

    def _groups(self) -> list[zarr.Group]:
        """The datasets that the manifest lists, in its order.

        What else lies in the folder is not looked at.
        """
        names = [dataset["name"] for dataset in self.corpus.datasets(self.part)]
        return [
            zarr.open_group(self.corpus.path / self.part / name, mode="r", zarr_format=3)
            for name in names
        ]

    def _obs(self) -> list[Any]:
        return [group["obs"] for group in self._groups()]

    @staticmethod
    def _index(obs: Any) -> np.ndarray:
        return np.asarray(read_elem(obs[obs.attrs["_index"]]), dtype=object)
