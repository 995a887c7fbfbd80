"""datasets.cll_toy: CITE-seq of leukaemia with a planted programme."""

from __future__ import annotations

from typing import Final, Literal, get_args

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _docs, _keys
from scbert_cll._checks.words import choice, number_in
from scbert_cll._process import same_random_state

type _Rng = np.random.Generator
Programme = Literal["additive", "combination", "subset"]

_LOG_FC: Final = (0.45, 0.85)  # size of a planted effect, natural log units
# how much larger it is in a combination, which is far harder to see
_COMBINED: Final = 2.0
_SUBSET: Final = 0.3  # share of CLL cells in which the programme acts
# every so many-th planted gene belongs to the other part
_EVERY: Final = {"combination": 2, "subset": 5}
_PARTS: Final = {"combination": ("first", "second"), "subset": ("programme", "marker")}

# Real symbols, "chromosome: symbols", by the level a resting B cell shows them at (mean UMI per
# cell). CD5, CD14 and CD19 are left to the proteins: MuData wants no name twice.
_SYMBOLS: dict[float, str] = {
    40.0: "11: MALAT1; 15: B2M; X: TMSB4X; 5: CD74; 6: EEF1A1; MT: MT-CO1 MT-CO3",
    18.0: "MT: MT-CO2 MT-ND1 MT-ND4 MT-CYB MT-ATP6; 22: RPL3; 16: RPL13 RPS2; "
    "19: RPL13A RPS19 RPL18A; 3: RPL32; 4: RPL34; 15: RPLP1; 11: RPLP2 RPS3; 6: RPS12 RPS18; "
    "1: RPS27 RPL11; 5: RPS14; 14: RPS29; 12: RPL41; 2: TMSB10",
    6.0: "12: RPLP0 RPL6 RPS26 NACA HNRNPA1; 17: RPL23A; X: RPL10; 9: RPS6; 2: PTMA; 13: TPT1; "
    "6: HLA-DRA HLA-B HLA-C HLA-A; 7: ACTB; 19: FTL; 11: FTH1",
    2.0: "12: GAPDH BTG1 ARHGDIB LDHB; 11: MS4A1; 19: CD79A CD37; 17: CD79B; "
    "6: HLA-DRB1 HLA-DPA1; 14: FOS; 1: JUN",
    0.7: "19: CD22 FCER2; 11: CD44; 6: CD24; 12: CD27 CD69 TUBA1B TPI1 CD9 PTPN6; 2: CXCR4; "
    "1: SELL ROR1; 4: LEF1; 10: ITGB1; 14: TCL1A",
    0.14: "2: ITGA4",
    0.25: "2: ZAP70; 12: CCND2 CDK4 MDM2 KRAS ETV6 STAT6 PA2G4 ITGB7; 16: ITGAL; 21: ITGB2; "
    "4: CD38; 6: HSPA1A; 10: MKI67; 17: CCR7",
}
_MARKERS = {
    "CLL": "CD22 CD79A CD79B MS4A1 FCER2 CD24 ROR1 TCL1A CD74 HLA-DRA HLA-DRB1 HLA-DPA1",
    "T": "11: CD3E CD3D CD3G; 1: CD2; 5: IL7R; 14: TRAC",
    "monocyte": "12: LYZ; 1: S100A8 S100A9 FCER1G; 9: FCN1; 20: CST3; 17: CD68",
}
_CLONE = "2: IGKC; 22: IGLC2; 14: IGHM IGHD IGHV1-69 IGHV3-7 IGHV3-23 IGHV3-30 IGHV4-34 IGHV4-39"
_SEX = {"F": "X: XIST", "M": "Y: RPS4Y1 DDX3Y UTY"}

