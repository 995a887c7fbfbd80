"""Donors of a corpus are the donors of its files: one person under one name, on one side, wherever
the column is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from tests._make import cells_of_donors


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    yield
    sc_cll.settings.reset()


def built(folder: Path, *adatas: AnnData, name: str = "c", **asked: Any) -> dict[str, Any]:
    """The manifest of a corpus of these cells."""
    paths = [folder / f"{name}{i}.h5ad" for i in range(len(adatas))]
    for path, adata in zip(paths, adatas, strict=True):
        adata.write_h5ad(path)
    sc_cll.pp.build_corpus(paths, folder / f"{name}.zarr", vocab=adatas[0], **asked)
    return json.loads((folder / f"{name}.zarr/manifest.json").read_text())


@pytest.mark.parametrize("seed", range(4))
def test_a_donor_of_two_files_is_on_one_side(seed: int, tmp_path: Path) -> None:
    files = [
        cells_of_donors(np.repeat([1, 2, 3], 20)),
        cells_of_donors(np.repeat([1.0, 2.0, 3.0], 20), 1),
        cells_of_donors(pd.Categorical(np.repeat(["1", "2 ", " 3"], 20)), 2),
        cells_of_donors(pd.array(np.repeat([1, 2, 3], 20), dtype="Int64"), 3),
        cells_of_donors(np.repeat(["1.0", "2.0", "3.0"], 20), 4),
    ]
    donors = built(tmp_path, *files, val_fraction=0.3, rng=seed)["donors"]
    assert sorted(donors["train"] + donors["val"]) == ["1", "2", "3"]


def test_donors_to_hold_out_may_be_numbers(tmp_path: Path) -> None:
    adata = cells_of_donors(np.repeat([1.0, 2.0, 3.0], 20))
    assert built(tmp_path, adata, val_donors=[1, 2.0], name="a")["donors"]["val"] == ["1", "2"]
    assert built(tmp_path, adata, val_donors=3, name="b")["donors"]["val"] == ["3"]
    with pytest.raises(
        KeyError,
        match="val_donors names 'P2', which no kept cell has; the donors are '2', '1', '3'",
    ):
        built(tmp_path, adata, val_donors="P2", name="c")


def test_what_is_no_donor_is_not_in_a_corpus(tmp_path: Path) -> None:
    files = [
        cells_of_donors(np.repeat(["0", "1", "0/1", "unassigned"], 10)),
        cells_of_donors(np.repeat(["1", "P1", "Doublet", ""], 10), 1),
    ]
    with pytest.warns(
        UserWarning, match=r"^40 cells are left out, since they have no donor: obs\['donor'\] says"
    ):
        found = built(tmp_path, *files, val_donors="1")
    assert found["donors"] == {"train": ["0", "P1"], "val": ["1"]}
    assert [source["not_donors"] for source in found["sources"]] == [
        {"0/1": 10, "unassigned": 10},
        {"Doublet": 10, "": 10},
    ]
    assert [source["n_kept"] for source in found["sources"]] == [20, 20]
    sc_cll.settings.not_donors = []
    assert (
        sum(map(len, built(tmp_path, *files, val_donors="1", name="all")["donors"].values())) == 7
    )


def test_a_file_without_any_donor_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"No cell has a donor: obs\['donor'\] holds 'Doublet', 'Singlet'"
    ):
        built(tmp_path, cells_of_donors(np.repeat(["Singlet", "Doublet"], 10)), val_fraction=0)


def test_names_that_may_be_one_are_said_over_files(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="may be one person under two names: '01' and '1'; 'P1' and 'p1'"
    ):
        built(
            tmp_path,
            cells_of_donors(np.repeat(["P1", "1"], 10)),
            cells_of_donors(np.repeat(["p1", "01"], 10), 1),
            val_donors="1",
        )


def test_a_missing_donor_is_refused_with_what_to_do(tmp_path: Path) -> None:
    adata = cells_of_donors([1.0] * 10 + [np.nan] * 2)
    with pytest.raises(
        ValueError,
        match=r"obs\['donor'\] is missing for 2 cells \('cell10', 'cell11'\); fill it or drop",
    ):
        built(tmp_path, adata, val_fraction=0)


def of_two(donor: str, where: str) -> tuple[mudata.MuData, pd.Series]:
    """RNA and protein of cells in different orders, with donors in the obs of one or of both."""
    rna = cells_of_donors(np.repeat(["P1", "P2", "P3"], 12))
    known = rna.obs.pop("donor").astype(str)
    rng = np.random.default_rng(1)
    counts = rng.poisson(5.0, (36, 2)) + np.where(np.arange(36) % 2, 60, 0)[:, None] * [1, 0]
    prot = AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(index=["CD49d", "CD19"]),
    )
    rna = rna[rng.permutation(36)].copy()
    mdata = mudata.MuData({"prot": prot, "rna": rna})
    values = known.reindex(mdata.obs_names)
    if where == "mdata":
        mdata.obs[donor] = values
    else:
        mdata[where].obs[donor] = known.reindex(mdata[where].obs_names)
    return mdata, known


@pytest.mark.parametrize(
    ("column", "where", "asked"),
    [("donor", "mdata", "donor"), ("donor", "rna", "donor"), ("donor", "rna", "rna:donor")],
)
def test_a_mudata_may_have_donors_in_either_obs(
    column: str, where: str, asked: str, tmp_path: Path
) -> None:
    mdata, known = of_two(column, where)
    mdata.write(tmp_path / "cells.h5mu")
    vocab = mdata["rna"].copy()
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5mu"],
        tmp_path / "c.zarr",
        vocab=vocab,
        donor_key=asked,
        val_donors="P2",
    )
    data = sc_cll.model.CorpusData(tmp_path / "c.zarr")
    for part in ("train", "val"):
        names = data.names(part).str.removeprefix("0:")
        assert data.obs(part, "donor").tolist() == known[names].tolist()

    sc_cll.pp.label_cd49d(mdata, donor_key=asked, normalize="clr_protein")
    assert sc_cll.get.donor_table(mdata["rna"]).index.tolist() == ["P1", "P2", "P3"]
    axes = sc_cll.pl.cd49d(
        mdata, gene=vocab.var_names[0], donor_key=asked, levels="donor", show=False
    )
    assert axes.get_title().endswith("3 donors")


def test_donors_of_another_modality_are_pointed_to() -> None:
    mdata, known = of_two("donor", "prot")
    with pytest.raises(KeyError, match="'donor' is neither in mdata") as error:
        sc_cll.pp.label_cd49d(mdata, donor_key="donor", normalize="clr_protein")
    exec(str(error.value).split("another modality: ")[1].rstrip('."'), {"mdata": mdata})  # noqa: S102
    sc_cll.pp.label_cd49d(mdata, donor_key="donor", normalize="clr_protein")
    assert sc_cll.get.donor_table(mdata["rna"])["n_cells"].tolist() == [12, 12, 12]
    assert mdata["rna"].obs["donor"].equals(known.reindex(mdata["rna"].obs_names))
