"""Edges, ties and corrections: what a value on a limit becomes, what a p cannot be, and what an
interval is corrected for.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

import scbert_cll as sc_cll
from scbert_cll._signature import moderated
from scbert_cll._signature.design import size_factors
from scbert_cll._signature.report import criteria
from scbert_cll.tl._patient_cd49d import calibration
from tests import _make

# ---- bins


def counts_of(values: np.ndarray) -> AnnData:
    """Cells whose counts sum to 1,000, so that with target_sum=1000 a level is its count."""
    rest = 1000 - values.sum(axis=1, keepdims=True)
    genes = [f"G{i}" for i in range(values.shape[1] + 1)]
    return AnnData(
        sparse.csr_matrix(np.hstack([values, rest]).astype(np.float32)),
        var=pd.DataFrame(index=genes),
    )


@pytest.mark.parametrize("n_bins", [3, 39, 40, 41, 42, 100, 254])
def test_a_value_on_an_edge_is_in_the_bin_above_it(n_bins: int) -> None:
    """As numpy.digitize has it; few edges and many go different ways."""
    adata = counts_of(np.tile(np.arange(40), (3, 1)))
    params = {"method": "uniform", "n_bins": n_bins, "target_sum": 1000.0}
    edges = np.arange(n_bins, dtype=float)
    sc_cll.pp.bin_expression(adata, edges={"edges": edges, "params": params})
    level = adata.X.toarray()
    np.testing.assert_array_equal(
        adata.layers["binned"].toarray(), np.where(level > 0, np.digitize(level, edges), 0)
    )


def test_a_value_on_an_edge_of_its_gene_is_in_the_bin_below_it() -> None:
    """A gene's edges are values that were seen, and each bin is to hold its share: numpy.digitize
    with right=True.
    """
    values = np.random.default_rng(0).integers(0, 20, (60, 4))
    adata = counts_of(values)
    sc_cll.pp.bin_expression(adata, method="gene_quantile", n_bins=4, target_sum=1000)
    edges = adata.uns["binned"]["edges"].to_numpy()
    on_an_edge = 0
    for gene in range(values.shape[1]):
        expected = np.where(
            values[:, gene] > 0, np.digitize(values[:, gene], edges[gene], right=True), 0
        )
        np.testing.assert_array_equal(adata.layers["binned"].toarray()[:, gene], expected)
        on_an_edge += np.isin(values[:, gene], edges[gene][1:]).sum()
    assert on_an_edge > 10


def test_equal_values_of_a_cell_share_a_bin() -> None:
    """A digit of the highest rank among the equal ones, as pandas ranks them."""
    values = np.array([[1, 2, 2, 2, 3, 5, 5, 8, 9]])
    adata = counts_of(values)
    sc_cll.pp.bin_expression(adata, method="quantile", n_bins=5, target_sum=1000)
    level = adata.X.toarray()[0]
    rank = pd.Series(level).rank(method="max").to_numpy() - 1
    np.testing.assert_array_equal(
        adata.layers["binned"].toarray()[0], 1 + rank * 4 // (len(level) - 1)
    )


# ---- parts


@pytest.mark.parametrize(
    "fractions", [(0.7, 0.15, 0.15), (0.5, 0.3, 0.2), (0.8, 0.2, 0.0), (0.2, 0.2, 0.6)]
)
def test_cells_are_dealt_in_these_shares(fractions: tuple[float, float, float]) -> None:
    adata = AnnData(
        np.ones((1000, 2), np.float32),
        obs=pd.DataFrame(
            {"donor": np.repeat(list("ABCDE"), 200)}, index=[f"c{i}" for i in range(1000)]
        ),
    )
    adata.obs["kind"] = pd.Categorical(np.tile(["x", "y"], 500))
    sc_cll.pp.split_donors(adata, "donor", labels_key="kind", unit="cell", fractions=fractions)
    counts = adata.obs["split"].value_counts().reindex(["train", "val", "test"])
    np.testing.assert_array_equal(counts, np.round(np.array(fractions) * 1000))
    for _, stratum in adata.obs.groupby(["donor", "kind"], observed=True):
        n = stratum["split"].value_counts().reindex(["train", "val", "test"]).to_numpy()
        assert (np.abs(n - np.array(fractions) * len(stratum)) <= 1.5).all()


# ---- signatures


def test_two_counts_are_added_before_the_logarithm() -> None:
    """The table of expression, by hand from the counts and the size factors beside it."""
    adata = sc_cll.datasets.planted_donors(size=0.6, rng=0)
    sc_cll.tl.signature(adata, groupby="label")
    record = adata.uns["signature"]
    samples, expression = record["samples"], record["expression"]
    order = (
        adata.obs["label"].cat.categories
        if isinstance(adata.obs["label"].dtype, pd.CategoricalDtype)
        else None
    )
    assert order is not None
    for i, sample in enumerate(samples.itertuples()):
        own = (adata.obs["donor"].astype(str) == sample.donor) & (
            adata.obs["label"].astype(str) == sample._2
        )
        total = np.asarray(adata[own.to_numpy(), expression.index].X.sum(axis=0)).ravel()
        np.testing.assert_allclose(expression.iloc[:, i], np.log2(total / sample.size_factor + 2))


def alike(n_genes: int, n: int) -> np.ndarray:
    """Differences (n, genes) whose variances are the same up to chance, or closer: the prior is
    certain.
    """
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return (
        np.column_stack([np.random.default_rng(i).permutation(quantiles) for i in range(n_genes)])
        + 0.3
    )


@pytest.mark.parametrize("n_genes", [1, 3, 10, 200])
def test_degrees_of_freedom_are_at_most_those_of_all_genes_together(n_genes: int) -> None:
    """limma: df.total = min(df.residual + df.prior, sum(df.residual)); t is then that of the pooled
    variance.
    """
    values = alike(n_genes, 5)
    found = moderated.paired(values, np.zeros(n_genes))
    assert np.isinf(found.df_prior)
    assert found.df == 4 * n_genes
    np.testing.assert_allclose(found.p, 2 * stats.t.sf(np.abs(found.t), 4 * n_genes), rtol=1e-12)


def test_degrees_of_freedom_of_two_groups_are_capped_too() -> None:
    values = alike(3, 4)
    found = moderated.two_groups(values + 1, values, np.zeros(3))
    assert found.df == 3 * 6
    assert found.df_prior > found.df


@given(st.integers(1, 6), st.integers(2, 10), st.integers(0, 999))
def test_degrees_of_freedom_lie_between_a_gene_s_and_all_genes(
    n_genes: int, n: int, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(n, n_genes))
    found = moderated.paired(values, np.arange(n_genes, dtype=float))
    assert n - 1 <= found.df <= (n - 1) * n_genes + 1e-9
    assert found.df == pytest.approx(min(n - 1 + found.df_prior, (n - 1) * n_genes))


def test_a_gene_in_exactly_that_share_of_cells_is_tested() -> None:
    """2 % of 400 cells are 8."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (400, 6)).astype(np.float32)
    for gene, n in ((0, 7), (1, 8), (2, 9)):
        counts[:, gene] = 0
        counts[rng.choice(400, n, replace=False), gene] = 1
    obs = pd.DataFrame(
        {
            "donor": np.repeat([f"D{i}" for i in range(5)], 80),
            "label": pd.Categorical(np.tile(["a", "b"], 200)),
        },
        index=[f"c{i}" for i in range(400)],
    )
    adata = AnnData(
        sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(6)])
    )
    sc_cll.tl.signature(adata, groupby="label", min_detected=0.02)
    table = adata.uns["signature"]["genes"].set_index("gene")
    assert set(table.index) == {f"G{i}" for i in range(1, 6)}
    assert table.loc["G1", "detected"] == 0.02


