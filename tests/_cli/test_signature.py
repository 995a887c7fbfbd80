"""The command signature writes its files and says what it found."""

from __future__ import annotations

import shlex
from pathlib import Path

import anndata as ad
import matplotlib.image as mpimg
import pandas as pd
import pytest

import scbert_cll as sc_cll
from tests._cli.called import PAGE, commands_of_the_page, run


def test_signature_writes_its_files_and_says_what_it_found(
    h5ad: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "signature"
    assert (
        run("signature", h5ad, "--out", out, "--labels-key", "label", "--exclude-genes", "G0") == 2
    )
    assert run("signature", h5ad, "--out", out, "--labels-key", "label") == 0
    adata = ad.read_h5ad(h5ad)
    sc_cll.tl.signature(adata, groupby="label")
    n = adata.uns["signature"]["n_selected"]
    table = pd.read_csv(out / "signature.csv", keep_default_na=False)
    assert table["gene"].tolist() == adata.uns["signature"]["genes"]["gene"].tolist()
    assert sum(len(genes) for genes in sc_cll.io.read_gmt(out / "signature.gmt").values()) == n > 0
    assert mpimg.imread(out / "signature.png").std() > 0.01
    assert f"{n} genes, " in caplog.text
    assert f"the clearest {table['gene'][0]}, " in caplog.text

    # nothing passes: no sets of an earlier run are left, and the reason is said
    asked = ("--labels-key", "label", "--min-cells", 80, "--overwrite")
    assert run("signature", h5ad, "--out", out, *asked) == 0
    assert [file.name for file in out.iterdir()] == ["signature.png"]
    assert (
        "No gene is selected. No gene was tested: 0 donors have 80 cells of every class"
        in caplog.text
    )


def test_the_pages_data_give_the_pages_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    exec(compile(page.partition("```python\n")[2].partition("```")[0], "docs/cli.md", "exec"), {})  # noqa: S102
    for line in commands_of_the_page():
        if " signature " in line:
            caplog.clear()
            assert run(*shlex.split(line)[3:]) == 0
            assert caplog.messages[-1] in page
