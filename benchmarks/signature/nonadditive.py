"""Which method finds genes that act in combination only: pseudobulk, linear model, boosted trees,
correlations, or the network.

    # one small case, under a minute, writes nothing
    python -m benchmarks.signature.nonadditive --quick
    # all cases: about 3 minutes per case and seed on one core
    python -m benchmarks.signature.nonadditive
    python -m benchmarks.signature.nonadditive --cases combination-2.0 --seeds 0 1
    # the tables of docs/nonadditive.md from the results at hand
    python -m benchmarks.signature.nonadditive --table

Donors with a known truth; a quarter of them is held out, and a method that learns says how well it
predicts them. Every method ranks the genes; scored is how many of the planted ones are among as
many first ones (recall) and the AUROC of planted against other genes. Done runs are in
`results/nonadditive/` and are skipped. Before anything else it is checked that pseudobulk finds an
additive effect.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score

from benchmarks._measure import machine, versions
from scbert_cll import datasets, pp, tl
from scbert_cll.datasets import _planted_donors as plain
from scbert_cll.model import ScBERTClassifier

RESULTS = Path(__file__).parents[1] / "results" / "nonadditive"
CASES = {
    "combination-2.0": ("combination", 2.0),
    "switch-2.0": ("switch", 2.0),
    "additive-1.2": ("additive", 1.2),
    "combination-1.2": ("combination", 1.2),
    "switch-1.2": ("switch", 1.2),
    "toy-combination": ("combination", None),
    "toy-subset": ("subset", None),
}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"n_donors": 8, "n_cells": 400, "n_genes": 120, "n_planted": 24},
    "quick": {"n_donors": 4, "n_cells": 80, "n_genes": 60, "n_planted": 12},
}
NETWORK = {"gene_embedding": "learned", "n_layers": 2}
TRAIN = {"batch_size": 32, "lr": 3e-3}
EPOCHS = {"full": 30, "quick": 2}
N_OCCLUDED, N_PAIR_GENES = 60, 12  # cells of each donor held out; genes whose pairs are looked at


# ---- data


def load(case: str, seed: int, size: str) -> AnnData:
    """Cells with `obs` label, donor, split, tokens, and `var` part: "" is no planted gene."""
    effect, log_fc = CASES[case]
    adata = _toy(effect, seed) if log_fc is None else _plain(effect, log_fc, seed, size)
    donors = list(adata.obs["donor"].cat.categories)
    held = adata.obs["donor"].isin(donors[-max(1, len(donors) // 4) :])
    adata.obs["split"] = pd.Categorical(np.where(held, "test", "train"), ["train", "val", "test"])
    pp.bin_expression(adata)
    return adata


def _plain(effect: str, log_fc: float, seed: int, size: str) -> AnnData:
    sizes = SIZES[size]
    adata = datasets.planted_donors(effect=effect, size=log_fc, rng=seed, **sizes)
    stream = np.random.default_rng(seed).spawn(3)[
        0
    ]  # the parts of the effect are not in the object: draw the genes again
    genes = plain._genes(sizes["n_genes"], sizes["n_planted"], effect, stream)
    adata.var["part"] = genes["part"].map({0: "", 1: "first", 2: "second"}).to_numpy()
    if not ((adata.var["part"] != "") == (adata.var["truth"] != 0)).all():
        raise SystemExit("the genes drawn again are others: planted_donors has changed")
    return adata


def _toy(programme: str, seed: int) -> AnnData:
    """CLL cells of the bimodal donors."""
    rna = datasets.cll_toy(
        n_donors=12, n_cells=4500, n_genes=200, n_bimodal=8, programme=programme, rng=seed
    )["rna"]
    patterns = rna.obs["donor"].map(rna.uns["truth_donors"]["pattern"]).astype(str)
    adata = rna[
        ((rna.obs["cell_type"] == "CLL") & patterns.str.startswith("bimodal")).to_numpy()
    ].copy()
    adata.obs["donor"] = adata.obs["donor"].cat.remove_unused_categories()
    adata.obs["label"] = adata.obs["cd49d_true"]
    adata.var["part"] = (
        rna.uns["truth"].set_index("gene")["part"].reindex(adata.var_names).fillna("").to_numpy()
    )
    return adata


def positive(adata: AnnData) -> np.ndarray:
    return (adata.obs["label"].cat.codes == 1).to_numpy()


def held_out(adata: AnnData) -> np.ndarray:
    return (adata.obs["split"] == "test").to_numpy()


def within(adata: AnnData, scores: np.ndarray) -> float:
    """Mean AUROC within the donors held out."""
    table = pd.DataFrame(
        {"y": positive(adata), "score": scores, "donor": adata.obs["donor"].astype(str).to_numpy()}
    )
    return float(
        np.mean(
            [roc_auc_score(d["y"], d["score"]) for _, d in table[held_out(adata)].groupby("donor")]
        )
    )


# ---- methods: a score per gene, and how well the method predicts the donors held out (missing if
# it does not predict)

Ranked = dict[str, tuple[pd.Series, float]]


def by_signature(adata: AnnData, linear: float) -> Ranked:
    tl.signature(adata, groupby="label")
    table = adata.uns["signature"]["genes"].set_index("gene")
    t, coefficient = (
        table[c].abs().reindex(adata.var_names, fill_value=0.0) for c in ("t", "coefficient")
    )
    return {
        "pseudobulk, size of t": (t, np.nan),
        "logistic regression, size of coefficient": (coefficient, linear),
    }


def logs(adata: AnnData) -> np.ndarray:
    """log2(1 + 1e4 c / N), less the donor's mean."""
    counts = adata.X.toarray()
    found = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    donor = adata.obs["donor"].cat.codes.to_numpy()
    means = np.stack([found[donor == d].mean(0) for d in range(donor.max() + 1)])
    return found - means[donor]


