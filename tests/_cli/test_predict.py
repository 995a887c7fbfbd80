"""The command predict writes what the functions write."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scbert_cll as sc_cll
from tests._cli.called import run


def test_predict_writes_what_the_function_writes(
    models: Path,
    h5ad: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "new" / "result.h5ad"
    words = ("predict", h5ad, "--model", models / "m2", "--out", out, "--accelerator", "cpu")
    assert run(*words, "--unassigned-below", 0.6) == 0
    expected = ad.read_h5ad(h5ad)
    model = sc_cll.ScBERTClassifier.load(models / "m2", accelerator="cpu")
    sc_cll.tl.predict(expected, model, unassigned_below=0.6)
    written = ad.read_h5ad(out)
    pd.testing.assert_frame_equal(written.obsm["scbert_proba"], expected.obsm["scbert_proba"])
    assert written.obs["scbert_pred"].tolist() == expected.obs["scbert_pred"].tolist()
    assert [file.name for file in out.parent.iterdir()] == ["result.h5ad"]
    assert f"{expected.n_obs:,} cells: " in caplog.text
    assert run(*words) == 2
    assert "result.h5ad exists. Name another file with --out" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


def test_a_pretrained_model_embeds(corpus: Path, models: Path, h5ad: Path, tmp_path: Path) -> None:
    words = ("--model", models / "m1", "--accelerator", "cpu")
    assert run("predict", h5ad, "--out", tmp_path / "o.h5ad", *words) == 0
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    model = sc_cll.ScBERT.load(models / "m1", accelerator="cpu")
    np.testing.assert_allclose(
        written.obsm["X_scbert"], model.get_latent_representation(written), atol=1e-6
    )
    assert "scbert_pred" not in written.obs


def test_a_share_of_a_corpus_is_given(
    corpus: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(sc_cll.tl, "predict_corpus", lambda *_, **options: given.update(options))
    words = (
        "--model",
        models / "m2",
        "--out",
        tmp_path / "p.zarr",
        "--shard",
        "1/4",
        "--parts",
        "val",
    )
    assert run("predict", corpus, *words, "--groupby", "label") == 0
    assert (given["shard"], given["parts"], given["groupby"]) == (
        (1, 4),
        ("val",),
        "label",
    )
    assert (
        caplog.messages[-1]
        == f"This share is done; {tmp_path / 'p.zarr'} appears with the last one."
    )
