"""One piece of work on a corpus, in a fresh process that says how long it took and how much memory
it needed.

    python -m benchmarks.corpus._jobs REQUEST.json

The request names the job and its arguments; each process (Lightning starts the others with the same
command) writes what it measured beside the request. `run` does both ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._measure import found_from_anywhere, held, run_of

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
CHECKED, TOLERANCE = (
    500,
    1e-4,
)  # cells of a prediction that are compared, and how far they may be apart
POLL = 0.02  # seconds between two looks for a checkpoint


class Failed(SystemExit):
    """A job ended with an error."""


# ---- in the process that asks


def run(folder: Path, name: str, job: str, threads: int = 1, **request: Any) -> dict[str, Any]:
    """Do a job in a process of its own; what each of its `processes` measured."""
    path = _ask(folder, name, job, request)
    load, start = os.getloadavg()[0], time.perf_counter()
    with started(path, threads) as process:
        _, said = process.communicate()
    if process.returncode:
        raise Failed(f"{job} failed:\n{said[-4000:]}")
    found = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}.rank*.json"))]
    return found[0] | {
        "processes": found,
        "whole_seconds": time.perf_counter() - start,
        "load_before": load,
    }


def run_and_kill(
    folder: Path, name: str, job: str, until: Callable[[], bool], **request: Any
) -> dict[str, Any]:
    """Do a job, and kill it with all its processes (SIGKILL) as soon as `until` says so."""
    path, start = _ask(folder, name, job, request), time.perf_counter()
    with started(path, 1) as process:
        while process.poll() is None and not until():
            time.sleep(POLL)
        alive = process.poll() is None
        peaks = _peaks(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    if not alive:
        raise Failed(f"{job} ended before it could be killed:\n{said[-4000:]}")
    return {
        "returncode": process.returncode,
        "whole_seconds": time.perf_counter() - start,
        "peak_bytes": peaks,
    }


def started(request: Path, threads: int) -> subprocess.Popen[str]:
    """The process of a request, the first of a group of its own."""
    environment = found_from_anywhere({name: str(threads) for name in ONE_THREAD})
    command = [*run_of(__file__), str(request.resolve())]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=request.parent,
        start_new_session=True,
    )


def _ask(folder: Path, name: str, job: str, request: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.rank*.json"):
        old.unlink()
    path = folder / f"{name}.request.json"
    path.write_text(json.dumps({"job": job} | request, default=str))
    return path


def _peaks(group: int) -> list[int]:
    """Peak memory so far of the processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "status").read_text().splitlines()
                found += [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return found


# ---- in the process that works


def build(paths: list[str], out: str, vocab: str, **how: Any) -> dict[str, Any]:
    """`pp.build_corpus`."""
    from scbert_cll import pp

    table = pp.build_corpus(paths, out, vocab=vocab, obs_columns=["label"], **how)
    return {"cells": int(table["n_kept"].sum())}


def train(
    corpus: str,
    network: dict[str, Any],
    steps: int,
    data: dict[str, Any],
    save: str | None = None,
    warm_up: int = 0,
    **how: Any,
) -> dict[str, Any]:
    """`ScBERT.train` on a corpus for some steps, without validation; cells per second after
    `warm_up` steps.
    """
    from benchmarks.corpus._watch import Clock, WatchedData
    from scbert_cll.model import ScBERT
    from scbert_cll.model._tensors import tensors_digest

    watched, clock = WatchedData(corpus, **data), Clock(warm_up)
    model = ScBERT.from_corpus(watched, **network)
    model.train(
        100_000,
        datamodule=watched,
        max_steps=steps,
        early_stopping=False,
        limit_val_batches=0,
        enable_progress_bar=False,
        accelerator="cpu",
        callbacks=[clock],
        **how,
    )
    if save is not None and _rank() == 0:
        model.save(save)
    return clock.found() | {"weights_sha256": tensors_digest(model.module.state_dict())}


def predict(corpus: str, model: str, out: str, **how: Any) -> dict[str, Any]:
    """`tl.predict_corpus`."""
    from scbert_cll import tl
    from scbert_cll.model import ScBERT

    how["shard"] = tuple(how.get("shard", (0, 1)))
    tl.predict_corpus(corpus, ScBERT.load(model, accelerator="cpu"), out, **how)
    return {}


def check_predicted(corpus: str, model: str, out: str) -> dict[str, Any]:
    """Every cell is there once, and some have the embedding that the model gives them in memory."""
    import anndata as ad
    import numpy as np

    from scbert_cll.model import CorpusData, ScBERT

    found, data = ad.read_zarr(out), CorpusData(corpus)
    n = data.n_train + data.n_val
    if (
        found.n_obs != n
        or not found.obs_names.is_unique
        or not np.isfinite(found.obsm["X_scbert"]).all()
    ):
        raise SystemExit(
            f"{found.n_obs} cells were embedded, not {n}, or not all of them once and in "
            f"finite numbers"
        )
    some = np.sort(
        np.random.default_rng(0).choice(data.n_train, min(CHECKED, data.n_train), replace=False)
    )
    cells = data.cells("train", some, obs=True)
    expected = ScBERT.load(model, accelerator="cpu").get_latent_representation(cells)
    apart = float(np.abs(found[cells.obs_names].obsm["X_scbert"] - expected).max())
    if apart > TOLERANCE:
        raise SystemExit(f"embeddings differ by {apart} from those in memory")
    return {"cells_embedded": n, "compared": len(some), "largest_difference": apart}


def load(**how: Any) -> dict[str, Any]:
    """Cells per second of a loader."""
    from benchmarks.corpus._loading import load

    return load(**how)


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def main() -> None:
    warnings.filterwarnings("ignore")
    path = Path(sys.argv[1])
    request = json.loads(path.read_text())
    work = {
        "build": build,
        "train": train,
        "predict": predict,
        "load": load,
        "check_predicted": check_predicted,
    }[request.pop("job")]
    start = time.perf_counter()
    found = work(**request)
    found |= {"seconds": time.perf_counter() - start, "peak_bytes": held("VmHWM"), "rank": _rank()}
    path.with_name(path.name.replace(".request.", f".rank{_rank()}.")).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
