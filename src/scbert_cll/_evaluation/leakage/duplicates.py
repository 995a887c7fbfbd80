"""Which cells are the same cell twice: equal profiles or names, or closer than counting noise."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import sparse

_N_COMPONENTS = 50
# far enough that a cell's own synthetic children do not fill the places
N_NEIGHBORS = 20
_RESAMPLED = re.compile(r"-(?:copy|smote)\d+$")  # what pp.balance appends
# what obs_names_make_unique appends, and 10x barcodes end in
_NUMBERED = re.compile(r"-\d+$")


def profile_hashes(matrix: sparse.csr_matrix) -> np.ndarray:
    """A text per row of a matrix; equal where the rows are equal.

    Stored zeros and number types make no difference.
    """
    rows = sparse.csr_matrix(matrix, dtype=np.float64, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    genes, values = rows.indices.astype(np.int64), rows.data
    spans = pairwise(rows.indptr.tolist())
    texts = (genes[a:b].tobytes() + values[a:b].tobytes() for a, b in spans)
    hashes = [hashlib.blake2b(text, digest_size=16).hexdigest() for text in texts]
    return np.array(hashes, dtype=object)


def resampled_from(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The names of cells before a resampling, and whether the suffix says for sure that it was one.

    ``cell7-copy1`` and ``cell7-smote2`` come from ``cell7``. ``cell7-1`` may, if there is a
    ``cell7``; but two libraries that share a barcode look the same once their names were made
    unique.
    """
    present = set(names)
    original = [_RESAMPLED.sub("", name) for name in names]
    shorter = [_NUMBERED.sub("", name) for name in original]
    pairs = zip(shorter, original, strict=True)
    base = [short if short in present else name for short, name in pairs]
    return np.array(base, dtype=object), np.array(original) != np.array(names)


def twins(
    keys: np.ndarray, parts: np.ndarray, names: np.ndarray, sides: tuple[str, str]
) -> pd.DataFrame:
    """Cells of the second side whose key also occurs on the first, each with one such cell.

    Positions in ``at``.
    """
    first, second = (np.flatnonzero(parts == side) for side in sides)
    owner = pd.Series(first, index=keys[first])
    owner = owner[~owner.index.duplicated()].reindex(keys[second])
    has_twin = owner.notna().to_numpy()
    at, twin = second[has_twin], owner[has_twin].to_numpy(dtype=np.intp)
    cells = pd.DataFrame({"cell": names[at], "part": sides[1], "twin": names[twin]})
    return cells.assign(twin_part=sides[0], at=at)


def nearest(log: sparse.csr_matrix, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Positions of each test cell's nearest training cells, the nearest first (test, up to 20)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.neighbors import NearestNeighbors

    n = min(_N_COMPONENTS, log.shape[1] - 1, len(train) - 1)
    svd = TruncatedSVD(n, random_state=seed).fit(log[train])
    neighbors = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(train)))
    neighbors.fit(svd.transform(log[train]))
    at = neighbors.kneighbors(svd.transform(log[test]), return_distance=False)
    return np.asarray(train[at])


def counting_noise(a: sparse.csr_matrix, b: sparse.csr_matrix) -> pd.DataFrame:
    """How far the cells of `a` differ from those of `b`, row by row, in units of counting noise.

    Two different cells, though they had the same expression, are counted separately: given the sum
    s of a gene's two counts, one of them is binomial (s, q) with q the cell's share of the total of
    both. The statistic is the mean over genes of (a − q s)² / (s q (1 − q)): about 1 for cells of
    equal expression, more for cells that differ, less only where one cell has counts of the other.
    ``z`` is its deviation from 1 in standard errors, ``lowest`` the z of identical cells, beyond
    which nothing can be seen.
    """
    totals = [np.asarray(m.sum(axis=1), dtype=np.float64).ravel() for m in (a, b)]
    q = totals[0] / (totals[0] + totals[1])
    both = sparse.csr_matrix(a + b, dtype=np.float64)
    both.eliminate_zeros()
    row = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
    of_a = np.asarray(sparse.csr_matrix(a, dtype=np.float64)[row, both.indices]).ravel()
    s, share = both.data, q[row]
    pq = share * (1 - share)
    term = (of_a - share * s) ** 2 / (s * pq)
    variance = 2 + (1 / pq - 6) / s  # of a term, from the binomial's fourth moment
    n = np.diff(both.indptr)
    total, spread = (np.bincount(row, v, both.shape[0]) for v in (term, variance))
    error = np.sqrt(np.maximum(spread, 1e-12))
    z = (total - n) / error
    return pd.DataFrame({"noise": total / n, "z": z, "lowest": -n / error})


def distance_ratio(log: sparse.csr_matrix, cells: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Distance of each cell to its nearest neighbour, as a share of that to its last."""
    near, far = (_distances(log[cells], log[neighbors[:, i]]) for i in (0, -1))
    return np.asarray(np.divide(near, far, out=np.zeros_like(near), where=far > 0))


def _distances(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    difference = sparse.csr_matrix(a - b)
    squares = difference.multiply(difference).sum(axis=1)
    return np.sqrt(np.asarray(squares, dtype=np.float64).ravel())
