"""tl.programmes: what genes do together in several donors, and whether it goes with a class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.counts import noted_counts
from scbert_cll._checks.words import key_in, listed, number_in, share
from scbert_cll._signature.data import classes_of
from scbert_cll._signature.programme_usage import ByClass, depth_r
from scbert_cll._signature.programmes import (
    Programmes,
    Search,
    find,
    normalised,
    top_genes,
    usage,
    variable_genes,
)

logger = logging.getLogger(__name__)

_ALL: Final = "all cells"  # the class of all where none are tested
_LEAST: Final = {
    "min_donors": 2,
    "min_cells": 10,
    "min_cells_per_class": 2,
    "n_genes": 20,
    "n_top": 5,
    "n_shuffled": 1,
    "n_permutations": 19,
}


@_docs.shared
def programmes(
    adata: AnnData,
    *,
    groupby: str | None = _keys.CD49D,
    donor_key: str = _keys.DONOR,
    layer: str | None = None,
    ranks: Sequence[int] = (4, 5, 6, 7, 8, 9),
    min_donors: int = 4,
    min_cells: int = 50,
    min_cells_per_class: int = 20,
    min_detected: float = 0.02,
    n_genes: int = 2000,
    n_top: int = 50,
    n_shuffled: int = 1,
    n_permutations: int = 199,
    alpha: float = 0.05,
    rng: int | np.random.Generator = 0,
    key_added: str = _keys.PROGRAMMES,
    copy: bool = False,
) -> AnnData | None:
    """Find gene programmes that recur in several donors, and those that go with a class.

    Each donor's cells are factorised alone (NMF at several ranks), so that what tells donors apart
    cannot become a programme. What a donor shows at half of the ranks or more is compared with the
    other donors, and reported if `min_donors` of them have it, more alike than any two programmes
    of two donors are where the values of each gene are permuted among a donor's cells. Programmes
    of fewer donors are counted. With classes each programme is tested like a gene, within donors.

    Take the cells of interest first, e.g. those of :func:`~scbert_cll.pp.cll_mask`: among several
    cell types the programmes are the cell types.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    groupby
        `obs` column of the classes, in order: the last one against the first, with more than two
        the slope over all. Programmes are found without it. None tests nothing.
    donor_key
        `obs` column of donors.
    %(counts_layer)s
    ranks
        Numbers of components of the factorisations, at least two.
    min_donors
        Donors that must have a programme, and donors of every class that the test needs.
    min_cells
        Cells a donor needs to be factorised.
    min_cells_per_class
        Cells of every class a donor needs to be tested.
    min_detected
        Share of the cells that must express a gene for it to be used.
    n_genes
        Genes used: those with the largest share of variance within donors beyond that of counting.
    n_top
        Genes of a programme at most.
    n_shuffled
        How many times the values of all genes are permuted among the cells of each donor, and
        factorised; each takes as long as the search itself.
    n_permutations
        Permutations of the labels within donors.
    alpha
        Expected share of false ones among the programmes that are tied to the class.
    %(rng)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.obsm['programmes']`` : DataFrame of float64
        Usage, cells × programmes (without columns if there is none): non-negative least squares of
        the cell's counts per 10,000, each gene in its standard deviations, on the weights. It
        depends on no other cell.
    ``adata.varm['programmes']`` : DataFrame of float64
        Weights, genes × programmes, of length 1: mean correlations of the genes with what a donor's
        component does, of at most `n_top` genes whose correlations are above zero over donors
        (moderated t, q < 0.05) and largest in this programme; 0 for the others.
    ``adata.uns['programmes']`` : dict
        ``programmes``, DataFrame, those of most donors first: ``programme``, ``n_donors``,
        ``stability`` (mean similarity, the cosine, of the donors' own versions), ``null`` (what it
        had to exceed), ``donors``, ``n_genes``, ``genes`` (the first first), the shares
        ``ribosomal``, ``mitochondrial`` and ``cell_cycle`` among them, ``mark`` (a family of a
        quarter or more of the genes: these, immunoglobulin, HLA, sex), ``depth_r`` (mean
        correlation of usage with the cells' log counts within donors: what is far from 0 may be
        technical); where classes were tested ``log2_fc`` of usage from the first class to the last
        with its standard ``error`` and 95 % limits ``low`` and ``high``, ``t``, ``p``, ``q`` over
        programmes, ``p_permuted`` (labels permuted within donors: how often the largest t of all
        programmes reaches its own), ``n_same_sign`` (donors), ``genes_agree`` (share of its genes
        that go the way it goes), and ``tied`` (q below `alpha`, p_permuted at most `alpha`, and
        three quarters of the genes agree). ``top_genes``, DataFrame: ``programme``, ``gene``,
        ``weight``, ``family``.
        ``usage`` (``programme``, ``donor``, ``class``, ``log2_usage`` of the summed cells) and
        ``means`` (over donors, with 95 % limits within them). ``donors``: ``donor``, ``n_cells``,
        ``n_programmes``, ``n_recurrent``, ``n_specific``. ``null``: ``shuffle``, ``similarity``.
        ``scale``: ``gene``, ``sd``. ``n_programmes``, ``n_specific`` (programmes of fewer donors),
        ``n_donors`` that were tested, ``reason``, why nothing recurs or is tested, or an empty
        text; ``params``.

    Raises
    ------
    KeyError
        A column or layer is missing.
    ValueError
        Too few donors have enough cells, values are no raw counts, a cell has none, ranks are out
        of range, there are fewer than two classes or more than ten numbers as classes,
        permutations are too few for `alpha`, or a parameter is out of range.

    Notes
    -----
    After Kotliar et al. 2019 (doi:10.7554/eLife.43803), Gavish et al. 2023
    (doi:10.1038/s41586-023-06130-4) and Yerly et al. 2022 (doi:10.1038/s41467-022-34162-5), with
    the two nulls. The components of a factorisation have the mean expression in common; what is
    compared and weighted are therefore correlations of the genes with a component's usage. The
    usage that is tested is that of a class's summed cells, scaled as in
    :func:`~scbert_cll.tl.signature`: cells with fewer counts have noisier usage, and noise that
    cannot go below zero would look like a difference.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.planted_donors(n_genes=120, n_donors=5, rng=0)
    >>> sc_cll.tl.programmes(adata, groupby="label", ranks=(3, 4))
    >>> bool(sc_cll.get.programmes(adata)["tied"].any())
    True
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.adata.new_key(key_added)
    for name, least in _LEAST.items():
        number_in(params[name], name, least, np.inf, whole=True)
    share(min_detected, "min_detected")
    number_in(alpha, "alpha", 1e-12, 0.5)
    classes: list[str] = []
    if groupby is not None:
        remedy = "Name the column of classes, or look for programmes alone: groupby=None."
        key_in(groupby, adata.obs, "adata.obs", remedy)
        classes = classes_of(adata, groupby)
        if (1 + n_permutations) * alpha < 1 - 1e-9:
            raise ValueError(
                f"n_permutations={n_permutations} cannot give a p as small as alpha={alpha:g}, "
                "so no programme could be tied to the class. "
                f"Take n_permutations={ceil(1 / alpha) - 1}."
            )
    target = _checks.adata.target(adata, copy=copy)
    donors = _checks.people.donors(adata, donor_key)
    counts, note = noted_counts(adata, layer)
    _checks.adata.no_empty_cells(counts.sum(axis=1).A1, adata, layer or "X")
    cells = _Cells.of(adata, counts, donors, groupby, classes)
    names = cells.donors_with(min_cells, min_donors)
    cells = cells.of_genes(names, min_detected, n_genes)
    parts = cells.normalised_of(names)
    search = Search(_ranks(ranks, parts), min_donors, n_top, n_shuffled)
    of_search, of_labels = np.random.default_rng(rng).spawn(2)
    result = find(parts, cells.genes, search, of_search)
    used = usage(normalised(cells.counts, cells.totals), result.weights, result.scale)
    table = result.table.assign(depth_r=depth_r(used, cells.totals, cells.donors, names))
    usages, means, n_tested, reason = pd.DataFrame(), pd.DataFrame(), 0, _nothing(result, search)
    if len(table):
        by_class, reason = cells.by_class(result, names, min_cells_per_class, min_donors)
        usages, means = by_class.usage, by_class.means
        if not reason:
            n_tested = len(by_class.names)
            evidence = by_class.table(alpha, n_permutations, of_labels)
            table = pd.concat([table, evidence], axis=1)
    scale = result.scale.rename_axis("gene").reset_index(name="sd")
    record: dict[str, object] = {"programmes": table}
    record |= {"top_genes": top_genes(result.weights), "usage": usages}
    record |= {"means": means, "donors": result.donors, "null": result.null, "scale": scale}
    record |= {"n_programmes": len(table), "n_specific": result.n_specific}
    record |= {"n_donors": n_tested, "reason": reason}
    params |= {"classes": classes} | note | _checks.people.left_out(donors)
    obsm = pd.DataFrame(used, cells.names, result.weights.columns).loc[adata.obs_names]
    varm = result.weights.reindex(adata.var_names, fill_value=0.0)
    uns = {key_added: record | {"params": params}}
    _record.write(target, obsm={key_added: obsm}, varm={key_added: varm}, uns=uns)
    logger.info(
        "%d programmes recur in %d or more of %d donors; %d are of fewer donors.",
        *(len(table), min_donors, len(names), result.n_specific),
    )
    return target if copy else None


