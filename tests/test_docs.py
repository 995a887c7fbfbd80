"""The Python in the docs runs: quickstart, README, tutorials, and the examples of the public
functions.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib.util
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import scanpy as sc
from sklearn.ensemble import RandomForestClassifier

import scbert_cll as sc_cll

ROOT = Path(__file__).parents[1]
PAGES = ["docs/quickstart.md", "README.md"]
TUTORIAL = "docs/tutorials/study_reproduced.md"
LESS = {
    r"max_epochs=\d+": "max_epochs=1",
    r"ScBERTEstimator\(": 'ScBERTEstimator(gene_embedding="learned", ',
    r'"n_splits": \d+': '"n_splits": 2',
    r"n_repeats=3": "n_repeats=1",
}
SIGNATURE = "docs/tutorials/cd49d_signature.md"
FEWER = {
    r"max_epochs=\d+": "max_epochs=2",
    r"n_cells=\d+": "n_cells=2400",
    r"n_random=\d+": "n_random=19, n_network=19, n_permutations=19",
    r"range\(1, 6\)": "range(1, 2)",
}
REAL = ("bmmc_cite.h5mu", "h.all.v7.4.symbols.gmt")
PROGNOSIS = "docs/tutorials/prognosis.md"
QUICKER = {
    r"n_bootstrap=[1-9]\d*": "n_bootstrap=30",
    r"n_random=200": "n_random=100",
    r"range\(1, 6\)": "range(1, 3)",
    r"size=\(100,": "size=(30,",
    r"n_donors=80, n_bimodal=16, n_cells=8000": "n_donors=40, n_bimodal=16, n_cells=4000",
    r"in hallmarks\.items\(\)": "in list(hallmarks.items())[:3]",
}
COHORTS = (
    *(
        "mofaCLL_survival.csv",
        "mofaCLL_genetics.csv",
        "mofaCLL_protein_log2.csv.gz",
        "sCLLex_exprs.csv.gz",
    ),
    *("sCLLex_pheno.csv", "ALL_exprs.csv.gz", "ALL_pheno.csv", "hgu95A_probe_symbol.csv"),
    *("ncbi_alias_to_symbol_orgHs_3.16.tsv.gz", "h.all.v7.4.symbols.gmt"),
)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, and no windows."""
    monkeypatch.chdir(tmp_path)
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    yield
    sc.settings.autoshow = shown
    plt.close("all")


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return blocks_of((ROOT / page).read_text())


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow  # runs a page
@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks one after the other, on a smaller toy and for one epoch."""
    small = functools.partial(sc_cll.datasets.cll_toy, n_cells=300, n_genes=200)
    monkeypatch.setattr(sc_cll.datasets, "cll_toy", small)
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(re.sub(r"max_epochs=\d+", "max_epochs=1", block), page, "exec"), names)  # noqa: S102
    assert {"scbert_pred", "cd49d", "split"} <= set(names["adata"].obs)
    assert "X_umap" in names["adata"].obsm


def test_the_page_of_the_mouse_runs() -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/species.md"):
        exec(compile(block, "docs/species.md", "exec"), names)  # noqa: S102
    assert names["human"].uns["to_human"]["shares"].loc["one_to_one", "of_counts"] == 1


def small_forest(_: int, **choices: Any) -> RandomForestClassifier:
    """A forest of fewer trees than it is asked for."""
    return RandomForestClassifier(50, **choices)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the names of the tutorial hold after all blocks but those of real data, on a smaller toy
    and for one epoch.
    """
    names: dict[str, Any] = {}
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tutorial"))
        small = functools.partial(sc_cll.datasets.cll_toy, n_cells=240, n_genes=200)
        patch.setattr(sc_cll.datasets, "cll_toy", small)
        patch.setattr(
            sc_cll.tl, "cross_validate", functools.partial(sc_cll.tl.cross_validate, n_bootstrap=50)
        )
        patch.setattr("scbert_cll.estimators._baselines.RandomForestClassifier", small_forest)
        for block in blocks(TUTORIAL):
            for pattern, fewer in LESS.items():
                block = re.sub(pattern, fewer, block)
            if "read_h5mu" not in block:
                exec(compile(block, TUTORIAL, "exec"), names)  # noqa: S102
    sc.settings.autoshow = shown
    plt.close("all")
    return names