@pytest.mark.parametrize("n_cells", [19, 20, 21])
def test_a_donor_with_exactly_that_many_cells_is_kept(n_cells: int) -> None:
    adata = sc_cll.datasets.planted_donors(size=0.6, rng=0)
    donor, label = (adata.obs[key].astype(str) for key in ("donor", "label"))
    first = adata.obs_names[(donor == donor.iloc[0]) & (label == label.iloc[0])]
    assert len(first) > n_cells
    adata = adata[~adata.obs_names.isin(first[n_cells:])].copy()
    sc_cll.tl.signature(adata, groupby="label", min_cells=20)
    assert (donor.iloc[0] in set(adata.uns["signature"]["samples"]["donor"])) == (n_cells >= 20)


def test_size_factors_without_a_gene_found_everywhere() -> None:
    """Then the totals are compared, by hand: 2, 4 and 8 around their geometric mean 4."""
    total = np.array([[2.0, 0, 0], [0, 4, 0], [0, 0, 8]])
    np.testing.assert_allclose(size_factors(total), [0.5, 1, 2])


def test_sets_of_a_signature_have_their_signs() -> None:
    from scbert_cll._signature.weights import weights

    assert weights({"S_UP": ["A", "B"], "S_DN": ["C"]}).to_dict() == {"A": 1, "B": 1, "C": -1}
    assert weights({"S_DN": ["C"]}).to_dict() == {"C": 1}, "a set alone has no other to be against"


