"""What the tests make and how they look for changes."""

from __future__ import annotations

import numpy as np
import pytest
from mudata import MuData

from tests import _make


@pytest.mark.parametrize(
    "change",
    [
        "adata.X.data[0] += 1",
        "adata.X = adata.X.astype(np.float64)",
        "adata.layers['binned'].data[0] += 1",
        "adata.obs['donor'] = 'P9'",
        "adata.obs_names = adata.obs_names[::-1]",
        "adata.var['chosen'] = True",
        "adata.obsm['protein'] *= 2",
        "adata.varm['loadings'] = np.zeros((adata.n_vars, 1))",
        "adata.uns['binned']['params']['target_sum'] = 5",
        "adata.uns['new'] = {}",
        "adata.raw = adata.copy()",
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["AnnData", "MuData"])
def test_a_change_of_any_slot_is_seen(change: str, wrapped: bool) -> None:
    adata = _make.cells(protein=True, binned=True)
    data = MuData({"rna": adata}) if wrapped else adata
    with _make.unchanged(data):
        adata.copy()
    with pytest.raises(AssertionError), _make.unchanged(data):
        exec(change, {"adata": adata, "np": np})  # noqa: S102
