"""From which cells a preprocessing was learned, as far as records and values tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll._evaluation.leakage.findings import Finding, Status

type Matrix = np.ndarray | sparse.csr_matrix

_ALL = "Computed on {what}, of which test cells are a part. {remedy}."
_UNKNOWN = "Nothing says on which cells it was computed. {remedy} if test cells were among them."


@dataclass(frozen=True)
class Fitted:
    """How many cells there are to learn from, and which they are."""

    n_train: int  # before rows were added or dropped
    train: np.ndarray  # mask: training cells without the added ones
    original: np.ndarray  # mask: all cells without the added ones


def records(uns: Mapping[str, object], cells: Fitted) -> Iterator[Finding]:
    """Tokens and gene vectors, under whatever name they were written."""
    for key, record in uns.items():
        bins, vectors = f"uns[{key!r}] (bins)", f"uns[{key!r}] (gene vectors)"
        match record:
            case {"edges": _, "params": {"method": "log2" | "quantile" as method}}:
                meaning = "looks at each cell alone: nothing was learned."
                yield Finding(bins, "ok", f"Method {method!r} {meaning}")
            case {"edges": _, "params": {"method": _, **params}}:
                n = cast("int | None", params.get("n_fit_cells"))
                yield _by_number(bins, n, cells, "Bin again with fit_on=split_key")
            case {"n_genes_with_vector": _, "params": {"source": "co-expression", **params}}:
                n = cast("Mapping[str, int | None]", record).get("n_cells")
                if params.get("split_key") == "none":
                    what = "all cells (split_key=None)"
                    again = "Run tl.gene2vec again with split_key="
                    meaning = _ALL.format(what=what, remedy=again)
                    yield Finding(vectors, "warning", meaning, n=int(n or 0))
                else:
                    remedy = "Run tl.gene2vec again after the split"
                    yield _by_number(vectors, n, cells, remedy)
            case {"n_genes_with_vector": _, "params": {**params}}:
                meaning = (
                    f"Ready vectors ({params.get('source')}): nothing says whether your test "
                    f"cells are among those they were trained on."
                )
                yield Finding(vectors, "cannot tell", meaning)


def _by_number(check: str, n: int | None, cells: Fitted, remedy: str) -> Finding:
    """By the number of cells it was learned from, which is all that is on record."""
    if n is None:
        meaning = "Edges of another object: " + _UNKNOWN.format(remedy=remedy)
        return Finding(check, "cannot tell", meaning)
    n, n_train = int(n), cells.n_train
    status: Status = "cannot tell"
    meaning = f"Learned from {n} cells, and the training has {n_train}: which they were is not on "
    meaning += "record."
    if n > n_train:
        what = f"{n} cells, {n - n_train} more than the {n_train} training cells"
        status, meaning = "warning", _ALL.format(what=what, remedy=remedy)
    elif n == n_train:
        status, meaning = "ok", f"Learned from {n} cells, as many as the training has."
    return Finding(check, status, meaning, n=n)


def components(values: object, cells: Fitted) -> Finding:
    """Principal components are centred on the cells they were computed on."""
    remedy = "Compute the components on training cells and project the rest"
    return _by_mean("obsm['X_pca']", np.asarray(values), cells, remedy)


def scaled(values: Matrix | None, cells: Fitted) -> Finding:
    """So is a matrix that `sc.pp.scale` made; without negative values it was not made so."""
    centred = values if values is not None and values.min() < 0 else None
    remedy = (
        "Take mean and deviation of the training cells before X serves as input (the models here "
        "read tokens)"
    )
    return _by_mean("var['mean'], var['std'] (scaling)", centred, cells, remedy)


def _by_mean(check: str, values: Matrix | None, cells: Fitted, remedy: str) -> Finding:
    """By the cells whose mean is 0."""
    off_all, off_train = (
        np.inf if values is None else _off_centre(values[mask])
        for mask in (cells.original, cells.train)
    )
    fits = (off_all < min(off_train / 5, 0.01), off_train < min(off_all / 5, 0.01))
    ok = "Centred on the training cells: computed on them."
    return _by_either(check, fits, "all cells (it is centred on them)", ok, remedy)


def _by_either(check: str, fits: tuple[bool, bool], what: str, ok: str, remedy: str) -> Finding:
    """By whether values fit all cells, and the training cells; both or none tells nothing."""
    if fits == (True, False):
        return Finding(check, "warning", _ALL.format(what=what, remedy=remedy))
    if fits == (False, True):
        return Finding(check, "ok", ok)
    return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))


def _off_centre(values: Matrix) -> float:
    """How far from 0 a column's mean typically is, in its standard deviations."""
    squares = values**2 if isinstance(values, np.ndarray) else values.multiply(values)
    deviation = np.sqrt(_mean(squares))
    varies = deviation > 0
    off = np.abs(_mean(values)[varies]) / deviation[varies]
    return float(np.median(off)) if varies.any() else np.inf


def variable_genes(
    recorded: pd.Series | None, matrices: Sequence[Matrix], cells: Fitted
) -> Finding:
    """Highly variable genes: the means beside them are those of the cells they were chosen on."""
    fit_all, fit_train = (
        recorded is not None
        and any(
            np.allclose(recorded.to_numpy(dtype=np.float64), mean, rtol=1e-4, atol=1e-6)
            for matrix in matrices
            for mean in _means(matrix[mask])
        )
        for mask in (cells.original, cells.train)
    )
    ok = "Chosen on the training cells: var['means'] are theirs."
    remedy = "Choose the genes on training cells if only these genes serve as input"
    what = "all cells (var['means'] are theirs)"
    return _by_either("var['highly_variable']", (fit_all, fit_train), what, ok, remedy)


def _means(values: Matrix) -> Iterator[np.ndarray]:
    """The means that scanpy's flavours record, of counts or of log-normalised values."""
    yield _mean(values)
    if values.min() >= 0 and values.max() < 50:
        yield np.log1p(_mean(np.expm1(values)))


def _mean(values: Matrix) -> np.ndarray:
    return np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
