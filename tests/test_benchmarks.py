"""The benchmarks run: in their quick form, which writes nothing. How long a thing takes is no
matter of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.engine import bin_expression
from benchmarks.signature import __main__ as signature

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # each is a process of its own, or several
RESULTS = [ROOT / "benchmarks" / "results", ROOT / "docs" / "_static"]


def rows(output: str) -> dict[str, list[list[str]]]:
    """Cells of the markdown tables, by the first cell of their line."""
    found: dict[str, list[list[str]]] = {}
    for line in output.splitlines():
        if line.startswith("| "):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(first, []).append(others)
    return found


def recall(cell: str) -> float:
    """First number of a cell of a table of recalls."""
    return float(cell.split()[0])


def written() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in RESULTS for path in folder.rglob("*")}


def run_quick(script: str, *arguments: str) -> dict[str, list[list[str]]]:
    before = written()
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert written() == before
    return rows(done.stdout)


def test_engine_compares_everything_it_says():
    found = run_quick("engine")
    for what in ("forward, float32", "forward, ours in bfloat16", "training step, float32"):
        assert [line[0] for line in found[what]] == ["256", "256"]  # time, then memory
    assert [line[0] for line in found["one layer"]] == ["128", "256"] * 2
    assert {"all", "background 20", "expressed", "no gene vectors: each level once"} <= set(found)
    # the exact modes have no error, the others have one
    assert found["all"][0][5] == "0"
    assert found["expressed"][0][5].split("%")[0] > "0"


def test_approximation_reports_every_network_and_quantity():
    found = run_quick("engine.approximation")
    networks = {"published", "published, q and k × 2", "published, q and k × 4", "small, trained"}
    assert networks <= set(found)
    for name in networks:
        assert [line[:2] for line in found[name]] == [
            [stabilizer, quantity]
            for stabilizer in ("cell", "head")
            for quantity in ("output", "encodings", "received")
        ]


@pytest.mark.filterwarnings("ignore:design='both' compares donors with each other")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_time_and_memory_of_a_signature_are_taken_of_both_designs(monkeypatch):
    monkeypatch.setattr(signature, "FULL_CELLS", 2000)
    monkeypatch.setattr(signature, "GENES", 300)
    monkeypatch.setattr(bin_expression, "DENSITY", bin_expression.DENSITY)  # put back
    monkeypatch.setattr(
        signature, "apart", lambda _, options: signature.full_size(Path(options[1]), options[2])
    )
    report = signature.at_full_size(1)
    for found in (report, report["both"]):
        assert found["seconds"] > 0
        assert found["bytes"] > 1e7
        assert found["runs"][0]["genes"] > 100


def test_evaluation_scores_every_model():
    found = run_quick("evaluation")
    majority, linear = (float(found[name][0][1]) for name in ("majority", "logistic_sgd"))
    assert majority <= 0.5 < linear, "AUROC"


def test_signature_finds_what_was_planted_and_nothing_where_nothing_was():
    found = run_quick("signature")
    ours, ranking = found["tl.signature"][0], found["abundance, first 24"][0]
    assert len(ours) == 5  # two designs, two sizes, nulls
    assert all(recall(cell) >= 0.8 for cell in ours[:4])
    assert recall(ours[0]) >= 0.9, "the larger effect within donors"
    assert recall(ranking[0]) < 0.5
    mean_on_nulls = [float(line[-1].split(" (")[0]) for line in (ours, ranking)]
    assert mean_on_nulls[0] <= 1 < 20 < mean_on_nulls[1]


def test_programmes_finds_the_planted_one():
    found = run_quick("signature.programmes")
    assert found["additive, 1.2"][0][1:3] == ["100%", "100%"]
    assert found["nothing"][0][4] == "0%"


def test_designs_joins_and_adjusts():
    found = run_quick("signature.designs")
    same, clones = (f"2 + 10, clones {share}, effect 1.0, sd 0.3" for share in ("0%", "15%"))
    assert recall(found[same][0][0]) >= 0.9
    assert [float(found[study][0][2]) for study in (same, clones)] == [0, 1]
    of_batch, true, without, _ = (eval(cell) for cell in found["agree 21"][0])  # noqa: S307
    assert max(of_batch) <= 1 < 20 < min(without)
    assert min(true) >= 23


def test_nonadditive_compares_every_method_on_a_combination():
    found = run_quick("signature.nonadditive")
    assert recall(found["difference of correlations"][0][0]) >= 0.9
    assert recall(found["pseudobulk, size of t"][0][0]) <= 0.5, "no gene has an effect of its own"
    networks = {name for name in found if name.startswith("network, ")}
    assert len(networks) == 5
    shown = networks | {
        "boosted trees, permutation",
        "logistic regression, size of coefficient",
        "chance",
    }
    assert all(0 <= float(value) <= 1 for name in shown for value in found[name][0][0].split(" / "))
    for name in ("network", "boosted trees", "logistic regression"):  # cells held out
        assert 0 <= float(found[name][0][0]) <= 1
    assert "pairs across against all others, size of effect" in found


def test_attribution_times_every_method():
    found = run_quick("signature.attribution")
    assert {"gate gradient", "rollout", "attention", "attention by layer and head"} <= set(found)
    assert found["integrated gradients, 32 points"][0] == ["refused"]


def test_prognosis_says_what_is_true_of_simulated_cohorts():
    found = run_quick("prognosis.truth")
    assert found["cohorts"] == [["1", "1", "1"], ["2"] * 5]
    assert found["coverage of its interval"][0][2] == "–", "a decoy has no true ratio"
    for name in ("gain: apparent", "gain: corrected", "gain: in new patients"):
        assert all(-0.5 < float(value) < 0.5 for values in found[name] for value in values)


def test_prognosis_agrees_on_every_set():
    found = run_quick("prognosis")
    for beside in ("nothing", "clinical covariates"):
        (line,) = found[beside]
        assert float(line[3].split(";")[0]) >= 0.999, "correlation of the two z"
        score, wald = (float(z) for z in line[4].split(" / "))
        assert score == pytest.approx(wald, abs=0.1)
        assert score > 2, "the planted signature"


MINUTES = pytest.mark.skipif(
    "SCBERT_CLL_ALL_BENCHMARKS" not in os.environ,
    reason="takes minutes, most of them to start processes; set SCBERT_CLL_ALL_BENCHMARKS=1",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    """Cells and corpora that the parts of the corpus' benchmark share."""
    pytest.importorskip("annbatch", reason="needs the extra corpus")
    return str(tmp_path_factory.mktemp("corpus"))


