"""Whatever lies beside the counts, resampling has a result: numbers between the parents, words
where both parents have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll

N = 40


def unequal_cells() -> AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"cd49d": pd.Categorical(["-"] * 28 + ["+"] * 12), "split": "train"},
        index=[f"c{i}" for i in range(N)],
    )
    obs["donor"] = pd.Categorical(np.where(np.arange(N) % 2, "A", "B"))
    return AnnData(sparse.csr_matrix(rng.poisson(2, (N, 6)).astype(np.float32)), obs)


def column(kind: str) -> Any:
    rng = np.random.default_rng(1)
    is_a = np.arange(N) % 2 == 1
    words = np.where(is_a, "A", "B")
    return {
        "text": words.astype(object),
        "text with missing": np.where(np.arange(N) % 5 == 0, None, words),
        "category": pd.Categorical(words),
        "string": pd.array(words, dtype="string"),
        "boolean": is_a,
        "nullable boolean": pd.array(is_a, dtype="boolean"),
        "dates": pd.to_datetime(np.where(is_a, "2020-01-01", "2021-01-01")),
        "counts": rng.poisson(20, N),
        "nullable counts": pd.array([None, *rng.poisson(20, N - 1)], dtype="Int64"),
        "float32": rng.normal(size=N).astype(np.float32),
        "sparse": pd.arrays.SparseArray(rng.poisson(0.3, N)),
    }[kind]


KINDS = [
    "text",
    "text with missing",
    "category",
    "string",
    "boolean",
    "nullable boolean",
    "dates",
    "counts",
    "nullable counts",
    "float32",
    "sparse",
]
NUMBERS = ["counts", "nullable counts", "float32", "sparse"]


@pytest.mark.parametrize("method", ["oversample", "undersample", "smote"])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_every_kind(kind: str, method: Any) -> None:
    adata = unequal_cells()
    adata.obsm["table"] = pd.DataFrame(
        {"x": column(kind), "n": np.arange(N, dtype=float)}, index=adata.obs_names
    )
    before = adata.copy()
    sc_cll.pp.balance(adata, "cd49d", method=method, rng=0)
    found, old = adata.obsm["table"], before.obsm["table"]
    assert found.index.equals(adata.obs_names)
    assert list(found.columns) == ["x", "n"]
    kept = found[~adata.obs["is_synthetic"].to_numpy()]
    was = old.loc[kept.index]
    assert kept["x"].notna().tolist() == was["x"].notna().tolist()
    assert kept["x"].dropna().astype(object).tolist() == was["x"].dropna().astype(object).tolist()
    made = found[adata.obs["is_synthetic"].to_numpy()]
    if kind in NUMBERS:
        known = pd.to_numeric(pd.Series(np.asarray(made["x"], dtype=float))).dropna()
        assert known.between(float(old["x"].min()), float(old["x"].max())).all()
    elif method == "smote":
        donor = adata.obs["donor"].to_numpy(dtype=object)[adata.obs["is_synthetic"].to_numpy()]
        both = pd.notna(donor)  # parents of one donor have one word
        assert 0 < both.sum() < len(made)
        assert made["x"][both].notna().any()
        assert made["x"][~both].isna().all()


@pytest.mark.parametrize("method", ["oversample", "smote"])
def test_arrays_and_layers_of_every_kind(method: Any) -> None:
    adata = unequal_cells()
    rng = np.random.default_rng(2)
    words = np.where(np.arange(N) % 2, "A", "B")[:, None]
    dense = adata.X.toarray()
    arrays = {
        "sparse": sparse.csc_matrix(adata.X),
        "cube": rng.normal(size=(N, 2, 3)),
        "words": words.astype(object),
    }
    adata.obsm.update(arrays | {"flags": np.arange(N)[:, None] % 2 == 1})
    adata.layers.update(
        {
            "csc": arrays["sparse"],
            "dense": dense,
            "logs": np.log1p(dense),
            "array": sparse.csr_array(dense),
        }
    )
    old = adata.copy()
    sc_cll.pp.balance(adata, "cd49d", method=method, rng=0)
    n = int(adata.obs["is_synthetic"].sum())
    assert n == 16
    for key, value in adata.obsm.items():
        assert value.shape == (N + n, *old.obsm[key].shape[1:]), key
        assert type(value) is type(old.obsm[key])
    for key in ("csc", "dense", "logs", "array"):
        assert adata.layers[key].shape == adata.shape
        assert type(adata.layers[key]) is type(old.layers[key])
    assert np.abs(adata.obsm["cube"][N:]).max() <= np.abs(old.obsm["cube"]).max()


def test_the_result_can_be_written(tmp_path: Path) -> None:
    adata = unequal_cells()
    kinds = ["text", "category", "nullable boolean", "counts", "float32"]
    adata.obsm["table"] = pd.DataFrame(
        {kind: column(kind) for kind in kinds}, index=adata.obs_names
    )
    sc_cll.pp.balance(adata, "cd49d", method="smote")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").obsm["table"].shape == (56, 5)


def test_neighbours_are_looked_for_among_numbers_and_the_remedy_works() -> None:
    adata = unequal_cells()
    adata.obsm["table"] = pd.DataFrame(
        {"batch": column("text"), "n": np.arange(N, dtype=float)}, index=adata.obs_names
    )
    with pytest.raises(
        ValueError,
        match=r"adata.obsm\['table'\] must hold numbers only; 'batch' holds something else",
    ) as refused:
        sc_cll.pp.balance(adata, "cd49d", method="smote", use_rep="table")
    code = "adata.obsm['numbers'] = adata.obsm['table'].drop(columns=['batch'])"
    assert code in str(refused.value)
    exec(code, {"adata": adata})  # noqa: S102
    sc_cll.pp.balance(adata, "cd49d", method="smote", use_rep="numbers")
