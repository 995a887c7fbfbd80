"""What the parts of the corpus' benchmark share: sizes, and cells, corpora and other results that
are made once and found again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._measure import machine, versions
from benchmarks.corpus._cells import EXPRESSED, N_GENES, simulate, world
from benchmarks.corpus._jobs import run

PACKAGES = (
    "scbert-cll",
    "anndata",
    "annbatch",
    "zarr",
    "scvi-tools",
    "lightning",
    "torch",
    "numpy",
    "scipy",
)


class Scale(NamedTuple):
    """How large everything is."""

    n_genes: int = N_GENES
    per_file: int = 50_000  # cells
    million: int = 1_000_000
    memory_cells: tuple[int, ...] = (50_000, 200_000, 1_000_000)
    memory: str = "1GB"
    loading_cells: int = 20_000
    loading_seconds: float = 30.0  # a slow loader is stopped then
    repeats: int = 3
    n_chunks: int = 16  # of 256 cells in a window
    workers: tuple[int, ...] = (0, 1)  # that read ahead in a training
    windows: int = 2  # that a share of the time is measured over
    scaling_steps: int = 128
    full_steps: int = 4  # training steps at full length
    steps: int = 100  # of the run that is killed
    checkpoint_steps: int = 20


QUICK = Scale(
    n_genes=1_000,
    per_file=1_000,
    million=3_000,
    memory_cells=(1_000, 3_000),
    memory="2MB",
    loading_cells=2_000,
    loading_seconds=2.0,
    repeats=1,
    n_chunks=2,
    workers=(0,),
    windows=1,
    scaling_steps=16,
    full_steps=2,
    steps=40,
    checkpoint_steps=4,
)


class Place(NamedTuple):
    """Where things are made, and how large."""

    folder: Path
    scale: Scale

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do the work unless its result is there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            print(f"{datetime.now(UTC):%H:%M:%S} {name}", flush=True)
            found = work()
            aside = path.with_suffix(".new")
            aside.write_text(json.dumps(found, indent=1))
            aside.replace(path)
        return json.loads(path.read_text())

    def cells(self, n: int) -> list[Path]:
        """Files of `n` simulated cells."""
        # whole files serve larger numbers, too
        name = "cells" if n % self.scale.per_file == 0 else f"cells_{n}"
        return simulate(self.folder / name, n, self.scale.per_file, self.scale.n_genes)

    def vocab(self) -> Path:
        """The genes of all files, one a line."""
        path = self.folder / "vocab.txt"
        if not path.exists():
            path.write_text("\n".join(world(self.scale.n_genes).genes) + "\n")
        return path

    def corpus(self, n: int, name: str | None = None, **how: Any) -> tuple[Path, dict[str, Any]]:
        """A corpus of `n` simulated cells, and what building it took."""
        name = name or f"corpus_{n}"
        out = self.folder / f"{name}.zarr"

        def build() -> dict[str, Any]:
            files = [str(path) for path in self.cells(n)]
            found = run(
                self.folder / "jobs",
                f"build_{name}",
                "build",
                paths=files,
                out=out,
                vocab=self.vocab(),
                **{"memory": self.scale.memory} | how,
            )
            return found | {
                "bytes": size(out),
                "bytes_of_files": sum(Path(path).stat().st_size for path in files),
            }

        return out, self.stage(f"build_{name}", build)


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def stamp(place: Place) -> dict[str, Any]:
    """When, where and with what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "load_at_end": os.getloadavg()[0],
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "scale": place.scale._asdict()
        | {"expressed": round(EXPRESSED * place.scale.n_genes / N_GENES)},
    }
