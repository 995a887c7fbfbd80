"""Tables and figures of docs/evaluation.md out of the results of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

import scbert_cll as sc_cll

DRAWN = ("summary", "scores", "donors")
SETS = {
    "toy": "cll_toy",
    "bmmc": "CD49d, marrow",
    "CD45RA": "CD45RA",
    "TIGIT": "TIGIT",
    "CD127": "CD127",
    "CD4": "CD4",
    "CD8a": "CD8a",
    "t_versus_b": "T versus B",
}
TITLES = {
    "macro_f1": "Macro-F1",
    "auroc_within": "AUROC within donors",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier score (lower is better)",
}
LOWER = ("brier",)
OURS = ("scbert", "scbert_network", "scbert_linear")


AREA = (
    "auroc_within"  # cells of one donor were scored by one model; of several donors they were not
)
FIGURES = ("toy", "bmmc")


def write_page(results: Path, out: Path) -> None:
    """The tables, and the figures, which hold nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(tables(results), encoding="utf-8")
    for name in FIGURES:
        figure(results / name).savefig(out / f"{name}.png", dpi=200, bbox_inches="tight")


def figure(folder: Path) -> Figure:
    """What pl.evaluation draws of a set."""
    run = json.loads((folder / "run.json").read_text())
    read = {
        name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])
        for name in DRAWN
    }
    text = {
        name: table.fillna(
            dict.fromkeys(table.columns[~table.dtypes.map(pd.api.types.is_numeric_dtype)], "")
        )
        for name, table in read.items()
    }
    adata = AnnData(np.zeros((1, 1), dtype="float32"))
    adata.uns["cv"] = text | {
        "params": run["params"],
        "unit": run["unit"],
        "n_units": run["n_units"],
    }
    return cast("Figure", sc_cll.pl.evaluation(adata, return_fig=True, show=False))


def tables(results: Path) -> str:
    """Markdown of all of them."""
    found = {name: results / name for name in SETS if (results / name / "summary.csv").exists()}
    lines = []
    for metric in ("macro_f1", AREA, "brier"):
        lines += [
            (
                f"**{TITLES[metric]}**: estimate, and 95 % interval (range over donors where "
                f"there are two)"
            ),
            "",
            *_overview(found, metric),
            "",
        ]
    lines += ["**scBERT against the best baseline of each set**", "", *_differences(found), ""]
    controls = [
        name
        for name in ("toy_permuted", "toy_no_programme")
        if (results / name / "summary.csv").exists()
    ]
    if controls:
        lines += ["**Nothing to find**", "", *_controls(results, controls), ""]
    ablations = sorted(
        path for path in results.glob("*_ablations") if (path / "summary.csv").exists()
    )
    for path in ablations:
        lines += [
            f"**Ablations, {SETS[path.name.removesuffix('_ablations')]}**",
            "",
            *_ablations(path),
            "",
        ]
    for path in sorted(
        path for path in results.glob("*_optional") if (path / "summary.csv").exists()
    ):
        lines += [
            f"**scVI and scANVI, {SETS[path.name.removesuffix('_optional')]}**",
            "",
            *_optional(path),
            "",
        ]
    targets = results.parent / "targets.csv"
    if targets.exists():
        lines += [
            "**Other things to learn from, on inner folds** (macro-F1 / AUROC)",
            "",
            *_targets(targets),
            "",
        ]
    lines += ["**How it was run**", "", *_runs(results), ""]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _number(value: float, digits: int = 3) -> str:
    return (
        "–"
        if np.isnan(value)
        else f"{value:.{digits}f}".replace("0.", ".", 1)
        if abs(value) < 1
        else f"{value:.{digits}f}"
    )


def _interval(row: pd.Series) -> str:
    return "" if np.isnan(row["low"]) else f"<br>{_number(row['low'])}–{_number(row['high'])}"


def _overview(found: dict[str, Path], metric: str) -> list[str]:
    tables = {
        name: pd.read_csv(path / "summary.csv").query("metric == @metric").set_index("model")
        for name, path in found.items()
    }
    models = list(dict.fromkeys(model for table in tables.values() for model in table.index))
    mean = pd.DataFrame({name: table["estimate"] for name, table in tables.items()}).mean(
        axis=1, skipna=False
    )
    best_of = -1 if metric in LOWER else 1
    models.sort(key=lambda model: -np.inf if np.isnan(mean[model]) else -best_of * mean[model])
    rows = []
    for model in models:
        cells = []
        for table in tables.values():
            if model not in table.index:
                cells.append("")
                continue
            row = table.loc[model]
            best = best_of * row["estimate"] >= (best_of * table["estimate"]).max() - 5e-4
            value = _number(row["estimate"])
            cells.append((f"**{value}**" if best else value) + _interval(row))
        rows.append([f"**{model}**" if model in OURS else model, *cells, _number(mean[model])])
    return _table(["model", *(_title(name, path) for name, path in found.items()), "mean"], rows)


