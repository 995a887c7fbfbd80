"""Scores of sets of genes by decoupler; except in GSVA, no row's score depends on other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._optional import optional
from scbert_cll._process import as_it_was

type Matrix = np.ndarray | sparse.csr_matrix

METHODS: Final = ("ulm", "waggr", "zscore", "aucell")  # of each row alone
OF_COHORTS: Final = (*METHODS, "gsva")
_SIGNS_ONLY: Final = ("aucell", "gsva")
_ROWS_AT_ONCE: Final = 2000  # that decoupler makes dense


def scores(
    values: Matrix, names: pd.Index, weights: Mapping[str, pd.Series], method: str
) -> np.ndarray:
    """Rows × sets, in the order of `weights`: a set's weights by gene, all of them in `names`."""
    import matplotlib as mpl  # noqa: F401  # its style is put back only where it was loaded before

    with as_it_was():  # decoupler chooses a style of figures, and numba's threads
        decoupler = optional("decoupler", f"method={method!r}")
        nets = [_net(*item, method) for item in weights.items()]
        net = pd.concat(nets, ignore_index=True)
        rows = AnnData(values, var=pd.DataFrame(index=names))
        # with `empty` decoupler leaves out genes that none of these rows expresses, so that a
        # score would depend on the other rows
        options = {"times": 0} if method == "waggr" else {}
        run = getattr(decoupler.mt, method)
        run(rows, net, tmin=1, empty=False, bsize=_ROWS_AT_ONCE, **options)
    table: Any = rows.obsm[f"score_{method}"]  # rows × sets
    if method not in _SIGNS_ONLY:
        return np.asarray(table[list(weights)], dtype=np.float64)
    signs = ([f"{name} {sign}" for name in weights] for sign in ("up", "down"))
    up, down = (table.reindex(columns=names, fill_value=0.0) for names in signs)
    return np.asarray(up.to_numpy() - down.to_numpy(), dtype=np.float64)


def _net(name: str, weight: pd.Series, method: str) -> pd.DataFrame:
    """A set in decoupler's form; where only signs count, as two sets."""
    source: Any = name
    if method in _SIGNS_ONLY:
        source = np.where(weight > 0, f"{name} up", f"{name} down")
    genes, values = weight.index.astype(str), weight.to_numpy()
    return pd.DataFrame({"source": source, "target": genes, "weight": values})
