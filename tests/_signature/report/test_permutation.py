"""Labels of whole donors change places within strata, and mean nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from scbert_cll._signature import data as signature_data
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.moderated import Fit
from scbert_cll._signature.report.permutation import Permuter

N_GENES, N_CELLS = 60, 30


def study(
    n_donors: int = 12,
    n_complete: int = 0,
    covariate: np.ndarray | None = None,
    *,
    size: float = 0.0,
    of_covariate: float = 0.5,
    adjusted: bool = True,
    min_donors: int = 4,
    seed: int = 0,
) -> PseudobulkData:
    """Donors of both classes, then of one in turn; a covariate changes all genes."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_donors) % 2
    mean = rng.normal(1.0, 0.7, N_GENES) + rng.normal(0, 0.4, (n_donors, N_GENES))
    if covariate is not None:
        codes = pd.factorize(covariate, sort=True)[0]
        value = codes if covariate.dtype.kind == "U" else covariate
        mean = mean + np.outer(value, rng.normal(0, of_covariate, N_GENES))
    is_planted = np.arange(N_GENES) < 6
    counts, donors, classes = [], [], []
    for donor in range(n_donors):
        for code in (0, 1) if donor < n_complete else (label[donor],):
            log = mean[donor] + size * code * is_planted + rng.normal(0, 0.15, N_GENES)
            counts.append(rng.poisson(np.exp(log + rng.normal(0, 0.2, (N_CELLS, 1)))))
            donors += [donor] * N_CELLS
            classes += [("negative", "positive")[code]] * N_CELLS
    obs = pd.DataFrame({"donor": [f"D{d:02d}" for d in donors], "label": pd.Categorical(classes)})
    if covariate is not None:
        obs["covariate"] = covariate[donors]
    obs.index = obs.index.astype(str)
    adata = AnnData(sparse.csr_matrix(np.vstack(counts).astype(np.float32)), obs)
    params = {
        "classes": ["negative", "positive"],
        "groupby": "label",
        "donor_key": "donor",
        "exclude_genes": [],
        "design": "both" if n_complete else "between",
        "covariates": ["covariate"] if covariate is not None and adjusted else [],
        "min_donors": min_donors,
    }
    return signature_data.read(adata, params, None).data


def p_permuted(data: PseudobulkData, n: int = 19, seed: int = 0) -> float:
    """How often the largest |t| of a gene is as large in other arrangements."""
    runs = Permuter.of(data).draw(n, np.random.default_rng(seed))
    largest = [np.abs(run.design.test().t).max() for run in (data, *runs)]
    n_larger = (np.array(largest[1:]) >= largest[0] - 1e-9).sum()
    return float((1 + n_larger) / (1 + len(runs)))


def batches(n_donors: int = 16, others: tuple[int, ...] = (0, 1, 8, 9)) -> np.ndarray:
    """A batch that goes with the class in all donors but some."""
    donor = np.arange(n_donors)
    return np.where((donor % 2 == 1) ^ np.isin(donor, others), "second", "first")


def ages(n_donors: int = 12, seed: int = 0) -> np.ndarray:
    """An age that goes with the class."""
    return np.random.default_rng(seed).normal(size=n_donors) + np.arange(n_donors) % 2


STUDIES = {
    "between": {},
    "strata": {"n_donors": 16, "covariate": batches()},
    "residuals": {"covariate": ages()},
    "both": {"n_donors": 13, "n_complete": 3},
    "both, strata": {"n_donors": 16, "n_complete": 3, "covariate": batches()},
    "both, residuals": {"n_donors": 13, "n_complete": 3, "covariate": ages(13)},
}


@pytest.mark.parametrize("name", STUDIES)
def test_donors_stay_whole_and_strata_keep_their_labels(name: str) -> None:
    data = study(**STUDIES[name])
    complete = data.sampled.index[data.sampled.all(axis=1)]
    runs = Permuter.of(data).draw(30, np.random.default_rng(0))

    def of_donors(one: PseudobulkData) -> pd.DataFrame:
        cells = pd.DataFrame(one.covariates.to_numpy()).assign(donor=one.donors, code=one.codes)
        return cells.drop_duplicates().set_index("donor").drop(index=complete)

    def counted(one: pd.DataFrame) -> pd.Series:
        return one.round(9).value_counts().sort_index()

    before, arrangements = of_donors(data), set()
    for run in runs:
        after = of_donors(run)
        assert after.index.is_unique, "all cells of a donor have one label and one covariate"
        # of the batch, the number of each label in each; of ages, each with its label
        other = after if "residuals" in name else before.assign(code=after["code"])
        assert counted(other).to_numpy().tolist() == counted(before).to_numpy().tolist()
        pd.testing.assert_frame_equal(
            run.n_cells.loc[complete], data.n_cells.loc[complete], check_dtype=False
        )
        arrangements.add(tuple(run.codes) + tuple(run.covariates.to_numpy().ravel()))
        assert (run.codes != data.codes).any() or "residuals" in name
    assert len(arrangements) == 30
    changed = np.mean([(run.codes != data.codes).mean() for run in runs])
    assert 0.2 < changed < 0.8