def _title(name: str, path: Path) -> str:
    """The set, and its number of cells where not all were taken."""
    run = json.loads((path / "run.json").read_text())
    part = f" ({run['n_labelled']:,} cells)" if "cells)" in run["title"] else ""
    return SETS[name] + part


def _differences(found: dict[str, Path]) -> list[str]:
    rows = []
    for name, path in found.items():
        table = pd.read_csv(path / "differences.csv")
        for metric in ("macro_f1", AREA):
            row = table[(table["metric"] == metric) & (table["model"] == "scbert")].iloc[0]
            interval = "" if np.isnan(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
            p = "" if np.isnan(row["p"]) else f"{row['p']:.3f}"
            rows.append(
                [
                    _title(name, path),
                    TITLES[metric],
                    str(row["reference"]),
                    f"{row['difference']:+.3f}",
                    interval,
                    p,
                ]
            )
    return _table(["set", "metric", "best baseline", "scBERT minus it", "95 % interval", "p"], rows)


def _controls(results: Path, names: list[str]) -> list[str]:
    titles = {
        "toy_permuted": "labels permuted within donors",
        "toy_no_programme": "no programme planted",
    }
    rows = []
    for name in names:
        summary = pd.read_csv(results / name / "summary.csv")
        for model in ("logistic_l2", "scbert", "scbert_network"):
            row = [titles[name], model]
            for metric in (AREA, "auroc", "macro_f1"):
                found = summary[(summary["metric"] == metric) & (summary["model"] == model)].iloc[0]
                row.append(
                    f"{_number(found['estimate'])} "
                    f"({_number(found['low'])}–{_number(found['high'])})"
                )
            rows.append(row)
    return _table(
        ["control", "model", "AUROC within donors", "AUROC over all cells", "macro-F1"], rows
    )


def _ablations(path: Path) -> list[str]:
    summary = pd.read_csv(path / "summary.csv")
    wide = {
        m: summary.query("metric == @m").set_index("model")["estimate"] for m in ("macro_f1", AREA)
    }
    arms = [
        m
        for m in wide[AREA].index
        if m.startswith("scbert") and not m.endswith(("_network", "_linear"))
    ]
    rows = []
    for arm in sorted(arms, key=lambda a: -wide[AREA][a]):
        network = f"{arm}_network"
        alone = [_number(wide[m].get(network, np.nan)) for m in wide]
        rows.append([arm, *(_number(wide[m][arm]) for m in wide), *alone])
    rows.append(["logistic_l2", *(_number(wide[m]["logistic_l2"]) for m in wide), "", ""])
    return _table(["arm", "macro-F1", TITLES[AREA], "network alone: macro-F1", TITLES[AREA]], rows)


def _optional(path: Path) -> list[str]:
    summary = pd.read_csv(path / "summary.csv")
    rows = []
    for model in dict.fromkeys(summary["model"]):
        own = summary[summary["model"] == model].set_index("metric")
        rows.append(
            [
                model,
                *(
                    _number(own["estimate"][m]) + _interval(own.loc[m])
                    for m in ("macro_f1", AREA, "brier")
                ),
            ]
        )
    return _table(["model", "macro-F1", TITLES[AREA], "Brier score"], rows)


def _targets(path: Path) -> list[str]:
    """The variants of targets.py: one row each, whole and network alone, one column per set."""
    found = pd.read_csv(path)
    sets = list(dict.fromkeys(found["set"]))
    names = [name for name in dict.fromkeys(found["model"]) if not name.endswith("_linear")]
    names.sort(key=lambda name: (name.endswith("_network"), name))
    rows = []
    for name in ["scbert_linear", *names]:
        own = found[found["model"] == name].set_index("set")
        cells = [
            f"{_number(own['macro_f1'][s])} / {_number(own['auroc'][s])}" if s in own.index else ""
            for s in sets
        ]
        rows.append([name, *cells])
    sizes = found.groupby("set")["n_cells"].first()
    return _table(["arm", *(f"{s} ({sizes[s]:,} cells)" for s in sets)], rows)


def _part(folder: str) -> str:
    """What a folder of results holds beside the main table."""
    return next(
        (f", {part}" for part in ("ablations", "optional") if folder.endswith(f"_{part}")), ""
    )


def _runs(results: Path) -> list[str]:
    rows = []
    for path in sorted(results.glob("*/run.json")):
        run = json.loads(path.read_text())
        p = run["params"]
        unit = {"donor": "donors", "cell": "cells (one donor)"}[run["unit"]]
        rows.append(
            [
                run["title"] + _part(path.parent.name),
                f"{run['n_labelled']:,} × {run['n_genes']:,}",
                p["scheme"]
                if p["scheme"] == "leave_one_donor_out"
                else f"{p['scheme']}, {p['n_splits']} folds",
                str(p["n_repeats"]),
                f"{run['n_units']:,} {unit}",
                run["date"],
            ]
        )
    return _table(
        ["set", "labelled cells × genes", "folds", "repeats", "unit of the interval", "date"], rows
    )
