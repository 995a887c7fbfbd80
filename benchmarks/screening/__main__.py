"""Which recipe of the small Performer, alone and joined with logistic regression, pays on small
data: every arm tried, logged.

    python -m benchmarks.screening ../shared/data --table  # the table of what was measured
    python -m benchmarks.screening ../shared/data  # all arms on all sets: hours on one core
    # a part; done runs are skipped
    python -m benchmarks.screening ../shared/data --sets toy --arms default --folds 0

Nobody sees the test cells of the outer folds (five folds by cell where there is one donor, else by
donor): an arm is trained and scored on three inner folds within the training part of outer folds. A
sixth of an inner training part validates: it chooses the strength of the logistic regression, the
epoch of the network and the weight that joins them. The log (`results/screening.csv`) has one row
per set, arm, way of joining, fold and seed; logits are kept in a folder, so that joining and
ensembles cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from benchmarks.screening._data import SETS, Fold, Set, folds, load
from benchmarks.screening._network import Recipe, crossfit, fit, linear, refit
from benchmarks.screening._public import fit_public
from benchmarks.screening._variants import ARMS

ROOT = Path(__file__).parents[2]
CSV = ROOT / "benchmarks" / "results" / "screening.csv"
COLUMNS = [
    "set",
    "n_cells",
    "outer",
    "fold",
    "seed",
    "arm",
    "joined",
    "settings",
    "macro_f1",
    "auroc",
    "seconds",
]
SHOWN = ("alone", "alone_last", "probabilities", "probabilities_last", "residual")
OUTER = {"bmmc": (0, 1)}  # both donors train once


def scores(y: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    return {
        "macro_f1": round(float(f1_score(y, logits > 0, average="macro")), 4),
        "auroc": round(float(roc_auc_score(y, logits)), 4),
    }


# ---- ways of joining the network with the linear part; logits of validation and test cells


def joined(
    y: np.ndarray, line: tuple[np.ndarray, np.ndarray], net: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """Logits of the test cells by every rule."""
    grid = np.linspace(0, 1, 21)
    weight = min(grid, key=lambda w: _loss(y, (1 - w) * line[0] + w * net[0]))
    a, b = (1 / _temperature(y, part[0]) for part in (line, net))
    return {
        "alone": net[1],
        "probabilities": logit(np.clip((expit(line[1]) + expit(net[1])) / 2, 1e-9, 1 - 1e-9)),
        "logits": (line[1] + net[1]) / 2,
        "logits_tempered": (a * line[1] + b * net[1]) / 2,
        "logits_chosen": (1 - weight) * line[1] + weight * net[1],
        "logits_shrunk": (1 - (weight + 0.5) / 2) * line[1] + (weight + 0.5) / 2 * net[1],
        "logits_careful": (1 - weight / 2) * line[1] + weight / 2 * net[1],
    }


def _loss(y: np.ndarray, logits: np.ndarray) -> float:
    return log_loss(y, expit(logits), labels=[0, 1])


def _temperature(y: np.ndarray, logits: np.ndarray) -> float:
    found = minimize_scalar(
        lambda t: _loss(y, logits / np.exp(t)), bounds=(-1, 2), method="bounded"
    )
    return float(np.exp(found.x))


# ---- runs


class Lines:
    """Logistic regressions of a fold, fitted once."""

    def __init__(self, data: Set, fold: Fold) -> None:
        start = time.perf_counter()
        self.data, self.fold = data, fold
        self.log2, self.c_log2 = linear(data.log2, data.y, fold)
        self.seconds = time.perf_counter() - start
        self.tokens, self.c = linear(data.tokens, data.y, fold)
        self._crossfit: np.ndarray | None = None

    def offset(self, kind: str) -> np.ndarray | None:
        if kind == "none":
            return None
        if kind == "insample":
            return self.tokens
        if self._crossfit is None:
            self._crossfit = crossfit(self.data.tokens, self.data.y, self.fold, self.tokens, self.c)
        return self._crossfit


def run(args: argparse.Namespace) -> None:
    """Every arm on all sets before the next, so that what has been measured can be compared at any
    time.
    """
    places = []
    for name in args.sets:
        data = load(name, args.folder)
        for outer in OUTER.get(name, (0,)):
            for fold in folds(data, outer, n_cells=args.n_cells):
                if fold.number in args.folds:
                    place = {
                        "set": name,
                        "n_cells": args.n_cells or "all",
                        "outer": outer,
                        "fold": fold.number,
                    }
                    places.append((place, data, fold))
    lines: dict[int, Lines] = {}
    for arm in args.arms:
        for seed in args.seeds:
            for i, (place, data, fold) in enumerate(places):
                file = args.logits / f"{'-'.join(map(str, place.values()))}-{arm}-{seed}.npz"
                if not file.exists():
                    lines[i] = lines.get(i) or _linear_rows(data, fold, place, args)
                    _run(place, data, fold, lines[i], arm, seed, file, args)


def _run(
    place: dict[str, Any],
    data: Set,
    fold: Fold,
    lines: Lines,
    arm: str,
    seed: int,
    file: Path,
    args: argparse.Namespace,
) -> None:
    public = arm == "public"
    recipe = Recipe() if public else replace(Recipe(), **ARMS[arm])
    found = (
        fit_public(data, fold, seed)
        if public
        else fit(recipe, data, fold, seed, lines.offset(recipe.offset))
    )
    np.savez(file, **{k: v for k, v in found.items() if k != "seconds"})
    line = (lines.tokens[fold.val], lines.tokens[fold.test])
    y = data.y[fold.val], data.y[fold.test]
    results = {}
    if recipe.refit:
        again = [
            refit(x, data.y, fold, c)
            for x, c in ((data.log2, lines.c_log2), (data.tokens, lines.c))
        ]
        results |= {
            f"linear_{kind}": logits[fold.test]
            for kind, logits in zip(("log2", "tokens"), again, strict=True)
        }
        found |= {"log2_refit": again[0][fold.test], "tokens_refit": again[1][fold.test]}
        line = (again[1][fold.val], again[1][fold.test])
        np.savez(file, **{k: v for k, v in found.items() if k != "seconds"})
    for kept in ("",) if public else ("", "_last"):
        net = (found[f"val{kept}"], found[f"test{kept}"])
        ways = (
            joined(y[0], line, net) if recipe.offset == "none" else {"residual": line[1] + net[1]}
        )
        results |= {f"{way}{kept}": logits for way, logits in ways.items()}
    common = {
        "seed": seed,
        "arm": arm,
        "settings": json.dumps(ARMS[arm]),
        "seconds": round(found["seconds"], 1),
    }
    rows = [
        place | common | {"joined": way} | scores(y[1], logits) for way, logits in results.items()
    ]
    write(rows, args.csv)
    shown = {r["joined"]: (r["macro_f1"], r["auroc"]) for r in rows if r["joined"] in SHOWN}
    best = int(np.argmin(found["losses"])) + 1
    print(
        *place.values(),
        arm,
        seed,
        f"best epoch {best}",
        shown,
        f"{found['seconds']:.0f} s",
        flush=True,
    )


def _linear_rows(data: Set, fold: Fold, place: dict[str, Any], args: argparse.Namespace) -> Lines:
    lines = Lines(data, fold)
    file = args.logits / f"{'-'.join(map(str, place.values()))}-linear.npz"
    if not file.exists():
        y = data.y
        np.savez(
            file,
            yval=y[fold.val],
            ytest=y[fold.test],
            c=lines.c,
            **{
                f"{k}_{part}": getattr(lines, k)[rows]
                for k in ("log2", "tokens")
                for part, rows in (("val", fold.val), ("test", fold.test))
            },
        )
        rows = [
            place
            | {
                "seed": 0,
                "arm": f"linear_{kind}",
                "joined": "alone",
                "settings": "{}",
                "seconds": round(lines.seconds, 1),
            }
            | scores(y[fold.test], getattr(lines, kind)[fold.test])
            for kind in ("log2", "tokens")
        ]
        write(rows, args.csv)
        print(*place.values(), {r["arm"]: (r["macro_f1"], r["auroc"]) for r in rows}, flush=True)
    return lines


def write(rows: list[dict[str, Any]], path: Path) -> None:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(
        path, mode="a", header=not path.exists(), index=False
    )


# ---- what is shown


def table(path: Path, metric: str = "macro_f1") -> pd.DataFrame:
    """Gain over logistic regression on log2 on the same training cells and folds, in points, by set
    and on average.
    """
    keys = ["set", "n_cells", "outer", "fold"]
    log = pd.read_csv(path, dtype={"n_cells": str}).drop_duplicates(
        [*keys, "seed", "arm", "joined"]
    )
    base = log[log["arm"] == "linear_log2"].set_index(keys)[metric]
    more = log[log["joined"] == "linear_log2"].set_index([*keys, "arm"])[
        metric
    ]  # fitted on the validation cells, too
    before = log.join(base.rename("base"), on=keys).join(more.rename("more"), on=[*keys, "arm"])
    log["gain"] = 100 * (log[metric] - before["more"].fillna(before["base"]))
    log["where"] = log["set"] + " " + log["n_cells"]
    wide = log.pivot_table(index=["arm", "joined"], columns="where", values="gain", aggfunc="mean")
    wide = wide[[where for name in SETS for where in wide if where.startswith(f"{name} ")]]
    wide = wide.assign(columns=wide.count(axis=1), mean=wide.mean(axis=1))
    return wide.sort_values(["columns", "arm", "mean"], ascending=[False, True, False])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of real data")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument(
        "--arms",
        nargs="+",
        default=list(ARMS),
        choices=list(ARMS),
        metavar="ARM",
        help=", ".join(ARMS),
    )
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2], help="inner folds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n-cells", type=int, help="cut training parts down to so many cells")
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument(
        "--logits",
        type=Path,
        default=ROOT / "build" / "screening",
        help="folder of logits; done runs are skipped",
    )
    parser.add_argument(
        "--table", action="store_true", help="show what the log holds, train nothing"
    )
    args = parser.parse_args()
    if args.table:
        with pd.option_context(
            "display.max_rows", None, "display.max_columns", None, "display.width", 250
        ):
            for metric in ("macro_f1", "auroc"):
                print(
                    f"\n{metric}: points above logistic regression on "
                    f"log2\n{table(args.csv, metric).round(1)}"
                )
        return
    torch.set_num_threads(1)
    args.logits.mkdir(parents=True, exist_ok=True)
    run(args)


if __name__ == "__main__":
    main()