@pytest.mark.slow  # runs a tutorial
def test_tutorial_scores_every_model_on_held_out_donors(tutorial: dict[str, Any]) -> None:
    for key, models in (
        ("cv", tutorial["models"]),
        ("cv_two", tutorial["two"]),
        ("cv_steps", tutorial["steps"]),
    ):
        found = tutorial["adata"].uns[key]
        assert set(models) <= set(found["summary"]["model"])
        assert (found["unit"], found["n_units"], found["params"]["scheme"]) == (
            "donor",
            10,
            "group_kfold",
        )


@pytest.mark.slow  # runs a tutorial
def test_tutorial_finds_the_leaks_it_makes(tutorial: dict[str, Any]) -> None:
    status = tutorial["report"].findings.set_index("check")["status"]
    assert status[["exact duplicates", "shared donors"]].tolist() == ["leak", "leak"]


@pytest.mark.slow  # runs a tutorial
def test_tutorial_works_without_a_programme_only_by_the_study(tutorial: dict[str, Any]) -> None:
    forest = tutorial["both"]["none"].loc["random_forest"]
    assert forest["study"] > 0.8
    assert forest["estimate"] < 0.4


def of_signature(names: dict[str, Any], *, real: bool) -> dict[str, Any]:
    """What `names` hold after the blocks of the signature's tutorial: those of simulated cells, or
    the first one and those of real ones.
    """
    first, *others = blocks(SIGNATURE)
    small = functools.partial(sc_cll.datasets.cll_toy, n_genes=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sc_cll.datasets, "cll_toy", small)
        for block in (first, *(block for block in others if ("marrow" in block) == real)):
            for pattern, fewer in FEWER.items():
                block = re.sub(pattern, fewer, block)
            exec(compile(block, SIGNATURE, "exec"), names)  # noqa: S102
    return names


@pytest.fixture(scope="module")
def signature(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the names of the signature's tutorial hold after all blocks of simulated cells, on fewer
    of them.
    """
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("signature"))
        names = of_signature({}, real=False)
        names["written"] = sc_cll.io.read_gmt("cd49d.gmt")
    sc.settings.autoshow = shown
    plt.close("all")
    return names


@pytest.mark.slow  # runs a tutorial
def test_tutorial_finds_the_planted_genes_and_few_others(signature: dict[str, Any]) -> None:
    found, planted = set(signature["found"]["gene"]), signature["planted"]
    assert len(found & planted) >= 27
    assert len(found - planted - {"ITGA4"}) <= 4
    assert set.union(*map(set, signature["written"].values())) == found
    throws = signature["throws"].set_index("programme")
    assert throws.loc[True, "planted"] >= 27
    assert throws.loc[False, "planted"] == 0
    assert throws["false"].max() <= 4


@pytest.mark.slow  # runs a tutorial
def test_tutorial_finds_nothing_but_the_marker_without_a_programme(
    signature: dict[str, Any],
) -> None:
    assert sc_cll.get.signature(signature["control"])["gene"].tolist() == ["ITGA4"]
    assert sc_cll.get.signature(signature["control"], key="without_itga4").empty
    assert signature["control"].uns["without_itga4"]["reason"].startswith("no gene has q < 0.05")
    assert (
        signature["few"]
        .uns["signature"]["reason"]
        .startswith("2 donors have 20 cells of every class")
    )


@pytest.mark.slow  # runs a tutorial
def test_tutorial_puts_signature_attention_and_abundance_through_the_gates(
    signature: dict[str, Any],
) -> None:
    gates = signature["report"].gates.pivot_table(
        index="gate", columns="subject", values="passed", aggfunc="first"
    )
    assert set(gates) == {"signature", "attention", "abundance", "attribution"}
    asked = ["sufficiency", "comprehensiveness", "permuted labels", "stability"]
    assert gates.loc[asked, "signature"].tolist() == ["yes"] * 4
    assert gates.loc[asked, "abundance"].tolist() == ["no"] * 4
    assert gates.loc[["permuted labels", "random network"], "attention"].tolist() == ["no", "no"]


@pytest.mark.slow  # runs a tutorial
def test_tutorial_has_the_network_agree_and_the_score_hold_in_other_donors(
    signature: dict[str, Any],
) -> None:
    asked = signature["unseen"].uns["perturb"]["summary"].set_index("name")["log_odds"]
    assert asked[f"all {len(signature['up'])} up"] < 0 < asked[f"all {len(signature['down'])} down"]
    auroc = signature["auroc"]
    assert auroc["signature_score"].min() > 0.8
    assert (auroc["signature_score"] > auroc["ITGA4"]).all()


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning")
def test_tutorial_refuses_two_donors_of_bone_marrow(shared_file: Callable[[str], Path]) -> None:
    for name in REAL:
        Path(name).symlink_to(shared_file(f"data/{name}"))
    names = of_signature({}, real=True)
    held = names["marrow"].uns
    assert held["signature"]["n_selected"] == 0
    assert held["signature"]["reason"].startswith("2 donors have 20 cells of every class")
    assert held["would_have_been"]["n_selected"] > 0
    sign = names["genes"].set_index("gene")["sign"]
    assert sign[["HBB", "LYZ"]].tolist() == [1, -1]
    assert not names["marrow_report"].passed
    assert names["marrow_report"].enrichment["set"].iloc[0] == "HALLMARK_HEME_METABOLISM"


def of_prognosis(*, real: bool) -> dict[str, Any]:
    """What is there after the blocks of the tutorial on prognosis, of simulated patients or of real
    ones, and what they `said`.
    """
    simulated, of_patients = (
        blocks_of(part) for part in (ROOT / PROGNOSIS).read_text().split("\n## Real patients\n")
    )
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in [simulated[0], *of_patients] if real else simulated:
            for pattern, fewer in QUICKER.items():
                block = re.sub(pattern, fewer, block)
            exec(compile(block, PROGNOSIS, "exec"), names)  # noqa: S102
            plt.close("all")
    return names | {"said": " ".join(said.getvalue().split())}


def score_of(report: Any, model: str) -> pd.Series:
    """The row of the score in a model."""
    return report.cox.query("variable == 'score'").set_index("model").loc[model]


def ratios(report: Any) -> list[str]:
    """The lines of a report with hazard ratios."""
    found = [
        line
        for line in str(report).splitlines()
        if re.match(r"\| .*score.* \| \d+ \| \d+ \|", line)
    ]
    assert found
    return found


@pytest.fixture(scope="module")
def prognosis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the names of the tutorial on prognosis hold after its blocks of simulated patients, with
    fewer draws.
    """
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("prognosis"))
        names = of_prognosis(real=False)
    sc.settings.autoshow = shown
    return names