def test_a_report_says_each_number() -> None:
    nan, rule = np.nan, "above null"
    table = criteria.table(
        [
            criteria.Criterion(
                "sufficiency", "signature", 0.8, nan, nan, 0.5, nan, 0.013, rule, "yes", "a note"
            ),
            criteria.Criterion("sufficiency", "abundance", 0.4, rule=rule, passed="no"),
            criteria.Criterion("permuted labels", "signature", note="why"),
        ]
    )
    assert criteria.markdown(table) == [
        "| gate | signature | abundance | passes if |",
        "| --- | --- | --- | --- |",
        "| sufficiency | yes 0.80 (null 0.50, p 0.013) | **no** 0.40 | above null |",
        "| permuted labels | not run |  |  |",
        "",
        "- sufficiency (signature): a note",
        "- permuted labels (signature): why",
    ]


@pytest.mark.parametrize(
    ("n", "said"), [(1, "1 donor has 20 cells"), (2, "2 donors have 20 cells")]
)
def test_too_few_donors_are_counted_in_words(n: int, said: str) -> None:
    adata = sc_cll.datasets.planted_donors(size=0.6, rng=0)
    donors = adata.obs["donor"].astype(str)
    adata = adata[donors.isin(sorted(donors.unique())[:n]).to_numpy()].copy()
    sc_cll.tl.signature(adata, groupby="label")
    assert adata.uns["signature"]["reason"].startswith(said)


# ---- p by drawing


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(-4, 4))
def test_p_of_a_gate_counts_the_value_itself_and_its_ties(null: list[int], value: int) -> None:
    """By hand, and as scipy.stats.monte_carlo_test has it; never 0."""
    found = criteria.against(float(value), np.array(null, dtype=float)).p
    assert found == (1 + sum(one >= value for one in null)) / (1 + len(null))
    draws = iter(np.array(null, dtype=float))
    other = stats.monte_carlo_test(
        [float(value)],
        lambda size: np.array([[next(draws)] for _ in range(size[0])]),
        lambda x, axis: x.mean(axis=axis),
        n_resamples=len(null),
        alternative="greater",
    )
    assert found == pytest.approx(other.pvalue)
    assert 0 < found <= 1


@pytest.fixture(scope="module")
def patients() -> AnnData:
    return _make.cohort(300, 1500, rng=1)


