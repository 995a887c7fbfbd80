"""Seconds per cell and peak memory of `tl.gene_attribution` over 16,906 genes, by method and by
what the network's tokens are.

    python -m benchmarks.signature.attribution --quick  # 100 genes, writes nothing
    python -m benchmarks.signature.attribution  # about 10 minutes on two cores

The networks have the default size and random weights, which cost what trained ones do. Before
anything is timed it is checked that a cell's gate gradient does not depend on its companions, and
that integrated gradients sum to the change of the logit. Each row is a process of its own; in the
quick form the first one only.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from benchmarks._measure import apart, machine, measured, versions
from scbert_cll.model import ScBERTClassifier

GENES, QUICK_GENES = 16_906, 100
CELLS, COUNTS = 4, 6_000
RESULTS = Path(__file__).parents[1] / "results" / "attribution.json"
TABLE = Path(__file__).parents[2] / "docs" / "_static" / "signature" / "attribution.md"
TOKENS = ("expressed", "background", "all")
N_SETS, SET_SIZE, N_OCCLUDED = 20, 24, 50
METHODS: dict[str, dict[str, Any]] = {
    "gate gradient": {"method": "gate_gradient"},
    "gradient × input": {"method": "gradient_input"},
    "integrated gradients, 32 points": {"method": "integrated_gradients"},
    "rollout": {"method": "rollout"},
    "attention": {"method": "attention"},
    "attention by layer and head": {"method": "attention", "per_layer": True},
    f"occlusion of {N_OCCLUDED} genes": {"method": "occlusion", "n_cells": None},
    f"occlusion of {N_SETS} sets of {SET_SIZE}": {"method": "group_occlusion", "n_cells": None},
}
NO_ZERO = ("gradient × input", "integrated gradients, 32 points")  # not with expressed tokens only


def cells(n_genes: int) -> tuple[AnnData, list[str]]:
    """Binned cells of two groups, and the genes from the most abundant to the least."""
    rng = np.random.default_rng(0)
    share = rng.gamma(0.25, 1, n_genes)
    counts = sparse.csr_matrix(
        rng.multinomial(COUNTS, share / share.sum(), size=CELLS).astype(np.float32)
    )
    names = np.array([f"G{i}" for i in range(n_genes)])
    obs = pd.DataFrame(
        {"label": pd.Categorical(["a", "b"] * (CELLS // 2))}, index=[f"c{i}" for i in range(CELLS)]
    )
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    sc_cll.pp.bin_expression(adata)
    return adata, names[np.argsort(-share)].tolist()


def network(adata: AnnData, tokens: str) -> ScBERTClassifier:
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=0, gene_embedding="learned", tokens=tokens)
    model.is_trained_ = True  # costs are those of a trained one
    return model


def check(n_genes: int) -> None:
    adata, _ = cells(min(n_genes, 2_000))
    single = pd.Series(pd.Categorical(adata.obs_names), adata.obs_names)
    for tokens in TOKENS:
        model = network(adata, tokens)
        one, all_ = (
            model.get_gene_attribution(single, adata, batch_size=size).values for size in (1, CELLS)
        )
        np.testing.assert_allclose(one, all_, atol=1e-5 * np.abs(all_.to_numpy()).max())
        if tokens != "expressed":
            found = model.get_gene_attribution(single, adata, method="integrated_gradients")
            np.testing.assert_allclose(found.error, 0, atol=0.01 * np.abs(found.values.sum()).max())


def measure(n_genes: int, tokens: str, name: str) -> dict[str, float]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    adata, genes = cells(n_genes)
    model, options = network(adata, tokens), dict(METHODS[name])
    rng = np.random.default_rng(1)
    if options["method"] == "occlusion":
        options["genes"] = genes[:N_OCCLUDED]
    if options["method"] == "group_occlusion":
        options["gene_sets"] = {
            f"set{i}": rng.choice(genes[:3_000], SET_SIZE, replace=False).tolist()
            for i in range(N_SETS)
        }
    work = lambda: sc_cll.tl.gene_attribution(  # noqa: E731
        adata, model, groupby="label", split_key="none", **options
    )
    run = measured(work, patience=0.0)
    n_tokens = int(np.diff(adata.X.indptr).mean())
    return {
        "seconds": run["seconds"] / CELLS,
        "peak_bytes": run["peak_bytes"],
        "expressed": n_tokens,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Seconds per cell and memory, a row per method; what is refused was not measured."""
    modes = list(dict.fromkeys(row["tokens"] for row in rows))
    said = {
        (r["method"], r["tokens"]): f"{r['seconds']:.2f} s, {r['peak_bytes'] / 1e6:.0f} MB"
        for r in rows
    }
    cells = [[name, *(said.get((name, tokens), "refused") for tokens in modes)] for name in METHODS]
    table = [["method", *(f"tokens: {tokens}" for tokens in modes)], *cells]
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|---" + "|---" * len(modes) + "|", *lines[1:], ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        genes, tokens, name = args.measure
        print(json.dumps(measure(int(genes), tokens, name)))
        return
    n_genes = QUICK_GENES if args.quick else GENES
    check(n_genes)
    modes = TOKENS[:1] if args.quick else TOKENS
    asked = [
        (name, tokens)
        for name in METHODS
        for tokens in modes
        if tokens != "expressed" or name not in NO_ZERO
    ]
    rows = []
    for name, tokens in asked:
        found = (
            measure(n_genes, tokens, name)
            if args.quick and rows
            else apart(__file__, ["--measure", n_genes, tokens, name])
        )
        rows.append({"method": name, "tokens": tokens} | found)
        print(f"{name}, {tokens}: {rows[-1]['seconds']:.2f} s", flush=True)
    print(markdown(rows))
    if not args.quick:
        stamp = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "genes": n_genes,
            "cells": CELLS,
        }
        stamp |= {"versions": versions("scbert-cll", "torch", "numpy"), "threads": 1}
        TABLE.write_text(markdown(rows))
        RESULTS.write_text(json.dumps(stamp | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
