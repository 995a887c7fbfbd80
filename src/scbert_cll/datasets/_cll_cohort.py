"""datasets.cll_cohort: bulk expression and outcome of patients, with a planted programme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _docs, _keys
from scbert_cll._checks.words import listed, number_in

type _Rng = np.random.Generator
_OUTCOMES: Final = ("TTT", "treated", "died_untreated", "OS", "died", "TTFT")
_N_DECOY: Final = 30
_N_MODULES: Final = 16
_MIN_ORDINARY: Final = 100  # genes that are neither planted nor proliferation
# Variance of the programme over that of noise in the planted sum: reliability 19 / 20
_SIGNAL: Final = 19.0
# Variance of the programme that is that of IGHV and trisomy 12
_EXPLAINED: Final = 0.7**2 * 0.24 + 0.9**2 * 0.1275 + 2 * 0.7 * 0.9 * 0.075 * 0.24
_MISSING: Final = {"IGHV": 0.04, "TP53": 0.03, "NOTCH1": 0.03}

# Hazard ratios of treatment and of death; of the programme, that of treatment is given and that of
# death is 1
_RATIOS: Final = {
    "IGHV: unmutated": (2.2, 1.5),
    "TP53": (1.8, 2.0),
    "trisomy12": (1.2, 1.0),
    "NOTCH1": (1.1, 1.1),
    "pretreated": (2.0, 1.6),
    "age (10 years)": (1.0, 1.7),
    "proliferation": (1.5, 1.0),
}
_RATE: Final = (0.14, 0.027)  # per year, at average covariates
_FOLLOW_UP: Final = (2.0, 11.0)  # years from sample to the end of the study


@_docs.shared
def cll_cohort(
    *,
    n_patients: int = 300,
    n_genes: int = 1500,
    n_planted: int = 30,
    hazard_ratio: float = 1.6,
    programme: Mapping[str, float] | None = None,
    rng: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate bulk expression and outcome of a cohort in which a programme raises the hazard.

    Each patient has a CD49d programme and a proliferation factor, both with mean 0 and standard
    deviation 1. The programme is higher with unmutated IGHV and with trisomy 12 and is carried by
    *ITGA4* and other planted genes, up and down; their weighted sum of z-scores has a reliability
    of .95. Proliferation is carried by the twelve genes named below and, a little, by the whole
    transcriptome: as in breast cancer (Venet et al. 2011), random sets of genes are therefore often
    significant, and more often so if all their genes have the same sign. Genes also move in modules
    (one with IGHV, one with trisomy 12) and with a broad factor of no meaning.

    Treatment and death have constant hazards. Treatment depends on the programme, proliferation,
    IGHV, TP53, trisomy 12, NOTCH1 and earlier treatment; death, before or after treatment, on age,
    TP53, IGHV, NOTCH1 and earlier treatment, not on the programme. About half of the patients are
    treated, and one in ten dies untreated.

    The decoy is a signature that looks prognostic and is not: 30 ordinary genes drawn at random,
    all with weight 1. Its p is small, as it is for most such sets; it says nothing of the
    programme, and nothing beyond random genes.

    It is made to check that code finds what is there and nothing else. It is no model of the
    disease: no number got from it says anything about patients.

    Parameters
    ----------
    n_patients, n_genes
        Patients, one sample each, and genes.
    n_planted
        Genes that carry the programme, *ITGA4* among them; two thirds go up with it.
    hazard_ratio
        Of treatment, per standard deviation of the programme, given the covariates and
        proliferation. With 1 the planted signature says nothing beyond its covariates. It changes
        times and events only, no expression.
    programme
        Genes that carry the programme and their signs (or weights, of which the signs are taken) in
        the place of `n_planted` placeholders, e.g. those of :func:`~scbert_cll.datasets.cll_toy`,
        to follow a signature from cells to patients.
    %(rng)s

    Returns
    -------
    AnnData of log2 expression (patients × genes, float64, about 3 to 14), with

    ``obs['TTT']``, ``obs['treated']``, ``obs['died_untreated']`` : float64, int64
        Years from the sample to treatment, death or the end of follow-up; whether treated (1), or
        dead without treatment, the competing event.
    ``obs['OS']``, ``obs['died']`` : float64, int64
        Years from the sample to death or the end of follow-up.
    ``obs['years_to_sample']``, ``obs['TTFT']`` : float64
        Years from diagnosis to the sample, and to first treatment or censoring. Patients enter with
        the sample: TTFT needs delayed entry. It is missing for those treated before the sample.
    ``obs['IGHV']``, ``obs['Binet']`` : categorical
        mutated < unmutated; A < B < C (related to IGHV and earlier treatment, without an effect of
        its own).
    ``obs['TP53']``, ``obs['NOTCH1']`` : float64
        0 or 1. IGHV, TP53 and NOTCH1 are missing at random for a few per cent.
    ``obs['trisomy12']``, ``obs['pretreated']`` : int64
        0 or 1.
    ``obs['age']`` : float64
        Years.
    ``var['programme']``, ``var['proliferation']`` : float64
        Correlation of a gene with either.
    ``uns['truth']`` : dict
        ``signature`` and ``decoy`` (gene, weight), ``proliferation`` (genes), ``hazard_ratio``,
        ``hazard_ratios`` (variable, treatment, death) and ``patients`` (programme, proliferation).
    ``uns['cohort']`` : dict
        ``outcomes``, the columns that belong to an outcome: none of them is taken as a covariate.

    Raises
    ------
    ValueError
        Too few patients or genes, a hazard ratio that is not positive, or a programme of one gene,
        without weights, or with proliferation genes.

    Notes
    -----
    Proliferation genes: the eleven of PAM50 (Nielsen et al. 2010,
    doi:10.1158/1078-0432.CCR-10-1282), and *PCNA*. Random sets: Venet, Dumont & Detours 2011
    (doi:10.1371/journal.pcbi.1002240).

    Examples
    --------
    >>> import scbert_cll
    >>> cohort = scbert_cll.datasets.cll_cohort(n_patients=100, n_genes=300)
    >>> cohort.shape, cohort.uns["truth"]["signature"]["gene"].iloc[0]
    ((100, 300), 'ITGA4')
    """
    number_in(n_patients, "n_patients", 20, np.inf, whole=True)
    number_in(n_planted, "n_planted", 2, np.inf, whole=True)
    number_in(hazard_ratio, "hazard_ratio", 0.01, 100)
    if programme is None:  # placeholders, of which every third goes down
        placeholders = ["ITGA4", *(f"PLANTED{i:02d}" for i in range(1, n_planted))]
        weights = [-1.0 if i % 3 == 1 else 1.0 for i in range(n_planted)]
        programme = dict(zip(placeholders, weights, strict=True))
    signs = _signs(programme)
    least = len(signs) + len(_keys.PROLIFERATION) + _MIN_ORDINARY
    number_in(n_genes, "n_genes", least, np.inf, whole=True)
    # one random stream per step, so that a change of one step leaves the others as they were
    streams = np.random.default_rng(rng).spawn(5)
    for_missing, for_genes, for_values, for_outcome, for_patients = streams
    patients, latent = _patients(n_patients, for_patients)
    genes = _genes(signs, n_genes, for_genes)
    values = _expression(genes, patients, latent, for_values)
    patients = patients.join(_outcome(patients, latent, hazard_ratio, for_outcome))
    # some tests were not done, whoever the patient is
    for name, share in _MISSING.items():
        patients.loc[for_missing.random(n_patients) < share, name] = np.nan
    adata = AnnData(values, obs=patients, var=genes[["programme", "proliferation"]])
    planted, decoy = genes.index[genes["programme"] != 0], genes.index[genes["decoy"]]
    r = genes.loc[planted, "programme"].to_numpy()
    signature = pd.DataFrame({"gene": planted, "weight": r / (1 - r**2)})
    ratios = _RATIOS | {"programme": (float(hazard_ratio), 1.0)}
    rows = [(name, *pair) for name, pair in ratios.items()]
    table = pd.DataFrame(rows, columns=["variable", "treatment", "death"])
    adata.uns[_keys.TRUTH] = {
        "signature": signature.rename(index=str),
        "decoy": pd.DataFrame({"gene": decoy, "weight": 1.0}).rename(index=str),
        "proliferation": list(_keys.PROLIFERATION),
        "hazard_ratio": float(hazard_ratio),
        "hazard_ratios": table.rename(index=str),
        "patients": latent,
    }
    adata.uns[_keys.COHORT] = {"outcomes": np.array(_OUTCOMES, dtype=object)}
    return adata