@pytest.mark.parametrize("sign", [1, -1], ids=["harmful", "protective"])
@pytest.mark.parametrize("which", ["signature", "decoy"])
def test_p_among_random_sets_is_two_sided_and_never_zero(
    patients: AnnData, which: str, sign: int
) -> None:
    """By hand from the table of z."""
    adata = patients.copy()
    signature = adata.uns["truth"][which].copy()
    signature["weight"] = sign * signature.get("weight", 1.0)
    report = sc_cll.tl.prognosis(
        adata, signature, time_key="TTT", event_key="treated", n_random=99, n_bootstrap=0, rng=0
    )
    for _, test in report.null_tests.iterrows():
        z = report.null.loc[report.null["adjusted"] == test["adjusted"], "z"].abs()
        assert test["empirical_p"] == (1 + (z >= abs(test["z"])).sum()) / 100
        assert test["share_significant"] == (z > 1.959963984540054).mean()
        assert test["naive_p"] == pytest.approx(2 * stats.norm.sf(abs(test["z"])))
    assert report.null_tests["empirical_p"].min() >= 0.01
    if which == "signature":
        assert (np.sign(report.null_tests["z"]) == np.sign(report.null_tests["z"].iloc[0])).all()
        assert report.null_tests["empirical_p"].iloc[0] < 0.05


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_random_set_that_is_as_good_counts(sign: float) -> None:
    """Three copies of the score, one of its opposite and one that says nothing; all are exact in
    binary.
    """
    from scbert_cll._survival.outcome import Outcome
    from scbert_cll.tl._prognosis.null import _against

    score = sign * np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    outcome = Outcome(
        event=np.array([True, False, True, False, True, True, False, False]), time=None
    )
    patients: Any = SimpleNamespace(outcome=outcome, score=pd.DataFrame({"score": score}))
    drawn = np.column_stack([score, score, score, -score, [1.0, 1, -1, -1, 1, 1, -1, -1]])
    null, test = _against("none", patients, pd.DataFrame(index=range(8)), drawn)
    assert test["z"] != 0
    as_good = int((null["z"].abs() == abs(test["z"])).sum())
    assert as_good >= 4
    assert test["empirical_p"] == (1 + as_good + int((null["z"].abs() > abs(test["z"])).sum())) / 6


# ---- added value


def test_the_interval_of_a_gain_is_corrected_for_its_optimism() -> None:
    """By hand from scikit-survival's fits and concordance on the same draws (Harrell; Noma et al.
    2021).
    """
    linear_model = pytest.importorskip("sksurv.linear_model", reason="needs the extra uno")
    from sksurv.metrics import concordance_index_censored
    from sksurv.util import Surv

    from scbert_cll._survival.added_value import gains
    from scbert_cll._survival.models import concordance
    from scbert_cll._survival.outcome import Outcome

    rng = np.random.default_rng(3)
    n = 60
    x = pd.DataFrame(rng.normal(size=(n, 3)), columns=["known", "score", "noise"])
    time = rng.exponential(np.exp(-0.8 * x["known"] - 0.3 * x["score"]).to_numpy())
    event = rng.random(n) < 0.8
    outcome = Outcome(event=event, time=time)
    found = gains(
        outcome,
        x[["known"]],
        x,
        {"C": concordance},
        n_bootstrap=25,
        rng=np.random.default_rng(7),
        progress=False,
    )["C"]

    def gain(rows: np.ndarray, judged: np.ndarray) -> float:
        both = []
        for columns in (["known"], list(x)):
            model = linear_model.CoxPHSurvivalAnalysis(ties="efron", tol=1e-12)
            learned = x[columns].iloc[rows].to_numpy()
            model.fit(learned, Surv.from_arrays(event[rows], time[rows]))
            risk = x[columns].iloc[judged].to_numpy() @ model.coef_
            both.append(concordance_index_censored(event[judged], time[judged], risk)[0])
        return both[1] - both[0]

    everyone = np.arange(n)
    draws = [stream.integers(0, n, n) for stream in np.random.default_rng(7).spawn(25)]
    own = np.array([gain(rows, rows) for rows in draws])
    optimism = np.mean(own - [gain(rows, everyone) for rows in draws])
    low, high = np.percentile(own - optimism, [2.5, 97.5])
    assert optimism > 0.001
    assert found.delta == pytest.approx(gain(everyone, everyone), abs=1e-9)
    assert found.optimism == pytest.approx(optimism, abs=1e-9)
    corrected = found.delta - optimism
    assert (found.ci_low, found.ci_high) == pytest.approx(
        (min(low, corrected), max(high, corrected)), abs=1e-9
    )
    assert found.n_bootstrap == 25


