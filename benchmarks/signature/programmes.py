"""Whether `tl.programmes` finds a planted programme and ties it to the class, and what it ties
where nothing goes with the class.

    python -m benchmarks.signature.programmes --quick  # one data set of each kind, writes nothing
    python -m benchmarks.signature.programmes          # 20 of the first and of "nothing", 10 others

Kinds of data are those of `datasets.planted_donors`: an additive effect in two sizes, and nulls
without any effect of the class; and the planted data with the values of every gene permuted among
the cells of each donor, where nothing may recur. The table of docs/programmes.md is written from
`results/programmes.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from benchmarks._measure import machine, versions

RESULTS = Path(__file__).parents[1] / "results"
TABLES = Path(__file__).parents[2] / "docs" / "_static" / "signature"
PACKAGES = ("scbert-cll", "anndata", "numpy", "scipy", "scikit-learn")
KINDS: dict[str, dict[str, Any]] = {
    "additive, 1.2": {"effect": "additive", "size": 1.2},
    "additive, 0.9": {"effect": "additive", "size": 0.9},
    "nothing": {"effect": "none"},
    "donor": {"effect": "donor"},
    "abundance": {"effect": "abundance"},
    "slope": {"effect": "slope"},
    "genes permuted": {"effect": "additive", "size": 1.2, "permuted": True},
}
CONTROLS = ("nothing", "donor", "abundance", "slope", "genes permuted")
ASKED = ("additive, 1.2", "nothing")  # of which most sets are made
HALF = 0.5  # of the planted genes that go up


def cells(seed: int, *, permuted: bool = False, **kind: Any) -> AnnData:
    """A data set; `permuted` deals the values of every gene anew among the cells of each donor."""
    adata = sc_cll.datasets.planted_donors(**kind, rng=seed)
    if permuted:
        rng, counts = np.random.default_rng(seed), adata.X.toarray()
        for donor in adata.obs["donor"].cat.categories:
            rows = np.flatnonzero(adata.obs["donor"] == donor)
            counts[rows] = rng.permuted(counts[rows], axis=0)
        adata.X = sparse.csr_matrix(counts)
    return adata


def measured(name: str, seed: int) -> dict[str, Any]:
    """How many programmes recur and are tied, and the one that has the planted genes."""
    adata = cells(seed, **KINDS[name])
    sc_cll.tl.programmes(adata, groupby="label", rng=seed)
    table, up = sc_cll.get.programmes(adata), set(adata.var_names[adata.var["truth"] > 0])
    row = {"kind": name, "seed": seed, "n": len(table), "n_tied": 0, "recall": 0.0, "tied": False}
    row |= {"n_false": 0, "n_specific": int(adata.uns["programmes"]["n_specific"])}
    if len(table):
        genes = [set(names.split(", ")) for names in table["genes"]]
        planted = set(adata.var_names[adata.var["truth"] != 0])
        recall = np.array([len(part & up) / max(len(up), 1) for part in genes])
        best = int(recall.argmax())
        is_tied = table["tied"].to_numpy(dtype=bool)
        shares = np.array([len(part & planted) / len(part) for part in genes])
        row |= {"n_tied": int(is_tied.sum()), "recall": float(recall[best])}
        row |= {"tied": bool(is_tied[best] and table["log2_fc"].iloc[best] > 0)}
        row |= {"precision": len(genes[best] & up) / len(genes[best])}
        row |= {"n_false": int((is_tied & (shares < 0.1)).sum())}
        row |= {"least_q": float(table["q"].min())}
    return row


def acceptance(n_seeds: int, n_processes: int, kinds: list[str]) -> dict[str, Any]:
    number = {name: n_seeds if name in ASKED else max(n_seeds // 2, 1) for name in kinds}
    jobs = [(name, seed) for name in kinds for seed in range(number[name])]
    if n_processes > 1:
        with ProcessPoolExecutor(n_processes) as pool:
            rows = list(pool.map(measured, *zip(*jobs, strict=True)))
    else:
        rows = [measured(*job) for job in jobs]
    today = datetime.now(UTC).date().isoformat()
    return {"date": today, "machine": machine(), "versions": versions(*PACKAGES), "rows": rows}


def markdown(report: dict[str, Any]) -> str:
    """Shares of data sets, by kind."""
    columns = [
        *("data", "sets", "planted programme found", "and tied", "programmes that recur"),
        "sets with a false tie",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, rows in pd.DataFrame(report["rows"]).groupby("kind", sort=False):
        is_control = name in CONTROLS
        hits = rows["recall"] >= HALF
        shares = hits.mean(), (hits & rows["tied"]).mean()
        planted = ["–", "–"] if is_control else [f"{share:.0%}" for share in shares]
        false = (rows["n_tied"] if is_control else rows["n_false"]) > 0
        counts = f"{rows['n'].mean():.1f} ({rows['n'].min()}–{rows['n'].max()})"
        values = [str(name), str(len(rows)), *planted, counts, f"{false.mean():.0%}"]
        lines.append(f"| {' | '.join(values)} |")
    about = f"{report['date']}, `python -m benchmarks.signature.programmes`."
    return "\n".join([*lines, "", about, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    logging.getLogger("scbert_cll").setLevel(logging.WARNING)
    if args.quick:
        print(markdown(acceptance(1, 1, ["additive, 1.2", "nothing"])))
        return
    report = acceptance(args.seeds, args.processes, args.kinds)
    print(markdown(report))
    if args.kinds == list(KINDS):
        (RESULTS / "programmes.json").write_text(json.dumps(report, indent=1) + "\n")
        (TABLES / "programmes.md").write_text(markdown(report))


if __name__ == "__main__":
    main()