def test_corpus_million_resumes_to_the_same_weights_and_embeds_every_cell(made):
    """The program ends where weights or embeddings differ."""
    found = run_quick("corpus", "million", "--out", made)
    assert found["3,000 cells"][0][0] == "time"
    peaks = {name: line[0][1].split(" / ") for name, line in found.items() if "GB" in line[0][1]}
    assert [len(found) for found in peaks.values()] == [1, 2, 2, 2, 2], (
        "built by one process, the rest by two"
    )


@MINUTES
def test_corpus_memory_is_that_of_every_kind_of_work(made):
    found = run_quick("corpus", "memory", "--out", made)
    assert {"1,000", "3,000", "a further cell"} <= set(found)
    assert all("GB" in cell for n in ("1,000", "3,000") for cell in found[n][0])
    assert len(found["a further cell"][0]) == len(["building", "training", "predicting"])


@MINUTES
def test_corpus_loading_checks_the_cells_of_every_loader(made):
    found = run_quick("corpus", "loading", "--out", made)
    loaders = {name for name in found if "Loader" in name or "CorpusData" in name}
    assert len(loaders) == 7
    assert {found[name][0][-1] for name in loaders if "backed" not in name} == {"2,000"}
    assert found["CorpusData"][0][4:6] == ["1.00", "1.00"], "compared with itself"


@MINUTES
def test_corpus_speed_says_what_goes_into_data_and_what_a_second_process_brings(made):
    shares = run_quick("corpus", "loader-share", "--out", made)
    networks = [name for name in shares if "network, " in name]
    assert len(networks) == 4
    assert all(
        0 < float(cell.rstrip("%")) < 100 for name in networks for cell in shares[name][0][3:5]
    )
    ways = run_quick("corpus", "scaling", "--out", made)
    assert ways["1 process, 1 thread"][0][1] == "100%"
    assert all("%" in ways[name][0][2] for name in ("2 processes", "2 processes, twice the batch"))
    assert not ways["2 trainings apart"][0][2], "they are what is compared with"


def test_corpus_simulates_whole_files_and_plans(made):
    made_cells = run_quick("corpus", "simulate", "--out", made)
    assert made_cells["3,000"][0][0] == "3"
    network = "published network, full length"
    plan, dear = (run_quick("corpus", "plan", "--price", price)[network] for price in ("2.5", "5"))
    on_gpus = [line for line in plan if "GPU" in line[1]]
    assert [line[-1] for line in on_gpus] == ["arithmetic"] * len(on_gpus)
    assert on_gpus[0][:3] == ["1,100,000", "1 GPU", "279"]
    assert on_gpus[0][3] == "5.5 h"
    costs = [
        [float(line[4].strip("$").replace(",", "")) for line in lines if line[4]]
        for lines in (plan, dear)
    ]
    assert costs[1] == pytest.approx([2 * cost for cost in costs[0]], abs=1)


def test_forcing_is_compared_with_none():
    found = run_quick("corpus.forcing")
    assert {"model", "checkpoint", "corpus"} <= set(found)
    assert all(
        float(found[name][0][1]) > 0 for name in ("model", "corpus")
    )  # the disk was waited for