def test_percentiles_that_leave_the_corrected_gain_out_are_widened_to_it() -> None:
    """By hand: every draw gains 0.3 on itself and 0.1 on all, so the optimism is 0.2; the gain of
    0.5 becomes 0.3, above their 0.1.
    """
    from scbert_cll._survival.added_value import _gain

    draw = ({"c": (0.2, 0.5)}, {"c": (0.2, 0.3)})
    gain = _gain("c", {"c": (0.1, 0.6)}, [draw] * 20)
    assert (gain.optimism, gain.ci_low, gain.ci_high) == pytest.approx((0.2, 0.1, 0.3))
    gain = _gain("c", {"c": (0.6, 0.6)}, [draw] * 20)
    assert (gain.ci_low, gain.ci_high) == pytest.approx((-0.2, 0.1))
    few = _gain("c", {"c": (0.1, 0.6)}, [draw] * 19)
    assert few.n_bootstrap == 19
    assert np.isnan([few.optimism, few.ci_low, few.ci_high]).all()


# ---- patients and gates


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (30.0, 60.0, "positive"),
        (29.9, 60.0, None),
        (10.0, 30.0, None),
        (10.0, 29.9, "negative"),
        (30.0, 30.0, "positive"),
        (np.nan, np.nan, None),
    ],
)
def test_a_call_on_the_limit_itself(low: float, high: float, said: str | None) -> None:
    """Positive from 30 %: the limit belongs to the positive side."""
    found = calibration.call(
        pd.DataFrame({"pct_predicted_low": [low], "pct_predicted_high": [high]}), 30.0
    )
    assert list(found) == [said] if said else found.isna().all()


def test_calls_of_patients_where_the_limit_is_an_interval_s_own() -> None:
    table = pd.DataFrame(
        {"pct_predicted_low": [20.0, 40.0, 10.0], "pct_predicted_high": [40.0, 60.0, 20.0]}
    )
    for limit, expected in (
        (40.0, ["", "positive", "negative"]),
        (20.0, ["positive", "positive", ""]),
    ):
        found = pd.Series(calibration.call(table, limit)).astype(object).fillna("")
        assert found.tolist() == expected


@pytest.mark.parametrize("n", [20, 26])
def test_two_components_that_bic_does_not_want_are_none(n: int) -> None:
    """Evenly spread levels: far apart by Ashman's D and with a dip, yet one population describes
    them as well.
    """
    adata = AnnData(
        np.ones((n, 2), np.float32), obs=pd.DataFrame(index=[f"c{i}" for i in range(n)])
    )
    protein = pd.DataFrame(
        {"CD49d": np.linspace(200, 2000, n).round(), "CD3": 1000.0, "CD19": 1000.0},
        index=adata.obs_names,
    )
    adata.obsm["protein"] = protein
    with pytest.raises(
        ValueError,
        match=r"Ashman's D = [2-9]\.\d\d, BIC -?\d+ with two components, -?\d+ with one[.;]?",
    ) as told:
        sc_cll.pp.label_cd49d(adata, normalize="none", donor_key=None)
    assert "no dip" not in str(told.value)
    assert "sd of counting noise" not in str(told.value)
