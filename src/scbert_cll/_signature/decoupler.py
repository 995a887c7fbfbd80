"""Scores of sets of genes by decoupler; but for GSVA nothing depends on the companions of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._process import as_it_was

METHODS: Final = ("ulm", "waggr", "zscore", "aucell")  # of each row alone
OF_COHORTS: Final = (*METHODS, "gsva")
_SIGNS_ONLY: Final = ("aucell", "gsva")
_ROWS_AT_ONCE: Final = 2000  # that decoupler makes dense
_UP, _DOWN = "up", "down"


def scores(
    values: np.ndarray | sparse.csr_matrix,
    names: pd.Index,
    weights: Mapping[str, pd.Series],
    method: str,
) -> np.ndarray:
    """Rows × sets, in the order of `weights`: for each set its genes, all of them in `names`, and their weights."""
    import matplotlib as mpl  # noqa: F401

    with as_it_was():  # it chooses a style of figures, and numba's threads
        return _scores(values, names, weights, method)


def _scores(
    values: np.ndarray | sparse.csr_matrix,
    names: pd.Index,
    weights: Mapping[str, pd.Series],
    method: str,
) -> np.ndarray:
    try:
        import decoupler
    except ImportError as error:
        raise ImportError(
            f"method={method!r} needs decoupler, which is not installed: pip install "
            f"'scbert-cll[score]'"
        ) from error
    net = pd.concat(
        [_net(name, weight, method) for name, weight in weights.items()], ignore_index=True
    )
    # `empty` would leave out genes that none of these rows expresses: a score would depend on the
    # companions
    options: dict[str, Any] = {"tmin": 1, "empty": False, "bsize": _ROWS_AT_ONCE}
    options |= {"times": 0} if method == "waggr" else {}
    rows = AnnData(values, var=pd.DataFrame(index=names))
    getattr(decoupler.mt, method)(rows, net, **options)
    table: Any = rows.obsm[f"score_{method}"]  # rows × sets
    if method not in _SIGNS_ONLY:
        return np.asarray(table[list(weights)], dtype=np.float64)
    up, down = (
        table.reindex(columns=[f"{name} {way}" for name in weights], fill_value=0.0).to_numpy()
        for way in (_UP, _DOWN)
    )
    return np.asarray(up - down, dtype=np.float64)


def _net(name: str, weight: pd.Series, method: str) -> pd.DataFrame:
    """The form that decoupler takes; where only signs count, two sets."""
    source: Any = name
    if method in _SIGNS_ONLY:
        source = np.where(weight > 0, f"{name} {_UP}", f"{name} {_DOWN}")
    return pd.DataFrame(
        {"source": source, "target": weight.index.astype(str), "weight": weight.to_numpy()}
    )