_N_UP, _N_DOWN, _N_MODULES = 20, 10, 8
_MIN_GENES, _MIN_DONORS, _MIN_BIMODAL = 200, 5, 2
_CELL_TYPES = ("CLL", "T", "monocyte")
_CLASSES = ("CD49d-", "CD49d+")
_SHARE_POSITIVE = dict(zip(_keys.DONOR_CLASSES, (0.02, 0.20, 0.60, 0.97), strict=True))
# Mean counts per protein: background, and what CLL cells (of CD49d: the positive ones), T cells and
# monocytes add
_PROTEINS = {
    "CD49d": (8.0, 85.0, 110.0, 130.0),
    "CD19": (7.0, 170.0, 0.0, 0.0),
    "CD5": (8.0, 75.0, 190.0, 0.0),
    "CD3": (6.0, 0.0, 150.0, 0.0),
    "CD14": (6.0, 0.0, 0.0, 240.0),
    "IgG1": (7.0, 0.0, 0.0, 0.0),
}


@_docs.shared
def cll_toy(
    *,
    n_donors: int = 10,
    n_cells: int = 2000,
    n_genes: int = 800,
    n_bimodal: int = 2,
    n_trisomy12: int = 1,
    programme: bool | Programme = True,
    rng: int | np.random.Generator | None = 0,
) -> mudata.MuData:
    """Simulated CITE-seq of chronic lymphocytic leukaemia with a planted CD49d programme.

    Ten donors in two libraries: CD49d-negative, CD49d-positive (one of them, or more, with trisomy
    12), and two bimodal ones (or more), one below and one above the 30 % rule. A CLL cell has a
    latent CD49d level; it sets the CD49d protein and, through a programme of 20 genes up and 10
    down, its RNA, so the programme also separates the two halves of a bimodal donor. RNA counts are
    negative binomial with log-normal library sizes; genes move in modules, donors differ in every
    gene, in the clone's immunoglobulin genes and in sex, the two libraries differ a little, the
    genes of chromosome 12 are at 1.4-fold dosage in the CLL cells of a donor with trisomy 12, and
    2 % of the RNA is ambient. *ITGA4*, the gene of CD49d, is rarely detected and only weakly tied
    to the protein, and is no member of the programme. About 8 % of the cells are T cells and
    monocytes, both CD49d+ on protein; the programme does not act in them.

    It is made to check that code finds what is there and nothing else. It is no model of the
    disease: the planted genes are placeholders (``"GENE0123"``), the other effects are independent
    of them, and no number got from it says how a method fares on patients.

    Parameters
    ----------
    n_donors
        Number of donors, at least 5.
    n_cells
        Number of cells over all donors; at least 20 a donor.
    n_genes
        Number of genes, at least 200: about 120 real symbols, then placeholders.
    n_bimodal
        Number of bimodal donors, 2 to ``n_donors - 3``, in turn below and above the 30 % rule; of
        the others about three eighths, but at least two, are positive. Comparisons within donors
        need more than two.
    n_trisomy12
        Number of donors with trisomy 12, all of them positive and not bimodal.
    programme
        How the planted programme acts. ``True`` is ``"additive"``: every planted gene follows the
        CD49d level. ``"combination"``: half of the genes follow one hidden switch and half another,
        both independent of CD49d, and a CLL cell is CD49d+ where the two differ; no gene has an
        effect of its own. ``"subset"``: the genes follow CD49d in 30 % of the CLL cells only, which
        a fifth of them mark, whatever the cell's CD49d. ``False`` is the control. Whatever it is,
        the rest of the object is the same, count for count: only the counts of the 30 planted genes
        differ.
    %(rng)s

    Returns
    -------
    Paired MuData of raw counts: ``"rna"`` (CSR) and ``"prot"`` (dense; CD49d, CD19, CD5, CD3, CD14,
    IgG1), both float32. The columns of ``mdata["rna"].obs`` are in ``mdata.obs``, too.

    ``mdata["rna"].obs`` : ``donor``, ``batch``, ``cell_type`` (CLL, T, monocyte) : categorical;
    ``trisomy12`` : bool
    ``mdata["rna"].obs["cd49d_true"]`` : categorical, CD49d- < CD49d+
        What the cell is, whatever its protein counts say.
    ``mdata["rna"].obs["cd49d_latent"]`` : float32
        0 is a typical negative CLL cell, 1 a typical positive one; missing in other cells.
    ``mdata["rna"].obs["switch"]`` : bool, of a combination (its first switch) or a subset
        What is hidden: whether it is on.
    ``mdata["rna"].var["chromosome"]`` : categorical
        1 to 22, X, Y, MT.
    ``mdata["rna"].uns["truth"]`` : DataFrame
        The programme: ``gene``, ``sign``, ``log_fc`` (natural log units per unit of the latent
        level, or between a switch on and off; 0 in the control), ``part`` (``"programme"``;
        ``"first"`` or ``"second"`` switch of a combination; ``"marker"`` of a subset).
    ``mdata["rna"].uns["truth_donors"]`` : DataFrame
        Per donor: ``pattern``, ``trisomy12``, ``batch``, ``sex``, ``pct_positive`` (of its CLL
        cells).

    Raises
    ------
    ValueError
        If there are too few donors, cells or genes for what must be in, too few or too many bimodal
        donors or donors with trisomy 12, or an unknown programme.

    Examples
    --------
    >>> import scbert_cll
    >>> mdata = scbert_cll.datasets.cll_toy(n_cells=400, n_genes=300)
    >>> mdata["rna"].uns["truth"]["sign"].value_counts().to_dict()
    {1: 20, -1: 10}
    """
    _check(n_donors, n_cells, n_genes, n_bimodal)
    kind = _kind_of(programme)
    # one random stream per step, so that a change of one step leaves the others as they were
    streams = np.random.default_rng(rng).spawn(7)
    donors = _donors(n_donors, n_bimodal, n_trisomy12, streams[0])
    genes = _genes(n_genes, streams[1])
    cells = _switches(_cells(donors, n_cells, streams[2]), kind, streams[6])
    planted = _truth(genes["sign"], kind, streams[1])
    rate = _rates(cells, genes, donors, streams[3])
    dispersion = genes["dispersion"].to_numpy()
    counts = _gamma_poisson(rate, dispersion, streams[4])
    # the planted genes are drawn last, so that the control differs in them alone
    place = genes.index.get_indexer(pd.Index(planted["gene"]))
    changed = rate[:, place] * np.exp(_acting(cells, planted, kind))
    counts[:, place] = _gamma_poisson(changed, dispersion[place], streams[4])
    cll = cells[cells["cell_type"] == "CLL"]
    is_positive = cll["cd49d_true"] == _CLASSES[1]
    share = is_positive.groupby(cll[_keys.DONOR], observed=True).mean()
    of_donors = donors[["pattern", "trisomy12", "batch", "sex"]]
    of_donors = of_donors.assign(pct_positive=100 * share)
    x, var = sparse.csr_matrix(counts.astype(np.float32)), genes[["chromosome"]]
    rna = AnnData(x, obs=cells.drop(columns="residual"), var=var.astype("category"))
    rna.uns.update({_keys.TRUTH: planted, _keys.TRUTH_DONORS: of_donors})
    var = pd.DataFrame(index=list(_PROTEINS))
    prot = AnnData(_protein_counts(cells, streams[5]), obs=cells[[]], var=var)
    with same_random_state():  # mudata draws a name that nobody sees
        mdata = mudata.MuData({"rna": rna, "prot": prot})
    mdata.obs = rna.obs.copy()
    return mdata


