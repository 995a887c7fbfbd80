"""Simulated cells on disk, as many as wished: h5ad files of sparse counts, written block by block.

A gene is detected in a cell with a probability that follows from its abundance, its donor, the
class of the cell and the cell's depth; what is detected has one count and more. Every file has
donors of its own and lacks some of the genes; donors lie one after the other, as in files that were
put together by sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

N_GENES, EXPRESSED = 16_906, 1_000
DONORS, CELLS_PER_FILE, BLOCK = 10, 50_000, 1_000
LABELS = ("CD49d-", "CD49d+")
N_MARKED, MARKED_FOLD = 60, 4.0  # genes of CD49d+ cells
DEPTHS = np.exp(0.4 * np.linspace(-1.6, 1.6, 8))  # of cells, against the median
MISSING = 0.03  # share of the genes that a file lacks
CERTAIN = 2**16  # detection is drawn with 16 random bits
COMPRESSED = {"compression": "lzf", "shuffle": True, "chunks": (2**18,)}


class World(NamedTuple):
    """What is the same in all files."""

    genes: np.ndarray  # names
    rate: np.ndarray  # expected counts in a cell of median depth
    marked: np.ndarray  # genes that CD49d+ cells have more of


def world(n_genes: int = N_GENES, expressed: int = EXPRESSED, seed: int = 0) -> World:
    """Abundances are log-normal, scaled so that about `expressed` genes are detected in a cell."""
    rng = np.random.default_rng([seed, 1])
    abundance, low, high = rng.lognormal(sigma=1.5, size=n_genes), 1e-6, 1e3
    for _ in range(60):
        middle = np.sqrt(low * high)
        found = -np.expm1(-middle * np.outer(DEPTHS, abundance)).sum(axis=1).mean()
        low, high = (middle, high) if found < expressed else (low, middle)
    names = np.array([f"G{i}" for i in range(n_genes)])
    return World(
        names, low * abundance, rng.choice(n_genes, min(N_MARKED, n_genes // 10), replace=False)
    )


def simulate(
    folder: Path, n_cells: int, per_file: int = CELLS_PER_FILE, n_genes: int = N_GENES
) -> list[Path]:
    """Write what is missing of the files; a file is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    common = world(n_genes, max(2, round(EXPRESSED * n_genes / N_GENES)))
    paths = []
    for number, first in enumerate(range(0, n_cells, per_file)):
        path = folder / f"cells_{number:03d}.h5ad"
        if not path.exists():
            aside = path.with_suffix(".new")
            write(aside, common, number, min(per_file, n_cells - first))
            aside.replace(path)
        paths.append(path)
    return paths


def write(path: Path, common: World, number: int, n_cells: int) -> None:
    """One file."""
    rng = np.random.default_rng([number, 2])
    there = np.sort(rng.permutation(len(common.genes))[round(MISSING * len(common.genes)) :])
    chances = _chances(common, there, rng)
    donor = np.arange(n_cells) * DONORS // n_cells
    share = rng.beta(2, 2, size=DONORS)  # of CD49d+ cells of each donor
    label = (rng.random(n_cells) < share[donor]).astype(np.int64)
    depth = rng.integers(len(DEPTHS), size=n_cells)
    with h5py.File(path, "w") as file:
        write_elem(
            file,
            "/",
            ad.AnnData(obs=_obs(number, donor, label), var=pd.DataFrame(index=common.genes[there])),
        )
        for first in range(0, n_cells, BLOCK):
            these = slice(first, first + BLOCK)
            block = _block(chances[donor[these], label[these], depth[these]], rng)
            if first:
                sparse_dataset(file["X"]).append(block)
            else:
                file.pop("X", None)
                write_elem(file, "X", block, dataset_kwargs=COMPRESSED)


def _chances(common: World, there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of detection, in 65,536ths: donors × classes × depths × genes."""
    fold = np.ones((len(LABELS), len(common.genes)))
    fold[1, common.marked] = MARKED_FOLD
    donors = rng.lognormal(sigma=0.2, size=(DONORS, 1, 1, len(there)))
    rate = common.rate[there] * donors * fold[:, None, there] * DEPTHS[:, None]
    return np.minimum(CERTAIN * -np.expm1(-rate), CERTAIN - 1).astype(np.uint16)


def _block(chance: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of some cells from the chances of each of their genes."""
    n, n_genes = chance.shape
    seen = _bits(rng, chance.size, np.uint16).reshape(n, n_genes) < chance
    flat = np.flatnonzero(seen)
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(seen, axis=1))])
    genes = (flat % n_genes).astype(np.int32)
    more = chance.reshape(-1)[flat] // (CERTAIN // 64)  # up to 64 classes of abundance
    counts = _COUNTS[more, _bits(rng, len(flat), np.uint8)]
    return sparse.csr_matrix((counts, genes, indptr.astype(np.int32)), (n, n_genes))


def _bits(rng: np.random.Generator, n: int, dtype: type) -> np.ndarray:
    """Random numbers of all values of a type: the fastest there are."""
    each = 8 // np.dtype(dtype).itemsize
    return rng.integers(2**64 - 1, size=-(-n // each), dtype=np.uint64, endpoint=True).view(dtype)[
        :n
    ]


def _counts_by_chance() -> np.ndarray:
    """Quantiles of Poisson counts that are not zero, for 64 chances of being so: 256 of each."""
    rate = -np.log1p(-(np.arange(64) + 0.5) / 64)
    counts = np.arange(1, 40)
    logs = counts * np.log(rate)[:, None] - np.cumsum(np.log(counts))
    share = np.cumsum(np.exp(logs), axis=1)
    share /= share[:, -1:]
    at = (np.arange(256) + 0.5) / 256
    return np.stack([1 + np.searchsorted(row, at) for row in share]).astype(np.float32)


_COUNTS = _counts_by_chance()


def _obs(number: int, donor: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    donors = pd.Categorical.from_codes(donor, [f"D{number:03d}_{i}" for i in range(DONORS)])
    labels = pd.Categorical.from_codes(label, list(LABELS))
    return pd.DataFrame(
        {"donor": donors, "label": labels}, index=[f"c{i}" for i in range(len(donor))]
    )
