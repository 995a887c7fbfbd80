"""Vectors of genes: from the data's own co-expression, or ready ones in the forms they come in.

Co-expression goes from cells to metacells to pairs to vectors. All are tables with one row per gene
name.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import listed, unique
from scbert_cll._counts import log_normalised
from scbert_cll._optional import optional

_MIN_DF: Final = 10  # a correlation over fewer independent metacells is noise
_N_COMPONENTS: Final = 20
_BLOCK: Final = 1024  # rows of the gene-by-gene correlation that exist at one time
# gensim's 0.025 is for corpora of millions of words: here it leaves the vectors where they started
_ALPHA: Final = 0.1
_HEAD: Final = 2**16  # bytes of a file, of the first line and what follows it
_DIGITS: Final = 12  # of a number of vectors

type Counts = sparse.csr_matrix  # raw, cells × genes
type Names = str | PathLike[str] | Sequence[str]  # of genes: a file, or themselves


@dataclass(frozen=True)
class SkipGram:
    """Options of skip-gram, by the names and defaults of :func:`scbert_cll.tl.gene2vec`."""

    n_dims: int = 200
    n_neighbors: int = 10
    min_detected: float = 0.05
    cells_per_metacell: int = 1
    n_metacells: int = 2000
    epochs: int = 20


SKIP_GRAM: Final = SkipGram()


def principal_vectors(
    counts: Counts, names: pd.Index, n_dims: int, min_detected: float, seed: int
) -> pd.DataFrame:
    """Vectors whose products come close to the genes' correlations over cells: genes × n_dims.

    Principal directions of log2(1 + counts per 10,000), every gene at unit variance, times their
    singular values, at unit scale. Sparse stays sparse; zero in dimensions that the cells do not
    span.
    """
    from sklearn.decomposition import PCA

    log = log_normalised(counts, base=2)
    mean = log.mean(axis=0).A1
    spread = np.sqrt(np.maximum(log.multiply(log).mean(axis=0).A1 - mean**2, 0))
    genes = np.flatnonzero((spread > 1e-6) & (_detected(counts) >= min_detected))
    n = min(n_dims, len(genes) - 1, counts.shape[0] - 1)
    if n < 1:
        raise ValueError(
            f"{len(genes)} of {len(names)} genes vary over {counts.shape[0]} cells and are found "
            f"in at least min_detected={min_detected:g} of them; vectors need two of each. Use "
            f"more cells, lower min_detected, or give vectors=."
        )
    scaled = (log[:, genes] @ sparse.diags(1 / spread[genes])).tocsr()
    pca = PCA(n, svd_solver="arpack", random_state=seed).fit(scaled)
    vectors = np.zeros((len(genes), n_dims))
    vectors[:, :n] = pca.components_.T * pca.singular_values_
    scale = np.sqrt(np.mean(vectors[:, :n] ** 2))
    return pd.DataFrame(vectors / scale, index=names[genes])


def co_expression_vectors(
    counts: Counts, names: pd.Index, donors: np.ndarray, options: SkipGram, seed: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Vectors by gene name, and the numbers of cells, metacells and pairs that they come from.

    `donors` are codes, one a cell.
    """
    n_cells, detected = counts.shape[0], _detected(counts)
    genes = np.flatnonzero((detected >= options.min_detected) & (detected > 0))
    size = max(options.cells_per_metacell, -(-n_cells // options.n_metacells))
    profiles = _metacell_profiles(counts, genes, donors, size)
    lengths = np.linalg.norm(profiles, axis=0)
    varying = lengths > 1e-6  # rounding is no variation
    genes, profiles = genes[varying], profiles[:, varying] / lengths[varying]
    pairs = _partners(profiles, options.n_neighbors)
    if not len(pairs):
        raise ValueError(
            f"No two genes are co-expressed: {len(genes)} of {len(names)} genes vary and are "
            f"found in at least min_detected={options.min_detected:g} of the cells. Lower "
            f"min_detected, or give vectors=."
        )
    vectors = _skip_gram(pairs, names[genes], options, seed)
    numbers = {"n_cells": n_cells, "n_metacells": len(profiles), "n_pairs": len(pairs)}
    return vectors, numbers


def _detected(counts: Counts) -> np.ndarray:
    """Share of the cells in which each gene has a count."""
    n = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1])
    return np.asarray(n / counts.shape[0])