def _check(n_donors: int, n_cells: int, n_genes: int, n_bimodal: int) -> None:
    """Room for the programme, contaminants, both kinds of bimodal donors, and three others."""
    limits = {"n_donors": _MIN_DONORS, "n_cells": 20 * n_donors, "n_genes": _MIN_GENES}
    numbers = (n_donors, n_cells, n_genes)
    for (name, least), n in zip(limits.items(), numbers, strict=True):
        if n < least:
            raise ValueError(
                f"cll_toy needs {name} >= {least}, since two bimodal donors, contaminants and 30 "
                f"planted genes must fit in; found {n}."
            )
    if not _MIN_BIMODAL <= n_bimodal <= n_donors - 3:
        raise ValueError(
            f"cll_toy needs n_bimodal from {_MIN_BIMODAL} to n_donors - 3 = {n_donors - 3}, since "
            "one below and one above the 30 % rule, two positive donors and a negative one must "
            f"be in; found {n_bimodal}."
        )


def _named(text: str) -> pd.Series:
    """Chromosome of each symbol of ``"12: LYZ LDHB; 5: CD14"``."""
    parts = [part.strip().split(":") for part in text.split(";")]
    return pd.Series({gene: name for name, genes in parts for gene in genes.split()})


def _donors(n: int, n_bimodal: int, n_trisomy12: int, rng: _Rng) -> pd.DataFrame:
    """One row per donor, classes spread evenly over the two libraries and in random order."""
    n_positive = max(2, round(0.3 * n * (n - n_bimodal) / (n - _MIN_BIMODAL)))
    bimodal = [("bimodal_low", "bimodal_high")[i % 2] for i in range(n_bimodal)]
    patterns = bimodal + ["pos_homogeneous"] * n_positive
    patterns = ["neg_homogeneous"] * (n - len(patterns)) + patterns
    table = pd.DataFrame({"pattern": patterns})
    number_in(n_trisomy12, "n_trisomy12", 0, n_positive, whole=True)
    table["trisomy12"] = np.arange(n) >= n - n_trisomy12
    table["batch"] = np.where(np.arange(n) % 2, "lib2", "lib1")
    table["sex"] = rng.permutation(np.where(np.arange(n) % 2, "F", "M"))
    clone = _named(_CLONE).index
    table["heavy"] = rng.choice(clone[clone.str.startswith("IGHV")], n)
    table["light"] = rng.choice(["IGKC", "IGLC2"], n)
    table["size"] = rng.uniform(0.75, 1.25, n)
    table = table.iloc[rng.permutation(n)]
    names = [f"D{i + 1:02d}" for i in range(n)]
    return table.set_index(pd.Index(names, name=_keys.DONOR))


