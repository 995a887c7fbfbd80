"""Over-representation, sets of genes, and the reference genes."""

from __future__ import annotations

import gzip

import decoupler as dc
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scbert_cll._signature import gene_sets
from scbert_cll._signature.report.content import over_representation, recovery, reference_genes

UNIVERSE = [f"G{i:03d}" for i in range(200)]
SETS = {
    "most": UNIVERSE[:12],
    "half": UNIVERSE[10:40:2],
    "none": UNIVERSE[60:80],
    "elsewhere": ["X1", "X2"],
}
CHOSEN = UNIVERSE[:20]


# -- over-representation
# ----------------------------------------------------------------------------------------------


def test_the_table_is_fishers() -> None:
    found = over_representation(CHOSEN, UNIVERSE, SETS).set_index("set")
    for name in ("most", "half", "none"):
        inside = [
            sum(g in SETS[name] for g in genes) for genes in (CHOSEN, set(UNIVERSE) - set(CHOSEN))
        ]
        table = [[inside[0], 20 - inside[0]], [inside[1], 180 - inside[1]]]
        assert found.loc[name, "p"] == pytest.approx(
            stats.fisher_exact(table, alternative="greater").pvalue
        )
        assert tuple(found.loc[name, ["n", "size"]]) == (inside[0], sum(inside))
        assert found.loc[name, "expected"] == pytest.approx(sum(inside) / 10)
    assert list(found.index) == ["most", "half", "none", "elsewhere"]
    np.testing.assert_allclose(found["q"][:3], stats.false_discovery_control(found["p"][:3]))


@pytest.mark.slow  # decoupler compiles its tests
@pytest.mark.filterwarnings(
    "ignore::numba.core.errors.NumbaPendingDeprecationWarning"
)  # decoupler's own
def test_odds_ratios_are_decouplers_and_its_two_sided_p_is_never_smaller() -> None:
    net = pd.DataFrame(
        [(k, g) for k, genes in SETS.items() for g in genes], columns=["source", "target"]
    )
    ranking = pd.DataFrame(
        [[2.0 if g in CHOSEN else 1.0 for g in UNIVERSE]], index=["s"], columns=UNIVERSE
    )
    score, padj = dc.mt.ora(ranking, net, n_up=len(CHOSEN), n_bg=len(UNIVERSE), tmin=1)
    found = over_representation(CHOSEN, UNIVERSE, SETS).set_index("set").dropna()
    assert set(found.index) == set(score.columns) == {"most", "half", "none"}
    np.testing.assert_allclose(np.log(found["odds_ratio"]), score.loc["s", found.index])
    more = found.index[found["n"] > found["expected"]]
    assert len(more) == 2
    assert (padj.loc["s", more] >= found.loc[more, "p"] - 1e-12).all()


def test_a_set_outside_the_universe_has_no_test() -> None:
    row = over_representation(CHOSEN, UNIVERSE, SETS).set_index("set").loc["elsewhere"]
    assert row[["n", "size", "expected"]].tolist() == [0, 0, 0]
    assert row[["odds_ratio", "p", "q"]].isna().all()


def test_nothing_chosen_is_nothing_found() -> None:
    found = over_representation([], UNIVERSE, SETS).dropna()
    assert found["p"].tolist() == [1, 1, 1]
    assert over_representation([], [], {"a": ["b"]})["p"].isna().all()
    assert over_representation(CHOSEN, UNIVERSE, {}).empty


def test_chosen_genes_must_be_in_the_universe() -> None:
    with pytest.raises(
        ValueError, match="all genes that could have been chosen, so all that were; it lacks 'X1'"
    ):
        over_representation(["G001", "X1"], UNIVERSE, SETS)


