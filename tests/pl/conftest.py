from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from matplotlib.text import Text

from scbert_cll._evaluation import intervals

CLASSES = ["CD49d-", "CD49d+"]
METRICS = ("macro_f1", "auroc", "brier", "ece")
NAMES = [
    *(
        "scbert",
        "logistic_l2",
        "majority",
        "gene_only",
        "random_forest",
        "scbert_linear",
        "knn",
        "library_size",
    ),
    *(
        "scbert_from_scratch_expressed_tokens",
        "scbert_from_scratch_all_genes",
        "logistic_l1",
        "logistic_sgd",
    ),
    *(
        "gradient_boosting",
        "mlp_tokens",
        "pseudobulk",
        "scvi_logistic",
        "scanvi",
        "logistic_l2_without_ITGA4",
    ),
    *("random_forest_smote", "scbert_ensemble_of_five_seeds"),
]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """No plot changes the user's settings; figures are closed."""
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture
def legible() -> Callable[[Figure], None]:
    """Every text lies inside the figure and no two overlap (turned ones aside); nothing is smaller
    than 6 points.
    """

    def check(fig: Figure) -> None:
        fig.canvas.draw()
        unseen = _beyond_limits(fig)
        texts = [
            t
            for t in fig.findobj(Text)
            if t.get_visible() and t.get_text().strip() and id(t) not in unseen
        ]
        boxes = [(t.get_text(), t.get_window_extent(), t) for t in texts]
        assert boxes
        for text, box, t in boxes:
            assert t.get_fontsize() >= 6, text
            assert box.x0 > -1, (text, box)
            assert box.y0 > -1, (text, box)
            assert box.x1 < fig.bbox.x1 + 1, (text, box)
            assert box.y1 < fig.bbox.y1 + 1, (text, box)
        upright = [(text, box) for text, box, t in boxes if t.get_rotation() in (0, 90)]
        for (a, box_a), (b, box_b) in combinations(upright, 2):
            width = min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0)
            height = min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0)
            assert width < 1 or height < 1, (a, b)

    return check


def _beyond_limits(fig: Figure) -> set[int]:
    """Labels of ticks beyond the limits, which exist but are not drawn."""
    found = set()
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            drawn = [t for t in axis.get_major_ticks() if min(limits) <= t.get_loc() <= max(limits)]
            for tick in axis.majorTicks:
                found |= set() if tick in drawn else {id(tick.label1), id(tick.label2)}
    return found


# -- the result of a cross-validation, made up
# ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def evaluated() -> Callable[..., AnnData]:
    """An object as tl.cross_validate leaves it: `evaluated(n_models=, n_donors=, undefined=)`."""
    made: dict[tuple[int, int, bool], AnnData] = {}

    def make(n_models: int = 4, n_donors: int = 10, *, undefined: bool = False) -> AnnData:
        what = (n_models, n_donors, undefined)
        if what not in made:
            made[what] = _evaluated(*what)
        return made[what].copy()

    return make


