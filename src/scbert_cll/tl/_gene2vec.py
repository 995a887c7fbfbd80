"""One vector per gene: from the data's own co-expression, or from a file, by gene name."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll.tl._vectors import read_vectors, source

logger = logging.getLogger(__name__)

_MIN_DF = 10  # a correlation over fewer independent metacells is noise
_N_COMPONENTS = 20
_BLOCK = 1024  # rows of the gene-by-gene correlation that exist at one time
_ALPHA = 0.1  # gensim's 0.025 is for corpora of millions of words: here it leaves the vectors where they started


def gene2vec(
    adata: AnnData,
    *,
    n_dims: int = 200,
    layer: str | None = None,
    donor_key: str | None = None,
    split_key: str | None = _keys.SPLIT,
    vectors: Any = None,
    min_matched: float = 0.5,
    cells_per_metacell: int = 1,
    n_metacells: int = 2000,
    n_neighbors: int = 10,
    min_detected: float = 0.05,
    epochs: int = 20,
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.GENE2VEC,
    copy: bool = False,
) -> AnnData | None:
    """Give every gene a vector that lies close to those of the genes it is expressed with.

    Cells of one donor that look alike are summed to metacells, as few as keeps their number within `n_metacells`.
    Metacells are log-normalised and centred within their donor, so that what differs between donors (clone, sex,
    batch) makes no pairs; each gene is paired with the genes it correlates with best, and skip-gram with negative
    sampling turns the pairs into vectors. Held-out cells are not looked at. With `vectors`, nothing is trained and
    ready vectors are taken over, always by gene name.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    n_dims
        Length of a vector; with `vectors` the file decides.
    layer
        Layer with the raw counts; None means `adata.X`.
    donor_key
        Column of `adata.obs` that names the donor. None takes all cells for one donor's.
    split_key
        Column of `adata.obs` with train / val / test. Where the default column exists, only its training cells are
        used; another name must exist; None uses all cells.
    vectors
        Ready vectors: a gensim `KeyedVectors`; a DataFrame genes × dimensions; a word2vec file, text (with or without
        its header line) or binary; or a ``.npy`` file of genes × dimensions with the gene names, one a line, in the
        ``.txt`` file of the same name or given as ``(npy_file, names)``.
    min_matched
        Smallest share of the genes in `adata` that must have a vector in `vectors`.
    cells_per_metacell
        Smallest number of cells in a metacell. Raise it for very shallow data only: sums of cells that differ in a
        weak programme no longer show it.
    n_metacells
        Metacells get larger where there would be more than this many.
    n_neighbors
        Partners of a gene: those with the highest positive correlations.
    min_detected
        Share of the cells that must express a gene before it gets a vector.
    epochs
        Passes over all pairs.
    rng
        Seed or generator. The same seed gives the same vectors.
    key_added
        Name of the slots that are written.
    copy
        Return a new object and leave `adata` as it is.

    Returns
    -------
    None, or the new object with `copy=True`. Writes:

    ``adata.varm['gene2vec']`` : float32 array, genes × dimensions
        The vectors. A gene without one has zeros.
    ``adata.uns['gene2vec']`` : dict
        ``n_genes`` and ``n_genes_with_vector``; ``n_cells``, ``n_metacells`` and ``n_pairs`` if trained; ``params``.

    Raises
    ------
    KeyError
        If the layer or a column of `adata.obs` is not there.
    TypeError
        If `adata` is not an AnnData or `vectors` is none of the forms above.
    ValueError
        If the values are not raw counts, there are too few cells for metacells, `vectors` cannot be read or covers too
        few genes, or `adata` is a view and `copy=False`.
    FileNotFoundError
        If a file of `vectors` or of its names does not exist.

    Notes
    -----
    Gene2vec is from Du et al. 2019 (doi:10.1186/s12864-018-5370-x), which pairs genes within each of 984 bulk data
    sets where r > 0.9. Single cells do not reach that, so here the best partners count, whatever their r. A pair is a
    sentence of two words, for which skip-gram and CBOW are the same. A gene with chance partners only still gets a
    vector of its own: the network needs to tell genes apart.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy()["rna"]
    >>> sc_cll.tl.gene2vec(adata, n_dims=32, donor_key="donor")
    >>> adata.varm["gene2vec"].shape[1]
    32
    """
    adata = _checks.anndata(adata)
    params: dict[str, Any] = {"n_dims": n_dims, "layer": layer or "X", "source": "co-expression"}
    params |= {"donor_key": donor_key or "none", "split_key": split_key or "none", "min_detected": min_detected}
    params |= {"cells_per_metacell": cells_per_metacell, "n_metacells": n_metacells}
    params |= {"n_neighbors": n_neighbors, "epochs": epochs}
    if vectors is not None:
        _checks.share(min_matched, "min_matched")
        found = read_vectors(vectors)
        _checks.enough_matched(adata.var_names, found.index, "vectors", min_matched=min_matched)
        params = {"n_dims": found.shape[1], "min_matched": min_matched, "source": source(vectors)}
        numbers: dict[str, int] = {}
    else:
        _check_numbers(params)
        cells, donors = _training_cells(adata, donor_key, split_key)
        counts = _checks.counts(adata, layer)[cells]
        _checks.no_empty_cells(counts.sum(axis=1).A1, adata[cells], "the training cells")
        found, numbers = _train(counts, adata.var_names, donors, params, np.random.default_rng(rng))
        if isinstance(rng, int | np.integer):
            params["rng"] = int(rng)
    numbers |= {"n_genes": adata.n_vars, "n_genes_with_vector": int(adata.var_names.isin(found.index).sum())}
    logger.info("%d of %d genes have a vector", numbers["n_genes_with_vector"], adata.n_vars)

    adata = _checks.target(adata, copy=copy)
    adata.varm[key_added] = found.reindex(adata.var_names, fill_value=0.0).to_numpy(dtype=np.float32)
    adata.uns[key_added] = {"params": params, **numbers}
    return adata if copy else None


def _check_numbers(params: dict[str, Any]) -> None:
    """Whole numbers, at least one of each, and a share."""
    for name in ("n_dims", "cells_per_metacell", "n_metacells", "n_neighbors", "epochs"):
        _checks.number_in(params[name], name, 1, np.inf, whole=True)
    _checks.share(params["min_detected"], "min_detected")


def _training_cells(adata: AnnData, donor_key: str | None, split_key: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that may be looked at, and the donor of each."""
    cells = np.arange(adata.n_obs)
    if split_key is not None and (split_key in adata.obs or split_key != _keys.SPLIT):
        cells = np.flatnonzero(_checks.split(adata, split_key) == _keys.TRAIN)
    if donor_key is None:
        return cells, np.zeros(len(cells), dtype=np.intp)
    return cells, pd.factorize(_checks.obs_column(adata, donor_key, allow_missing=False).iloc[cells])[0]