def test_by_chance_p_is_not_small() -> None:
    rng = np.random.default_rng(0)
    p = [
        over_representation(
            rng.choice(UNIVERSE, 20, replace=False), UNIVERSE, {"s": UNIVERSE[:30]}
        )["p"][0]
        for _ in range(300)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.07


# -- sets of genes
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def gmt(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("A\thttp://a\tG1\tG2\tG1\n\nB\twith blanks\tG3\t\n")
    return path


def test_all_forms_of_sets_are_the_same(gmt, tmp_path) -> None:
    expected = {"A": ["G1", "G2"], "B": ["G3"]}
    packed = tmp_path / "sets.gmt.gz"
    packed.write_bytes(gzip.compress(gmt.read_bytes()))
    net = pd.DataFrame({"source": ["A", "A", "B"], "target": ["G1", "G2", "G3"], "weight": 1.0})
    for source in (expected, {"A": ("G1", "G2", "G1"), "B": {"G3"}}, gmt, str(gmt), packed, net):
        assert gene_sets.read(source) == expected


def test_sets_take_the_names_of_the_data() -> None:
    sets = {"A": ["CD49D", "CD19", "ITGA4", "GONE"], "B": ["SEPTIN7", "CD5"]}
    names = pd.Index(["ENSG00000115232.2", "CD19", "SEPT7", "CD5"])
    expected = {"A": ["ENSG00000115232.2", "CD19", "GONE"], "B": ["SEPT7", "CD5"]}
    assert gene_sets.read({"A": ["ITGA4", "CD19", "GONE"], "B": sets["B"]}, names) == expected
    # names of one gene: neither is taken
    assert gene_sets.read(sets, names)["A"] == ["CD49D", "CD19", "ITGA4", "GONE"]
    # what the data call so stays
    assert gene_sets.read(sets, pd.Index(["ITGA4", "CD49D"])) == sets


def test_genes_that_can_be_read_only_once_are_all_there() -> None:
    assert gene_sets.read({"A": (gene for gene in ["G1", "G2"])}) == {"A": ["G1", "G2"]}
    with pytest.raises(ValueError, match="sets without a gene: 'B'; remove them"):
        gene_sets.read({"A": ["G1"], "B": iter([])})


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (
            ["G1", "G2"],
            TypeError,
            "a mapping from a name to genes, the path of a .gmt file, or a DataFrame .* found list",
        ),
        ({"A": "ITGA4"}, TypeError, "a list of genes for every set; found something else for 'A'"),
        ({"A": []}, ValueError, "sets without a gene: 'A'; remove them"),
        ({}, ValueError, "holds no gene set"),
        (
            pd.DataFrame({"set": ["A"], "gene": ["G"]}),
            ValueError,
            "needs the columns 'source' .* it has 'set', 'gene'",
        ),
    ],
)
def test_other_things_are_refused(source, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        gene_sets.read(source)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A\tx\tG1\nB G1 G2\n", "is not a GMT file: .* line '2' has not"),
        ("A\tx\tG1\nA\tx\tG2\n", "has sets of the same name: 'A'; rename them"),
        ("", "holds no gene set"),
    ],
)
def test_a_damaged_gmt_is_refused(tmp_path, text, sentence) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        gene_sets.read(path)


@pytest.mark.realdata
def test_the_hallmark_sets_are_read_as_decoupler_reads_them(shared_file) -> None:
    path = shared_file("data/h.all.v7.4.symbols.gmt")
    sets, net = gene_sets.read(path), dc.pp.read_gmt(str(path))
    assert len(sets) == 50
    assert sets == {k: v.tolist() for k, v in net.groupby("source", sort=False)["target"]}


# -- reference genes
# --------------------------------------------------------------------------------------------------


def test_reference_genes_each_have_a_tier_a_direction_and_evidence() -> None:
    genes = reference_genes()
    assert genes["gene"].is_unique
    assert list(genes.columns) == ["gene", "tier", "direction", "evidence"]
    assert set(genes["tier"]) == {"T1", "T2", "T3", "contamination"}
    assert ((genes["direction"] == 0) == (genes["tier"] == "contamination")).all()
    assert set(genes["direction"]) == {-1, 0, 1}
    assert (genes["evidence"].str.startswith("Unverified: ") == (genes["tier"] == "T3")).all()
    direction = genes.set_index("gene")["direction"]
    assert direction[["ITGA4", "CCL3", "ITGAL", "CXCR4", "SPN", "CD68"]].tolist() == [
        1,
        1,
        1,
        -1,
        -1,
        0,
    ]


def test_recovery_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(1)
    ranking = pd.Series(
        rng.integers(0, 9, 120).astype(float), [f"G{i}" for i in range(120)]
    )  # with ties
    wanted = ranking.index[::7]
    found = recovery(ranking, [*wanted, "elsewhere"], rng=0)
    hit = ranking.index.isin(wanted)
    u = stats.mannwhitneyu(ranking[hit], ranking[~hit], alternative="greater", method="asymptotic")
    assert found.n == len(wanted)
    assert found.auroc == pytest.approx(u.statistic / (hit.sum() * (~hit).sum()))
    assert found.p == pytest.approx(u.pvalue, abs=0.06)


def test_recovery_at_the_top_at_the_bottom_and_by_chance() -> None:
    ranking = pd.Series(np.arange(100.0), [f"G{i}" for i in range(100)])
    assert recovery(ranking, ranking.index[-5:], 99) == (1.0, 0.01, 5)
    assert recovery(ranking, ranking.index[:5], 99) == (0.0, 1.0, 5)
    rng = np.random.default_rng(0)
    p = [
        recovery(ranking, rng.choice(ranking.index, 5, replace=False), 99, rng).p
        for _ in range(200)
    ]
    assert 0.4 < np.mean(p) < 0.6
    assert recovery(ranking, ranking.index[40:45], rng=3) == recovery(
        ranking, ranking.index[40:45], rng=3
    )


def test_genes_without_a_score_are_not_ranked_and_no_gene_gives_no_area() -> None:
    ranking = pd.Series([3.0, 2.0, 1.0, np.nan], list("ABCD"))
    assert recovery(ranking, ["A", "D"], 10)[::2] == (1.0, 1)
    for wanted, n in ((["X"], 0), (list("ABC"), 3)):
        found = recovery(ranking, wanted)
        assert np.isnan(found.auroc)
        assert np.isnan(found.p)
        assert found.n == n
