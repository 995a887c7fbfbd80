"""Every model on every set, in the same folds: the numbers of docs/evaluation.md.

    python -m benchmarks.evaluation --data ../shared/data --sets bmmc --repeats 5
    python -m benchmarks.evaluation --sets toy --models scbert logistic_l2
    python -m benchmarks.evaluation --sets bmmc --models few ablations --suffix ablations
    python -m benchmarks.evaluation --page

Finished folds are kept in --checkpoint, so a run that was interrupted goes on, and a further model
or repeat computes only itself. One set after the other; several sets at a time are several
commands.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from importlib.metadata import version
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import torch

import scbert_cll as sc_cll
from benchmarks.evaluation._page import write_page
from benchmarks.evaluation._sets import BENCHMARKS, SETS, Set, compared, load, parser_of, some, toy

RESULTS = BENCHMARKS / "results" / "evaluation"
FIGURES = BENCHMARKS.parent / "docs" / "_static" / "evaluation"
SMALL = ("majority", "gene_only", "library_size", "pseudobulk")
STRONG = (
    "logistic_l2",
    "logistic_l1",
    "logistic_sgd",
    "random_forest",
    "gradient_boosting",
    "knn",
    "mlp_tokens",
)
GROUPS: dict[str, tuple[str, ...]] = {
    "baselines": (*SMALL, *STRONG),
    "all": (*SMALL, *STRONG, "scbert"),
    "few": ("majority", "logistic_l2", "scbert"),
    "optional": ("scvi_logistic", "scanvi"),
    "ablations": tuple(name for name in sc_cll.estimators.scbert_variants() if name != "scbert"),
}
METRICS = (
    "macro_f1",
    "auroc",
    "auroc_within",
    "balanced_accuracy",
    "mcc",
    "auprc",
    "brier",
    "log_loss",
    "ece",
)


def models(words: list[str], data: Set) -> dict[str, Any]:
    """Models by names, or names of their groups."""
    names = [name for word in words for name in GROUPS.get(word, (word,))]
    available = sc_cll.estimators.available(data.gene)
    chosen = {name: available[name] for name in dict.fromkeys(names)}
    for name, model in chosen.items():
        if name in ("scbert_pretrained", "scbert_frozen") and data.extra is not None:
            chosen[name] = model.set_params(extra=data.extra)
        if isinstance(model, sc_cll.estimators.ScBERTEstimator):
            model.set_params(accelerator="cpu" if not torch.cuda.is_available() else "auto")
    return chosen


def evaluate(data: Set, names: list[str], scheme: str | None, **options: Any) -> None:
    options["scheme"] = scheme or data.scheme
    summary = compared(data, models=models(names, data), metrics=METRICS, **options)
    lines = [
        f"| {model} | {row['macro_f1']:.4f} | {row['auroc']:.4f} |"
        for model, row in summary.iterrows()
    ]
    head = f"\n{data.title}\n\n| model | macro-F1 | AUROC |\n|---|---|---|"
    print(head, *lines, sep="\n", flush=True)


def write(name: str, data: Set, arguments: argparse.Namespace, seconds: float) -> None:
    results = data.adata.uns["cv"]
    out = RESULTS / (name if not arguments.suffix else f"{name}_{arguments.suffix}")
    out.mkdir(parents=True, exist_ok=True)
    for table in (
        "summary",
        "differences",
        "scores",
        "donors",
        "agreement",
        "per_class",
        "seconds",
        "folds",
    ):
        results[table].to_csv(out / f"{table}.csv", index=False, float_format="%.5g")
    packages = ("scbert-cll", "torch", "scikit-learn", "scvi-tools", "anndata", "scanpy")
    record = {
        "set": name,
        "title": data.title,
        "n_cells": data.adata.n_obs,
        "n_labelled": int(data.adata.obs[data.labels_key].notna().sum()),
        "n_genes": data.adata.n_vars,
        "unit": results["unit"],
        "n_units": int(results["n_units"]),
        "params": results["params"],
        "seconds_of_this_command": round(seconds),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
    }
    (out / "run.json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    if arguments.keep:
        data.adata.write_h5ad(arguments.checkpoint / f"{name}.h5ad")


def main() -> None:
    parser = parser_of(__doc__, SETS, BENCHMARKS / "cache")
    parser.set_defaults(sets=list(SETS))
    groups = f"names, or {', '.join(GROUPS)}"
    parser.add_argument("--models", nargs="+", default=["all"], help=groups)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--splits", type=int, default=5, help="folds, where the scheme is not one donor at a time"
    )
    parser.add_argument("--scheme", help="instead of the set's own, e.g. group_kfold")
    parser.add_argument(
        "--suffix", default="", help="of the folder of results, for another scheme or other models"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="also keep the cells with their predictions, as h5ad in --checkpoint",
    )
    parser.add_argument(
        "--quick", action="store_true", help="two baselines on a small toy; writes nothing"
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="only write the tables and figures of docs/evaluation.md from the results at hand",
    )
    arguments = parser.parse_args()
    if arguments.page:
        write_page(RESULTS, FIGURES)
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.quick:
        small = toy(arguments.data, n_cells=300, n_genes=220)
        evaluate(small, ["majority", "logistic_sgd"], "group_kfold", n_repeats=1)
        return
    for name in arguments.sets:
        start, data = time.perf_counter(), load(name, arguments.data)
        if arguments.cells:
            data = some(data, arguments.cells)
        evaluate(
            data,
            arguments.models,
            arguments.scheme,
            n_repeats=arguments.repeats,
            n_splits=arguments.splits,
            checkpoint=arguments.checkpoint / name,
        )
        write(name, data, arguments, time.perf_counter() - start)


if __name__ == "__main__":
    main()
