from __future__ import annotations

import logging
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._corpus.sources import Columns
from scbert_cll._gene_names.columns import names_of
from scbert_cll._gene_names.dates import warn_of_dates
from scbert_cll._gene_names.resolver import RENAMED
from scbert_cll._gene_names.table import shipped
from scbert_cll.vocab import Aliases, GeneVocab, Vocabulary

logger = logging.getLogger(__name__)


def align_genes(
    adata: AnnData,
    vocab: Vocabulary,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    aliases: Aliases | None = None,
    min_counts: float | None = None,
    min_matched: float | None = None,
) -> AnnData:
    """Bring the genes of a data set into the order of a vocabulary.

    A model knows a gene by its place, so every data set must hold the same genes in the same order;
    names decide, never counts of columns. Genes are found by exact name, then by Ensembl id, former
    or other symbol and ``make_unique`` ending (the rules and their order:
    :meth:`scbert_cll.vocab.GeneVocab.resolve`); a name that could mean several genes is left out,
    never guessed. Columns that mean the same gene are summed as counts, vocabulary genes the data
    do not have are all-zero columns, and genes outside the vocabulary are dropped. So are rows that
    are no genes: antibodies, hashtags, guides and others, by ``var["feature_types"]``. Do this
    before normalising and binning, as scBERT does: the library size is then that of the
    vocabulary's genes.

    Parameters
    ----------
    adata
        Cells × genes with raw counts; gene names may repeat.
    vocab
        A :class:`~scbert_cll.vocab.GeneVocab`, the path of one (``.txt``, ``.csv``, ``.tsv``,
        ``.h5ad``), gene names in order, or an AnnData whose genes are the vocabulary.
    layer
        Where the raw counts are; ``X`` if not given. ``"raw"`` takes all genes of `adata.raw`, if
        no layer is called so; they become ``X``, and the matrices of `adata` are left out.
    gene_key
        Column of ``var`` with the names of the genes. If not given, the index; where that holds
        Ensembl ids (or numbers) and the vocabulary symbols, or the reverse, a column of the
        vocabulary's kind that CELLxGENE or scanpy write: ``feature_name``, ``feature_id``,
        ``gene_symbols``, ``gene_ids``.
    aliases
        Alias → approved name: a mapping, or a table such as a newer one of HGNC
        (:func:`~scbert_cll.vocab.read_aliases`). It goes before the table that comes with the
        package.
    min_counts
        Smallest share of the counts of the data that must lie on genes of the vocabulary, 0 to 1.
        If not given, half of the counts, or half of the vocabulary found: a filtered matrix lacks
        genes, and a short vocabulary leaves most counts out. So a matrix of highly variable genes
        passes, all of whose counts are used; where less than half of the vocabulary is found, that
        is logged as a warning.
    min_matched
        Smallest share of the vocabulary that must be found in the data, 0 to 1; given alone, the
        counts are not asked. A model answers for cells with less than half of its genes only if
        this was lowered on purpose.

    Returns
    -------
    A new AnnData with the cells of `adata` and the genes of `vocab`; `adata` stays as it is.
    ``obs``, ``obsm``, ``obsp`` and ``uns`` are carried over; ``varm``, ``varp``, ``raw`` and the
    columns of ``var`` are not, as missing genes have none.

    ``adata.X``, ``adata.layers``
        CSR, each matrix in its own slot, all through the same operation on columns. A matrix of
        whole numbers is summed; where columns had to be summed, a matrix of other numbers (log
        values) has no meaningful sum and is left out (a left-out ``X`` is empty). Tokens of an
        earlier :func:`~scbert_cll.pp.bin_expression` stay only if all genes stay: they were cut
        from the totals of the old genes. ``uns["align_genes"]["left_out"]`` names what went.
    ``adata.var['in_query']`` : bool
        Whether the data had the gene.
    ``adata.uns['align_genes']`` : dict
        By name: ``matched`` and ``missing`` vocabulary genes, ``duplicated`` vocabulary genes that
        were summed from several columns, ``renamed`` (table of ``old`` and ``new`` names),
        ``ambiguous`` and ``unmatched`` names of the data, ``dates`` (names that a spreadsheet
        spoiled), ``no_genes`` (antibodies and others), ``left_out`` matrices, and ``params``.
        ``renamed`` also says ``how`` (genome, ensembl, alias, suffix). ``vocabulary_found`` and
        ``counts_used`` are shares of the vocabulary and of the data's counts; ``named_by`` is the
        column of `var` (or ``index``), ``name_table`` the version of the package's table.

    Raises
    ------
    ValueError
        If too little of the data's counts, or of the vocabulary, is found, symbols and Ensembl ids
        are mixed, the matrix does not hold raw counts, the vocabulary names a gene twice, `adata`
        is backed or has no cells or genes, or the package's table of names is damaged.
    KeyError
        If the layer, or the column of names, does not exist.

    Notes
    -----
    scBERT's own preprocessing matches symbols exactly and fills the rest with zeros silently [1]_.

    References
    ----------
    .. [1] Yang et al. (2022), scBERT as a large-scale pretrained deep language model for cell type
       annotation of single-cell RNA-seq data, Nature Machine Intelligence 4:852,
       doi:10.1038/s42256-022-00534-z.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> adata = AnnData(np.array([[1, 2, 4]]), var=pd.DataFrame(index=["CD49D", "CD19", "CD19-1"]))
    >>> aligned = align_genes(adata, ["CD5", "CD19", "ITGA4"])
    >>> aligned.X.toarray()
    array([[0, 6, 1]])
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata, repeated_genes=True)
    vocab = GeneVocab.of(vocab)
    needed = _checks.genes.Needed(min_counts, min_matched)
    whole = _with_raw(adata, layer)
    source, others = _genes(whole)
    counts, note = _checks.counts.noted_counts(source, layer if whole is adata else None)
    names, column = names_of(source.var, vocab.names, gene_key)
    resolved = vocab.resolve(names, aliases=aliases, others=others)
    n_vocab, used = len(vocab), resolved["index"].to_numpy() >= 0
    columns = Columns(resolved["index"].to_numpy(), n_vocab)
    is_matched = columns.per_gene > 0
    missing = vocab.names[~is_matched]
    per_gene = counts.sum(axis=0, dtype=np.float64).A1
    counts_used = float(per_gene[used].sum() / per_gene.sum()) if per_gene.any() else 1.0
    _checks.genes.vocabulary_coverage(resolved, missing, n_vocab, needed, counts_used)

    matrices, left_out = _matrices(source, columns, is_whole=not len(others))
    if whole is not adata:
        left_out += [name or "X" for name, _ in adata.layers.items()]
    index = vocab.names.rename(adata.var_names.name)  # a new one: theirs stays as it is
    var = pd.DataFrame({_keys.IN_QUERY: is_matched}, index=index)
    x = matrices.pop(None, None)
    aligned = AnnData(x, layers=matrices, var=var, **of_cells(adata))
    for name in left_out:
        aligned.uns.pop(name, None)
    for name in matrices:
        if _checks.counts.is_binned(aligned, name):  # all its genes are here
            aligned.uns[name]["params"] |= _checks.counts.totals_of(vocab.names)
    params |= {"aliases": aliases is not None, "vocab": f"{n_vocab} genes"} | note
    how = resolved["how"]
    is_renamed = how.isin(RENAMED)
    renamed = resolved[is_renamed].drop(columns="index").astype(str)
    renamed = renamed.rename(columns={"name": "old", "gene": "new"})
    lists: dict[str, Iterable[str]] = {
        "matched": vocab.names[is_matched],
        "missing": missing,
        "duplicated": vocab.names[columns.per_gene > 1],
        "left_out": left_out,
        "no_genes": others,
    }
    for key, kind in {"ambiguous": "ambiguous", "dates": "date", "unmatched": "unmatched"}.items():
        lists[key] = resolved.loc[how == kind, "name"].unique()
    record: dict[str, object] = {
        "params": params,
        "vocabulary_found": float(is_matched.mean()),
        "counts_used": counts_used,
        "named_by": column or "index",
        "name_table": shipped().label,
    }
    for name, genes in lists.items():
        record[name] = np.array(list(genes), dtype=object)
    record["renamed"] = renamed.drop_duplicates(ignore_index=True)
    _record.write(aligned, uns={_keys.ALIGN_GENES: record})
    warn_of_dates(lists["dates"])
    shares = is_matched.sum(), n_vocab, 100 * counts_used
    level = logging.INFO if is_matched.mean() >= _checks.genes.HALF else logging.WARNING
    text = "%d of the %d genes of the vocabulary are in the data, and hold %.1f %% of its counts"
    logger.log(level, text, *shares)
    return aligned


def of_cells(adata: AnnData) -> dict[str, Any]:
    """Copies of all that belongs to cells, not genes, as AnnData takes it."""
    return {
        "obs": adata.obs.copy(),
        "obsm": {key: value.copy() for key, value in adata.obsm.items()},
        "obsp": {key: value.copy() for key, value in adata.obsp.items()},
        "uns": deepcopy(dict(adata.uns)),
    }


def _with_raw(adata: AnnData, layer: str | None) -> AnnData:
    """The cells with all genes of a slot: of `adata.raw` its own, with the counts in `X`."""
    source = _checks.counts.slot(adata, layer)
    if source.where != "adata.raw.X":
        return adata
    csr = _checks.counts.as_csr(source.values, source.where)
    obs: Any = adata.obs
    return AnnData(csr, obs=obs, var=source.var, uns=dict(adata.uns))


def _genes(adata: AnnData) -> tuple[AnnData, pd.Index]:
    """The cells with their genes, and the names of rows that are none (antibodies and others)."""
    features = _checks.genes.features_of(adata.var)
    if not features.is_gene.any():
        _checks.genes.only_genes(features)
    if features.n_others:
        logger.info("Left out: %s", features.summary)
    # zeros of an earlier alignment are left out
    is_measured = np.asarray(adata.var.get(_keys.IN_QUERY, True), dtype=bool)
    used = features.is_gene & is_measured
    return (adata if used.all() else adata[:, used]), adata.var_names[~features.is_gene]


def _matrices(
    adata: AnnData, columns: Columns, *, is_whole: bool
) -> tuple[dict[Any, sparse.csr_matrix], list[str]]:
    """Matrices in the order of the vocabulary, and the names of those without a meaning there.

    Tokens were cut from the totals of the old genes; values that are no counts have no sum.
    """
    same_totals = is_whole and columns.is_complete and not columns.is_summed
    matrices, left_out = {}, []
    for name, values in adata.layers.items():  # X under None
        csr = _checks.counts.as_csr(values, _checks.counts.slot_name(name))
        has_sums = not columns.is_summed or _checks.counts.are_whole(csr.data)
        if same_totals if _checks.counts.is_binned(adata, name) else has_sums:
            matrices[name] = columns.moved(csr)
        else:
            left_out.append(name or "X")
    return matrices, left_out