def by_trees(adata: AnnData, seed: int) -> Ranked:
    x, y, test = logs(adata), positive(adata), held_out(adata)
    model = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.05, random_state=seed).fit(
        x[~test], y[~test]
    )
    found = permutation_importance(
        model, x[test], y[test], scoring="roc_auc", n_repeats=3, random_state=seed
    )
    auroc = within(adata, model.predict_proba(x)[:, 1])
    return {
        "boosted trees, permutation": (pd.Series(found.importances_mean, adata.var_names), auroc)
    }


def by_correlation(adata: AnnData) -> Ranked:
    """How much a gene's correlations with the others differ between the classes, over donors: no
    model at all.
    """
    x, y, donor = logs(adata), positive(adata), adata.obs["donor"].cat.codes.to_numpy()
    z = []
    for d in range(donor.max() + 1):
        both = [
            np.arctanh(np.clip(_correlation(x[(donor == d) & (y == c)]), -0.99, 0.99))
            for c in (True, False)
        ]
        n = [((donor == d) & (y == c)).sum() for c in (True, False)]
        z.append((both[0] - both[1]) / np.sqrt(1 / (n[0] - 3) + 1 / (n[1] - 3)))
    summed = np.sum(z, axis=0) / np.sqrt(len(z))
    return {"difference of correlations": (pd.Series((summed**2).mean(1), adata.var_names), np.nan)}


def _correlation(x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    found = scaled.T @ scaled / len(x)
    np.fill_diagonal(found, 0)
    return found


def trained(
    adata: AnnData, seed: int, epochs: int | None, **network: Any
) -> tuple[ScBERTClassifier, float, float]:
    """A network, and how well it and the linear part predict the donors held out."""
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=seed, **NETWORK | network)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(epochs, split_key="split", rng=seed, **TRAIN | quiet)
    found = model.predict_parts(adata)
    return (
        model,
        within(adata, found.network.iloc[:, 1].to_numpy()),
        within(adata, found.linear.iloc[:, 1].to_numpy()),
    )