def _evaluated(n_models: int, n_donors: int, undefined: bool, n_repeats: int = 3) -> AnnData:
    """Probabilities whose logits hold the truth and noise, better models less of it."""
    rng = np.random.default_rng(n_models + n_donors)
    n = 600
    adata = AnnData(
        np.ones((n, 1), np.float32), obs=pd.DataFrame(index=[f"c{i}" for i in range(n)])
    )
    donors = rng.integers(0, n_donors, n)
    share = np.linspace(0.03, 0.8, n_donors) if n_donors > 1 else np.array([0.4])
    y = (rng.random(n) < share[donors]).astype(int)
    adata.obs["donor"] = pd.Categorical([f"CLL{i + 1:02d}" for i in donors])
    adata.obs["cd49d"] = pd.Categorical.from_codes(
        np.where(rng.random(n) < 0.1, -1, y), CLASSES, ordered=True
    )
    known = adata.obs["cd49d"].notna().to_numpy()
    names = NAMES[:n_models]
    baselines = [name for name in names if "scbert" not in name]
    columns, proba = {}, {}
    for i, name in enumerate(names):
        logit = (
            (2 * y - 1) * 1.5 / (1 + 0.2 * i)
            + rng.normal(0, 1, (n_repeats, n)) * 0.4
            + rng.normal(0, 1, n)
        )
        p = np.full((n_repeats, n), y.mean()) if name == "majority" else 1 / (1 + np.exp(-logit))
        proba[name] = np.stack([1 - p, p], axis=2)[:, known]
        for repeat in range(n_repeats):
            for label, value in zip(CLASSES, (1 - p[repeat], p[repeat]), strict=True):
                columns[f"{name}|{repeat}|{label}"] = np.where(known, value, np.nan).astype(
                    np.float32
                )
    adata.obsm["cv_proba"] = pd.DataFrame(columns, index=adata.obs_names)
    if undefined:
        proba[names[3]][0] = np.nan
    found = intervals.OutOfFold(
        CLASSES, True, y[known], adata.obs["donor"].astype(str).to_numpy()[known], proba, baselines
    )
    tables, unit, n_units = intervals.tables(found, metrics=METRICS, n_bootstrap=20, seed=0)
    if undefined:
        row = (tables["summary"]["model"] == names[1]) & (tables["summary"]["metric"] == "auroc")
        tables["summary"].loc[row, ["estimate", "low", "high", "note"]] = [np.nan] * 3 + [
            "one class only; and more"
        ]
        row = (tables["scores"]["model"] == names[1]) & (tables["scores"]["metric"] == "auroc")
        tables["scores"].loc[row, "value"] = np.nan
    params = {
        "scheme": "leave_one_donor_out" if n_donors > 1 else "random_cell",
        "labels_key": "cd49d",
        "donor_key": "donor",
        "positive_from": 30.0,
        "baselines": baselines,
    }
    held = {
        "params": params,
        "classes": np.array(CLASSES),
        "ordered": True,
        "unit": unit,
        "n_units": n_units,
    }
    adata.uns["cv"] = held | tables
    return adata


# -- a signature, made up
# -----------------------------------------------------------------------------------------------


@pytest.fixture
def signed() -> Callable[..., AnnData]:
    """An object as tl.signature leaves it."""
    return _signed


def _signed(
    n_up: int = 6,
    n_down: int = 4,
    *,
    n_other: int = 30,
    n_donors: int = 6,
    classes: tuple[str, ...] = ("CD49d-", "CD49d+"),
    names: dict[int, str] | None = None,
    families: dict[int, str] | None = None,
    between: bool = False,
) -> AnnData:
    """Genes in order: those that go up, those that go down, those that do not pass; `names` and
    `families` by place.
    """
    rng = np.random.default_rng(0)
    n = n_up + n_down + n_other
    places = np.arange(n)
    effect = np.select([places < n_up, places < n_up + n_down], [1.0, -0.8], rng.normal(0, 0.1, n))
    effect *= rng.uniform(0.6, 1.4, n)
    genes = pd.Index([(names or {}).get(i, f"GENE{i:02d}") for i in places])
    donors = [f"CLL{i + 1:02d}" for i in range(n_donors)]
    differences = pd.DataFrame(effect[:, None] + rng.normal(0, 0.2, (n, n_donors)), genes, donors)
    samples = pd.DataFrame(
        [(d, k, 40, 1.0) for d in donors for k in classes],
        columns=["donor", "class", "n_cells", "size_factor"],
    )
    level = rng.normal(6, 2, (n, 1)) + rng.normal(0, 1, (n, n_donors)).repeat(len(classes), axis=1)
    step = np.tile(np.linspace(0, 1, len(classes)), n_donors)
    expression = level + differences.to_numpy().repeat(len(classes), axis=1) * step
    mean, q = (
        differences.mean(axis=1).to_numpy(),
        np.where(places < n_up + n_down, 1e-9 * 4.0**places, 0.4),
    )
    columns = {"gene": genes, "sign": np.sign(mean).astype(int), "selected": places < n_up + n_down}
    columns |= {"log2_fc": mean, "low": mean - 0.25, "high": mean + 0.25, "q": np.minimum(q, 0.4)}
    columns |= {"n_left_out": np.where(places < n_up + n_down, n_donors, 0)}
    columns |= {"family": [(families or {}).get(i, "") for i in places]}
    held = {
        "genes": pd.DataFrame(columns).rename(index=str),
        "differences": differences,
        "samples": samples.rename(index=str),
        "expression": pd.DataFrame(expression, genes, samples["donor"] + "|" + samples["class"]),
        "reason": "" if n_up + n_down else "no gene has q < 0.05; the smallest is 0.4",
        "n_donors": n_donors,
        "n_tested": n,
        "params": {"classes": list(classes), "design": "between" if between else "within"},
    }
    adata = AnnData(np.ones((2, n), np.float32), var=pd.DataFrame(index=genes))
    adata.uns["signature"] = held
    return adata


