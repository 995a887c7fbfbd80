"""Who goes where: donors to the parts, and runs of cells to the datasets of a part.

Also what many files have in common: their obs columns, and the donors over all of them.

annbatch's own `DatasetCollection.add_adatas` deals cells, not donors, wants equal genes and cannot
go on after an interruption. Here all is drawn from one seed before the first cell is written, so
that a build gone on with ends in the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from scbert_cll import _keys
from scbert_cll._checks import people
from scbert_cll._checks.words import closest_first, listed
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.request import Request
from scbert_cll._corpus.scan import Scan, Scans

# Bytes of memory a stored value of a dataset takes until it is written, besides three times its
# own: gene, what zarr makes of it.
_BYTES_PER_VALUE: Final = 9
# Neighbouring cells that are read together.
_RUN: Final = 512
_RUNS_PER_DATASET: Final = 16
_SIDES: Final = 17  # stream of random numbers


type CellParts = Mapping[int, np.ndarray]  # number in PARTS of each cell of a file
# columns of obs: their categories, None for numbers
type ObsColumns = dict[str, list[str] | None]
type Runs = list[list[Run]]  # of each dataset


@dataclass(frozen=True)
class Run:
    """Neighbouring rows of a file, of which a dataset gets those of its part."""

    file: int
    start: int
    stop: int
    n_tokens: int


def deal_donors(
    cells: Mapping[str, int], val_fraction: float, val_donors: object, seed: int
) -> list[str]:
    """Donors of the validation part: those that are named, or drawn.

    Whole donors in random order, as long as that brings the part closer to its share of the cells.
    """
    donors = sorted(name for name, n in cells.items() if n)
    if val_donors is not None:
        return _named(val_donors, donors)
    if val_fraction == 0:
        return []
    if len(donors) < 2:
        raise ValueError(
            f"Validation holds donors out and needs at least two; found {listed(donors)}. "
            f"val_fraction=0 builds a corpus without a validation part; donor_key names the obs "
            f"column of donors."
        )
    wanted, n_chosen, chosen = val_fraction * sum(cells.values()), 0, list[str]()
    for i in np.random.default_rng([seed, _SIDES]).permutation(len(donors)):
        n_then = n_chosen + cells[donors[i]]
        is_closer = abs(n_then - wanted) < abs(n_chosen - wanted)
        if is_closer and len(chosen) < len(donors) - 1:
            chosen.append(donors[i])
            n_chosen = n_then
    return sorted(chosen) or [min(donors, key=lambda name: (cells[name], name))]


def _named(val_donors: object, donors: Sequence[str]) -> list[str]:
    """Donors that exist, and not all of them."""
    if isinstance(val_donors, str) or not isinstance(val_donors, Iterable):
        val_donors = [val_donors]
    names = sorted(set(map(people.donor_name, val_donors)))
    if unknown := [name for name in names if name not in donors]:
        raise KeyError(
            f"val_donors names {listed(unknown)}, which no kept cell has; the donors are "
            f"{listed(closest_first(unknown[0], donors), 12)}."
        )
    if not 0 < len(names) < len(donors):
        raise ValueError(
            f"val_donors must leave donors on both sides; it names {len(names)} of {len(donors)}. "
            f"Without validation: val_fraction=0."
        )
    return names


def parts_of(scanned: Scan, val_donors: Sequence[str]) -> np.ndarray:
    """Number of each cell's part in PARTS, −1 where it is left out."""
    donors = scanned.record["donors"]
    is_val = np.array([name in val_donors for name in donors], dtype=bool)
    return np.where(scanned.n_tokens > 0, is_val[scanned.donor], -1).astype(np.int8)


