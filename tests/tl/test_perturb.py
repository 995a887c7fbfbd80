"""tl.perturb turns the logit against the sign of planted genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scbert_cll as sb
from tests._make import unchanged


def test_dropping_planted_genes_turns_the_logit_against_their_sign(learned, tmp_path) -> None:
    adata, model = learned
    truth = adata.var["truth"]
    names = [*truth.index[truth == 1][:4], *truth.index[truth == -1][:4]]
    sb.tl.perturb(adata, model, names)
    summary = adata.uns["perturb"]["summary"].set_index("name")
    assert (np.sign(summary["log_odds"]) == -truth[names]).mean() >= 0.85
    assert (summary["low"] <= summary["log_odds"]).all()
    wide = adata.varm["perturb_summary"].dropna()
    pd.testing.assert_frame_equal(
        wide.loc[names].set_axis(["log_odds", "low", "high", "shift"], axis=1),
        summary.loc[names, ["log_odds", "low", "high", "shift"]],
        check_names=False,
        check_index_type=False,  # text is text, of whatever type
    )
    assert adata.varm["perturb"].loc[names].notna().any(axis=1).all()
    assert adata.varm["perturb"].drop(names).isna().all(axis=None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["perturb"]["params"]["kind"] == "drop"


def test_sets_change_together(learned) -> None:
    adata, model = learned
    truth = adata.var["truth"]
    up = list(truth.index[truth == 1])
    sb.tl.perturb(adata, model, {"up": up, "first": up[:1]}, groupby="label")
    summary = adata.uns["perturb"]["summary"].set_index(["group", "name"])["log_odds"]
    assert summary["positive", "up"] < 3 * summary["positive", "first"] < 0


def test_bad_input(learned) -> None:
    adata, model = learned
    with unchanged(adata):
        with pytest.raises(KeyError, match="NOGENE"):
            sb.tl.perturb(adata, model, ["NOGENE"])
        with pytest.raises(KeyError, match=r"Run tl\.signature first"):
            sb.tl.perturb(adata, model)
        with pytest.raises(ValueError, match="needs level="):
            sb.tl.perturb(adata, model, ["ITGA4"], kind="set")


def test_sets_name_genes_by_any_name(trained) -> None:
    adata, _, classifier = trained
    cells = adata[:40]
    expected = classifier.get_set_effects({"a": ["ITGA4", "MS4A1"]}, cells)
    found = classifier.get_set_effects({"a": ["CD49D", "ENSG00000156738"]}, cells)
    pd.testing.assert_frame_equal(found, expected)
    assert (expected["a"] != 0).any()
    single = sb.tl.perturb(adata, classifier, ["CD49D"], min_cells=1, copy=True)
    assert single.uns["perturb"]["summary"]["name"].unique().tolist() == ["ITGA4"]
    assert single.varm["perturb"].loc["ITGA4"].notna().any()
    with pytest.raises(KeyError, match="'NOBODY' is not among its 250"):
        classifier.get_set_effects({"a": ["CD49D", "NOBODY"]}, cells)
