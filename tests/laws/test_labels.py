"""Labels of any type mean the same in memory, after a file, and from a corpus: the same classes in
the same order, and the same cells in each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import _checks, _names

NETWORK = {"n_hidden": 8, "n_layers": 1, "n_heads": 2, "gene_embedding": "learned"}
FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}

# The column from 0, 1, … and the classes it has.
KINDS: dict[str, tuple[Callable[[np.ndarray], Any], list[str]]] = {
    "integers": (lambda y: y, ["0", "1", "2"]),
    "many integers": (lambda y: np.array([2, 10, 100])[y], ["2", "10", "100"]),
    "floats with missing values": (
        lambda y: np.where(np.arange(len(y)) % 7 == 0, np.nan, y.astype(float)),
        ["0", "1", "2"],
    ),
    "nullable integers": (lambda y: pd.array(y, dtype="Int64"), ["0", "1", "2"]),
    "booleans": (lambda y: y > 0, ["False", "True"]),
    "nullable booleans": (lambda y: pd.array(y > 0, dtype="boolean"), ["False", "True"]),
    "text": (lambda y: np.array(["c2", "c10", "a"], dtype=object)[y], ["a", "c2", "c10"]),
    "nullable text": (
        lambda y: pd.array(np.array(["c2", "c10", "a"])[y], dtype="string"),
        ["a", "c2", "c10"],
    ),
    "categories": (
        lambda y: pd.Categorical.from_codes(y, ["pos", "neg", "mid", "unused"][:3]),
        ["pos", "neg", "mid"],
    ),
    "ordered categories": (
        lambda y: pd.Categorical.from_codes(y, ["zero", "low", "high"], ordered=True),
        ["zero", "low", "high"],
    ),
    "unused levels": (lambda y: pd.Categorical.from_codes(2 * y, list("edcba")), ["e", "c", "a"]),
    "categories of integers": (
        lambda y: pd.Categorical(np.array([2, 10, 100])[y]),
        ["2", "10", "100"],
    ),
    "names of something else": (
        lambda y: np.array(["unassigned", "T/NK", "B"], dtype=object)[y],
        ["B", "T/NK", "unassigned"],
    ),
}
MISSING = {"nan": "nan", "NA": "NA", "None": "None", "empty": ""}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def labelled_cells(kind: str = "integers", labels: Any = None) -> AnnData:
    rng, n = np.random.default_rng(0), 180
    y = np.arange(n) % 3
    mean = np.tile(rng.gamma(1.0, 2.0, 20) + 0.5, (n, 1))
    for c in range(3):
        mean[np.ix_(y == c, np.arange(4 * c, 4 * c + 4))] *= 5
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = ["ITGA4", *(f"G{i}" for i in range(19))]
    adata.obs["donor"] = np.repeat(["P1", "P2", "P3", "P4", "P5", "P6"], 30)
    adata.obs["label"] = pd.Series(
        KINDS[kind][0](y) if labels is None else labels(y), adata.obs_names
    )
    adata.obs["split"] = pd.Categorical(
        np.repeat(["train", "train", "train", "train", "val", "test"], 30)
    )
    return adata


@EVERY_KIND
def test_classes_have_names(kind: str) -> None:
    adata, wanted = labelled_cells(kind), KINDS[kind][1]
    assert _checks.adata.classes(adata.obs["label"], "label") == wanted
    codes = _checks.adata.labels(adata, "label", wanted, np.arange(adata.n_obs))
    names = np.array([*wanted, None], dtype=object)[codes]
    assert (
        _checks.people.class_names(adata.obs["label"])
        .where(adata.obs["label"].notna(), None)
        .tolist()
        == names.tolist()
    )


@EVERY_KIND
def test_the_same_in_memory_after_a_file_and_in_a_corpus(kind: str, tmp_path: Path) -> None:
    adata, wanted = labelled_cells(kind), KINDS[kind][1]
    names = _checks.people.class_names(adata.obs["label"])
    for end, read, write in (
        ("h5ad", ad.read_h5ad, "write_h5ad"),
        ("zarr", ad.read_zarr, "write_zarr"),
    ):
        path = tmp_path / f"cells.{end}"
        getattr(adata.copy(), write)(path)
        found = read(path).obs["label"]
        assert _checks.adata.classes(found, "label") == wanted
        assert _checks.people.class_names(found).tolist() == names.tolist()
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5ad"],
        tmp_path / "c.zarr",
        vocab=adata,
        obs_columns=["label"],
        val_donors=["P5"],
    )
    data = sc_cll.model.CorpusData(tmp_path / "c.zarr")
    assert data.classes("label") == wanted
    config = sc_cll.nn.Config(n_genes=len(data.genes), n_bins=5)
    data.attach(data.genes, config, seed=0, labels_key="label", classes=wanted)
    for part in ("train", "val"):
        kept = _checks.people.class_names(data.obs(part, "label")).set_axis(
            data.names(part).str.removeprefix("0:")
        )
        known = names[kept.index]
        assert kept.where(kept.notna(), None).tolist() == known.where(known.notna(), None).tolist()
        codes = pd.Series(data.labels[part], kept.index)
        assert (
            codes.tolist() == pd.Series(pd.Categorical(known, wanted).codes, known.index).tolist()
        )


@pytest.mark.parametrize("word", MISSING)
def test_a_class_with_the_name_of_nothing_is_a_class_and_is_said(word: str, tmp_path: Path) -> None:
    name = MISSING[word]
    adata = labelled_cells(labels=lambda y: np.array([name, "x", "y"], dtype=object)[y])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5ad"],
        tmp_path / "c.zarr",
        vocab=adata,
        obs_columns=["label"],
        val_fraction=0,
    )
    wanted = _checks.people.sorted_names([name, "x", "y"])
    for column in (adata.obs["label"], ad.read_h5ad(tmp_path / "cells.h5ad").obs["label"]):
        with pytest.warns(
            UserWarning, match=f"has a class called '{name}', and it is taken for a class"
        ) as told:
            assert _checks.adata.classes(column, "label") == wanted
    with pytest.warns(UserWarning, match="taken for a class"):
        assert sc_cll.model.CorpusData(tmp_path / "c.zarr").classes("label") == wanted
    remedy = str(told[0].message).split("no label: ")[1].removesuffix(".")
    exec(remedy, {"adata": adata})  # noqa: S102
    assert _checks.adata.classes(adata.obs["label"], "label") == ["x", "y"]


@pytest.mark.parametrize(
    "kind",
    [
        "integers",
        "floats with missing values",
        "booleans",
        "names of something else",
        "unused levels",
    ],
)
def test_verbs_take_labels_of_any_type(kind: str) -> None:
    """The result does not depend on how classes are spelled, and names are those of the classes."""
    found = {}
    for how in ("as it is", "as text"):
        adata = labelled_cells(kind)
        if how == "as text":
            names = _checks.people.class_names(adata.obs["label"])
            adata.obs["label"] = pd.Categorical(names, KINDS[kind][1])
        sc_cll.pp.split_donors(adata, "donor", labels_key="label", fractions=(0.5, 0.25, 0.25))
        sc_cll.pp.bin_expression(adata)
        sc_cll.pp.balance(adata, "label")
        model = sc_cll.tl.finetune(
            adata, labels_key="label", weight_key="balance_weight", network=NETWORK, **FAST
        )
        sc_cll.tl.predict(adata, model)
        sc_cll.tl.gene_attention(adata, model, groupby="label")
        sc_cll.tl.signature(adata, groupby="label", min_cells=3, min_donors=3)
        sc_cll.tl.cross_validate(
            adata, labels_key="label", models=["majority", "gene_only"], n_repeats=1, n_bootstrap=5
        )
        assert model.classes == KINDS[kind][1]
        for table in (adata.obsm["scbert_proba"], adata.varm["gene_attention"]):
            assert [_names.own(column) for column in table] == model.classes
        axes = sc_cll.pl.confusion(adata, labels_key="label", show=False)
        assert [tick.get_text().split("\n")[0] for tick in axes.get_yticklabels()] == model.classes
        plt.close("all")
        comparison = adata.uns["scbert"].get("comparison")
        found[how] = [
            adata.obsm["scbert_proba"],
            adata.varm["gene_attention"],
            adata.uns["signature"]["donors"],
            adata.uns["cv"]["summary"],
            *([] if comparison is None else [comparison]),
        ]
    for one, other in zip(*found.values(), strict=True):
        pd.testing.assert_frame_equal(one, other, check_categorical=False, rtol=1e-5)


def test_a_class_called_unassigned(tmp_path: Path) -> None:
    adata = labelled_cells("names of something else")
    sc_cll.pp.bin_expression(adata)
    model = sc_cll.tl.finetune(adata, labels_key="label", network=NETWORK, **FAST)
    with pytest.warns(UserWarning, match="The model has a class called 'unassigned'"):
        sc_cll.tl.predict(adata, model, unassigned_below=0.99)
    assert list(adata.obs["scbert_pred"].cat.categories) == model.classes
    below = adata.obs["scbert_score"] < 0.99
    assert (adata.obs["scbert_pred"][below] == "unassigned").all()
    del adata.uns, adata.layers["binned"]
    adata.obs = adata.obs[["donor", "label"]].copy()
    adata.obsm.clear()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5ad"],
        tmp_path / "c.zarr",
        vocab=adata,
        obs_columns=["label"],
        val_fraction=0,
    )
    with pytest.warns(UserWarning, match="The model has a class called 'unassigned'"):
        sc_cll.tl.predict_corpus(
            tmp_path / "c.zarr", model, tmp_path / "out.zarr", unassigned_below=0.99
        )
    told = ad.read_zarr(tmp_path / "out.zarr").obs
    assert list(told["scbert_pred"].cat.categories) == model.classes


@pytest.mark.parametrize(
    "kind", ["integers", "booleans", "unused levels", "floats with missing values"]
)
def test_a_model_learns_and_predicts_from_a_corpus(kind: str, tmp_path: Path) -> None:
    adata = labelled_cells(kind)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5ad"],
        tmp_path / "c.zarr",
        vocab=adata,
        obs_columns=["label"],
        val_donors=["P5"],
    )
    model = sc_cll.tl.finetune(tmp_path / "c.zarr", labels_key="label", network=NETWORK, **FAST)
    assert model.classes == KINDS[kind][1]
    sc_cll.tl.predict_corpus(tmp_path / "c.zarr", model, tmp_path / "out.zarr", groupby="label")
    found = ad.read_zarr(tmp_path / "out.zarr")
    found.obs_names = found.obs_names.str.removeprefix("0:")
    sc_cll.pp.bin_expression(adata)
    sc_cll.tl.predict(adata, model)
    sc_cll.tl.gene_attention(adata, model, groupby="label")
    assert dict(found.uns["gene_attention"]["n_cells"]) == dict(
        adata.uns["gene_attention"]["n_cells"]
    )
    of_corpus, in_memory = (a.varm["gene_attention"].loc[adata.var_names] for a in (found, adata))
    pd.testing.assert_frame_equal(of_corpus, in_memory, check_names=False, rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(
        adata.obsm["scbert_proba"].loc[found.obs_names],
        found.obsm["scbert_proba"],
        check_names=False,
        rtol=1e-4,
        atol=1e-5,
    )


def test_groups_of_a_corpus_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = labelled_cells("integers")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sc_cll.pp.build_corpus(
        [tmp_path / "cells.h5ad"],
        tmp_path / "c.zarr",
        vocab=adata,
        obs_columns=["label"],
        val_fraction=0,
    )
    model = sc_cll.tl.pretrain(tmp_path / "c.zarr", network=NETWORK, **FAST)
    monkeypatch.setattr("scbert_cll.tl._predict_corpus.job._MOST_GROUPS", 1)
    with pytest.raises(
        ValueError, match=r"groupby='label' has .* different values, and groups are at most 1"
    ):
        sc_cll.tl.predict_corpus(tmp_path / "c.zarr", model, tmp_path / "out.zarr", groupby="label")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["cells", "cells (class)"])
def test_a_class_called_as_a_column_of_the_table(name: str) -> None:
    adata = labelled_cells(labels=lambda y: np.array([name, "donor", "split"], dtype=object)[y % 3])
    sc_cll.pp.split_donors(adata, "donor", labels_key="label")
    table = adata.uns["split"]["donors"]
    assert table["n_cells"].sum() == adata.n_obs
    assert len(table.columns) == len(set(table.columns)) == 6


def test_files_that_differ_in_their_order(tmp_path: Path) -> None:
    """Files may lack categories of each other; where they contradict each other, classes are
    sorted.
    """

    def built(name: str, *orders: list[str]) -> list[str]:
        paths = []
        for i, order in enumerate(orders):
            adata = labelled_cells(
                labels=lambda y, order=order: pd.Categorical(np.array(order)[y % len(order)], order)
            )
            adata.obs["donor"] = adata.obs["donor"] + f"of{i}"
            adata.X = adata.X + sparse.csr_matrix(
                ([float(i)], ([0], [0])), adata.shape, dtype=np.float32
            )
            adata.write_h5ad(paths.append(tmp_path / f"{name}{i}.h5ad") or paths[-1])
        sc_cll.pp.build_corpus(
            paths, tmp_path / f"{name}.zarr", vocab=adata, obs_columns=["label"], val_fraction=0
        )
        return sc_cll.model.CorpusData(tmp_path / f"{name}.zarr").classes("label")

    assert built("a", ["zero", "low", "high"], ["zero", "high"]) == ["zero", "low", "high"]
    assert built("b", ["zero", "low", "high"], ["high", "zero"]) == ["high", "low", "zero"]
