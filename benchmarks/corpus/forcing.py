"""What it costs that files are forced to the disk: saving a model, writing a checkpoint and
building a corpus, with and without.

    python -m benchmarks.corpus.forcing  # about 3 minutes
    python -m benchmarks.corpus.forcing --quick  # a small model and corpus; writes nothing

With and without alternate in one process; *without*, `os.fsync` does nothing. What is written is
read back and compared before anything is timed. Of the time with forcing, the part that the disk
takes is told apart (*flush*): it is the disk's own, and another disk has another one. Results go to
`benchmarks/results/forcing.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from benchmarks._measure import machine, spread, versions
from scbert_cll.model.training.checkpoints import WholeCheckpoints, is_whole

RESULTS = Path(__file__).parents[1] / "results" / "forcing.json"
TARGETS = {"model": 1.3, "checkpoint": 1.3, "corpus": 1.05}  # of the time without, beside the flush
FORCE = os.fsync


@contextmanager
def forcing(fsync: Callable[[int], None]) -> Iterator[None]:
    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = FORCE


def timed(work: Callable[[], object], *, forced: bool) -> tuple[float, float]:
    """Seconds, and of them those in which the disk was waited for."""
    flush = [0.0]

    def force(file: int) -> None:
        start = time.perf_counter()
        FORCE(file)
        flush[0] += time.perf_counter() - start

    start = time.perf_counter()
    with forcing(force if forced else lambda _: None):
        work()
    return time.perf_counter() - start, flush[0]


def cells(n: int, n_genes: int, rng: int) -> AnnData:
    counts = sparse.random(n, n_genes, density=0.08, rng=rng, format="csr", dtype=np.float32)
    counts.data = np.random.default_rng(rng).geometric(0.4, counts.nnz).astype(np.float32)
    obs = pd.DataFrame(
        {"donor": np.repeat(["A", "B", "C", "D"], -(-n // 4))[:n]},
        index=[f"c{i}" for i in range(n)],
    )
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]))


def works(folder: Path, *, quick: bool) -> dict[str, Callable[[], None]]:
    """What is timed; each has been done once, and read back."""
    n_genes = 200 if quick else 16_906
    adata = cells(40, n_genes, 0)
    sc_cll.pp.bin_expression(adata)
    sc_cll.model.ScBERT.setup_anndata(adata)
    model = sc_cll.model.ScBERT(adata, rng=0, preset="small", gene_embedding="learned")
    weights = model.module.state_dict()
    state = {
        "state_dict": weights,
        "optimizer_states": [{k: [v.clone(), v.clone()] for k, v in weights.items()}],
    }
    for i in range(2):
        cells(200 if quick else 4_000, n_genes, i).write_h5ad(folder / f"f{i}.h5ad")

    def save() -> None:
        model.save(folder / "model", overwrite=True)

    def checkpoint() -> None:
        WholeCheckpoints().save_checkpoint(state, folder / "step_1.ckpt")

    def corpus() -> None:
        shutil.rmtree(folder / "c.zarr", ignore_errors=True)
        sc_cll.pp.build_corpus(
            sorted(folder.glob("*.h5ad")), folder / "c.zarr", vocab=list(adata.var_names)
        )

    for work in (save, checkpoint, corpus):
        work()
    again = sc_cll.model.ScBERT.load(folder / "model", accelerator="cpu").module.state_dict()
    is_same = all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    is_right = not sc_cll.io.check_corpus(folder / "c.zarr")["problem"].any()
    if not (is_same and is_right and is_whole(folder / "step_1.ckpt")):
        raise SystemExit("What was written reads back as something else.")
    return {"model": save, "checkpoint": checkpoint, "corpus": corpus}


def compared(work: Callable[[], None], pairs: int) -> dict[str, Any]:
    with_it, without, flush = [], [], []
    for _ in range(pairs):
        seconds, waited = timed(work, forced=True)
        with_it.append(seconds)
        flush.append(waited)
        without.append(timed(work, forced=False)[0])
    ours = [(a - f) / b for a, f, b in zip(with_it, flush, without, strict=True)]
    found = {"with": with_it, "flush": flush, "without": without, "ratio_beside_the_flush": ours}
    return {name: spread(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--folder", help="on the disk that is measured; None: the one of temporary files"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = {"model": 15, "checkpoint": 15, "corpus": 7}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = {
            name: compared(work, 2 if options.quick else pairs[name])
            for name, work in works(Path(folder), quick=options.quick).items()
        }
    print(
        "| | with, s | of it flush, s | without, s | ratio beside the flush | target "
        "|\n|---|---|---|---|---|---|"
    )
    for name, one in found.items():
        seconds = " | ".join(f"{one[what]['median']:.3f}" for what in ("with", "flush", "without"))
        ratio = one["ratio_beside_the_flush"]
        print(
            f"| {name} | {seconds} | {ratio['median']:.2f} ({ratio['min']:.2f} to "
            f"{ratio['max']:.2f}) | {TARGETS[name]} |"
        )
    if not options.quick:
        facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
        facts |= {
            "versions": versions("scbert-cll", "torch", "zarr", "anndata"),
            "targets": TARGETS,
            "results": found,
        }
        RESULTS.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