@pytest.fixture
def untestable() -> AnnData:
    """A signature for which there were too few donors."""
    adata = _signed(0, 0)
    empty = pd.DataFrame()
    adata.uns["signature"] |= {
        "genes": empty,
        "differences": empty,
        "samples": empty,
        "expression": empty,
    }
    adata.uns["signature"] |= {
        "reason": "2 donors have 20 cells of every class, and 4 are needed",
        "n_donors": 0,
    }
    adata.uns["signature"] |= {"n_tested": 0}
    return adata


# -- outcomes, made up
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def survived() -> Callable[..., AnnData]:
    """An object as tl.survival leaves it."""
    return _survived


@pytest.fixture
def prognosed() -> Callable[..., AnnData]:
    """An object as tl.prognosis leaves it."""
    return _prognosed


def _survived(
    hazards: dict[str, float] | None = None, *, n: int = 60, competing: bool = False
) -> AnnData:
    """Patients in groups of `n`, with exponential times and censoring at 2 to 10 years; a hazard of
    0 has no event.
    """
    adata = AnnData(np.ones((2, 1), np.float32))
    adata.uns["survival"] = _groups(hazards or {"mutated": 0.1, "unmutated": 0.35}, n, competing)
    return adata


def _groups(hazards: dict[str, float], n: int, competing: bool) -> dict[str, object]:
    rng = np.random.default_rng(0)
    curves, incidence, rows = [], [], []
    for i, (name, hazard) in enumerate(hazards.items()):
        times = [
            rng.exponential(1 / h, n) if h else np.full(n, np.inf)
            for h in (hazard, 0.05 * competing)
        ]
        end = np.minimum(*times)
        stop = rng.uniform(2, 10, n)
        time = np.minimum(end, stop)
        cause = np.where(end > stop, 0, np.where(times[0] <= times[1], 1, 2))
        curve, both = _estimates(time, cause)
        curves.append(curve.assign(group=name))
        incidence.append(both.assign(group=name))
        below = curve.loc[curve["survival"] <= 0.5, "time"]
        median = below.iloc[0] if len(below) else np.nan
        first, reach = next(iter(hazards.values())), 0.4
        ratio = hazard / first if first else np.nan
        row = {"group": name, "n": n, "n_events": int((cause == 1).sum())}
        row |= {
            "median": median,
            "median_low": 0.8 * median,
            "median_high": np.nan if i else 1.3 * median,
        }
        known = {
            "ratio": ratio,
            "ci_low": ratio * np.exp(-reach),
            "ci_high": ratio * np.exp(reach),
            "p": 0.001,
        }
        rows.append(
            row | (known if i else {"ratio": 1.0, "ci_low": np.nan, "ci_high": np.nan, "p": np.nan})
        )
    front = ["group", "time"]
    held = {"curves": pd.concat(curves), "groups": pd.DataFrame(rows)}
    held |= {"incidence": pd.concat(incidence)} if competing else {}
    held = {
        k: t[front + [c for c in t if c not in front] if "time" in t else list(t)]
        for k, t in held.items()
    }
    held = {k: t.reset_index(drop=True).rename(index=str) for k, t in held.items()}
    params = {"groupby": "IGHV", "groups": list(hazards), "time_key": "TTT", "event_key": "treated"}
    params |= {
        "competing_key": "died_untreated" if competing else "none",
        "time_unit": "years",
        "measure": "HR",
    }
    return held | {
        "logrank": {"chi2": 13.2, "df": len(hazards) - 1, "p": 0.00028},
        "params": params,
    }