@pytest.mark.slow  # runs a tutorial
def test_tutorial_has_the_planted_ratio_in_its_interval_and_a_gain(
    prognosis: dict[str, Any],
) -> None:
    report, page = prognosis["report"], (ROOT / PROGNOSIS).read_text()
    full = score_of(report, "clinical + score + proliferation")
    assert full["ci_low"] < prognosis["truth"]["hazard_ratio"] == 1.6 < full["ci_high"]
    assert report.null_tests["empirical_p"].max() < 0.01
    gain = report.added_value.iloc[0]
    assert gain[["base_value", "full_value"]].tolist() == pytest.approx([0.700, 0.746], abs=0.01)
    assert gain["delta_corrected"] > 0.02
    assert all(line in page for line in ratios(report) + ratios(prognosis["decoy"]))
    assert "among the 23 coefficients" in " ".join(page.split())
    assert report.cox["ph_p"].notna().sum() == 23


@pytest.mark.slow  # runs a tutorial
def test_tutorial_does_not_fall_for_the_decoy(prognosis: dict[str, Any]) -> None:
    tests = prognosis["decoy"].null_tests.set_index("adjusted")
    assert tests.loc[["none", "clinical"], "naive_p"].max() < 1e-4
    assert tests["empirical_p"].min() > 0.2
    assert tests.loc["none", "share_significant"] > 0.9
    left = score_of(prognosis["decoy"], "clinical + score + proliferation")
    assert left["ci_low"] < 1 < left["ci_high"]


@pytest.mark.slow  # runs a tutorial
def test_tutorial_finds_nothing_where_the_programme_does_nothing(prognosis: dict[str, Any]) -> None:
    alone, beside = (
        score_of(prognosis["without"], model) for model in ("score", "clinical + score")
    )
    assert alone["p"] < 0.001
    assert beside["p"] > 0.1
    throws = prognosis["throws"].set_index("signature")
    assert throws.loc["planted, 1.6", "p, random"].max() < 0.05
    assert throws.drop("planted, 1.6")["p, random"].min() > 0.05


@pytest.mark.slow  # runs a tutorial
def test_tutorial_shows_that_a_signature_cannot_be_judged_where_it_was_found(
    prognosis: dict[str, Any],
) -> None:
    here, others = (table.iloc[0] for table in prognosis["judged"])
    assert here["ci_low"] > 3
    assert others["ci_low"] < 1 < others["ci_high"]
    assert prognosis["tested"][0]["empirical_p"].max() < 0.01
    assert (
        prognosis["tested"][1].set_index("adjusted")["empirical_p"]["clinical + proliferation"]
        > 0.2
    )