def _train(
    counts: sparse.csr_matrix, names: pd.Index, donors: np.ndarray, params: dict[str, Any], rng: np.random.Generator
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Counts to metacells to pairs to vectors, indexed by gene name, and how many there were of each."""
    n_cells = counts.shape[0]
    detected = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1]) / n_cells
    genes = np.flatnonzero((detected >= params["min_detected"]) & (detected > 0))
    size = max(params["cells_per_metacell"], -(-n_cells // params["n_metacells"]))
    profiles = _metacell_profiles(counts, genes, donors, size)
    varying = np.linalg.norm(profiles, axis=0) > 1e-6  # rounding is no variation
    genes, profiles = genes[varying], profiles[:, varying] / np.linalg.norm(profiles[:, varying], axis=0)
    pairs = _partners(profiles, params["n_neighbors"])
    if not len(pairs):
        raise ValueError(
            f"No two genes are co-expressed: {len(genes)} of {len(names)} genes are found in at least "
            f"min_detected={params['min_detected']:g} of the cells and vary. Lower min_detected, or give vectors=."
        )
    found = _skip_gram(pairs, names[genes], params["n_dims"], params["epochs"], seed=int(rng.integers(2**31)))
    return found, {"n_cells": n_cells, "n_metacells": len(profiles), "n_pairs": len(pairs)}


def _metacell_profiles(counts: sparse.csr_matrix, genes: np.ndarray, donors: np.ndarray, size: int) -> np.ndarray:
    """Log-normalised metacells minus the mean of their donor's, for the given genes."""  # (metacells, genes)
    centred = []
    for donor in np.unique(donors):
        own = counts[donors == donor]
        groups = _metacells(own[:, genes], own.sum(axis=1).A1, size)
        if len(groups) > 1:  # one metacell has nothing to be compared with
            member = sparse.csr_matrix(
                (np.ones(own.shape[0]), np.concatenate(groups), np.cumsum([0, *map(len, groups)]))
            )
            summed = member @ own
            log = np.log1p(summed[:, genes].toarray() * (1e4 / summed.sum(axis=1).A1[:, None]))
            centred.append((log - log.mean(axis=0)).astype(np.float32))
    df = sum(len(c) - 1 for c in centred)
    if df < _MIN_DF:
        raise ValueError(
            f"{counts.shape[0]} training cells of {len(np.unique(donors))} donors make metacells of {size} or more "
            f"cells for {df} degrees of freedom; a correlation needs at least {_MIN_DF}. Use more cells, lower "
            "cells_per_metacell, or give vectors=."
        )
    return np.concatenate(centred)


def _metacells(counts: sparse.csr_matrix, totals: np.ndarray, size: int) -> list[np.ndarray]:
    """Groups of `size` to 2·`size` − 1 like cells: halve at the median of the widest component while that is possible."""
    cells = np.arange(len(totals))
    if size == 1:
        return np.split(cells, cells[1:])
    points = _components(counts, totals) if len(cells) >= 2 * size else np.zeros((len(cells), 1))
    todo, done = [cells], []
    while todo:
        cells = todo.pop()
        if len(cells) < 2 * size:
            done.append(cells)
            continue
        widest = points[cells].var(axis=0).argmax()
        ordered = cells[np.argsort(points[cells, widest], kind="stable")]
        todo += [ordered[: len(cells) // 2], ordered[len(cells) // 2 :]]
    return done


def _components(counts: sparse.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Principal components of one donor's log-normalised cells; sparse stays sparse."""  # (cells, components)
    from sklearn.decomposition import PCA

    n = min(_N_COMPONENTS, *(d - 1 for d in counts.shape))
    log = (sparse.diags(1e4 / totals) @ counts).log1p().tocsr()
    components: np.ndarray = PCA(n, svd_solver="arpack", random_state=0).fit_transform(log)
    return components


def _partners(unit: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Each gene with the genes it correlates with best, every unordered pair once; one block of rows at a time."""
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


def _skip_gram(pairs: np.ndarray, names: pd.Index, n_dims: int, epochs: int, *, seed: int) -> pd.DataFrame:
    """Word2Vec on sentences of two genes; one worker, so that the seed decides everything."""
    from gensim.models import Word2Vec

    words = names.astype(str).to_numpy(dtype=object)
    shuffled = np.random.default_rng(seed).permutation(pairs)
    sentences = words[shuffled].tolist()
    model = Word2Vec(
        sentences,
        vector_size=n_dims,
        window=1,
        min_count=1,
        sg=1,
        negative=5,
        sample=0,
        workers=1,
        epochs=epochs,
        alpha=_ALPHA,
        seed=seed,
    )
    return pd.DataFrame(model.wv.vectors, index=model.wv.index_to_key)
