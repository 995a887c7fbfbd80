"""Gene programmes that recur: NMF of each donor alone, what is alike in several, and its usage."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, sparse, stats
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.sparsefuncs import mean_variance_axis

from scbert_cll._counts import TARGET_SUM
from scbert_cll._signature.families import family
from scbert_cll._signature.moderated import paired

_SAME: Final = 0.7  # similarity of components of one donor that are the same at several ranks
_JOINED: Final = 0.5  # similarity of the means of two groups of donors that are one
_LEAST: Final = 0.3  # similarity between donors, however unlike permuted genes are
_FEWEST_GENES: Final = 5
_ALPHA: Final = 0.05  # of a gene's weight over donors
_MARKED: Final = 0.25  # share of a programme's genes
_TOLERANCE, _MAX_ITER = 1e-3, 300  # of the factorisation
_DENSE: Final = 20_000_000  # values of a donor, up to which dense matrices are quicker

# Tirosh et al. 2016 (doi:10.1126/science.aad0501), S and G2/M, by their approved symbols
_CELL_CYCLE: Final = (
    "MCM5 PCNA TYMS FEN1 MCM2 MCM4 RRM1 UNG GINS2 MCM6 CDCA7 DTL PRIM1 UHRF1 CENPU HELLS RFC2 "
    "RPA2 NASP RAD51AP1 GMNN WDR76 SLBP CCNE2 UBR7 POLD3 MSH2 ATAD2 RAD51 RRM2 CDC45 CDC6 EXO1 "
    "TIPIN DSCC1 BLM CASP8AP2 USP1 CLSPN POLA1 CHAF1B BRIP1 E2F8 HMGB2 CDK1 NUSAP1 UBE2C BIRC5 "
    "TPX2 TOP2A NDC80 CKS2 NUF2 CKS1B MKI67 TMPO CENPF TACC3 PIMREG SMC4 CCNB2 CKAP2L CKAP2 AURKB "
    "BUB1 KIF11 ANP32E TUBB4B GTSE1 KIF20B HJURP CDCA3 JPT1 CDC20 TTK CDC25C KIF2C RANGAP1 NCAPD2 "
    "DLGAP5 CDCA2 CDCA8 ECT2 KIF23 HMMR AURKA PSRC1 ANLN LBR CKAP5 CENPE CTCF NEK2 G2E3 GAS2L3 "
    "CBX5 CENPA"
)

type Csr = sparse.csr_matrix
type Totals = Mapping[str, np.ndarray]
type Rng = np.random.Generator


@dataclass(frozen=True)
class Search:
    """Ranks of the factorisations, and what a programme has to be."""

    ranks: tuple[int, ...]
    min_donors: int
    n_top: int
    n_shuffled: int


class Programmes(NamedTuple):
    """Programmes that recur, and what was there of the others."""

    weights: pd.DataFrame  # genes × programmes, zero or more, columns of length one
    scale: pd.Series  # standard deviation of each gene within donors
    table: pd.DataFrame  # a row per programme
    donors: pd.DataFrame  # programmes of each donor
    null: pd.DataFrame  # similarity between donors whose genes were permuted
    n_specific: int  # programmes of fewer donors


class _OfDonors(NamedTuple):
    """Programmes that donors show at several ranks: scores over the genes, and whose they are."""

    scores: np.ndarray
    donors: np.ndarray

    @property
    def most_alike(self) -> float:
        """Largest similarity of programmes of different donors."""
        if len(set(self.donors)) < 2:
            return 0.0
        between = self.donors[:, None] != self.donors
        return float(_cosine(self.scores)[between].max())


def normalised(counts: Csr, totals: np.ndarray) -> Csr:
    """Counts per 10,000 of each cell."""
    return sparse.csr_matrix(sparse.diags(TARGET_SUM / totals) @ counts)


def variable_genes(
    cells: Mapping[str, Csr], totals: Mapping[str, np.ndarray], n: int
) -> np.ndarray:
    """Positions of the genes with the largest share of variance beyond that of counting."""
    shares = []
    for donor, x in cells.items():
        _, variance = mean_variance_axis(x, axis=0)
        counting = x.T @ (TARGET_SUM / totals[donor]) / x.shape[0]
        beyond = np.divide(counting, variance, out=np.ones_like(variance), where=variance > 0)
        shares.append(1 - beyond)
    order = np.argsort(-np.mean(shares, axis=0), kind="stable")
    return np.sort(order[:n])


def find(cells: Mapping[str, Csr], genes: pd.Index, search: Search, rng: Rng) -> Programmes:
    """Programmes of counts per 10,000 by donor."""
    variances = np.array([mean_variance_axis(x, axis=0)[1] for x in cells.values()])
    pooled = variances.mean(axis=0)
    # a gene that varies little in a donor is no larger there than elsewhere
    scales = np.sqrt(np.maximum(variances, np.where(pooled > 0, pooled, 1)))
    scaled = {
        donor: sparse.csr_matrix(x @ sparse.diags(1 / scale))
        for (donor, x), scale in zip(cells.items(), scales, strict=True)
    }
    streams = rng.spawn(1 + search.n_shuffled)
    actual = _of_donors(scaled, search, streams[0])
    null = []
    for stream in streams[1:]:
        dealt = {donor: _shuffled(x, stream) for donor, x in scaled.items()}
        null.append(_of_donors(dealt, search, stream).most_alike)
    threshold = max([_LEAST, *null])
    groups = _alike(actual.scores, threshold)
    joined = _alike(pd.DataFrame(actual.scores).groupby(groups).mean().to_numpy(), _JOINED)
    groups = joined[np.unique(groups, return_inverse=True)[1]]
    by_group = [
        (group, pd.DataFrame(actual.scores[inside]).groupby(actual.donors[inside]).mean())
        for group in np.unique(groups)
        if len(set(actual.donors[inside := groups == group])) >= search.min_donors
    ]
    weights = np.array([_weights(means.to_numpy(), search.n_top) for _, means in by_group])
    weights = weights.reshape(len(by_group), len(genes))
    # a gene of two programmes would be taken from one where the other changes
    weights = np.where(weights == weights.max(axis=0, initial=0), weights, 0)
    rows = []
    for weight, (group, means) in zip(weights, by_group, strict=True):
        if (weight > 0).sum() >= _FEWEST_GENES:
            stability = _cosine(means.to_numpy())[np.triu_indices(len(means), 1)].mean()
            names = ", ".join(str(name) for name in means.index)
            unit = weight / np.linalg.norm(weight)
            rows.append((len(means), float(stability), threshold, names, group, unit))
    columns = ["n_donors", "stability", "null", "donors", "group", "weight"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.sort_values(["n_donors", "stability"], ascending=False, ignore_index=True)
    table.insert(0, "programme", [f"P{i + 1}" for i in range(len(table))])
    used = np.isin(groups, table.pop("group").to_numpy(dtype=groups.dtype))
    matrix = np.array(table.pop("weight").tolist()).reshape(len(table), len(genes)).T
    frame = pd.DataFrame(matrix, genes, columns=table["programme"].tolist())
    table = pd.concat([table, _marks(frame)], axis=1)
    scale = pd.Series(np.sqrt(np.where(pooled > 0, pooled, 1)), genes)
    counted = _counted(cells, actual.donors, used)
    shuffles = pd.DataFrame({"shuffle": range(1, len(null) + 1), "similarity": null})
    n_specific = len(set(groups[~used]))
    return Programmes(frame, scale, table, counted, shuffles, n_specific)


def _of_donors(scaled: Mapping[str, Csr], search: Search, rng: Rng) -> _OfDonors:
    """Programmes that come at half of the ranks, and at two, in each donor."""
    least = max(2, len(search.ranks) / 2)
    means, names = [], []
    for donor, x in scaled.items():
        scores, ranks = _components(x, search.ranks, rng)
        groups = _alike(scores, _SAME)
        for group in np.unique(groups):
            if len(set(ranks[groups == group])) >= least:
                means.append(scores[groups == group].mean(axis=0))
                names.append(donor)
    n_genes = next(iter(scaled.values())).shape[1]
    return _OfDonors(np.array(means).reshape(len(means), n_genes), np.array(names, dtype=object))


def _components(x: Csr, ranks: tuple[int, ...], rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of each gene with the usage of each component, components × genes; their ranks.

    Of the components themselves all have the mean expression in common.
    """
    _, variance = mean_variance_axis(x, axis=0)
    spread = np.sqrt(np.where(variance > 0, variance, 1))
    scores, values = [], x.toarray() if x.shape[0] * x.shape[1] <= _DENSE else x
    for rank in ranks:
        seed = int(rng.integers(2**31))
        settings = {"init": "nndsvda", "tol": _TOLERANCE, "max_iter": _MAX_ITER}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            usage = NMF(rank, **settings, random_state=seed).fit_transform(values)
        usage = usage[:, usage.std(axis=0) > 0]
        z = (usage - usage.mean(axis=0)) / usage.std(axis=0)
        scores.append((x.T @ z).T / x.shape[0] / spread)
    return np.concatenate(scores), np.repeat(ranks, [len(part) for part in scores])


