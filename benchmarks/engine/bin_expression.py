"""Time and peak memory of `pp.bin_expression` beside scanpy's normalize_total + log1p, on one
simulated count matrix.

    # 100,000 cells x 16,906 genes, 8 % of them expressed: about 1.1 GB
    python -m benchmarks.engine.bin_expression
    python -m benchmarks.engine.bin_expression --cells 5000  # a small run

The result is compared with a naive dense computation before anything is timed. Every measurement
runs in a process of its own, which reads the same matrix from disk, warms up on a few cells and
then works on all of them once; the two candidates alternate. Memory is read from /proc: Linux only.
Medians and ranges are printed and written to `benchmarks/results/bin_expression.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from scipy import sparse

from benchmarks._measure import apart, held, machine, spread, start_of_peak, versions
from scbert_cll import pp

GENES, DENSITY, TARGET_SUM, N_BINS = 16_906, 0.08, 1e4, 5
CHUNK = 1_000
RESULTS = Path(__file__).parents[1] / "results" / "bin_expression.json"


def simulate(folder: Path, n_cells: int, n_genes: int, rng: np.random.Generator) -> None:
    """Write the parts of a CSR matrix (float32, int32): gene abundance and cell depth log-normal,
    counts about Poisson.
    """
    abundance = rng.lognormal(sigma=1.5, size=n_genes).astype(np.float32)
    abundance *= _scale_to(DENSITY, abundance, rng.lognormal(sigma=0.4, size=2_000))
    stored_per_cell = []
    with (folder / "data.bin").open("wb") as data, (folder / "indices.bin").open("wb") as indices:
        for first in range(0, n_cells, CHUNK):
            depth = rng.lognormal(sigma=0.4, size=(min(CHUNK, n_cells - first), 1)).astype(
                np.float32
            )
            rate = depth * abundance
            cell, gene = np.nonzero(rng.random(rate.shape, dtype=np.float32) < -np.expm1(-rate))
            (1 + rng.poisson(rate[cell, gene] / 2)).astype(np.float32).tofile(data)
            gene.astype(np.int32).tofile(indices)
            stored_per_cell.append(np.bincount(cell, minlength=len(depth)))
    np.concatenate([[0], np.cumsum(np.concatenate(stored_per_cell))]).astype(np.int32).tofile(
        folder / "indptr.bin"
    )


def _scale_to(density: float, abundance: np.ndarray, depth: np.ndarray) -> float:
    """Factor on the abundances that makes the expected share of expressed genes `density`, by
    bisection.
    """
    low, high = 1e-6, 1e3
    for _ in range(60):
        middle = np.sqrt(low * high)
        share = -np.expm1(-middle * np.outer(depth[:100], abundance)).mean()
        low, high = (middle, high) if share < density else (low, middle)
    return float(low)


def load(folder: Path, n_genes: int) -> ad.AnnData:
    indptr = np.fromfile(folder / "indptr.bin", dtype=np.int32)
    data, indices = (
        np.fromfile(folder / f"{n}.bin", dtype=t)
        for n, t in (("data", np.float32), ("indices", np.int32))
    )
    return ad.AnnData(sparse.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_genes)))


def ours(adata: ad.AnnData) -> None:
    pp.bin_expression(adata, n_bins=N_BINS, target_sum=TARGET_SUM)


def scanpys(adata: ad.AnnData) -> None:
    sc.pp.normalize_total(adata, target_sum=TARGET_SUM)
    sc.pp.log1p(adata)


CANDIDATES: dict[str, Callable[[ad.AnnData], None]] = {
    "bin_expression": ours,
    "normalize_total + log1p": scanpys,
}


def check(adata: ad.AnnData, n_cells: int = 1_000) -> None:
    """Fail unless some cells come out as a naive dense computation has them."""
    part = adata[:n_cells].copy()
    counts = part.X.toarray().astype(np.float64)
    naive = np.minimum(
        np.trunc(np.log2(1 + TARGET_SUM * counts / counts.sum(1, keepdims=True))), N_BINS
    )
    ours(part)
    np.testing.assert_array_equal(part.layers["binned"].toarray(), naive)


def measure(folder: Path, n_genes: int, name: str) -> dict[str, float]:
    """One run in this process: seconds, and bytes at the peak with the input in them."""
    adata = load(folder, n_genes)
    CANDIDATES[name](adata[:200].copy())  # compiles what is compiled on first use
    before = start_of_peak()
    start = time.perf_counter()
    CANDIDATES[name](adata)
    seconds = time.perf_counter() - start
    size = sum(a.nbytes for a in (adata.X.data, adata.X.indices, adata.X.indptr))
    return {"seconds": seconds, "input_bytes": size, "peak_bytes": size + held("VmHWM") - before}


def summary(runs: list[dict[str, float]]) -> dict[str, object]:
    ratios = [run["peak_bytes"] / run["input_bytes"] for run in runs]
    return {
        "seconds": spread([run["seconds"] for run in runs]),
        "peak_over_input": spread(ratios),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=GENES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder, args.genes, args.measure)))
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder, args.cells, args.genes, np.random.default_rng(0))
        adata = load(folder, args.genes)
        shape, stored, totals = (
            adata.shape,
            int(adata.X.nnz),
            np.asarray(adata.X[:5_000].sum(axis=1)).ravel(),
        )
        check(adata)
        del adata
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
        for _ in range(args.repeats):
            for name, done in runs.items():
                done.append(
                    apart(__file__, ["--genes", args.genes, "--measure", name, "--folder", folder])
                )

    results = {name: summary(done) for name, done in runs.items()}
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(*runs.values(), strict=True)]
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "cells": shape[0],
        "genes": shape[1],
        "stored_values": stored,
        "density": stored / (shape[0] * shape[1]),
        "median_counts_per_cell": float(np.median(totals)),
        "machine": machine(),
        "versions": versions("scbert-cll", "anndata", "scanpy", "numpy", "scipy"),
        "results": results,
        "seconds_ratio": spread(ratios),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{shape[0]:,} cells x {shape[1]:,} genes, {stored:,} stored values "
        f"({report['density']:.1%})"
    )
    for name, result in results.items():
        for what, unit in (("seconds", "s"), ("peak_over_input", "x input")):
            found = result[what]
            print(
                f"{name:>24}  {found['median']:6.2f} {unit:<8} ({found['min']:.2f} - "
                f"{found['max']:.2f})"
            )
    ratio = report["seconds_ratio"]
    print(
        f"{'ratio of times':>24}  {ratio['median']:6.2f}          ({ratio['min']:.2f} - "
        f"{ratio['max']:.2f})"
    )


if __name__ == "__main__":
    main()