@pytest.mark.slow  # runs a tutorial
def test_tutorial_falls_into_no_trap(prognosis: dict[str, Any]) -> None:
    wrong, right = (
        sc_cll.get.survival(prognosis["cohort"], "groups", key=key)
        .set_index("group")
        .loc["unmutated"]
        for key in prognosis["delayed"]
    )
    assert (wrong["median"], right["median"]) == pytest.approx((5.92, 2.17), abs=0.01)
    shares = pd.DataFrame(prognosis["rows"])
    assert (shares["treated"] < shares["1 - KM"] - 0.03).all()
    assert (shares["treated"] + shares["died first"] < 1).all()
    assert (prognosis["tried"].min(axis=1) < 0.05).mean() > (
        prognosis["tried"][:, 4] < 0.05
    ).mean() + 0.05
    for told in (
        "'ever_treated' tells (almost) exactly who has the event",
        "need 10 events each, that is 90; there are 34",
        "A cut that is chosen to make p small is not offered",
    ):
        assert told in prognosis["said"]


@pytest.mark.slow  # runs a tutorial
def test_tutorial_joins_outcome_to_patients_by_name(prognosis: dict[str, Any]) -> None:
    patients, outcome = prognosis["patients"], prognosis["outcome"]
    assert patients.obs_names.tolist() != outcome.index.tolist()
    assert patients.obs["TTT"].tolist() == outcome["TTT"][patients.obs_names].tolist()
    assert sc_cll.get.survival(patients, "groups")["n"].sum() == patients.n_obs == 40


TWELVE = "docs/tutorials/twelve_patients.md"
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w])"


def is_as_printed(text: str, page: str) -> None:
    """The same words, and numbers that are nearly the same: processors round otherwise."""
    parts = [part.split() for part in (text, page)]
    for words in zip(*parts, strict=True):  # one by one: a difference of long texts takes minutes
        assert len({re.sub(NUMBER, "N", word) for word in words}) == 1, words
        numbers = [[float(one) for one in re.findall(NUMBER, word)] for word in words]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=0.02), words


@pytest.mark.slow  # runs a tutorial
def test_tutorial_of_twelve_patients_prints_what_stands_on_its_page() -> None:
    page, names = (ROOT / TWELVE).read_text(), dict[str, Any]()
    parts = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", page, flags=re.MULTILINE | re.DOTALL
    )
    for code, printed in parts:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, TWELVE, "exec"), names)  # noqa: S102
        if "print(report)" not in code:
            is_as_printed(said.getvalue(), printed)
    report = str(names["report"]).partition("\n\n")[2]
    rendered = page.partition("print(report)\n```\n")[2].split()[: len(report.split())]
    is_as_printed(report, " ".join(rendered))
    assert names["report"].passed
    sets = names["sets"]
    assert (sets["chromosome 12"].xs("trisomy12", level="adjusted for") == 0).all()
    assert sets.loc[(4, "between", "nothing"), "chromosome 12"] >= 3
    for n in (2, 3):
        true = [sets.loc[(n, design, "trisomy12"), "true"] for design in ("between", "both")]
        assert true[0] < true[1]


@pytest.fixture(scope="module")
def real_prognosis(
    tmp_path_factory: pytest.TempPathFactory, shared_file: Callable[[str], Path]
) -> dict[str, Any]:
    """The same after the blocks of real patients."""
    folder = tmp_path_factory.mktemp("cohorts")
    for name in COHORTS:
        (folder / name).symlink_to(shared_file(f"data/{name}"))
    shown, sc.settings.autoshow = sc.settings.autoshow, False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = of_prognosis(real=True)
    sc.settings.autoshow = shown
    return names


