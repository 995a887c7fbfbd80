"""The RNA of a file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pytest

from scbert_cll._cli.reading import Reading, choose
from tests._cli.called import run
from tests._make import counted


def test_rna_is_found_among_modalities(models: Path, h5ad: Path, tmp_path: Path) -> None:
    mudata.MuData({"rna": ad.read_h5ad(h5ad)}).write(tmp_path / "in.h5mu")
    words = ("--model", models / "m2", "--out", tmp_path / "o.h5ad", "--accelerator", "cpu")
    assert run("predict", tmp_path / "in.h5mu", *words) == 0
    assert "scbert_pred" in ad.read_h5ad(tmp_path / "o.h5ad").obs


def test_raw_of_a_modality_becomes_its_x() -> None:
    rna = counted(6, 4)
    rna.obs["donor"] = list("aabbcc")
    counts = rna.X.toarray()
    rna.raw = rna
    rna.X = np.log1p(counts)
    protein = counted(6, 2)
    protein.var_names = ["CD5", "CD49d"]
    data = mudata.MuData({"rna": rna, "prot": protein})
    data.obs["cd49d"] = list("xyxyxy")
    cells = choose(data, Reading(layer="raw"))
    np.testing.assert_array_equal(cells.rna.X.toarray(), counts)
    assert set(cells.data.mod) == {"rna", "prot"}
    assert cells.data.obs["cd49d"].tolist() == list("xyxyxy")
    del rna.raw
    with pytest.raises(KeyError, match=r"adata\.raw is empty.*--layer"):
        choose(mudata.MuData({"rna": rna, "prot": protein}), Reading(layer="raw"))
