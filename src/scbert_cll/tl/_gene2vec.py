"""One vector per gene: from the data's own co-expression, or from a file, by gene name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import choice, listed, number_in, share
from scbert_cll._gene_names.columns import places_in
from scbert_cll.model import _gene_vectors

logger = logging.getLogger(__name__)


@_docs.shared
def gene2vec(
    adata: AnnData,
    *,
    method: Literal["svd", "skip_gram"] = "svd",
    n_dims: int = 200,
    layer: str | None = None,
    donor_key: str | None = _keys.DONOR,
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

    ``"svd"`` takes the principal directions of the log-normalised training cells, all genes at unit
    variance, times their singular values: the product of two genes' vectors then comes close to
    their correlation. On small data a network started from these learned more than from
    ``"skip_gram"``, which is gene2vec proper: cells of one donor that look alike are summed to
    metacells, as few as keeps their number within `n_metacells`. Metacells are log-normalised and
    centred within their donor, so that what differs between donors (clone, sex, batch) makes no
    pairs; each gene is paired with the genes it correlates with best, and skip-gram with negative
    sampling turns the pairs into vectors. Held-out cells are not looked at. With `vectors`, nothing
    is trained and ready vectors are taken over, always by gene name.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    method
        ``"svd"`` or ``"skip_gram"``.
    n_dims
        Length of a vector; with `vectors` the file decides. The network's own width (32 in the
        small preset) is taken over as it is.
    %(counts_layer)s
    donor_key
        Column of `adata.obs` that names the donor, for ``"skip_gram"`` alone. None takes all cells
        for one donor's, as does a default column that does not exist.
    split_key
        Column of `adata.obs` with train / val / test. Where the default column exists, only its
        training cells are used; another name must exist; None uses all cells.
    vectors
        Ready vectors: a gensim `KeyedVectors`; a DataFrame genes × dimensions; a word2vec file,
        text (with or without its header line) or binary; or a ``.npy`` file of genes × dimensions
        with the gene names, one a line, in the ``.txt`` file of the same name or given as
        ``(npy_file, names)``.
    min_matched
        Smallest share of the genes in `adata` that must have a vector in `vectors`. Genes are found
        by their names in the index, then by Ensembl id, former or other symbols and the columns
        that :func:`~scbert_cll.pp.align_genes` knows; a name of several genes is left.
    cells_per_metacell
        Smallest number of cells in a metacell. Raise it for very shallow data only: sums of cells
        that differ in a weak programme no longer show it.
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
        ``n_genes`` and ``n_genes_with_vector``; ``n_genes_renamed`` of these have another name in
        `vectors`; ``n_cells`` if trained, with ``n_metacells`` and ``n_pairs`` of skip-gram;
        ``params``.

    Raises
    ------
    KeyError
        If the layer or a column of `adata.obs` is not there.
    TypeError
        If `adata` is not an AnnData or `vectors` is none of the forms above.
    ValueError
        If another `donor_key` is given where it would have no effect, the values are not raw
        counts, there are too few cells for metacells, `vectors` cannot be read or covers too few
        genes, or `adata` is a view and `copy=False`.
    FileNotFoundError
        If a file of `vectors` or of its names does not exist.
    ImportError
        If gensim is not installed (``pip install 'scbert-cll[gene2vec]'``), for ``"skip_gram"``.

    Warns
    -----
    FutureWarning
        Of ``"skip_gram"`` without a column ``"donor"`` where `donor_key` was not given.

    Notes
    -----
    Gene2vec is from Du et al. 2019 (doi:10.1186/s12864-018-5370-x), which pairs genes within each
    of 984 bulk data sets where r > 0.9. Single cells do not reach that, so here the best partners
    count, whatever their r. A pair is a sentence of two words, for which skip-gram and CBOW are the
    same. A gene with chance partners only still gets a vector of its own: the network needs to tell
    genes apart.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy()["rna"]
    >>> sc_cll.tl.gene2vec(adata, n_dims=32)
    >>> adata.varm["gene2vec"].shape[1]
    32
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.adata.new_key(key_added)
    choice(method, ("svd", "skip_gram"), "method")
    tells_donors = method == "skip_gram" and vectors is None
    if donor_key not in (None, _keys.DONOR) and not tells_donors:
        without = f"method={method!r}" if vectors is None else "ready vectors (vectors=)"
        raise ValueError(
            f"donor_key={donor_key!r} has no effect on {without}: only skip-gram tells donors "
            f'apart. Leave donor_key out, or choose method="skip_gram" without vectors=.'
        )
    sizes = cells_per_metacell, n_metacells, epochs
    options = _gene_vectors.SkipGram(n_dims, n_neighbors, min_detected, *sizes)
    adata = _checks.adata.target(adata, copy=copy)
    numbers: dict[str, int] = {}
    if vectors is not None:
        share(min_matched, "min_matched")
        table = _gene_vectors.read_vectors(vectors)
        names, genes = adata.var_names, table.index
        places, column = places_in(adata.var, genes)
        is_used, is_matched = places >= 0, np.isin(np.arange(len(names)), places)
        if is_matched.mean() < min_matched or not is_matched.any():
            raise ValueError(
                f"{is_matched.sum()} of {len(names)} genes of adata are in vectors, expected at "
                f"least {min_matched:.0%}. adata has {listed(names[~is_matched], 3)}; vectors has "
                f"{listed(genes[~is_used], 3)}. Name both sides by symbols or Ensembl ids, or "
                "lower min_matched."
            )
        called = names[places[is_used]]
        numbers["n_genes_renamed"] = int((called != genes[is_used]).sum())
        params["named_by"] = column or "index"
        table = table[is_used].set_axis(called, axis=0)
        params |= {"n_dims": table.shape[1], "source": _gene_vectors.source(vectors)}
    else:
        for name, value in asdict(options).items():
            if name != "min_detected":
                number_in(value, name, 1, np.inf, whole=True)
        share(min_detected, "min_detected")
        donor_key = donor_key if tells_donors else None
        cells, donors, left_out = _training_cells(adata, donor_key, split_key)
        counts, note = _checks.counts.noted_counts(adata, layer)
        counts, genes = counts[cells], adata.var_names
        params |= {**note, **left_out, "source": "co-expression"}
        totals = counts.sum(axis=1).A1
        _checks.adata.no_empty_cells(totals, adata[cells], "the training cells")
        seed = int(np.random.default_rng(rng).integers(2**31))
        if method == "svd":
            table = _gene_vectors.principal_vectors(counts, genes, n_dims, min_detected, seed)
            numbers["n_cells"] = counts.shape[0]
        else:
            table, numbers = _gene_vectors.co_expression_vectors(
                counts, genes, donors, options, seed
            )
    n_with_vector = int(adata.var_names.isin(table.index).sum())
    logger.info("%d of %d genes have a vector", n_with_vector, adata.n_vars)
    numbers |= {"n_genes": adata.n_vars, "n_genes_with_vector": n_with_vector}
    values = table.reindex(adata.var_names, fill_value=0.0).to_numpy(dtype=np.float32)
    record = {"params": params, **numbers}
    _record.write(adata, varm={key_added: values}, uns={key_added: record})
    return adata if copy else None


def _training_cells(
    adata: AnnData, donor_key: str | None, split_key: str | None
) -> tuple[np.ndarray, np.ndarray, Mapping[str, object]]:
    """Rows that may be looked at, the donor of each, and whose cells are left out."""
    is_training = np.ones(adata.n_obs, dtype=bool)
    if split_key is not None and (split_key in adata.obs or split_key != _keys.SPLIT):
        is_training = (_checks.adata.split(adata, split_key) == _keys.TRAIN).to_numpy()
    if donor_key is not None:
        donor_key = _checks.people.donor_key_of(adata, donor_key)
    if donor_key is None:
        cells = np.flatnonzero(is_training)
        return cells, np.zeros(len(cells), dtype=np.intp), {}
    donors = _checks.people.donors(adata, donor_key, cells=is_training)
    cells = np.flatnonzero(is_training & donors.notna())
    codes = pd.factorize(donors.iloc[cells])[0]
    return cells, codes, _checks.people.left_out(donors)