def _estimates(time: np.ndarray, cause: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Kaplan–Meier and Aalen–Johansen at each time, in plain words and with rough intervals."""
    steps = np.unique(time)
    at_risk = np.array([(time >= t).sum() for t in steps])
    counts = np.array([[((time == t) & (cause == c)).sum() for c in range(3)] for t in steps])
    survival = np.cumprod(1 - counts[:, 1] / at_risk)
    free = np.r_[1, np.cumprod(1 - counts[:, 1:].sum(axis=1) / at_risk)[:-1]]
    reach = 1.96 * np.sqrt(np.cumsum(counts[:, 1] / at_risk**2))
    table = pd.DataFrame({"time": steps, "survival": survival, "ci_low": survival * np.exp(-reach)})
    table["ci_high"] = np.minimum(survival * np.exp(reach), 1)
    table = table.assign(
        at_risk=at_risk, n_events=counts[:, 1], n_censored=counts[:, 0] + counts[:, 2]
    )
    start = {"time": 0.0, "survival": 1.0, "ci_low": 1.0, "ci_high": 1.0, "at_risk": len(time)}
    start |= {"n_events": 0, "n_censored": 0}
    parts = []
    for c, name in ((1, "event"), (2, "competing")):
        value = np.cumsum(free * counts[:, c] / at_risk)
        part = pd.DataFrame({"time": np.r_[0, steps], "incidence": np.r_[0, value]}).assign(
            cause=name
        )
        parts.append(part.assign(ci_low=0.8 * part["incidence"], ci_high=1.2 * part["incidence"]))
    return pd.concat([pd.DataFrame([start]), table], ignore_index=True), pd.concat(
        parts, ignore_index=True
    )


COVARIATES = {
    "IGHV: unmutated": 2.2,
    "TP53": 1.8,
    "trisomy12": 1.3,
    "NOTCH1": 0.8,
    "age": 1.02,
    "Binet: C": 2.9,
}


def _prognosed(
    *,
    measure: str = "HR",
    covariates: dict[str, float] | None = None,
    violated: tuple[str, ...] = (),
    n_sets: int = 200,
) -> AnnData:
    """A score with a ratio of 1.6 alone and 1.3 beside the covariates, that random sets of genes
    reach half of the time.
    """
    covariates = COVARIATES if covariates is None else covariates
    rng = np.random.default_rng(1)
    models = {
        "score": {"score": 1.6},
        "clinical": covariates,
        "clinical + score": covariates | {"score": 1.3},
    }
    models["clinical + score + proliferation"] = models["clinical + score"] | {"proliferation": 1.4}
    rows = []
    for model, effects in models.items():
        n = 250 if model == "score" else 171
        for variable, ratio in effects.items():
            coef, se = np.log(ratio), 0.12 if variable in ("score", "age") else 0.3
            row = {"model": model, "variable": variable, "coef": coef, "se": se, "ratio": ratio}
            row |= {
                "ci_low": np.exp(coef - 1.96 * se),
                "ci_high": np.exp(coef + 1.96 * se),
                "z": coef / se,
            }
            row |= {"p": float(np.exp(-((coef / se) ** 2) / 2))}
            row["ph_p"] = np.nan if measure == "OR" else 0.012 if variable in violated else 0.4
            rows.append(row | {"n": n, "n_events": 130 if n == 250 else 88})
    tests, null = [], []
    for adjusted, z, spread in (
        ("none", 3.9, 2.6),
        ("clinical", 2.2, 1.6),
        ("clinical + proliferation", 2.0, 1.0),
    ):
        random = rng.normal(0, spread, n_sets)
        null.append(pd.DataFrame({"adjusted": adjusted, "z": random}))
        found = {"adjusted": adjusted, "z": z, "naive_p": float(np.exp(-(z**2) / 2))}
        found["empirical_p"] = (1 + (np.abs(random) >= z).sum()) / (1 + n_sets)
        found |= {"n_sets": n_sets, "share_significant": float((np.abs(random) > 1.96).mean())}
        tests.append(found | {"median_abs_z": float(np.median(np.abs(random)))})
    held: dict[str, object] = {"cox": pd.DataFrame(rows), "null_tests": pd.DataFrame(tests)}
    held["null"] = pd.concat(null, ignore_index=True)
    held = {name: table.rename(index=str) for name, table in held.items()}
    if measure == "HR":
        held["survival"] = _groups({"low": 0.1, "high": 0.3}, 125, competing=False)
        held["survival"]["params"] |= {"groupby": "prognosis_group"}
    held["params"] = {
        "measure": measure,
        "time_key": "TTT",
        "event_key": "treated",
        "time_unit": "years",
    }
    adata = AnnData(np.ones((2, 1), np.float32))
    adata.uns["prognosis"] = held
    return adata
