"""The table of bad input: what is given, what is said, and that the user's object stays as it was.

One row a kind of mistake, through the public door; the test file of each room has the finer cases. What is no mistake
(other matrix formats, other gene orders, empty genes) must give the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import scbert_cll as sc_cll

pp, tl = sc_cll.pp, sc_cll.tl
FAST = {"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", "enable_progress_bar": False}
NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}


def _cells() -> AnnData:
    """72 cells × 30 genes of six donors, with protein, labels, split and tokens."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (72, 30)).astype(np.float32)
    counts[:, 29] = 0  # a gene nobody expresses
    positive = np.arange(72) % 2 == 0
    obs = pd.DataFrame({"donor": [f"P{i // 12}" for i in range(72)]}, index=[f"cell{i}" for i in range(72)])
    obs["cd49d"] = pd.Categorical(np.where(positive, "CD49d+", "CD49d-"), ["CD49d-", "CD49d+"])
    obs["split"] = np.select([np.arange(72) < 36, np.arange(72) < 54], ["train", "val"], "test")
    adata = AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))
    adata.obsm["protein"] = pd.DataFrame(
        {"CD49d": rng.poisson(np.where(positive, 80, 5)), "CD19": rng.poisson(50, 72)}, index=obs.index, dtype=float
    )
    pp.bin_expression(adata)
    return adata


@pytest.fixture(scope="module")
def classifier() -> sc_cll.ScBERTClassifier:
    return tl.finetune(_cells(), network=NETWORK, **FAST)


def _same(first: AnnData, second: AnnData) -> bool:
    def matrix(x: Any) -> np.ndarray:
        return x.toarray() if sparse.issparse(x) else np.asarray(x)

    return (
        first.obs.equals(second.obs)
        and first.var.equals(second.var)
        and set(first.uns) == set(second.uns)
        and set(first.layers) == set(second.layers)
        and set(first.obsm) == set(second.obsm)
        and np.array_equal(matrix(first.X), matrix(second.X), equal_nan=True)
    )


def put(value: float) -> Callable[[AnnData], None]:
    """Spoil one count: cell2, GENE3."""

    def change(adata: AnnData) -> None:
        x = adata.X.tolil()
        x[2, 3] = value
        adata.X = x.tocsr()

    return change


def take_logs(adata: AnnData) -> None:
    adata.X = adata.X.log1p()


def empty_cell(adata: AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.X.multiply((np.arange(72) != 5)[:, None]))


def labels(values: Any) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        adata.obs["cd49d"] = pd.Categorical(np.broadcast_to(np.asarray(values, dtype=object), 72))

    return change


def rename(what: str) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        names = list(getattr(adata, what))
        names[1] = names[0]
        setattr(adata, what, names)

    return change


def binned(**params: Any) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        adata.uns["binned"]["params"] |= params

    return change


def rare_class(adata: AnnData) -> None:
    values = np.array(["CD49d-"] * 72, dtype=object)
    values[[0, 40, 60]] = "CD49d+"
    adata.obs["cd49d"] = pd.Categorical(values)


def halve_tokens(adata: AnnData) -> None:
    adata.layers["binned"] = adata.layers["binned"] * 0.5


def nothing(adata: AnnData) -> None:
    """The call itself is the mistake."""


def finetune(adata: AnnData) -> None:
    tl.finetune(adata, network=NETWORK, **FAST)


def oversampled(adata: AnnData) -> None:
    adata.obs.loc[adata.obs_names[:6], "cd49d"] = None  # of P0, so that the classes differ in size
    adata.obs.loc[adata.obs_names[6:9], "cd49d"] = "CD49d-"
    pp.balance(adata, "cd49d", method="oversample")


def copied_cell(adata: AnnData) -> None:
    """cell70, of donor P5, has the counts of cell0, of donor P0."""
    adata.X = sparse.vstack([adata.X[:70], adata.X[:1], adata.X[71:]], format="csr")


def cross_validate(adata: AnnData, **kwargs: Any) -> None:
    tl.cross_validate(adata, **{"models": ["majority"], "n_repeats": 1, "n_bootstrap": 10} | kwargs)


