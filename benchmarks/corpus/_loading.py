"""How fast cells come as batches of tokens: the corpus' loader beside those of anndata, scvi-tools
and annbatch.

All deliver the same tokens of the same cells, shuffled. What arrives is timed as it is delivered
(dense or sparse rows), and as the batch of tokens that the network takes; the way from rows to
tokens is the same code for all.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from scipy import sparse

from scbert_cll.model import CorpusData
from scbert_cll.model.training.batches import Cells, compact, expand
from scbert_cll.nn import Config

CORPUS, TOKENS = "loading.zarr", "loading.h5ad"
CHUNK, N_CHUNKS = 256, 16
Batches = Iterator[Any]
Loader = tuple[
    Callable[[int], Batches], Callable[[Any], list[Cells]]
]  # batches of a size; tokens of a batch


def prepare(folder: Path) -> None:
    """The cells of the corpus as an .h5ad file of tokens, in the same order."""
    data = CorpusData(folder / CORPUS)
    cells = data.cells("train", np.arange(data.n_train))
    ad.AnnData(cells.layers["binned"], obs=cells.obs, var=cells.var).write_h5ad(folder / TOKENS)


def ours(folder: Path, num_workers: int = 0) -> Loader:
    data = CorpusData(
        folder / CORPUS, num_workers=num_workers, chunk_size=CHUNK, preload_nchunks=N_CHUNKS
    )
    config = _config(len(data.genes))
    data.attach(data.genes, config, seed=0)

    def batches(size: int) -> Batches:
        data.batch_size = size
        return iter(data.train_dataloader())

    return batches, lambda batch: expand(batch["compact"], config, None)


def annbatch(folder: Path) -> Loader:
    """annbatch's loader by itself."""
    import zarr
    from annbatch import DatasetCollection
    from annbatch import Loader as Bare
    from anndata.io import sparse_dataset

    collection = DatasetCollection(zarr.open_group(folder / CORPUS / "train", mode="r"))
    config = _config(len(CorpusData(folder / CORPUS).genes))

    def batches(size: int) -> Batches:
        loader = Bare(
            batch_size=size,
            chunk_size=CHUNK,
            preload_nchunks=N_CHUNKS,
            shuffle=True,
            preload_to_gpu=False,
            rng=np.random.default_rng(0),
        )
        return iter(
            loader.use_collection(
                collection, load_adata=lambda group: ad.AnnData(X=sparse_dataset(group["X"]))
            )
        )

    return batches, lambda batch: _tokens(sparse.csr_matrix(batch["X"]), config)


def ann_loader(folder: Path, backed: bool = False) -> Loader:
    """anndata's `AnnLoader`."""
    from anndata.experimental import AnnLoader

    adata = _adata(folder, backed)
    config = _config(adata.n_vars)

    def batches(size: int) -> Batches:
        return iter(AnnLoader(adata, batch_size=size, shuffle=True))

    return batches, lambda batch: _tokens(_sparse(batch.X), config)


def scvi_loader(folder: Path, backed: bool = False) -> Loader:
    """scvi-tools' `AnnDataLoader`; from memory with sparse tensors, its faster way."""
    from scvi.data import AnnDataManager
    from scvi.data.fields import LayerField
    from scvi.dataloaders import AnnDataLoader

    adata = _adata(folder, backed)
    manager = AnnDataManager([LayerField("X", None, is_count_data=False)])
    manager.register_fields(adata)
    config = _config(adata.n_vars)

    def batches(size: int) -> Batches:
        return iter(
            AnnDataLoader(manager, batch_size=size, shuffle=True, load_sparse_tensor=not backed)
        )

    return batches, lambda batch: _tokens(_sparse(batch["X"]), config)


