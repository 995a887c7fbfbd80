"""What the demo command makes of two public data sets: the tables, figures and numbers of
docs/real_data.md.

    python -m benchmarks.evaluation.real_data --data ../shared/data
    python -m benchmarks.evaluation.real_data --page

Each run is the command of the page, in a process of its own. Its report.json, with what is counted
in the cells and the machine, goes to results/real_data; its figures go to the page. --page writes
the tables from the results at hand.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import spearmanr

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "real_data"
FIGURES = HERE.parent / "docs" / "_static" / "real_data"
RUNS: dict[str, list[str]] = {
    "bmmc": ["--input", "bmmc_cite.h5mu"],
    "pbmc": [
        "--input",
        "pbmc_10k_cite.h5ad",
        "--marker",
        "CD45RA",
        "--donor-key",
        "none",
        "--pretrain-on",
        "pbmc_5k.h5ad",
    ],
}
SHOWN = {
    "bmmc": ("confusion", "cd49d", "gene_attention", "umap"),
    "pbmc": ("confusion", "gene_attention", "umap"),
}
ERYTHROID = ("Proerythroblast", "Erythroblast", "Normoblast", "Reticulocyte")
PACKAGES = ("scbert-cll", "torch", "scvi-tools", "anndata", "scanpy", "scikit-learn")
SCORES = "Test cells, never trained on"
METRICS = ("auroc_within", "macro_f1")
HEADS = {
    "bmmc": "held-out donor, {} cells | AUROC within the donor",
    "pbmc": "held-out cells, {} | AUROC",
}
ROWS = {
    "scBERT": {
        "bmmc": "scBERT (`small`, pretrained on the training donor's cells)",
        "pbmc": "scBERT (`small`, pretrained on both people's cells)",
    },
    "logistic regression on ITGA4 alone": {"bmmc": "logistic regression on *ITGA4* alone"},
}


def run(name: str, data: Path, out: Path) -> dict[str, Any]:
    """One demo, and what is known of it afterwards."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "scbert_cll", "demo", *RUNS[name], "--out", str(out)]
    subprocess.run(command, cwd=data, check=True, capture_output=True)
    report = json.loads((out / "report.json").read_text())
    end = report["steps"].pop()  # with the folder
    took = re.match(r"Done in (.+), (.+) at most\.", end)
    return report | {
        "command": ["scbert_cll", "demo", *RUNS[name]],
        "time": took[1] if took else "",
        "memory": took[2] if took else "",
        "seconds": round(time.perf_counter() - start),
        "cells": counted(next(out.glob("annotated.*")), out),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def counted(path: Path, out: Path) -> dict[str, Any]:
    """What the page says of the cells."""
    data: Any = mudata.read_h5mu(path) if path.suffix == ".h5mu" else ad.read_h5ad(path)
    rna = data["rna"] if path.suffix == ".h5mu" else data
    label, part = rna.obs["cd49d"], rna.obs["split"]
    found: dict[str, Any] = {
        "n_cells": rna.n_obs,
        "n_genes": rna.n_vars,
        "n_labelled": int(label.notna().sum()),
        "classes": {str(name): int(n) for name, n in label.value_counts().sort_index().items()},
        "labelled_in_split": {
            str(name): int(n) for name, n in part[label.notna()].value_counts().items()
        },
    }
    attention = pd.read_csv(out / "gene_attention.csv", keep_default_na=False)
    found["attention"] = {
        str(group): rows.sort_values("rank")["gene"].head(15).tolist()
        for group, rows in attention.groupby("group")
    }
    if "donor" in rna.obs and data is not rna:  # CD49d was measured
        found |= marker_gene(rna)
    if "cell_type" in rna.obs:
        is_red = rna.obs["cell_type"].isin(ERYTHROID)
        types = pd.crosstab(label, rna.obs["cell_type"])
        found["cell_types"] = {
            str(name): {str(kind): int(n) for kind, n in row.nlargest(4).items()}
            for name, row in types.iterrows()
        }
        found["erythroid"] = {
            str(name): int(n) for name, n in label[is_red].value_counts().sort_index().items()
        }
    return found


def marker_gene(rna: AnnData) -> dict[str, Any]:
    """How the protein follows its gene: Spearman's rho over all cells, and pooled within donors by
    Fisher's z.
    """
    counts: Any = rna.X
    gene = np.asarray(counts[:, rna.var_names.get_loc("ITGA4")].todense()).ravel()
    level = gene / np.asarray(counts.sum(axis=1)).ravel()
    cells = pd.DataFrame(
        {"donor": rna.obs["donor"].astype(str), "rna": level, "protein": rna.obs["cd49d_score"]}
    )
    parts = [part for _, part in cells.groupby("donor")]
    z = [np.arctanh(spearmanr(part["rna"], part["protein"]).statistic) for part in parts]
    pooled = np.tanh(np.average(z, weights=[len(part) - 3 for part in parts]))
    of_all = spearmanr(cells["rna"], cells["protein"]).statistic
    return {
        "detected": float((gene > 0).mean()),
        "rho": float(of_all),
        "rho_within_donors": float(pooled),
    }


def scores(name: str) -> pd.DataFrame:
    """The table of the report."""
    found = json.loads((RESULTS / f"{name}.json").read_text())["tables"][SCORES]
    return pd.DataFrame(found["data"], found["index"], found["columns"])


def table(name: str) -> str:
    """The scores as the page has them."""
    found = scores(name)
    lines = [f"| {HEADS[name].format(int(found['n_cells'].iloc[0]))} | macro-F1 |", "|---|---|---|"]
    for row, values in found.iterrows():
        shown = [_interval(values, metric) for metric in METRICS]
        lines.append(f"| {ROWS.get(str(row), {}).get(name, row)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _interval(values: pd.Series, metric: str) -> str:
    """An estimate with its limits; alone where it cannot vary."""
    middle, low, high = (values[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return f"{middle:.3f}" if low == high else f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def page() -> None:
    """Tables from the results at hand."""
    for name in RUNS:
        (FIGURES / f"{name}.md").write_text(table(name))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=HERE.parents[1] / "shared" / "data",
        help="folder of the real data",
    )
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument(
        "--page", action="store_true", help="only write the tables from the results at hand"
    )
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.page else arguments.runs:
        with TemporaryDirectory() as folder:
            out = Path(folder) / name
            found = run(name, arguments.data, out)
            (RESULTS / f"{name}.json").write_text(
                json.dumps(found, indent=1, ensure_ascii=False) + "\n"
            )
            for figure in SHOWN[name]:
                shutil.copy(out / "figures" / f"{figure}.png", FIGURES / f"{name}_{figure}.png")
    page()


if __name__ == "__main__":
    main()