def _genes(n: int, rng: _Rng) -> pd.DataFrame:
    """One row per gene: chromosome, mean UMI per cell, module, dispersion.

    And the log effect of each cell type.
    """
    rare = [_MARKERS["T"], _MARKERS["monocyte"], _CLONE, *_SEX.values()]
    levels = [*_SYMBOLS.items(), *((0.02, text) for text in rare)]
    tables = [_named(text).to_frame("chromosome") for _, text in levels]
    named = pd.concat(tables)
    named["level"] = np.repeat([level for level, _ in levels], list(map(len, tables)))
    n_other = n - len(named)
    other = pd.DataFrame(index=[f"GENE{i + 1:04d}" for i in range(n_other)])
    other["chromosome"] = rng.choice([*map(str, range(1, 23)), "X"], n_other)
    other["level"] = np.exp(rng.normal(-1.7, 1.2, n_other))
    # what is planted must be expressed, and must not be the dosage of chromosome 12
    candidates = other.index[other["chromosome"] != "12"]
    planted = rng.choice(candidates, _N_UP + _N_DOWN, replace=False)
    log_level = rng.uniform(np.log(0.3), np.log(2.5), len(planted))
    other.loc[planted, "level"] = np.exp(log_level)
    genes = pd.concat([named, other])
    genes["level"] *= np.exp(rng.normal(0, 0.2, n))
    genes["sign"] = 0
    genes.loc[planted, "sign"] = np.repeat([1, -1], [_N_UP, _N_DOWN])
    for cell_type in ("T", "monocyte"):
        genes[cell_type] = rng.normal(0, 0.8, n) * (rng.random(n) < 0.3)
        genes.loc[_MARKERS["CLL"].split(), cell_type] = -3.0
        genes.loc[_named(_MARKERS[cell_type]).index, cell_type] = 5.0
    genes.loc["ITGA4", ["T", "monocyte"]] = 1.0
    genes["module"] = np.where(rng.random(n) < 0.5, rng.integers(0, _N_MODULES, n), -1)
    genes["loading"] = rng.normal(0, 0.35, n) * (genes["module"] >= 0)
    genes["dispersion"] = rng.uniform(2, 8, n)
    return genes