LOADERS: dict[str, Callable[[Path], Loader]] = {
    "CorpusData": ours,
    "CorpusData, 1 worker": lambda folder: ours(folder, num_workers=1),
    "annbatch Loader": annbatch,
    "AnnLoader, in memory": ann_loader,
    "AnnLoader, backed": lambda folder: ann_loader(folder, backed=True),
    "AnnDataLoader, in memory": scvi_loader,
    "AnnDataLoader, backed": lambda folder: scvi_loader(folder, backed=True),
}


def load(where: str, loader: str, sizes: list[int], most_seconds: float) -> dict[str, Any]:
    """Cells per second of one loader after its cells are checked; a slow one is stopped after
    `most_seconds`.
    """
    torch.set_num_threads(1)
    batches, to_tokens = LOADERS[loader](Path(where))
    checked = check(Path(where), (to_tokens(batch) for batch in batches(max(sizes))), most_seconds)
    found: dict[str, Any] = {"checked": checked}
    for size in sizes:
        for what, work in (("delivered", _size_of), ("tokens", lambda batch: _n(to_tokens(batch)))):
            found[f"{what}, {size}"] = _speed(batches(size), work, size, most_seconds)
    return found


def check(folder: Path, batches: Iterator[list[Cells]], most_seconds: float) -> int:
    """Compare every cell with the file; each may come once, and must unless time is up. The number
    of cells.
    """
    csr = ad.read_h5ad(folder / TOKENS).X
    left = Counter(_print(*part) for part in _rows(csr))
    start, n = time.perf_counter(), 0
    for cells in batches:
        for one in (
            cell for part in cells for cell in zip(part["genes"], part["tokens"], strict=True)
        ):
            genes, tokens = (column.numpy() for column in one)
            there = tokens > 0
            left.subtract([_print(genes[there], tokens[there])])
            n += 1
        if time.perf_counter() - start > most_seconds:
            break
    else:
        if n != csr.shape[0]:
            raise SystemExit(f"{n} cells came instead of {csr.shape[0]}")
    if min(left.values()) < 0:
        raise SystemExit("a cell came that is not there, or came twice")
    return n


def _speed(batches: Batches, work: Callable[[Any], int], size: int, most_seconds: float) -> float:
    start, cells = time.perf_counter(), 0
    for batch in batches:
        cells += work(batch)
        if time.perf_counter() - start > most_seconds:
            break
    return cells / (time.perf_counter() - start)


def _size_of(batch: Any) -> int:
    """Cells of a batch of any of the loaders."""
    if isinstance(batch, dict):
        return len(batch["rows"]) if "rows" in batch else int(batch["X"].shape[0])
    return int(batch.X.shape[0])


def _n(cells: list[Cells]) -> int:
    return sum(len(part["tokens"]) for part in cells)


def _tokens(csr: sparse.csr_matrix, config: Config) -> list[Cells]:
    return expand(compact(csr, np.arange(csr.shape[0]), config), config, None)


def _sparse(rows: Any) -> sparse.csr_matrix:
    """Rows as CSR, from a dense or a sparse tensor."""
    if isinstance(rows, torch.Tensor) and rows.layout == torch.sparse_csr:
        parts = (rows.values().numpy(), rows.col_indices().numpy(), rows.crow_indices().numpy())
        return sparse.csr_matrix(parts, tuple(rows.shape))
    return sparse.csr_matrix(np.asarray(rows))


def _config(n_genes: int) -> Config:
    return Config(n_genes=n_genes, tokens="expressed")


def _adata(folder: Path, backed: bool) -> ad.AnnData:
    return ad.read_h5ad(folder / TOKENS, backed="r" if backed else None)


def _rows(csr: sparse.csr_matrix) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start, stop in zip(csr.indptr, islice(csr.indptr, 1, None), strict=False):
        yield csr.indices[start:stop], csr.data[start:stop]


def _print(genes: np.ndarray, tokens: np.ndarray) -> bytes:
    """What tells a cell from the others."""
    order = np.argsort(genes)
    return genes[order].astype(np.int32).tobytes() + tokens[order].astype(np.uint8).tobytes()