@pytest.mark.realdata
@pytest.mark.slow  # runs a tutorial
@pytest.mark.filterwarnings("ignore:46 samples are in both tables:UserWarning")
def test_tutorial_has_the_clinical_floor_and_says_what_is_underpowered(
    real_prognosis: dict[str, Any],
) -> None:
    floor = real_prognosis["floor"].models.set_index("model")
    assert tuple(floor.loc["clinical + score", ["n", "n_events"]]) == (171, 88)
    assert floor.loc["score (complete cases)", "c_index"] == pytest.approx(0.634, abs=0.01)
    assert floor.loc["clinical + score", "c_index"] == pytest.approx(0.689, abs=0.01)
    assert real_prognosis["floor"].cox["ph_p"].notna().sum() == 9
    assert "'treated_ever' is an outcome" in real_prognosis["said"]
    for name, counts in {"protein": (23, 15), "filled": (45, 26)}.items():
        report = real_prognosis[name]
        assert tuple(score_of(report, "score")[["n", "n_events"]]) == counts
        assert "Underpowered" in str(report)
        assert report.null_tests["empirical_p"].iloc[0] > 0.5
    page = (ROOT / PROGNOSIS).read_text()
    assert all(
        line in page for line in ratios(real_prognosis["protein"]) + ratios(real_prognosis["e2f"])
    )


@pytest.mark.realdata
@pytest.mark.slow  # runs a tutorial
@pytest.mark.filterwarnings("ignore:46 samples are in both tables:UserWarning")
def test_tutorial_has_both_p_of_the_real_arrays(real_prognosis: dict[str, Any]) -> None:
    small = real_prognosis["small"].set_index("signature")
    assert small[["naive_p", "empirical_p"]].min(axis=None) > 0.05
    assert "power for an odds ratio of 1.5 per SD: 15%" in real_prognosis["said"]
    listed = pd.read_csv(ROOT / "src/scbert_cll/_signature/cd49d_reference.csv").query(
        "tier in ['T1', 'T2']"
    )
    assert real_prognosis["reference"] == dict(
        zip(listed["gene"], listed["direction"], strict=True)
    )
    e2f = real_prognosis["e2f"]
    assert tuple(score_of(e2f, "score")[["n", "n_events"]]) == (88, 64)
    assert score_of(e2f, "score")["ci_high"] < 1
    tests = e2f.null_tests.set_index("adjusted")
    assert tests.loc["none", "empirical_p"] < tests.loc["none", "naive_p"] < 0.01
    assert tests.loc["clinical + proliferation", ["naive_p", "empirical_p"]].min() > 0.05
    assert len(real_prognosis["fifty"]) == 3


def test_quickstart_says_what_its_signature_finds() -> None:
    mdata = sc_cll.datasets.cll_toy(n_bimodal=6)
    adata = mdata["rna"]
    sc_cll.pp.label_cd49d(mdata, cells=sc_cll.pp.cll_mask(mdata), donor_key="donor")
    sc_cll.tl.signature(adata)
    genes = sc_cll.get.signature(adata)["gene"]
    n_planted = genes.isin(adata.uns["truth"]["gene"]).sum()
    assert (adata.uns["signature"]["n_donors"], len(genes) - n_planted, "ITGA4" in set(genes)) == (
        6,
        2,
        True,
    )
    said = f"{len(genes)} genes pass, with six donors: {n_planted} of the 30 planted ones, *ITGA4*"
    assert said in (ROOT / "docs/quickstart.md").read_text()


def test_pages_have_code() -> None:
    assert all(blocks(page) for page in PAGES)


def examples() -> list[Any]:
    """Public functions and classes with examples, without the models, which need cells."""
    found = []
    for room in ("pp", "tl", "pl", "get", "io", "estimators", "datasets", "vocab"):
        if importlib.util.find_spec(f"scbert_cll.{room}") is not None:
            module = importlib.import_module(f"scbert_cll.{room}")
            found += [
                pytest.param(getattr(module, n), id=f"{room}.{n}")
                for n in getattr(module, "__all__", ())
            ]
    return [p for p in found if ">>>" in (p.values[0].__doc__ or "")]


@pytest.mark.parametrize("thing", examples())
def test_example_runs(thing: Any) -> None:
    module = importlib.import_module(thing.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, module=module):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_what_is_lost_when_is_shown_by_tests_that_exist() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "cluster.md").read_text().splitlines()
        if "::test_" in line
    ]
    assert len(rows) == 14
    for row in rows:
        for file, test in re.findall(r"`([\w/]+\.py)::(\w+)`", row.split("|")[3]):
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), row


def test_what_forcing_costs_is_what_the_benchmark_wrote() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "forcing.json").read_text())["results"]
    page = (ROOT / "docs" / "cluster.md").read_text()
    for one in found.values():
        seconds = " | ".join(f"{one[name]['median']:.3f}" for name in ("with", "flush", "without"))
        ratio = one["ratio_beside_the_flush"]
        assert (
            f"| {seconds} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |"
            in page
        )