def _metacell_profiles(
    counts: Counts, genes: np.ndarray, donors: np.ndarray, size: int
) -> np.ndarray:
    """Log-normalised metacells × genes, minus the mean of their donor's."""
    centred = []
    for donor in np.unique(donors):
        cells = counts[donors == donor]
        groups = _metacells(cells[:, genes], cells.sum(axis=1).A1, size)
        if len(groups) > 1:  # one metacell has nothing to be compared with
            ones, starts = np.ones(cells.shape[0]), np.cumsum([0, *map(len, groups)])
            summed = sparse.csr_matrix((ones, np.concatenate(groups), starts)) @ cells
            totals = summed.sum(axis=1).A1
            log = log_normalised(summed[:, genes], totals=totals).toarray()
            centred.append((log - log.mean(axis=0)).astype(np.float32))
    df = sum(len(c) - 1 for c in centred)
    if df < _MIN_DF:
        raise ValueError(
            f"{counts.shape[0]} training cells of {len(np.unique(donors))} donors make metacells "
            f"of {size} or more cells for {df} degrees of freedom; a correlation needs at least "
            f"{_MIN_DF}. Use more cells, lower cells_per_metacell, or give vectors=."
        )
    return np.concatenate(centred)


def _metacells(counts: Counts, totals: np.ndarray, size: int) -> list[np.ndarray]:
    """Groups of `size` to 2·`size` − 1 like cells, halved at the median of the widest component."""
    cells = np.arange(len(totals))
    if size == 1:
        return np.split(cells, cells[1:])
    if len(cells) < 2 * size:
        return [cells]
    points, todo, done = _components(counts, totals), [cells], []
    while todo:
        cells = todo.pop()
        if len(cells) < 2 * size:
            done.append(cells)
            continue
        widest = points[cells].var(axis=0).argmax()
        ordered = cells[np.argsort(points[cells, widest], kind="stable")]
        todo += [ordered[: len(cells) // 2], ordered[len(cells) // 2 :]]
    return done


def _components(counts: Counts, totals: np.ndarray) -> np.ndarray:
    """Cells × principal components of one donor's log-normalised cells; sparse stays sparse."""
    from sklearn.decomposition import PCA

    n = min(_N_COMPONENTS, *(d - 1 for d in counts.shape))
    pca = PCA(n, svd_solver="arpack", random_state=0)
    return np.asarray(pca.fit_transform(log_normalised(counts, totals=totals)))


def _partners(unit: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Each gene with the genes it correlates with best, every unordered pair once.

    One block of rows at a time.
    """
    n_genes = unit.shape[1]
    k = min(n_neighbors, n_genes - 1)
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, n_genes if k > 0 else 0, _BLOCK):
        r = unit[:, start : start + _BLOCK].T @ unit  # (block, genes)
        rows = np.arange(len(r))
        r[rows, start + rows] = -np.inf
        best = np.argpartition(r, -k, axis=1)[:, -k:]
        row, nth = np.nonzero(np.take_along_axis(r, best, axis=1) > 0)
        pairs.append(np.stack([start + row, best[row, nth]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _skip_gram(pairs: np.ndarray, names: pd.Index, options: SkipGram, seed: int) -> pd.DataFrame:
    """Word2Vec on sentences of two genes; one worker, so that the seed decides everything."""
    models = optional("gensim.models", 'method="skip_gram"')
    words = names.astype(str).to_numpy(dtype=object)
    shuffled = np.random.default_rng(seed).permutation(pairs)
    model = models.Word2Vec(
        words[shuffled].tolist(),
        vector_size=options.n_dims,
        window=1,
        min_count=1,
        sg=1,
        negative=5,
        sample=0,
        workers=1,
        epochs=options.epochs,
        alpha=_ALPHA,
        seed=seed,
    )
    return pd.DataFrame(model.wv.vectors, index=model.wv.index_to_key)


# ---- ready vectors


def source(vectors: Any) -> str:
    """What to write down about where the vectors come from."""
    first = vectors[0] if isinstance(vectors, tuple) else vectors
    is_file = isinstance(first, str | PathLike)
    return Path(first).name if is_file else type(vectors).__name__


def read_vectors(vectors: Any) -> pd.DataFrame:
    """Vectors in any of the accepted forms as a table, one row per gene name."""
    if isinstance(vectors, pd.DataFrame):
        table = vectors
    elif hasattr(vectors, "index_to_key"):  # gensim's KeyedVectors
        table = pd.DataFrame(vectors.vectors, index=vectors.index_to_key)
    elif isinstance(vectors, str | PathLike):
        table = _read_file(vectors)
    elif isinstance(vectors, tuple) and len(vectors) == 2:
        table = _read_file(*vectors)
    else:
        raise TypeError(
            f"vectors must be a file, (npy file, gene names), a gensim KeyedVectors or a DataFrame "
            f"genes x dimensions; found {type(vectors).__name__}."
        )
    unique(table.index, "the gene names of vectors", "keep one row per gene")
    table = table.apply(pd.to_numeric, errors="coerce")
    values: pd.DataFrame = table.astype(np.float32)
    bad = values.index[~np.isfinite(values.to_numpy()).all(axis=1)]
    if len(bad):
        raise ValueError(f"vectors has non-finite values for {len(bad)} genes: {listed(bad)}.")
    return values


def _read_file(file: str | PathLike[str], names: Names | None = None) -> pd.DataFrame:
    """A word2vec file, text or binary, or an npy file with its names."""
    path = Path(file)
    try:
        if path.suffix == ".npy":
            return _read_npy(path, path.with_suffix(".txt") if names is None else names)
        if names is not None:
            raise ValueError("gene names are given beside a .npy file only")
        return _read_word2vec(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"vectors: {error}") from error
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"vectors: {path} cannot be read: {error}. Expected word2vec text or binary, or .npy "
            f"with a .txt of gene names."
        ) from error


def _read_npy(path: Path, names: Names) -> pd.DataFrame:
    """Rows of the array get the names in the order of the list."""
    # mapped, since it is no larger than the file then
    values = np.load(_checks.files.plain_file(path), mmap_mode="r", allow_pickle=False)
    if isinstance(names, str | PathLike):
        names = _checks.files.read_text(names).split()
    genes = list(names)
    if not isinstance(values, np.ndarray):
        raise ValueError("it holds several arrays, as .npz does")
    if values.ndim != 2 or len(values) != len(genes):
        raise ValueError(f"its shape is {values.shape}, and there are {len(genes)} gene names")
    return pd.DataFrame(np.array(values), index=genes)


def _read_word2vec(path: Path) -> pd.DataFrame:
    """Binary, or text by pandas, which takes tabs and a missing header line, too."""
    data = _checks.files.read_bytes(path, lines=False)
    head, _, rest = data[:_HEAD].partition(b"\n")
    is_marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"))
    # UTF-16 has zeros
    if not is_marked and any(byte > 127 or byte == 0 for byte in rest[:4096]):
        return _read_binary(data, head)
    text = _checks.files.read_text(path)
    table: pd.DataFrame = pd.read_csv(
        StringIO(text),
        skiprows=int(len(text.partition("\n")[0].split()) == 2),  # the header line
        sep=r"\s+",
        header=None,
        index_col=0,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
    )
    return table


def _read_binary(data: bytes, head: bytes) -> pd.DataFrame:
    """Vectors behind their names; the first line says how many there are, and their size."""
    numbers = head.split()
    if len(numbers) != 2 or not all(n.isdigit() and len(n) < _DIGITS for n in numbers):
        raise ValueError(
            f"its first line must be two numbers, of vectors and of their dimensions; it begins "
            f"with {head[:20]!r}"
        )
    n, size = map(int, numbers)
    if not size or n * (size * 4 + 2) > len(data):
        raise ValueError(
            f"its first line says {n:,} vectors of {size:,} dimensions, and it holds "
            f"{len(data):,} bytes"
        )
    names, values, at = [], np.empty((n, size), dtype=np.float32), len(head) + 1
    for i in range(n):
        end = data.index(b" ", at)
        names.append(data[at:end].lstrip(b"\n").decode())
        values[i] = np.frombuffer(data, "<f4", size, end + 1)
        at = end + 1 + size * 4
    return pd.DataFrame(values, index=names)