def _cells(donors: pd.DataFrame, n: int, rng: _Rng) -> pd.DataFrame:
    """One row per cell, in random order: columns of `obs`, and what RNA and protein share.

    The latter is beyond the class.
    """
    ends = np.rint(n * donors["size"].cumsum() / donors["size"].sum()).astype(int)
    parts = []
    sizes = np.diff(ends, prepend=0)
    for name, pattern, size in zip(donors.index, donors["pattern"], sizes, strict=True):
        n_t, n_mono = max(1, round(0.05 * size)), max(1, round(0.03 * size))
        n_cll = size - n_t - n_mono
        positive = np.arange(n_cll) < round(_SHARE_POSITIVE[pattern] * n_cll)
        cell_type = np.repeat(_CELL_TYPES, [n_cll, n_t, n_mono])
        positive = np.r_[positive, np.ones(n_t + n_mono, bool)]
        columns = {"cell_type": cell_type, _keys.DONOR: name, "positive": positive}
        parts.append(pd.DataFrame(columns))
    cells = pd.concat(parts, ignore_index=True).iloc[rng.permutation(n)]
    cells.index = pd.Index([f"cell{i + 1:05d}" for i in range(n)])
    cells["batch"] = pd.Categorical(cells[_keys.DONOR].map(donors["batch"]))
    cells["trisomy12"] = cells[_keys.DONOR].map(donors["trisomy12"]).astype(bool)
    cells[_keys.DONOR] = pd.Categorical(cells[_keys.DONOR], list(donors.index))
    cells["cell_type"] = pd.Categorical(cells["cell_type"], _CELL_TYPES)
    positive = cells.pop("positive").to_numpy()
    true = np.where(positive, *reversed(_CLASSES))
    cells["cd49d_true"] = pd.Categorical(true, _CLASSES, ordered=True)
    latent = np.where(positive, 1.0 + 0.15 * cells["trisomy12"], 0.0)
    latent[cells["cell_type"] != "CLL"] = np.nan
    cells["cd49d_latent"] = (latent + rng.normal(0, 0.2, n)).astype(np.float32)
    cells["residual"] = rng.normal(0, 1, n)
    of_class = ["cd49d_true", "cd49d_latent", "residual"]
    return cells[[_keys.DONOR, "batch", "cell_type", "trisomy12", *of_class]]


def _rates(cells: pd.DataFrame, genes: pd.DataFrame, donors: pd.DataFrame, rng: _Rng) -> np.ndarray:
    """Expected counts, cells x genes, before the programme acts."""
    n, donor = len(genes), cells[_keys.DONOR].cat.codes.to_numpy()
    # donors differ in all genes a little; in clone, sex and dosage strongly
    by_donor = rng.normal(0, 0.15, (len(donors), n))
    is_on_12 = (genes["chromosome"] == "12").to_numpy()
    for effect, one in zip(by_donor, donors.to_dict("records"), strict=True):
        clone = pd.Index([one["heavy"], one["light"], "IGHM", "IGHD"])
        effect[genes.index.get_indexer(clone)] += [5.0, 6.0, 4.0, 3.0]
        effect[genes.index.isin(_named(_SEX[one["sex"]]).index)] += 3.5
        effect[is_on_12 & one["trisomy12"]] += np.log(1.4)
    by_batch = rng.normal(0, 0.1, (2, n))
    factor = rng.normal(0, 1, (len(cells), _N_MODULES))
    factor += rng.normal(0, 0.3, (len(donors), _N_MODULES))[donor]
    by_type = np.stack([np.zeros(n), genes["T"], genes["monocyte"]])
    log = np.log(genes["level"].to_numpy()) + by_batch[cells["batch"].cat.codes]
    log += by_type[cells["cell_type"].cat.codes]
    log += factor[:, genes["module"]] * genes["loading"].to_numpy()
    cll = (cells["cell_type"] == "CLL").to_numpy()
    log[cll] += by_donor[donor[cll]]
    tied = cells["cd49d_latent"] + 0.8 * cells["residual"]
    log[cll, genes.index.get_loc("ITGA4")] += tied[cll]
    profile = np.exp(log, out=log)
    profile += 0.02 * profile.mean(axis=0)
    depth = 1.2 * np.exp(rng.normal(0, 0.35, len(cells)))
    depth *= np.array([1.0, 1.4, 2.0])[cells["cell_type"].cat.codes]
    return np.asarray(profile * depth[:, None])


