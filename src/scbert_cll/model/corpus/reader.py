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
from scbert_cll._disk.formats import Json


class _Request(Sampler):  # type: ignore[misc]
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
        self._request = _Request()

    def __getstate__(self) -> Json:
        return self.__dict__ | {"_loader": None, "_request": _Request()}

    def __len__(self) -> int:
        return self.corpus.n_cells(self.part)

    def read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Matrix of these cells, in their order.

        Raises
        ------
        ValueError
            A shard is damaged; it is named.
        """
        self._request.rows = rows
        try:
            (batch,) = self._open()
        except Exception as error:
            refuse_damage(self.corpus)
            raise RuntimeError(
                f"Cells of {self.corpus.path} could not be read, though its files are whole: "
                f"{error}"
            ) from error
        return sparse.csr_matrix(batch["X"])

    def lengths(self) -> np.ndarray:
        """Stored values of each cell."""
        borders = (cast("Any", group["X/indptr"])[:] for group in self._groups())
        counts = (np.diff(np.asarray(one)) for one in borders)
        return np.concatenate([np.zeros(0, np.int64), *counts]).astype(np.int32)

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of `obs` of all cells."""
        frames = [pd.DataFrame(columns=list(columns), index=pd.Index([], dtype=object))]
        for group in self._groups():
            obs: Any = group["obs"]
            names = np.asarray(read_elem(obs[obs.attrs["_index"]]), dtype=object)
            values = {name: read_elem(obs[name]) for name in columns if name in obs}
            frames.append(pd.DataFrame(values, index=names))
        return pd.concat(frames[1:] or frames)

    def names(self) -> pd.Index:
        """Names of all cells."""
        return self.obs([]).index

    def _open(self) -> Loader[Any, Any]:
        if self._loader is None:
            parts = [AnnData(X=sparse_dataset(group["X"])) for group in self._groups()]
            loader = Loader(batch_sampler=self._request, preload_to_gpu=False)
            self._loader = loader.add_adatas(parts)
        return self._loader

    def _groups(self) -> list[zarr.Group]:
        """The datasets that the manifest lists, in its order.

        What else lies in the folder is not looked at.
        """
        folder = self.corpus.path / self.part
        places = [folder / one["name"] for one in self.corpus.datasets(self.part)]
        return [zarr.open_group(place, mode="r", zarr_format=3) for place in places]