def _signs(programme: Mapping[str, float]) -> dict[str, float]:
    """Signs of the genes that carry the programme."""
    signs = {str(gene): float(np.sign(weight)) for gene, weight in programme.items()}
    none = [gene for gene, sign in signs.items() if sign not in (-1.0, 1.0)]
    if len(signs) < 2 or none:
        raise ValueError(
            f"programme must give at least two genes weights above or below 0; found "
            f"{len(signs)}, without such a weight {listed(none)}."
        )
    if taken := sorted(set(signs) & set(_keys.PROLIFERATION)):
        raise ValueError(
            f"programme must leave the proliferation genes to proliferation; found "
            f"{listed(taken)}. Remove them."
        )
    return signs


def _patients(n: int, rng: _Rng) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Covariates, and what is behind the expression: programme and proliferation."""
    unmutated = rng.random(n) < 0.40
    trisomy12 = rng.random(n) < 0.12 + 0.075 * unmutated
    tp53 = rng.random(n) < 0.07 + 0.075 * unmutated
    notch1 = rng.random(n) < 0.05 + 0.08 * unmutated + 0.12 * trisomy12
    pretreated = rng.random(n) < 0.12 + 0.15 * unmutated
    stage = rng.normal(0, 1, n) + 0.4 * unmutated + 0.5 * pretreated
    names = pd.Index([f"P{i + 1:04d}" for i in range(n)])

    def ordered(codes: np.ndarray, *words: str) -> pd.Categorical[str]:
        return pd.Categorical.from_codes(codes, pd.Index(words), ordered=True)

    columns = {
        "IGHV": ordered(unmutated.astype(int), "mutated", "unmutated"),
        "TP53": tp53.astype(float),
        "trisomy12": trisomy12.astype(int),
        "NOTCH1": notch1.astype(float),
        "age": np.clip(rng.normal(64, 10, n), 30, 92).round(1),
        "Binet": ordered(np.digitize(stage, [0.9, 1.8]), *"ABC"),
        "pretreated": pretreated.astype(int),
        "years_to_sample": rng.gamma(1.2, 2.5, n).round(2) + 0.01,
    }
    z = 0.7 * (unmutated - 0.40) + 0.9 * (trisomy12 - 0.15)
    z += rng.normal(0, np.sqrt(1 - _EXPLAINED), n)
    latent = {"programme": z, "proliferation": rng.normal(0, 1, n)}
    return pd.DataFrame(columns, names), pd.DataFrame(latent, names)


def _genes(signs: Mapping[str, float], n: int, rng: _Rng) -> pd.DataFrame:
    """One row per gene: level, spread, and the correlation with each factor.

    The decoy is among the ordinary ones.
    """
    special = [*signs, *_keys.PROLIFERATION]
    ordinary = [name for i in range(n) if (name := f"GENE{i + 1:04d}") not in signs]
    ordinary = ordinary[: n - len(special)]
    genes = pd.DataFrame(index=[*special, *ordinary])
    genes["level"] = 5.5 + 6.5 * rng.beta(1.6, 1.9, n)
    genes["spread"] = np.exp(rng.normal(np.log(0.45), 0.25, n))
    planted, rest = genes.index.isin(list(signs)), genes.index.isin(ordinary)
    ratio = rng.uniform(0.5, 1.5, len(signs))
    # r² / (1 − r²) of each gene; the best weighted sum adds them up
    ratio *= _SIGNAL / ratio.sum()
    r = np.array(list(signs.values())) * np.sqrt(ratio / (1 + ratio))
    genes["programme"] = 0.0
    genes.loc[planted, "programme"] = r
    of_others = np.clip(rng.normal(0.24, 0.22, n), -0.5, 0.7)
    genes["proliferation"] = np.where(rest, of_others, 0.0)
    dividing = list(_keys.PROLIFERATION)
    genes.loc[dividing, "proliferation"] = rng.uniform(0.7, 0.85, len(dividing))
    genes["broad"] = np.where(rest, np.clip(rng.normal(0, 0.3, n), -0.6, 0.6), 0.0)
    genes["module"] = rng.integers(0, _N_MODULES, n)
    in_module = rest & (rng.random(n) < 0.5)
    genes["loading"] = in_module * rng.choice([-1, 1], n) * rng.uniform(0.2, 0.5, n)
    decoy = rng.choice(np.flatnonzero(rest), _N_DECOY, replace=False)
    genes["decoy"] = np.isin(np.arange(n), decoy)
    return genes


def _expression(
    genes: pd.DataFrame, patients: pd.DataFrame, latent: pd.DataFrame, rng: _Rng
) -> np.ndarray:
    """Log2 expression, patients × genes."""
    n = len(patients)
    modules = rng.normal(0, 1, (n, _N_MODULES))
    for i, status in enumerate((patients["IGHV"].cat.codes, patients["trisomy12"])):
        modules[:, i] = (status - status.mean()) / max(status.std(), 0.1)
    factors = ["programme", "proliferation", "broad", "loading"]
    shared = sum(np.outer(latent[f], genes[f]) for f in factors[:2])
    shared = shared + np.outer(rng.normal(0, 1, n), genes["broad"])
    shared += modules[:, genes["module"]] * genes["loading"].to_numpy()
    noise = np.sqrt(1 - np.clip((genes[factors] ** 2).sum(axis=1), 0, 0.9)).to_numpy()
    values = shared + noise * rng.normal(0, 1, shared.shape)
    return np.asarray(genes["level"].to_numpy() + genes["spread"].to_numpy() * values)


def _outcome(
    patients: pd.DataFrame, latent: pd.DataFrame, hazard_ratio: float, rng: _Rng
) -> pd.DataFrame:
    """Times in years and events, of treatment with death as its competitor, and of death."""
    n = len(patients)
    covariates = patients[["TP53", "trisomy12", "NOTCH1", "pretreated"]].astype(float)
    covariates["IGHV: unmutated"] = patients["IGHV"].cat.codes.astype(float)
    covariates["age (10 years)"] = patients["age"] / 10
    covariates["proliferation"] = latent["proliferation"]
    log_ratios = np.log(np.array([_RATIOS[str(name)] for name in covariates]))
    risk = (covariates - covariates.mean()).to_numpy() @ log_ratios  # (patients, 2)
    risk[:, 0] += np.log(hazard_ratio) * latent["programme"]
    treatment, death = (rng.exponential(1, (n, 2)) / (np.array(_RATE) * np.exp(risk))).T
    end = rng.uniform(*_FOLLOW_UP, n)
    treated, died = treatment <= np.minimum(death, end), death <= end
    survival = np.minimum(death, end)
    ttt = np.minimum(treatment, survival)
    columns = {
        "TTT": ttt,
        "treated": treated.astype(int),
        "died_untreated": (died & ~treated).astype(int),
        "OS": survival,
        "died": died.astype(int),
        "TTFT": (patients["years_to_sample"] + ttt).mask(patients["pretreated"] == 1),
    }
    return pd.DataFrame(columns, patients.index)