def test_cells_of_the_other_class_go_along_with_their_donor() -> None:
    data = study()
    data.codes[data.donors == "D00"] = np.where(np.arange(N_CELLS) < 4, 1, 0)
    table = data.n_cells
    for run in Permuter.of(data).draw(10, np.random.default_rng(0)):
        assert sorted(run.n_cells.loc["D00"]) == sorted(table.loc["D00"]) == [4, 26]
        assert (run.sampled.sum() == data.sampled.sum()).all()


def test_arrangements_are_counted_and_all_are_drawn_where_they_are_few() -> None:
    data = study(8)
    permuter = Permuter.of(data)
    assert permuter.n_possible == 35, "of 70, an arrangement and its opposite are one"
    runs = permuter.draw(100, np.random.default_rng(0))
    assert len(runs) == 34
    of_donor = np.array([run.codes[::N_CELLS] for run in (data, *runs)])
    assert len(np.unique(np.vstack([of_donor, 1 - of_donor]), axis=0)) == 70
    assert Permuter.of(study(9)).n_possible == 126
    strata = Permuter.of(study(**STUDIES["strata"]))
    assert strata.n_possible == 28**2, "2 of 8 in each batch"
    assert strata.scheme == "labels of whole donors change places within strata of 'covariate'"


def test_where_strata_are_too_small_residuals_change_places() -> None:
    data = study(8, covariate=batches(8, others=(0, 1)))
    permuter = Permuter.of(data)  # 3 + 1 in each batch: 16 arrangements
    assert "Freedman and Lane" in permuter.scheme
    assert permuter.n_possible == 40320 / (6 * 6)


def test_residuals_are_those_of_freedman_and_lane() -> None:
    """Effects as with permuted residuals beside the covariates, which are added back."""
    data = study(covariate=ages(), of_covariate=0.3)
    design = data.design
    columns, n = design.columns, len(design.columns)
    reduced = Fit.of(design.log, columns[:, 1:])
    slope = (columns[:, 1:] - columns[:, 1:].mean()) @ reduced.coefficients
    explained = design.log.mean(axis=0) + slope
    residuals = design.log - explained
    for run in Permuter.of(data).draw(5, np.random.default_rng(0)):
        giver = [int(np.abs(columns - row).sum(axis=1).argmin()) for row in run.design.columns]
        assert sorted(giver) == list(range(n))
        receiver = np.argsort(giver)
        textbook = Fit.of(explained + residuals[receiver], columns, tested=0)
        effects = textbook.effect, run.design.fit.effect
        assert np.corrcoef(*effects)[0, 1] > 0.97


@pytest.mark.parametrize("name", ["between", "strata", "residuals", "both, strata"])
def test_a_planted_difference_is_larger_than_in_all_arrangements(name: str) -> None:
    assert p_permuted(study(**STUDIES[name] | {"size": 2.0})) == 0.05


def test_a_covariate_that_goes_with_the_class_is_none_of_it() -> None:
    options = {"n_donors": 16, "covariate": batches(), "of_covariate": 1.5}
    p = [
        [p_permuted(study(**options, adjusted=adjusted, seed=seed)) for seed in range(3)]
        for adjusted in (True, False)
    ]
    assert np.median(p[0]) > 0.2
    assert np.median(p[1]) == 0.05


@pytest.mark.slow  # 60 studies under 19 permutations each: 20 s
@pytest.mark.parametrize("name", ["between", "strata", "residuals", "both"])
def test_without_a_difference_p_is_uniform(name: str) -> None:
    options = STUDIES[name]
    p = [p_permuted(study(**options | {"seed": seed}), seed=seed) for seed in range(60)]
    assert stats.binomtest(int(np.sum(np.array(p) <= 0.101)), 60, 0.1).pvalue > 0.01
    assert 0.4 < np.mean(p) < 0.68


@pytest.mark.parametrize(
    ("n_donors", "n_complete", "sizes"),
    [
        (12, 0, [4, 4, 2, 2]),
        (10, 0, [2] * 5),
        (8, 0, []),
        (12, 2, [4, 2, 2, 2]),
        (14, 4, [5, 3, 3, 3]),
    ],
)
def test_folds_hold_out_donors_of_each_class(n_donors: int, n_complete: int, sizes) -> None:
    data = study(n_donors, n_complete)
    names = [name for fold in data.folds for name in fold]
    assert sorted(map(len, data.folds), reverse=True) == sizes
    assert len(set(names)) == len(names)
    for fold in data.folds:
        rest = data.without(fold)
        assert (rest.sampled.sum() >= 4).all()
        assert rest.n_complete >= min(n_complete, 2)
        out = data.sampled.loc[fold]
        assert (out.sum() >= 1).all()
    alone = [name for name in data.spared if not data.without([name]).enough()]
    assert not alone