def by_network(adata: AnnData, model: ScBERTClassifier, auroc: float) -> Ranked:
    """Statistics of what each token does in each cell of the donors held out: a combination's mean
    may cancel, its size does not.
    """
    test = adata[held_out(adata)].copy()
    blank = model.randomized("all", rng=1)
    tokens = test.layers["binned"].toarray() > 0
    gate, random = (_gate(m, test) for m in (model, blank))
    some = np.sort(
        np.random.default_rng(0).permutation(test.n_obs)[: N_OCCLUDED * test.obs["donor"].nunique()]
    )
    sets = {gene: [gene] for gene in adata.var_names}
    dropped = model.get_set_effects(sets, test[some].copy()).to_numpy()
    means = pd.DataFrame(gate).groupby(test.obs["donor"].astype(str).to_numpy()).mean()
    found = {
        "network, size of the mean gate gradient": np.abs(means.mean(0).to_numpy()),
        "network, mean size of the gate gradient": _of_expressing(np.abs(gate), tokens),
        "network, the same over random weights": _of_expressing(np.abs(gate), tokens)
        / _of_expressing(np.abs(random), tokens),
        "network, spread of gate gradient": _spread(gate, tokens),
        "network, mean size of occlusion": _of_expressing(np.abs(dropped), tokens[some]),
        "random weights, mean size of the gate gradient": _of_expressing(np.abs(random), tokens),
    }
    return {
        name: (
            pd.Series(values, adata.var_names).fillna(0),
            np.nan if name.startswith("random") else auroc,
        )
        for name, values in found.items()
    }


def _gate(model: ScBERTClassifier, adata: AnnData) -> np.ndarray:
    """Gate gradients, cells × genes: every cell is its own group."""
    cells = pd.Series(pd.Categorical(adata.obs_names, adata.obs_names), adata.obs_names)
    return model.get_gene_attribution(cells, adata).values.to_numpy().T


