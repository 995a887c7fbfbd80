"""The cells that every modality has are left, and nothing of theirs is lost."""

from __future__ import annotations

import re

import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbert_cll as sc_cll


def unpaired() -> md.MuData:
    mdata = sc_cll.datasets.cll_toy()
    mdata.mod["prot"] = mdata["prot"][50:][::-1].copy()
    mdata.mod["rna"] = mdata["rna"][:-30].copy()
    mdata.update()
    mdata.obs["seen"] = True
    return mdata


def test_unpaired_cells_are_left_out_as_the_refusal_says():
    mdata = unpaired()
    with pytest.raises(ValueError, match="cells are in only one of") as error:
        sc_cll.pp.label_cd49d(mdata)
    exec(re.search(r"\S+\(mdata\)", str(error.value))[0], {"sc_cll": sc_cll, "mdata": mdata})  # noqa: S102
    sc_cll.pp.label_cd49d(mdata, cells=sc_cll.pp.cll_mask(mdata), normalize="clr_protein")
    assert mdata["rna"].obs["cd49d"].notna().any()


def test_intersect_obs_keeps_what_belongs_to_the_shared_cells():
    mdata, whole = unpaired(), unpaired()
    shared = [name for name in whole["rna"].obs_names if name in set(whole["prot"].obs_names)]
    assert sc_cll.pp.intersect_obs(mdata) is None
    assert list(mdata.obs_names) == shared
    assert mdata.obs["seen"].all()
    for name in ("rna", "prot"):
        assert list(mdata[name].obs_names) == shared
        expected = whole[name][shared].copy()
        np.testing.assert_array_equal(
            sparse.csr_matrix(mdata[name].X).toarray(), sparse.csr_matrix(expected.X).toarray()
        )
        pd.testing.assert_frame_equal(mdata[name].obs, expected.obs)


def test_intersect_obs_refuses_what_it_cannot_cut():
    with pytest.raises(TypeError, match="Expected a MuData, found AnnData"):
        sc_cll.pp.intersect_obs(unpaired()["rna"])
    mdata = sc_cll.datasets.cll_toy()
    with pytest.raises(ValueError, match=r"view of another MuData.*mdata\.copy\(\)"):
        sc_cll.pp.intersect_obs(mdata[:50])
    mdata["prot"].obs_names = "x" + mdata["prot"].obs_names
    apart = md.MuData({name: part.copy() for name, part in mdata.mod.items()})
    with pytest.raises(ValueError, match="No cell is in all modalities; names begin with"):
        sc_cll.pp.intersect_obs(apart)
