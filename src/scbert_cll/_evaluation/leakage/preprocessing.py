"""What was learned from which cells, as far as the records and the values themselves tell."""

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
        return Finding(
            check,
            "ok",
            f"Method {params['method']!r} looks at each cell alone: nothing was learned.",
        )
    return _by_number(check, params.get("n_fit_cells"), cells, "Bin again with fit_on=split_key")


def _vectors(
    check: str, record: Mapping[str, Any], params: Mapping[str, Any], cells: Fitted
) -> Finding:
    if params.get("source") != "co-expression":
        meaning = (
            f"Ready vectors ({params.get('source')}): nothing says whether your test cells are "
            f"among those they were trained on."
        )
        return Finding(check, "cannot tell", meaning)
    if params.get("split_key") == "none":
        meaning = _ALL.format(
            what="all cells (split_key=None)", remedy="Run tl.gene2vec again with split_key="
        )
        return Finding(check, "warning", meaning, n=int(record.get("n_cells", 0)))
    return _by_number(check, record.get("n_cells"), cells, "Run tl.gene2vec again after the split")


def _by_number(check: str, n: Any, cells: Fitted, remedy: str) -> Finding:
    """By the number of cells it was learned from, which is all that is on record."""
    if n is None:
        return Finding(
            check, "cannot tell", "Edges of another object: " + _UNKNOWN.format(remedy=remedy)
        )
    n = int(n)
    if n > cells.n_train:
        what = f"{n} cells, {n - cells.n_train} more than the {cells.n_train} training cells"
        return Finding(check, "warning", _ALL.format(what=what, remedy=remedy), n=n)
    if n == cells.n_train:
        return Finding(check, "ok", f"Learned from {n} cells, as many as the training has.", n=n)
    meaning = (
        f"Learned from {n} cells, and the training has {cells.n_train}: which they were is not on "
        f"record."
    )
    return Finding(check, "cannot tell", meaning, n=n)


def components(values: Any, cells: Fitted) -> Finding:
    """Principal components are centred on the cells they were computed on."""
    return _by_centre(
        "obsm['X_pca']",
        np.asarray(values),
        cells,
        "Compute the components on training cells and project the rest",
    )


def scaled(values: Any, cells: Fitted) -> Finding:
    """So is a matrix that `sc.pp.scale` made."""
    check = "var['mean'], var['std'] (scaling)"
    remedy = (
        "Take mean and deviation of the training cells before X serves as input (the models here "
        "read tokens)"
    )
    lowest = values.min() if values is not None else 0
    if lowest >= 0:
        return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))
    return _by_centre(check, values, cells, remedy)


def _by_centre(check: str, values: Any, cells: Fitted, remedy: str) -> Finding:
    everyone, train = (_off_centre(values[mask]) for mask in (cells.original, cells.train))
    if everyone < 0.01 and everyone < train / 5:
        return Finding(
            check, "warning", _ALL.format(what="all cells (it is centred on them)", remedy=remedy)
        )
    if train < 0.01 and train < everyone / 5:
        return Finding(check, "ok", "Centred on the training cells: computed on them.")
    return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))


def _off_centre(values: Any) -> float:
    """How far from 0 a column's mean typically is, in its standard deviations."""
    mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
    squares = values.multiply(values) if sparse.issparse(values) else np.square(values)
    deviation = np.sqrt(np.asarray(squares.mean(axis=0), dtype=np.float64).ravel())
    return (
        float(np.median(np.abs(mean[deviation > 0]) / deviation[deviation > 0]))
        if (deviation > 0).any()
        else np.inf
    )


def variable_genes(recorded: pd.Series | None, matrices: list[Any], cells: Fitted) -> Finding:
    """Highly variable genes: the means beside them are those of the cells they were chosen on."""
    check = "var['highly_variable']"
    remedy = "Choose the genes on training cells if only these genes serve as input"
    if recorded is None:
        return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))
    agrees = {
        name: any(_agree(recorded, mean) for m in matrices for mean in _means(m[mask]))
        for name, mask in (("all", cells.original), ("train", cells.train))
    }
    if agrees["all"] and not agrees["train"]:
        what = "all cells (var['means'] are theirs)"
        return Finding(check, "warning", _ALL.format(what=what, remedy=remedy))
    if agrees["train"] and not agrees["all"]:
        return Finding(check, "ok", "Chosen on the training cells: var['means'] are theirs.")
    return Finding(check, "cannot tell", _UNKNOWN.format(remedy=remedy))


def _means(values: Any) -> Iterator[np.ndarray]:
    """The means that scanpy's flavours record, of counts or of log-normalised values."""
    mean = np.asarray(values.mean(axis=0), dtype=np.float64).ravel()
    yield mean
    if values.min() >= 0 and values.max() < 50:
        back = np.asarray(np.expm1(values).mean(axis=0), dtype=np.float64).ravel()
        yield np.log1p(back)


def _agree(recorded: pd.Series, mean: np.ndarray) -> bool:
    return bool(np.allclose(recorded.to_numpy(dtype=np.float64), mean, rtol=1e-4, atol=1e-6))