def _of_expressing(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Mean over the cells that express the gene; at least ten."""
    n = tokens.sum(0)
    return np.where(n >= 10, np.where(tokens, values, 0).sum(0) / np.maximum(n, 1), 0.0)


def _spread(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Standard deviation over the cells that express the gene."""
    mean = _of_expressing(values, tokens)
    return np.sqrt(_of_expressing((values - mean) ** 2, tokens))


def pairs(adata: AnnData, model: ScBERTClassifier) -> dict[str, float]:
    """AUROC of pairs across the two parts against all other pairs, by tl.gene_interactions and by
    correlations.
    """
    detected = pd.Series(np.asarray((adata.X > 0).mean(axis=0)).ravel(), adata.var_names)
    part = adata.var["part"]
    names = [
        g
        for p in ("first", "second", "programme", "marker", "")
        for g in detected[part == p].nlargest(N_PAIR_GENES // 3).index
    ]
    tl.gene_interactions(adata, model, names, n_cells=40)
    table = adata.uns["gene_interactions"]["pairs"]
    kinds = [{part[a], part[b]} for a, b in zip(table["a"], table["b"], strict=True)]
    cross = np.array([len(k) == 2 and "" not in k for k in kinds])
    planted = np.array(["" not in k for k in kinds])
    if not cross.any():
        return {}
    size = table["effect"].abs().fillna(0)
    relative = size / (table["alone_a"].abs() + table["alone_b"].abs())
    of_combined, of_others = (float(relative[kind].median()) for kind in (cross, ~planted))
    return {
        "pairs across against all others, size of effect": roc_auc_score(cross, size),
        "pairs across against all others, effect turned": roc_auc_score(
            cross, -table["effect"].fillna(0)
        ),
        "pairs of planted genes against others, size of effect": roc_auc_score(planted, size),
        "effect relative to both genes alone, median of pairs across": of_combined,
        "the same, median of pairs with another gene": of_others,
        "share of pairs across with q < .05": float((table["q"][cross] < 0.05).mean()),
        "share of pairs of other genes with q < .05": float(
            (table["q"][[k == {""} for k in kinds]] < 0.05).mean()
        ),
    }


# ---- runs


def run(case: str, seed: int, size: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every method on one data set: scores per method, and what else was found."""
    start = time.perf_counter()
    adata = load(case, seed, size)
    truth = (adata.var["part"] != "").to_numpy()
    model, network, linear = trained(adata, seed, EPOCHS[size])
    ranked = (
        by_signature(adata, linear)
        | by_trees(adata, seed)
        | by_correlation(adata)
        | by_network(adata, model, network)
    )
    rows = []
    for name, (score, auroc) in ranked.items():
        first = score.nlargest(int(truth.sum())).index
        recall = float((adata.var.loc[first, "part"] != "").mean())
        rows.append(
            {
                "method": name,
                "recall": recall,
                "auroc": roc_auc_score(truth, score),
                "held_out": auroc,
            }
        )
    other = pairs(adata, model) | {"chance": float(truth.mean())}
    table = pd.DataFrame(rows)
    table.insert(0, "case", case)
    table.insert(1, "seed", seed)
    return table, other | {"seconds": round(time.perf_counter() - start)}


def check() -> None:
    """An additive effect is found by pseudobulk, or nothing here means anything."""
    adata = datasets.planted_donors(n_donors=6, n_cells=80, n_genes=80, n_planted=12)
    tl.signature(adata, groupby="label")
    t = (
        adata.uns["signature"]["genes"]
        .set_index("gene")["t"]
        .abs()
        .reindex(adata.var_names, fill_value=0)
    )
    if roc_auc_score(adata.var["truth"] != 0, t) < 0.95:
        raise SystemExit("pseudobulk does not find an additive effect")


def write(case: str, seed: int, table: pd.DataFrame, other: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "genes.csv"
    before = [pd.read_csv(file)] if file.exists() else []
    pd.concat([*before, table.round(3)]).to_csv(file, index=False)
    record = RESULTS / "run.json"
    found = json.loads(record.read_text()) if record.exists() else {"runs": {}}
    found["runs"][f"{case} {seed}"] = {k: round(v, 3) for k, v in other.items()}
    found |= {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    found |= {"versions": versions("scbert-cll", "torch", "scikit-learn", "numpy")}
    found |= {
        "sizes": SIZES["full"],
        "network": NETWORK,
        "train": TRAIN | {"max_epochs": EPOCHS["full"]},
    }
    record.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def done() -> set[str]:
    record = RESULTS / "run.json"
    return set(json.loads(record.read_text())["runs"]) if record.exists() else set()


def markdown(table: pd.DataFrame, runs: dict[str, dict[str, float]]) -> str:
    """Means over the data sets of each case: genes (recall / AUROC), cells held out, and pairs of
    genes.
    """
    n = table.groupby("case", sort=False)["seed"].nunique()
    heads = [f"{case} ({k})" for case, k in n.items()]
    means = table.groupby(["method", "case"], sort=False)[["recall", "auroc", "held_out"]].mean()
    genes = {
        m: [f"{r.recall:.2f} / {r.auroc:.2f}" for r in _rows(means, m, n.index)]
        for m in _methods(table)
    }
    chance = [
        np.mean([r["chance"] for key, r in runs.items() if key.startswith(f"{case} ")])
        for case in n.index
    ]
    genes["chance"] = [f"{share:.2f} / 0.50" for share in chance]
    cells = {
        m.split(",")[0]: [f"{r.held_out:.2f}" for r in _rows(means, m, n.index)]
        for m in _methods(table[table["held_out"].notna()])
    }
    kinds = list(
        dict.fromkeys(
            name for r in runs.values() for name in r if name not in ("chance", "seconds")
        )
    )
    found = {
        kind: [
            _mean([r.get(kind) for k, r in runs.items() if k.startswith(f"{c} ")]) for c in n.index
        ]
        for kind in kinds
    }
    parts = [
        ("genes: recall / AUROC", genes),
        ("cells held out: AUROC within donors", cells),
        ("pairs of genes", found),
    ]
    return "\n\n".join(_table(title, heads, rows) for title, rows in parts) + "\n"


def _methods(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["method"]))


def _rows(means: pd.DataFrame, method: str, cases: pd.Index) -> list[Any]:
    return list(means.loc[method].reindex(cases).itertuples())


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f}" if known else ""


def _table(title: str, heads: list[str], rows: dict[str, list[str]]) -> str:
    lines = [
        [title, *heads],
        ["---"] * (1 + len(heads)),
        *([name, *cells] for name, cells in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if args.table:
        text = markdown(
            pd.read_csv(RESULTS / "genes.csv"),
            json.loads((RESULTS / "run.json").read_text())["runs"],
        )
        (RESULTS / "tables.md").write_text(text)
        print(text)
        return
    check()
    if args.quick:
        table, other = run("combination-2.0", 0, "quick")
        print(markdown(table, {"combination-2.0 0": other}))
        return
    for seed in args.seeds:
        for case in args.cases:
            if f"{case} {seed}" not in done():
                table, other = run(case, seed, "full")
                write(case, seed, table, other)
                print(case, seed, markdown(table, {f"{case} {seed}": other}), sep="\n", flush=True)


if __name__ == "__main__":
    main()
