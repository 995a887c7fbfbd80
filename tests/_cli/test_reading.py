"""The RNA of a file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata

from tests._cli.called import run


def test_rna_is_found_among_modalities(models: Path, h5ad: Path, tmp_path: Path) -> None:
    mudata.MuData({"rna": ad.read_h5ad(h5ad)}).write(tmp_path / "in.h5mu")
    words = ("--model", models / "m2", "--out", tmp_path / "o.h5ad", "--accelerator", "cpu")
    assert run("predict", tmp_path / "in.h5mu", *words) == 0
    assert "scbert_pred" in ad.read_h5ad(tmp_path / "o.h5ad").obs