def _shuffled(x: Csr, rng: Rng) -> Csr:
    """The values of each gene dealt anew among the cells: no gene goes with another."""
    columns, n = sparse.csc_matrix(x), x.shape[0]
    rows = [rng.choice(n, end - start, replace=False) for start, end in pairwise(columns.indptr)]
    dealt = columns.data, np.concatenate(rows), columns.indptr
    return sparse.csr_matrix(sparse.csc_matrix(dealt, shape=x.shape))


def _alike(rows: np.ndarray, similarity: float) -> np.ndarray:
    """Group of each row, by average linkage: on average at least so similar."""
    if len(rows) < 2:
        return np.ones(len(rows), dtype=np.int64)
    tree = linkage(rows, "average", metric="cosine")
    return np.asarray(fcluster(tree, 1 - similarity, "distance"))


def _cosine(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def _weights(scores: np.ndarray, n_top: int) -> np.ndarray:
    """Mean scores, of donors × genes, of the first genes whose scores are above zero over donors.

    Others have none. By the moderated test of a gene's differences, on one side.
    """
    if len(scores) < 2:
        return np.zeros(scores.shape[1])
    test = paired(scores, np.zeros(scores.shape[1]))
    p = np.where(test.t > 0, test.p / 2, 1 - test.p / 2)
    mean = np.where(stats.false_discovery_control(p) < _ALPHA, scores.mean(axis=0), 0)
    first = np.argsort(-mean, kind="stable")[:n_top]
    weight = np.zeros_like(mean)
    weight[first] = np.maximum(mean[first], 0)
    return weight


def top_genes(weights: pd.DataFrame) -> pd.DataFrame:
    """Genes with a weight, programme by programme, the largest first."""
    rows = []
    for programme, column in weights.items():
        genes = column[column > 0].sort_values(ascending=False, kind="stable")
        rows += [(str(programme), str(gene), weight) for gene, weight in genes.items()]
    table = pd.DataFrame(rows, columns=["programme", "gene", "weight"])
    return table.assign(family=_family(pd.Index(table["gene"])))


def _family(genes: pd.Index) -> np.ndarray:
    """Family of each gene, with cell division as one, or ""."""
    return np.where(genes.isin(_CELL_CYCLE.split()), "cell cycle", family(genes, None))


def _marks(weights: pd.DataFrame) -> pd.DataFrame:
    """Names of the genes of each programme, shares of families, and the family it is marked as."""
    table, rows = top_genes(weights), []
    for programme in weights:
        part = table[table["programme"] == programme]
        shares = part["family"].value_counts(normalize=True).drop("", errors="ignore")
        is_marked = len(shares) > 0 and shares.iloc[0] >= _MARKED
        mark = str(shares.index[0]) if is_marked else ""
        three = [shares.get(name, 0.0) for name in ("ribosomal", "mitochondrial", "cell cycle")]
        rows.append((len(part), ", ".join(part["gene"]), *three, mark))
    columns = ["n_genes", "genes", "ribosomal", "mitochondrial", "cell_cycle", "mark"]
    return pd.DataFrame(rows, columns=columns)


def _counted(cells: Mapping[str, Csr], donors: np.ndarray, used: np.ndarray) -> pd.DataFrame:
    """How many programmes each donor has, and how many of them recur."""
    rows = [
        (donor, x.shape[0], int((donors == donor).sum()), int(used[donors == donor].sum()))
        for donor, x in cells.items()
    ]
    table = pd.DataFrame(rows, columns=["donor", "n_cells", "n_programmes", "n_recurrent"])
    return table.assign(n_specific=table["n_programmes"] - table["n_recurrent"])


def usage(x: Csr | np.ndarray, weights: pd.DataFrame, scale: pd.Series) -> np.ndarray:
    """Usage of programmes in each row of counts per 10,000, by non-negative least squares.

    Each row's own: x / scale ≈ usage · weights.
    """
    if weights.shape[1] == 0:
        return np.zeros((x.shape[0], 0))
    q, r = np.linalg.qr(weights.to_numpy())
    projected = x @ (q / scale.to_numpy()[:, None])
    return np.array([optimize.nnls(r, row)[0] for row in projected])
