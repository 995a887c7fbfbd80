"""Run by test_kills.py in a process of its own, which forks: saves that are killed at every line or
at any moment, and saves at the same time.

`killing.py lines|moments|together FOLDER` exits with 0 where the old or the new model is always
there, and says how many kills there were.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import scbert_cll as sc_cll

SOURCE = str(Path(sc_cll.__file__).parent)
TINY = {
    "preset": "small",
    "n_hidden": 8,
    "n_layers": 1,
    "n_heads": 1,
    "dim_head": 8,
    "gene_embedding": "none",
}
KILLED = 9
MANY = 450  # places, beside every line of the writer itself


def models() -> list[sc_cll.model.ScBERT]:
    counts = np.random.default_rng(0).poisson(1.0, (20, 12)).astype(np.float32)
    adata = AnnData(
        counts, obs=pd.DataFrame({"donor": ["A", "B"] * 10}, index=[f"c{i}" for i in range(20)])
    )
    adata.var_names = [f"G{i}" for i in range(12)]
    sc_cll.pp.bin_expression(adata)
    sc_cll.model.ScBERT.setup_anndata(adata)
    return [sc_cll.model.ScBERT(adata, rng=rng, **TINY) for rng in (0, 1)]


def weights(model: sc_cll.model.ScBERT) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.module.state_dict().values())


def forked(work: Callable[[], object]) -> int:
    """Do something in a child."""
    if child := os.fork():
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def traced(work: Callable[[], object], stop: int | None) -> list[str]:
    """Files of the lines of this package that run; the process ends at one of them."""
    lines: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCE):
            return None
        if event == "line":
            if len(lines) == stop:
                os._exit(KILLED)
            lines.append(frame.f_code.co_filename)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return lines


def check(folder: Path, known: set[bytes]) -> None:
    found = weights(sc_cll.model.ScBERT.load(folder, accelerator="cpu"))
    assert found in known, "another model is read"


def tidy(folder: Path, model: sc_cll.model.ScBERT) -> None:
    model.save(folder, overwrite=True)
    left = [path.name for path in folder.parent.iterdir()]
    assert left == [folder.name], f"left over: {left}"


def at_every_line(folder: Path) -> int:
    """A save is killed at each line of the writer, and at many of the others."""
    old, new = models()
    known = {weights(old), weights(new)}
    old.save(folder)
    lines = traced(lambda: new.save(folder, overwrite=True), None)
    places = {i for i, file in enumerate(lines) if file.endswith("_disk/in_place.py")}
    places |= {int(i) for i in np.linspace(0, len(lines) - 1, MANY)}
    for n, place in enumerate(sorted(places)):
        model = (old, new)[n % 2]
        assert (
            ended(forked(lambda: traced(lambda: model.save(folder, overwrite=True), place)))  # noqa: B023
            == KILLED
        )
        check(folder, known)
    tidy(folder, new)
    return len(places)


def at_any_moment(folder: Path) -> int:
    """A process that saves again and again is killed."""
    old, new = models()
    known, dice = {weights(old), weights(new)}, random.Random(0)  # noqa: S311
    old.save(folder)

    def work() -> None:
        while True:
            new.save(folder, overwrite=True)
            old.save(folder, overwrite=True)

    for _ in range(60):
        child = forked(work)
        time.sleep(dice.uniform(0.01, 0.2))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        check(folder, known)
    tidy(folder, new)
    return 60


def at_the_same_time(folder: Path) -> int:
    """Four processes save, and one reads."""
    both = models()
    known = {weights(model) for model in both}
    both[0].save(folder)

    def write() -> None:
        for i in range(25):
            both[i % 2].save(folder, overwrite=True)

    def read() -> None:
        for _ in range(60):
            check(folder, known)

    children = [forked(work) for work in (write, write, write, write, read)]
    assert [ended(child) for child in children] == [0] * 5
    left = [path.name for path in folder.parent.iterdir()]
    assert left == [folder.name], f"left over: {left}"
    tidy(folder, both[0])
    return 100


if __name__ == "__main__":
    torch.set_num_threads(1)
    ways = {"lines": at_every_line, "moments": at_any_moment, "together": at_the_same_time}
    sys.stdout.write(f"{ways[sys.argv[1]](Path(sys.argv[2]))}\n")