@dataclass(frozen=True)
class _Cells:
    """Counts of cells × genes, both by name, so that their order in the object does not matter."""

    counts: sparse.csr_matrix
    totals: np.ndarray  # of all genes
    names: pd.Index
    genes: pd.Index
    donors: np.ndarray  # names, None for none
    codes: np.ndarray  # of the classes, -1 for none
    classes: list[str]

    @classmethod
    def of(
        cls,
        adata: AnnData,
        counts: sparse.csr_matrix,
        donors: pd.Series,
        groupby: str | None,
        classes: list[str],
    ) -> _Cells:
        """All cells and genes of an object."""
        rows, columns = (np.argsort(names) for names in (adata.obs_names, adata.var_names))
        codes = np.full(adata.n_obs, -1)
        if groupby is not None:
            codes = _checks.adata.labels(adata, groupby, classes, rows)
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        counts = counts[rows][:, columns].astype(np.float64)
        counts.eliminate_zeros()
        names = adata.obs_names[rows], adata.var_names[columns]
        return cls(counts, totals[rows], *names, donors.to_numpy()[rows], codes[rows], classes)

    def donors_with(self, min_cells: int, min_donors: int) -> list[str]:
        """Donors with enough cells, in order."""
        sizes = pd.Series(self.donors).value_counts()
        names = sorted(sizes.index[sizes >= min_cells])
        if len(names) >= min_donors:
            return names
        has = ", ".join(f"{name}: {n}" for name, n in sizes.head(8).items())
        least = _LEAST["min_cells"]
        next_size = int(sizes.iloc[min_donors - 1]) if len(sizes) >= min_donors else 0
        remedy = f"Lower min_cells, e.g. min_cells={next_size}"
        if next_size < least:
            remedy = f"Cells of more donors are needed, each with at least {least}"
        raise ValueError(
            f"A programme has to recur in min_donors={min_donors} donors, and {len(names)} have "
            f"min_cells={min_cells} cells ({has}). {remedy}."
        )

    def of_genes(self, donors: list[str], min_detected: float, n_genes: int) -> _Cells:
        """The same with the genes that enough cells express and that vary most within donors."""
        of_donors = self.counts[pd.Index(self.donors).isin(donors)]
        detected = of_donors.getnnz(axis=0) / of_donors.shape[0]
        columns = np.flatnonzero((detected >= min_detected) & (detected > 0))
        cells = self._with_genes(columns)
        if len(columns) > n_genes:
            parts = cells.normalised_of(donors)
            totals = {donor: self.totals[self.donors == donor] for donor in donors}
            cells = cells._with_genes(variable_genes(parts, totals, n_genes))
        return cells

    def _with_genes(self, columns: np.ndarray) -> _Cells:
        return replace(self, counts=self.counts[:, columns], genes=self.genes[columns])

    def normalised_of(self, donors: list[str]) -> dict[str, sparse.csr_matrix]:
        """Counts per 10,000 of each donor's cells."""
        rows = {donor: np.flatnonzero(self.donors == donor) for donor in donors}
        return {d: normalised(self.counts[r], self.totals[r]) for d, r in rows.items()}

    def by_class(
        self, result: Programmes, donors: list[str], min_cells: int, min_donors: int
    ) -> tuple[ByClass, str]:
        """Cells of donors with enough of every class; or of all, as one class, and why so."""
        rows = np.flatnonzero((self.codes >= 0) & pd.notna(self.donors))
        table = pd.crosstab(self.donors[rows], self.codes[rows])
        enough = table.reindex(columns=range(len(self.classes)), fill_value=0) >= min_cells
        complete, classes, codes = table.index[enough.all(axis=1)], self.classes, self.codes
        reason = "no classes were named" if not classes else ""
        if classes and len(complete) < min_donors:
            reason = (
                f"{len(complete)} donors have {min_cells} cells of every class "
                f"({listed(complete)}), and {min_donors} are needed to test programmes"
            )
        if reason:
            complete, classes, codes = pd.Index(donors), [_ALL], np.zeros_like(codes)
        rows = np.flatnonzero(pd.Index(self.donors).isin(complete) & (codes >= 0))
        arrays = self.counts[rows], self.totals[rows], self.donors[rows], codes[rows]
        return ByClass(*arrays, classes, result), reason


def _ranks(ranks: Sequence[int], cells: dict[str, sparse.csr_matrix]) -> tuple[int, ...]:
    """Two ranks or more, that the smallest donor and the genes allow."""
    fewest = min(cells, key=lambda donor: cells[donor].shape[0])
    n_cells, n_genes = cells[fewest].shape
    most = min(n_cells, n_genes)
    numbers = [rank for rank in ranks if isinstance(rank, int | np.integer) and 2 <= rank <= most]
    if len(numbers) < len(list(ranks)) or len(set(numbers)) < 2:
        raise ValueError(
            f"ranks must be two or more different whole numbers from 2 to {most} ({fewest} has "
            f"{n_cells} cells, and {n_genes} genes are used); found {listed(ranks)}. For example "
            f"ranks=range(2, {min(most, 9) + 1})."
        )
    return tuple(sorted({int(rank) for rank in numbers}))


def _nothing(result: Programmes, search: Search) -> str:
    alike = max(result.null["similarity"])
    return (
        f"no programme recurs in {search.min_donors} donors; where genes are permuted, those of "
        f"two donors have a similarity of {alike:.2f} at most"
    )
