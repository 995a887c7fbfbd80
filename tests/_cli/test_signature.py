"""The command signature writes its files and says what it found."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.image as mpimg
import mudata
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


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two donors with both classes and ten with one; trisomy is written in the MuData alone."""
    adata = sc_cll.datasets.planted_donors(n_donors=12, n_cells=60, n_genes=60, n_planted=12, rng=0)
    donor = adata.obs["donor"].cat.codes.to_numpy()
    kept = (donor < 2) | ((donor % 2 == 1) == (adata.obs["label"] == "positive"))
    adata, donor = adata[kept].copy(), donor[kept]
    adata.obs["time"] = pd.Categorical([f"t{i % 2}" for i in range(adata.n_obs)])
    adata.obs["flow_cell"] = pd.Categorical([f"F{code}" for code in donor % 3])
    with sc_cll._process.same_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData({"rna": adata})
    mdata.obs["trisomy12"] = pd.Categorical((donor % 4 == 3).astype(str))
    path = tmp_path_factory.mktemp("few") / "few.h5mu"
    mdata.write_h5mu(path)
    return path


@pytest.mark.filterwarnings("ignore:design='(both|between)' compares donors")
def test_design_covariates_and_samples_are_those_of_python(
    few: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("signature", few, "--labels-key", "label", "--min-cells", 10, "--out")
    how = ("--design", "both", "--covariates", "trisomy12", "flow_cell", "--sample-key", "time")
    assert run(*words, tmp_path / "s", *how) == 0
    mdata = mudata.read_h5mu(few)
    adata = mdata["rna"]
    adata.obs["trisomy12"] = mdata.obs["trisomy12"]
    options = {"design": "both", "covariates": ["trisomy12", "flow_cell"], "sample_key": "time"}
    sc_cll.tl.signature(adata, groupby="label", min_cells=10, **options)
    table = pd.read_csv(tmp_path / "s" / "signature.csv", keep_default_na=False)
    record = adata.uns["signature"]
    assert table["gene"].tolist() == record["genes"]["gene"].tolist()
    assert table["low_between"].tolist() == pytest.approx(record["genes"]["low_between"].tolist())
    assert "12 donors, adjusted for 'trisomy12', 'flow_cell'. Joined: " in caplog.text
    adata.obs.loc[adata.obs["donor"] == "D05", "flow_cell"] = pd.NA
    adata.write_h5ad(tmp_path / "a.h5ad")
    words = ("signature", tmp_path / "a.h5ad", *words[2:])
    assert run(*words, tmp_path / "t", *how[2:], "--min-donors", 2) == 0
    assert "2 donors; the same within each, so cancelled: 'trisomy12', 'flow_cell'" in caplog.text
    assert run(*words, tmp_path / "u", "--design", "between", "--covariates", "flow_cell") == 0
    assert "11 donors, adjusted for 'flow_cell'; 1 donor without a value left out" in caplog.text


def test_what_is_said_of_designs_is_in_options(
    few: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("signature", few, "--labels-key", "label", "--out")
    assert run(*words, tmp_path / "s") == 0
    assert ". --design both would join 2 donors with both classes and 11" in caplog.text
    assert "nothing but the class and --covariates tells donors apart" in caplog.text

    def printed(*given: object) -> None:
        sys.stderr.write(warnings.formatwarning(*given[:4]))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", printed)
        assert run(*words, tmp_path / "t", "--between") == 0
    error = capsys.readouterr().err
    assert "warning: --between is now --design between." in error
    assert "warning: --design between compares donors with each other" in error
    assert "11 donors. They are in" in caplog.text


@pytest.mark.filterwarnings("ignore:--between is now")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--covariates", "batch"), "'batch' is not in adata.obs; it has"),
        (("--covariates", "batch"), "Name the column with --covariates"),
        (("--sample-key", "day"), "Name the column with --sample-key"),
        (("--sample-key", "donor"), "the donor again. Leave --sample-key out"),
        (("--covariates", "label"), "'label' is what is compared; take it out of covariates"),
        (("--covariates", "time", "--design", "between"), "'time' varies within donors"),
        (("--covariates", "time", "--design", "between"), "compare within donors: --design within"),
        (("--design", "across"), "--design must be one of 'within', 'between', 'both'"),
        (("--design", "both", "--between"), "--between and --design both are two designs"),
    ],
)
def test_designs_that_cannot_be_are_refused_as_in_python(
    words: tuple[str, ...],
    sentence: str,
    few: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "s"
    try:
        code = run("signature", few, "--labels-key", "label", "--out", out, *words)
    except SystemExit as stop:  # of the parser
        code = int(stop.code or 0)
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:design='both' compares donors")
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