def _protein_counts(cells: pd.DataFrame, rng: _Rng) -> np.ndarray:
    """Antibody counts: background, the cell's own proteins, one staining depth per cell."""
    background, *added = np.array(list(_PROTEINS.values())).T
    bound = np.stack(added)[cells["cell_type"].cat.codes]
    bound *= np.exp(rng.normal(0, 0.2, bound.shape))
    latent = cells["cd49d_latent"].fillna(1.0)
    bound[:, 0] *= np.exp(2.6 * (latent - 1) + 0.25 * cells["residual"])
    donors = cells[_keys.DONOR].cat
    donor = np.exp(rng.normal(0, 0.1, (donors.categories.size, 1)))[donors.codes]
    depth = np.exp(rng.normal(0, 0.2, (len(cells), 1)))
    counts = _gamma_poisson(depth * (background * donor + bound), 15.0, rng)
    return counts.astype(np.float32)


def _gamma_poisson(mean: np.ndarray, size: float | np.ndarray, rng: _Rng) -> np.ndarray:
    """Negative binomial counts, of variance mean + mean² / size."""
    return rng.poisson(rng.gamma(size, mean / size))


def _kind_of(programme: bool | Programme) -> str:
    """The kind by name; ``"none"`` for the control."""
    if isinstance(programme, bool):
        return "additive" if programme else "none"
    return choice(programme, get_args(Programme), "programme")


def _truth(sign: pd.Series, kind: str, rng: _Rng) -> pd.DataFrame:
    """One row per planted gene, those that go up first; no effect in the control."""
    sign = sign[sign != 0].sort_values(ascending=False, kind="stable")
    size = rng.uniform(*_LOG_FC, len(sign))
    size *= _COMBINED if kind == "combination" else 1.0
    acts = kind != "none"
    parts = _PARTS.get(kind, ("programme", "programme"))
    other = np.arange(len(sign)) % _EVERY.get(kind, 1) == _EVERY.get(kind, 1) - 1
    table = pd.DataFrame({"gene": sign.index, "sign": sign * acts}, index=sign.index)
    table["log_fc"] = sign * size * acts
    table["part"] = np.where(other, *parts[::-1])
    return table.set_axis([str(i) for i in range(len(sign))])


def _switches(cells: pd.DataFrame, kind: str, rng: _Rng) -> pd.DataFrame:
    """Add the hidden switch, on in some CLL cells whatever their CD49d.

    An additive programme needs none.
    """
    if kind not in _PARTS:
        return cells
    on = rng.random(len(cells)) < (_SUBSET if kind == "subset" else 0.5)
    return cells.assign(**{_keys.SWITCH: on & (cells["cell_type"] == "CLL").to_numpy()})


def _acting(cells: pd.DataFrame, table: pd.DataFrame, kind: str) -> np.ndarray:
    """Change of each planted gene in each cell, natural log: cells × planted genes."""
    level = cells["cd49d_latent"].fillna(0.0).to_numpy()[:, None]
    size = table["log_fc"].to_numpy()
    if kind not in _PARTS:
        return np.asarray(level * size)
    on = cells[_keys.SWITCH].to_numpy()
    other = (table["part"] == _PARTS[kind][1]).to_numpy()
    if kind == "subset":
        return np.asarray(on[:, None] * np.where(other, 1.0, level) * size)
    positive = (cells["cd49d_true"] == _CLASSES[1]).to_numpy()
    cll = (cells["cell_type"] == "CLL").to_numpy()[:, None]
    # a cell is positive where the two switches differ
    first, second = (np.where(one, 0.5, -0.5)[:, None] for one in (on, on ^ positive))
    return np.asarray(cll * np.where(other, second, first) * size)
