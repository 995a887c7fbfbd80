"""From which cells a preprocessing was learned, as far as records and values tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll._evaluation.leakage.findings import Finding

_ALL = "Computed on {what}, of which test cells are a part. {remedy}."
_UNKNOWN = "Nothing says on which cells it was computed. {remedy} if test cells were among them."


@dataclass(frozen=True)
class Fitted:
    """How many cells there are to learn from, and which they are."""

    n_train: int  # before rows were added or dropped
    train: np.ndarray  # mask: training cells without the added ones
    original: np.ndarray  # mask: all cells without the added ones


def records(uns: Mapping[str, Any], cells: Fitted) -> Iterator[Finding]:
    """Tokens and gene vectors, under whatever name they were written."""
    for key, record in uns.items():
        params = record.get("params") if isinstance(record, Mapping) else None
        if not isinstance(params, Mapping):
            continue
        if "edges" in record and "method" in params:
            yield _bins(f"uns[{key!r}] (bins)", params, cells)
        elif "n_genes_with_vector" in record:
            yield _vectors(f"uns[{key!r}] (gene vectors)", record, params, cells)


def _bins(check: str, params: Mapping[str, Any], cells: Fitted) -> Finding:
    if params["method"] in ("log2", "quantile"):
        meaning = f"Method {params['method']!r} looks at each cell alone: nothing was learned."
        return Finding(check, "ok", meaning)
    return _by_number(check, params.get("n_fit_cells"), cells, "Bin again with fit_on=split_key")


def _vectors(
    check: str, record: Mapping[str, Any], params: Mapping[str, Any], cells: Fitted
) -> Finding:
    n = record.get("n_cells")
    if params.get("source") != "co-expression":
        meaning = (
            f"Ready vectors ({params.get('source')}): nothing says whether your test cells are "
            f"among those they were trained on."
        )
        return Finding(check, "cannot tell", meaning)
    if params.get("split_key") == "none":
        remedy = "Run tl.gene2vec again with split_key="
        meaning = _ALL.format(what="all cells (split_key=None)", remedy=remedy)
        return Finding(check, "warning", meaning, n=int(n or 0))
    return _by_number(check, n, cells, "Run tl.gene2vec again after the split")


def _by_number(check: str, n: Any, cells: Fitted, remedy: str) -> Finding:
    """By the number of cells it was learned from, which is all that is on record."""
    if n is None:
        meaning = "Edges of another object: " + _UNKNOWN.format(remedy=remedy)
        return Finding(check, "cannot tell", meaning)
    n, excess = int(n), int(n) - cells.n_train
    if excess > 0:
        what = f"{n} cells, {excess} more than the {cells.n_train} training cells"
        return Finding(check, "warning", _ALL.format(what=what, remedy=remedy), n=n)
    if not excess:
        meaning = f"Learned from {n} cells, as many as the training has."
        return Finding(check, "ok", meaning, n=n)
    meaning = (
        f"Learned from {n} cells, and the training has {cells.n_train}: which they were is not on "
        f"record."
    )
    return Finding(check, "cannot tell", meaning, n=n)


def components(values: Any, cells: Fitted) -> Finding:
    """Principal components are centred on the cells they were computed on."""
    remedy = "Compute the components on training cells and project the rest"
    return _by_centre("obsm['X_pca']", np.asarray(values), cells, remedy)


def scaled(values: Any, cells: Fitted) -> Finding:
    """So is a matrix that `sc.pp.scale` made."""
    remedy = (
        "Take mean and deviation of the training cells before X serves as input (the models here "
        "read tokens)"
    )
    return _by_centre("var['mean'], var['std'] (scaling)", values, cells, remedy, signed=True)


def _by_centre(
    check: str, values: Any, cells: Fitted, remedy: str, *, signed: bool = False
) -> Finding:
    """By the cells whose mean is 0; values that must be `signed` and are not tell nothing."""
    all_cells = train = np.inf
    if not signed or (values is not None and values.min() < 0):
        all_cells = _off_centre(values[cells.original])
        train = _off_centre(values[cells.train])
    return _by_either(
        check,
        is_all=all_cells < 0.01 and all_cells < train / 5,
        is_train=train < 0.01 and train < all_cells / 5,
        what="all cells (it is centred on them)",
        ok="Centred on the training cells: computed on them.",
        remedy=remedy,
    )


def _by_either(
    check: str, *, is_all: bool, is_train: bool, what: str, ok: str, remedy: str
) -> Finding:
    if is_all and not is_train:
        return Finding(check, "warning", _ALL.format(what=what, remedy=remedy))
    if is_train and not is_all:
        return Finding(check, "ok", ok)
    return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))


def _off_centre(values: Any) -> float:
    """How far from 0 a column's mean typically is, in its standard deviations."""
    mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
    squares = values.multiply(values) if sparse.issparse(values) else np.square(values)
    deviation = np.sqrt(np.asarray(squares.mean(axis=0), dtype=np.float64).ravel())
    varies = deviation > 0
    off = np.abs(mean[varies]) / deviation[varies]
    return float(np.median(off)) if varies.any() else np.inf


def variable_genes(recorded: pd.Series | None, matrices: list[Any], cells: Fitted) -> Finding:
    """Highly variable genes: the means beside them are those of the cells they were chosen on."""
    is_all, is_train = (
        recorded is not None
        and any(
            np.allclose(recorded.to_numpy(dtype=np.float64), mean, rtol=1e-4, atol=1e-6)
            for matrix in matrices
            for mean in _means(matrix[mask])
        )
        for mask in (cells.original, cells.train)
    )
    return _by_either(
        "var['highly_variable']",
        is_all=is_all,
        is_train=is_train,
        what="all cells (var['means'] are theirs)",
        ok="Chosen on the training cells: var['means'] are theirs.",
        remedy="Choose the genes on training cells if only these genes serve as input",
    )


def _means(values: Any) -> Iterator[np.ndarray]:
    """The means that scanpy's flavours record, of counts or of log-normalised values."""
    yield np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
    if values.min() >= 0 and values.max() < 50:
        mean = np.expm1(values).mean(axis=0)
        yield np.log1p(np.asarray(mean, dtype=np.float64).ravel())