def deal_runs(scans: Scans, parts: CellParts, part: str, request: Request) -> Runs:
    """Runs of each dataset of a part, in random order over all files.

    Datasets are about equal and fit into the memory.
    """
    number = PARTS.index(part)
    n_bytes = _BYTES_PER_VALUE + 3 * np.dtype(request.dtype).itemsize
    most = int(np.clip(request.memory // n_bytes, 1, 2**31 - 1))
    mine = {i: parts[i] == number for i in scans}
    n_cells = sum(int(mine[i].sum()) for i in scans)
    if n_cells == 0:
        return []
    n_tokens = sum(int(scans[i].n_tokens[mine[i]].sum(dtype=np.int64)) for i in scans)
    length = int(np.clip(most * n_cells // n_tokens // _RUNS_PER_DATASET, 1, _RUN))
    runs = [run for i in scans for run in _runs(i, scans[i].n_tokens, mine[i], length)]
    order = np.random.default_rng([request.rng, number]).permutation(len(runs))
    shuffled = [runs[i] for i in order]
    before = np.cumsum([0, *(run.n_tokens for run in shuffled[:-1])])
    n_datasets = -(-n_tokens // most)
    dataset = before * n_datasets // n_tokens
    cuts = [0, *(np.flatnonzero(np.diff(dataset)) + 1).tolist(), len(shuffled)]
    return [shuffled[start:stop] for start, stop in pairwise(cuts)]


def _runs(file: int, n_tokens: np.ndarray, mine: np.ndarray, length: int) -> list[Run]:
    """Runs of a file with a cell of the part."""
    starts = np.arange(0, len(n_tokens), length)
    tokens = np.add.reduceat(np.where(mine, n_tokens, 0).astype(np.int64), starts)
    return [
        Run(file, start, min(start + length, len(n_tokens)), n)
        for start, n in zip(starts.tolist(), tokens.tolist(), strict=True)
        if n
    ]


def merged_columns(scans: Sequence[Scan], keys: Sequence[str]) -> ObsColumns:
    """Categories of each obs column over all files, None where it holds numbers."""
    columns = {key: [s for s in scans if key in s.record["columns"]] for key in keys}
    if absent := [key for key, having in columns.items() if not having]:
        raise KeyError(
            f"obs_columns names {listed(absent)}, which none of the {len(scans)} files has in obs."
        )
    merged: ObsColumns = {}
    for key, having in columns.items():
        kinds = {scanned.file: scanned.record["columns"][key] for scanned in having}
        numbers = [file for file, categories in kinds.items() if categories is None]
        texts = [file for file, categories in kinds.items() if categories]
        if numbers and texts:
            raise ValueError(
                f"obs[{key!r}] holds numbers in {listed(numbers, 3)} and text in "
                f"{listed(texts, 3)}; make it one kind, or leave it out of obs_columns."
            )
        used = {name for categories in kinds.values() for name in categories or ()}
        order = _one_order([scanned.record["order"][key] for scanned in having])
        merged[key] = None if numbers else [name for name in order if name in used]
    return merged


def _one_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """Categories in the order of the files, where these agree on one; else sorted."""
    longest = max(orders, key=len)
    if all(order == [name for name in longest if name in order] for order in orders):
        return list(longest)
    return people.sorted_names({name for order in orders for name in order})


def cells_of_donors(scans: Iterable[Scan], donor_key: str | None) -> dict[str, int]:
    """Kept cells of each donor over all files; warns of those left out, and of donors alike."""
    cells, left_out = Counter[str](), Counter[str]()
    for scanned in scans:
        cells.update(scanned.record["donors"])
        left_out.update(scanned.record["not_donors"])
    where = f"obs[{donor_key!r}]"
    people.warn_of_not_donors(left_out, people.people_of(cells)[1], where)
    people.warn_of_alike([name for name, n in cells.items() if n], where)
    return {name: n for name, n in sorted(cells.items()) if n}


def donors_per_part(donors: Iterable[str], val: Sequence[str]) -> dict[str, list[str]]:
    """Donors with a cell, by part."""
    return {_keys.TRAIN: sorted(set(donors).difference(val)), _keys.VAL: sorted(val)}
