"""Run by test_process.py in a process of its own: what each public call changes in the process that
makes it.

Prints one JSON object, name of a call to what differs; empty where nothing does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from mudata import MuData

FOR_GOOD = {  # what stays, and why
    "zarr_io": "zarr reads and writes in an event loop of its own, which it keeps for whoever uses "
    "zarr "
    "next",
    "asyncio_": "threads of that loop",
    "anon_inode:[eventpoll]": "what that loop waits with",
    "socket:": "what wakes that loop",
    "/mpl-data/fonts/": "matplotlib keeps the fonts open that it has drawn with",
}


def state() -> dict[str, Any]:
    """All that a call could change behind its caller's back."""
    rc = {name: repr(value) for name, value in plt.rcParams.items()}
    found: dict[str, Any] = {
        f"signal {one}": repr(signal.getsignal(one)) for one in signal.valid_signals()
    }
    found |= {f"variable {name}": value for name, value in os.environ.items()}
    found |= {f"rcParams {name}": value for name, value in rc.items()}
    found |= {f"thread {one.name}": 1 for one in threading.enumerate()}
    found |= {f"descriptor {name}": n for name, n in descriptors().items()}
    found |= {f"file {name}": 1 for name in os.listdir()}  # noqa: PTH208
    names = (
        "",
        "scbert_cll",
        "lightning",
        "lightning.fabric",
        "lightning.pytorch.utilities.rank_zero",
        "scvi",
        "scanpy",
    )
    logs = [logging.getLogger(name or None) for name in names]
    return found | {
        "random": digest(random.getstate()),
        "numpy": digest([*np.random.get_state()]),  # noqa: NPY002
        "torch": digest(torch.get_rng_state().tolist()),
        "torch threads": torch.get_num_threads(),
        "torch choices": repr(
            (torch.is_grad_enabled(), torch.get_default_dtype(), torch.backends.cudnn.benchmark)
        ),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy choices": repr((np.geterr(), np.get_printoptions())),
        "filters": [repr(one) for one in warnings.filters],
        "warnings": repr((warnings.showwarning, warnings.formatwarning)),
        "folder": str(Path.cwd()),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": len(multiprocessing.active_children()),
        "logs": [(repr(log.handlers), repr(log.filters), log.level) for log in logs],
        "hooks": repr((sys.excepthook, threading.excepthook, sys.gettrace())),
        "figures": plt.get_fignums(),
    }