ROWS: dict[str, tuple[Callable, Callable, type[Exception], str]] = {
    "negative count": (put(-1), pp.bin_expression, ValueError, r"negative values, first -1 \(cell 'cell2', gene 'GENE3'\)"),
    "NaN": (put(np.nan), pp.bin_expression, ValueError, r"NaN or infinite values, first nan \(cell 'cell2', gene 'GENE3'\)"),
    "infinite": (put(np.inf), pp.bin_expression, ValueError, r"NaN or infinite values, first inf \(cell 'cell2'"),
    "half a count": (put(1.5), pp.bin_expression, ValueError, r"whole numbers.*first other value: 1.5 \(cell 'cell2', gene 'GENE3'\)"),
    "natural log": (take_logs, pp.bin_expression, ValueError, "It looks log-transformed. Name the layer with the raw counts"),
    "binned twice": (nothing, lambda a: pp.bin_expression(a, layer="binned", key_added="b"), ValueError, "looks binned already"),
    "empty cell": (empty_cell, pp.bin_expression, ValueError, r"1 cells have no counts in adata.X \('cell5'\).*filter_cells"),
    "no cells": (nothing, lambda a: pp.bin_expression(a[:0].copy()), ValueError, "found 0 cells x 30 genes"),
    "duplicated genes": (rename("var_names"), pp.bin_expression, ValueError, "var_names must be unique; found more than once: 'GENE0'"),
    "duplicated cells": (rename("obs_names"), pp.bin_expression, ValueError, "obs_names must be unique; found more than once: 'cell0'"),
    "missing layer": (nothing, lambda a: pp.bin_expression(a, layer="raw"), KeyError, "'raw' is not in adata.layers; it has 'binned'"),
    "missing column": (nothing, lambda a: pp.split_donors(a, "patient"), KeyError, "'patient' is not in adata.obs; it has 'donor', 'cd49d'"),
    "missing protein": (nothing, lambda a: pp.label_cd49d(a, marker="CD38"), KeyError, "CD38.*'CD19'"),
    "missing protein matrix": (lambda a: a.obsm.pop("protein"), pp.label_cd49d, (KeyError, ValueError), "protein"),
    "too few genes": (nothing, lambda a: pp.align_genes(a, [f"OTHER{i}" for i in range(30)]), ValueError, "0 of 30 vocabulary genes.*'GENE0'"),
    "one class": (labels("CD49d+"), finetune, ValueError, r"adata.obs\['cd49d'\] needs at least two classes; found 'CD49d\+'"),
    "no labels": (labels(None), finetune, ValueError, "needs at least two classes; found none"),
    "class not in training": (
        labels(np.where(np.arange(72) < 54, "a", "b")),
        finetune,
        ValueError,
        "No labelled training cell of class",
    ),
    "one donor": (lambda a: a.obs.__setitem__("donor", "P0"), lambda a: pp.split_donors(a, "donor"), ValueError, "donor"),
    "NaN donors": (lambda a: a.obs.__setitem__("donor", [None, *["P1"] * 71]), lambda a: pp.split_donors(a, "donor"), ValueError, "cell0"),
    "no split": (lambda a: a.obs.pop("split"), lambda a: pp.balance(a, "cd49d"), KeyError, "split"),
    "small class for SMOTE": (rare_class, lambda a: pp.balance(a, "cd49d", method="smote"), ValueError, r"CD49d\+"),
    "a view": (nothing, lambda a: pp.bin_expression(a[:40]), ValueError, "is a view of another AnnData.*adata.copy"),
    "a MuData for an AnnData": (nothing, lambda a: pp.bin_expression(MuData({"rna": a.copy()})), TypeError, 'mdata\\["rna"\\]'),
    "unpaired MuData": (
        nothing,
        lambda a: pp.label_cd49d(MuData({"rna": a[:60].copy(), "prot": AnnData(a.obsm["protein"][6:].add_prefix("p"))})),
        ValueError,
        "cell",
    ),
    "proteins that are no counts": (
        lambda a: a.obsm["protein"].__setitem__("CD19", -1.0),
        lambda a: tl.finetune(a, protein_key="protein", network=NETWORK, **FAST),
        ValueError,
        "must hold raw protein counts: finite, none negative",
    ),
    "missing modality": (nothing, lambda a: pp.label_cd49d(MuData({"rna": a.copy()})), (KeyError, ValueError), "rna"),
    "resampled rows in a cross-validation": (oversampled, cross_validate, ValueError, r"cells were added by resampling \(.*-copy1.*Start from the cells as measured"),
    "copies across folds": (copied_cell, cross_validate, ValueError, r"2 cells have the same counts as another one on the other side of a fold \('cell0', 'cell70'\)"),
    "unknown model name": (nothing, lambda a: cross_validate(a, models=["xgboost"]), KeyError, "'xgboost' is not in the models that go by a name; it has.*'majority'"),
    "no model at all": (nothing, lambda a: cross_validate(a, models={"x": 3}), TypeError, "a scikit-learn classifier, found int"),
    "no donors to hold out": (lambda a: a.obs.pop("donor"), cross_validate, KeyError, "'donor' is not in adata.obs; it has 'cd49d', 'split'"),
    "no split to audit": (lambda a: a.obs.pop("split"), tl.leakage_audit, KeyError, r"'split' is not in adata.obs.*pp.split_donors"),
    "nothing to test": (lambda a: a.obs.__setitem__("split", "train"), tl.leakage_audit, ValueError, "has no cell in 'test'"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.* names are not unique:UserWarning")  # anndata notices, too
@pytest.mark.parametrize("row", ROWS)
def test_bad_input_is_refused_in_words_and_changes_nothing(row):
    spoil, call, error, sentence = ROWS[row]
    adata = _cells()
    spoil(adata)
    before = adata.copy()
    with pytest.raises(error, match=sentence):
        call(adata)
    assert _same(before, adata)


PREDICT_ROWS: dict[str, tuple[Callable[[AnnData], Any], type[Exception], str]] = {
    "other bins": (binned(n_bins=7), ValueError, "n_bins is 7, the model has 5"),
    "other method": (binned(method="uniform"), ValueError, "method is 'uniform', the model has 'log2'"),
    "half a token": (halve_tokens, ValueError, r"may hold bins 0 to 5; found .*cell 'cell\d+'.*Bin again"),
    "no tokens": (lambda a: a.layers.pop("binned"), KeyError, "'binned' is not in adata.layers.*pp.bin_expression"),
    "other genes": (
        lambda a: setattr(a, "var_names", [f"Gene{i}" for i in range(30)]),
        ValueError,
        "0 of the model's 30 genes are in adata, expected at least 50%.*'GENE0'",
    ),
}


@pytest.mark.parametrize("row", PREDICT_ROWS)
def test_data_a_model_cannot_read_are_refused(row, classifier):
    spoil, error, sentence = PREDICT_ROWS[row]
    adata = _cells()
    spoil(adata)
    before = adata.copy()
    with pytest.raises(error, match=sentence):
        tl.predict(adata, classifier)
    assert _same(before, adata)


def test_a_backed_object_is_refused(tmp_path, classifier):
    _cells().write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for call in (pp.bin_expression, pp.label_cd49d, lambda a: tl.predict(a, classifier), finetune):
        with pytest.raises(ValueError, match=r"backed.*to_memory"):
            call(backed)
    backed.file.close()


def test_unseen_categories_are_refused(classifier):
    adata = _cells()
    other = sc_cll.ScBERTClassifier.from_pretrained(
        tl.pretrain(adata, gene_embedding="learned", **FAST), adata, labels_key="cd49d"
    )
    adata.obs["cd49d"] = adata.obs["cd49d"].cat.rename_categories({"CD49d+": "bright"})
    with pytest.raises(ValueError, match="classes the model does not know: 'bright'; it knows 'CD49d-', 'CD49d\\+'"):
        other.train(split_key="split", **FAST)


def test_a_damaged_or_foreign_model_folder_is_refused(classifier, tmp_path):
    classifier.save(tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"weights.safetensors is damaged"):
        sc_cll.ScBERTClassifier.load(tmp_path / "model")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.pt").write_bytes(b"not ours")
    with pytest.raises(FileNotFoundError, match=r"not a whole model folder of scbert_cll.*it holds model.pt"):
        sc_cll.ScBERTClassifier.load(foreign)


def test_a_full_disk_leaves_the_old_model(classifier, tmp_path, monkeypatch):
    classifier.save(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        classifier.save(tmp_path / "model", overwrite=True)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


FORMATS = {
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": lambda x: x.toarray(),
    "integers": lambda x: x.astype(np.int64),
}


@pytest.mark.parametrize("form", FORMATS)
def test_other_formats_give_the_same_answer(form, classifier):
    expected, adata = _cells(), _cells()
    del adata.layers["binned"]
    adata.X = FORMATS[form](adata.X)
    pp.bin_expression(adata)
    np.testing.assert_array_equal(adata.layers["binned"].toarray(), expected.layers["binned"].toarray())
    adata.layers["binned"] = FORMATS[form](adata.layers["binned"])
    for cells in (adata, expected):
        tl.predict(cells, classifier)
    np.testing.assert_array_equal(adata.obsm["scbert_proba"], expected.obsm["scbert_proba"])


def test_reversed_genes_give_the_same_answer(classifier):
    expected, adata = _cells(), _cells()[:, ::-1].copy()
    for cells in (adata, expected):
        tl.predict(cells, classifier)
    np.testing.assert_array_equal(adata.obsm["scbert_proba"], expected.obsm["scbert_proba"])


def test_empty_genes_are_tokens_of_zero():
    adata = _cells()
    assert adata.layers["binned"][:, 29].nnz == 0
