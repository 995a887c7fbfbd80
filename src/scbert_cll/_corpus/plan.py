"""Who goes where: donors to the parts, and runs of cells to the datasets of a part.

annbatch's own `DatasetCollection.add_adatas` deals cells, not donors, wants equal genes and cannot
go on after an interruption. Here all is drawn from one seed before the first cell is written, so
that a build gone on with ends in the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.scan import Scan

# Bytes of memory a stored value of a dataset takes until it is written, beside three times its own:
# gene, what zarr makes of it.
_BYTES_PER_VALUE: Final = 9
# Neighbouring cells that are read together.
_RUN: Final = 512
_RUNS_PER_DATASET: Final = 16
_SIDES: Final = 17  # stream of random numbers


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of a file, of which a dataset gets those of its part."""

    file: int
    start: int
    stop: int
    n_tokens: int


def deal_donors(cells: dict[str, int], val_fraction: float, asked: Any, seed: int) -> list[str]:
    """Donors of the validation part: whole donors in random order as long as that brings the part closer to its share of the cells."""
    donors = sorted(name for name, n in cells.items() if n)
    if asked is not None:
        return corpus_checks.val_donors(asked, donors)
    if val_fraction == 0:
        return []
    corpus_checks.enough_donors(donors)
    wanted, held, chosen = val_fraction * sum(cells.values()), 0, list[str]()
    for i in np.random.default_rng([seed, _SIDES]).permutation(len(donors)):
        name = donors[i]
        if abs(held + cells[name] - wanted) < abs(held - wanted) and len(chosen) < len(donors) - 1:
            chosen.append(name)
            held += cells[name]
    return sorted(chosen) or [min(donors, key=lambda name: (cells[name], name))]


def parts_of(scanned: Scan, val_donors: Sequence[str]) -> np.ndarray:
    """Number of each cell's part in PARTS, −1 where it is left out."""
    is_val = np.isin(
        np.array(list(scanned.record["donors"]), dtype=object).astype(str), list(val_donors)
    )
    return np.where(scanned.n_tokens > 0, is_val[scanned.donor], -1).astype(np.int8)


def deal_runs(
    scans: dict[int, Scan],
    parts: dict[int, np.ndarray],
    part: str,
    *,
    memory: int,
    dtype: type[np.generic],
    seed: int,
) -> list[list[Run]]:
    """Runs of each dataset of a part, in random order over all files.

    Datasets are about equal and fit into the memory.
    """
    number = PARTS.index(part)
    most = int(np.clip(memory // (_BYTES_PER_VALUE + 3 * np.dtype(dtype).itemsize), 1, 2**31 - 1))
    totals = [
        (scans[i].n_tokens[parts[i] == number].sum(dtype=np.int64), (parts[i] == number).sum())
        for i in scans
    ]
    n_tokens, n_cells = (int(n) for n in np.sum(totals, axis=0))
    if n_cells == 0:
        return []
    length = int(np.clip(most * n_cells // n_tokens // _RUNS_PER_DATASET, 1, _RUN))
    runs = [run for i in scans for run in _runs(i, scans[i].n_tokens, parts[i] == number, length)]
    order = np.random.default_rng([seed, number]).permutation(len(runs))
    shuffled = [runs[i] for i in order]
    before = np.cumsum([0, *(run.n_tokens for run in shuffled[:-1])])
    n_datasets = -(-n_tokens // most)
    dataset = before * n_datasets // n_tokens
    cuts = np.flatnonzero(np.diff(dataset)) + 1
    return [
        shuffled[a:b]
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(shuffled)], strict=True)
    ]


def _runs(file: int, n_tokens: np.ndarray, mine: np.ndarray, length: int) -> list[Run]:
    """Runs of a file with a cell of the part."""
    starts = np.arange(0, len(n_tokens), length)
    tokens = np.add.reduceat(np.where(mine, n_tokens, 0).astype(np.int64), starts)
    used = np.flatnonzero(tokens)
    return [
        Run(file, int(starts[i]), int(min(starts[i] + length, len(n_tokens))), int(tokens[i]))
        for i in used
    ]