def descriptors() -> dict[str, int]:
    """Open files of this process, and how often each is open."""
    where, found = Path("/proc/self/fd"), dict[str, int]()
    for one in where.iterdir() if where.exists() else ():
        try:
            name = str(one.readlink())
        except OSError:  # what listed the folder
            continue
        name = name.split("[")[0] if name.startswith(("socket", "pipe")) else name
        found[name] = found.get(name, 0) + 1
    return found


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what differs, but for what is known to stay."""
    names = [
        name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)
    ]
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"[:300]
        for name in names
        if not any(known in name for known in FOR_GOOD)
    ]


@contextmanager
def noted(found: dict[str, list[str]], name: str) -> Iterator[None]:
    before = state()
    yield
    plt.close("all")
    found[name] = changed(before, state())


def table_of_calls() -> Any:
    """One call for each public function, and the fixtures that they begin with."""
    spec: Any = importlib.util.spec_from_file_location(
        "test_api", Path(__file__).parents[1] / "test_api.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def world(api: Any, found: dict[str, list[str]]) -> dict[str, Any]:
    """What the fixtures of the table make; the first of them are public calls, too."""
    import scbert_cll as sc_cll

    def made(name: str, *given: Any) -> Any:
        fixture = getattr(api, name)
        return (
            getattr(fixture, "__wrapped__", None)(*given)
            if hasattr(fixture, "__wrapped__")
            else fixture._get_wrapped_function()(*given)
        )

    with noted(found, "datasets.cll_toy"):
        toy = made("toy")
    with noted(found, "datasets.cll_cohort"):
        patients = made("patients")
    with noted(found, "datasets.planted_donors"):
        sc_cll.datasets.planted_donors()
    raw = made("raw", toy)
    split = made("split", raw)
    ready = made("ready", split)
    with noted(found, "tl.finetune, first of all"):
        model = made("model", ready)
    done = made("done", ready, model, patients)
    return {
        "toy": toy,
        "raw": raw,
        "patients": patients,
        "split": split,
        "ready": ready,
        "model": model,
        "done": done,
    } | {"found": made("found", split)}


def verbs(api: Any, there: dict[str, Any], found: dict[str, list[str]]) -> None:
    """Functions of `pp` and `tl`."""
    import scbert_cll as sc_cll

    for name, (start, calls) in api.CALLS.items():
        function: Callable[..., Any] = getattr(
            getattr(sc_cll, name.split(".")[0]), name.split(".")[1]
        )
        for number, call in enumerate(calls):
            if name == "pp.intersect_obs":  # the table makes the MuData in its call
                continue
            adata = there[start].copy()
            given = [function, adata, there["model"]]
            with noted(found, f"{name} {number}"):
                call(*given)


def readers(api: Any, there: dict[str, Any], found: dict[str, list[str]]) -> None:
    """Functions of `get` and `pl`."""
    for one in (*api.public("get"), *api.public("pl")):
        function, name = one.values[0], one.id
        first = next(iter(inspect.signature(function).parameters))
        mdata = MuData({"rna": there["done"].copy(), "prot": there["toy"]["prot"].copy()})
        what = {"model": there["model"], "adata": there["done"], "data": mdata}[first]
        with noted(found, name):
            function(what, show=False) if name.startswith("pl.") else function(what)


def models(there: dict[str, Any], found: dict[str, list[str]]) -> None:
    """Trainings with and without checkpoints, files, and MuData."""
    import scbert_cll as sc_cll

    adata, model, quick = (
        there["ready"].copy(),
        there["model"],
        {"max_epochs": 1, "accelerator": "cpu"},
    )
    folder = Path(tempfile.mkdtemp())
    with noted(found, "tl.pretrain with checkpoints"):
        sc_cll.tl.pretrain(
            adata, checkpoint_dir=folder / "run", checkpoint_steps=1, logger="csv", **quick
        )
    with noted(found, "ScBERTClassifier.save"):
        model.save(folder / "model")
    with noted(found, "ScBERTClassifier.load"):
        sc_cll.ScBERTClassifier.load(folder / "model")
    fewer = MuData({"rna": adata.copy(), "prot": there["toy"]["prot"][9:].copy()})
    with noted(found, "pp.intersect_obs 0"):
        sc_cll.pp.intersect_obs(fewer)
    with noted(found, "pp.label_cd49d of a MuData"):
        sc_cll.pp.label_cd49d(there["toy"], donor_key="donor", copy=True)
    there["raw"].copy().write_h5ad(folder / "a.h5ad")
    sc_cll.pp.build_corpus([folder / "a.h5ad"], folder / "corpus.zarr", vocab=there["raw"])
    with noted(found, "io.check_corpus"):
        sc_cll.io.check_corpus(folder / "corpus.zarr")
    with noted(found, "io, gene sets and tables"):
        sc_cll.io.write_csv(there["found"], folder / "table.csv")
        sc_cll.io.read_csv(folder / "table.csv")
        (folder / "sets.gmt").write_text("one\tof a test\tITGA4\tCD44\n")
        sc_cll.io.read_gmt(folder / "sets.gmt")
    with noted(found, "tl.gene2vec"):
        sc_cll.tl.gene2vec(adata, n_dims=4, epochs=1, key_added="other")
    with noted(found, "a refused training"), suppress(ValueError):
        sc_cll.tl.pretrain(
            adata, checkpoint_dir=folder / "run", checkpoint_steps=1, lr=0.5, **quick
        )


def commands(there: dict[str, Any], found: dict[str, list[str]]) -> None:
    """The command line, called from Python."""
    from scbert_cll.__main__ import main

    folder = Path(tempfile.mkdtemp())
    there["ready"].copy().write_h5ad(folder / "cells.h5ad")
    there["toy"].write_h5mu(folder / "cells.h5mu")
    lines = {
        "pretrain": [
            "pretrain",
            folder / "cells.h5ad",
            "--out",
            folder / "first",
            "--max-epochs",
            "1",
        ],
        "finetune": [
            "finetune",
            folder / "cells.h5ad",
            "--out",
            folder / "second",
            "--max-epochs",
            "1",
        ],
        "predict": [
            "predict",
            folder / "cells.h5ad",
            "--model",
            folder / "second",
            "--out",
            folder / "called.h5ad",
        ],
        "pretrain of a MuData": [
            "pretrain",
            folder / "cells.h5mu",
            "--layer",
            "X",
            "--out",
            folder / "third",
            "--max-epochs",
            "1",
        ],
        "a refused command": ["pretrain", folder / "none.h5ad", "--out", folder / "none"],
    }
    for name, line in lines.items():
        with noted(found, f"main, {name}"):
            code = main([str(word) for word in line])
        assert code == (2 if "refused" in name else 0), (name, code)


def everything() -> dict[str, list[str]]:
    torch.set_num_threads(3)  # neither OpenMP's nor numba's own number
    os.chdir(tempfile.mkdtemp())
    import scbert_cll as sc_cll

    _ = (
        sc_cll.pp,
        sc_cll.tl,
        sc_cll.pl,
        sc_cll.get,
        sc_cll.model,
        sc_cll.datasets,
        sc_cll.io,
        sc_cll.estimators,
    )
    found: dict[str, list[str]] = {}
    api = table_of_calls()
    there = world(api, found)
    verbs(api, there, found)
    readers(api, there, found)
    models(there, found)
    commands(there, found)
    return found


if __name__ == "__main__":
    result = everything()
    Path(sys.argv[1]).write_text(json.dumps(result))  # libraries print, too
