"""Every verb that is told a column of donors reads it in the same way: the type of the column
changes nothing, and cells of no donor change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll

NETWORK = {"n_hidden": 8, "n_layers": 1, "n_heads": 2, "gene_embedding": "learned"}
FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
DONORS, CELLS = 6, 40
WORDS = ["doublet", "Unassigned", "Negative", "", "DBL-1-2", "1/2"]  # ten cells of each, at the end


def _cells() -> AnnData:
    """Cells with labels, protein, tokens and a split; those without a donor come last and are like
    the others.
    """
    rng, n = np.random.default_rng(0), DONORS * CELLS + 10 * len(WORDS)
    positive = np.arange(n) % 2 == 1
    mean = np.tile(rng.gamma(1.0, 2.0, 30) + 0.3, (n, 1))
    mean[np.ix_(positive, np.arange(1, 9))] *= 5
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.var_names = ["ITGA4", *(f"G{i}" for i in range(29))]
    names = [*np.repeat([str(i + 1) for i in range(DONORS)], CELLS), *np.repeat(WORDS, 10)]
    adata.obs["donor"] = pd.Series(names, adata.obs_names, dtype=object).map(str)
    adata.obs["label"] = pd.Categorical(np.where(positive, "pos", "neg"))
    adata.obs["age"] = 50.0
    protein = rng.poisson(8.0, (n, 3)).astype(float)
    protein[:, 0] += np.where(positive, rng.poisson(80, n), 0)
    adata.obsm["protein"] = pd.DataFrame(protein, adata.obs_names, ["CD49d", "CD19", "CD5"])
    part = np.repeat(["train", "train", "train", "val", "test", "test"], CELLS).tolist() + [
        "train"
    ] * 10 * len(WORDS)
    adata.obs["split"] = pd.Categorical(part)
    sc_cll.pp.bin_expression(adata)
    return adata


@pytest.fixture(scope="module")
def plain(with_words: AnnData) -> AnnData:
    return with_words[: DONORS * CELLS].copy()


@pytest.fixture(scope="module")
def with_words() -> AnnData:
    return _cells()


@pytest.fixture(scope="module")
def model(plain: AnnData) -> sc_cll.ScBERTClassifier:
    return sc_cll.tl.finetune(
        plain.copy(), labels_key="label", network=NETWORK, **FAST | {"max_epochs": 5}
    )


@pytest.fixture(scope="module")
def gated(plain: AnnData) -> Any:
    """What pp.label_cd49d says of the cells, to go on from."""
    adata = plain.copy()
    sc_cll.pp.label_cd49d(adata, donor_key="donor", normalize="clr_protein")
    return adata


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    yield
    plt.close("all")
    sc_cll.settings.reset()


def _split(adata: AnnData, _: Any) -> Any:
    sc_cll.pp.split_donors(
        adata, "donor", labels_key="label", fractions=(0.5, 0.25, 0.25), key_added="own"
    )
    return [adata.obs["own"].astype(object), adata.uns["own"]["donors"]]


def _label(adata: AnnData, _: Any) -> Any:
    sc_cll.pp.label_cd49d(adata, donor_key="donor", normalize="clr_protein")
    return [
        adata.obs["cd49d"].astype(object),
        adata.obs["cd49d_score"],
        sc_cll.get.donor_table(adata),
    ]


def _signature(adata: AnnData, model: Any) -> Any:
    sc_cll.tl.signature(adata, groupby="label", min_cells=5, min_donors=3, model=model)
    return [
        adata.uns["signature"][name]
        for name in ("genes", "samples", "donors", "expression", "n_donors")
    ]


def _programmes(adata: AnnData, _: Any) -> Any:
    few = {"ranks": (2, 3), "min_cells": 20, "min_cells_per_class": 5, "n_permutations": 19}
    sc_cll.tl.programmes(adata, groupby="label", **few)
    tables = ("programmes", "usage", "donors", "null")
    return [*(adata.uns["programmes"][name] for name in tables), adata.varm["programmes"]]


def _report(adata: AnnData, _: Any) -> Any:
    sc_cll.tl.signature(adata, groupby="label", min_cells=5, min_donors=3)
    return [sc_cll.tl.signature_report(adata, n_random=19, n_permutations=19).gates]


def _cross_validate(adata: AnnData, _: Any) -> Any:
    sc_cll.tl.cross_validate(
        adata,
        labels_key="label",
        models=["gene_only"],
        n_repeats=1,
        n_bootstrap=5,
        positive_from=30.0,
    )
    return [
        *(adata.uns["cv"][name] for name in ("summary", "donors", "folds")),
        adata.obsm["cv_proba"],
    ]


def _audit(adata: AnnData, _: Any) -> Any:
    findings = sc_cll.tl.leakage_audit(adata, labels_key="label", gap=False).findings
    return [findings.loc[findings["check"] == "shared donors", ["value", "n", "offenders"]]]


def _patients(adata: AnnData, _: Any) -> Any:
    sc_cll.pp.label_cd49d(adata, donor_key="donor", normalize="clr_protein")
    patients = sc_cll.tl.patient_cd49d(adata, obs_keys=["age"])
    return [patients.obs, np.asarray(patients.X)]


def _finetune(adata: AnnData, _: Any) -> Any:
    model = sc_cll.tl.finetune(
        adata, labels_key="label", donor_key="donor", combine="average", network=NETWORK, **FAST
    )
    return [model.predict(adata[: DONORS * CELLS].copy(), soft=True)]


def _perturb(adata: AnnData, model: Any) -> Any:
    sc_cll.tl.perturb(adata, model, genes=["G1", "G2"], min_cells=3)
    return [adata.uns["perturb"]["donors"], adata.uns["perturb"]["summary"]]


def _interactions(adata: AnnData, model: Any) -> Any:
    sc_cll.tl.gene_interactions(adata, model, ["G1", "G2"], min_cells=3, n_cells=CELLS)
    return [adata.uns["gene_interactions"]["pairs"]]


def _attribution(adata: AnnData, model: Any) -> Any:
    sc_cll.tl.gene_attribution(
        adata, model, groupby="label", donor_key="donor", method="gate_gradient"
    )
    return [adata.varm["gene_attribution"], adata.varm["gene_attribution_donors"]]


def _gene2vec(adata: AnnData, _: Any) -> Any:
    sc_cll.tl.gene2vec(
        adata, n_dims=4, method="skip_gram", donor_key="donor", split_key=None, epochs=1
    )
    return [adata.varm["gene2vec"]]


def _cd49d_plot(adata: AnnData, _: Any) -> Any:
    axes = sc_cll.pl.cd49d(adata, levels="donor", show=False)
    return [np.asarray(axes.collections[0].get_offsets()), axes.get_title()]


def _confusion_plot(adata: AnnData, model: Any) -> Any:
    sc_cll.tl.predict(adata, model)
    return [
        sc_cll.pl.confusion(adata, labels_key="label", donor_key="donor", show=False).get_title()
    ]


def _corpus(adata: AnnData, _: Any) -> Any:
    del adata.layers["binned"], adata.uns["binned"]
    with TemporaryDirectory() as folder:
        for name, value in adata.obs.items():
            if value.dtype == object:
                adata.obs[name] = value.map(
                    lambda one: one.decode() if isinstance(one, bytes) else one
                ).astype(str)
        adata.write_h5ad(Path(folder) / "cells.h5ad")
        sc_cll.pp.build_corpus(
            [Path(folder) / "cells.h5ad"], Path(folder) / "c.zarr", vocab=adata, val_donors=[1]
        )
        record = json.loads((Path(folder) / "c.zarr/manifest.json").read_text())
        cells = sc_cll.model.CorpusData(Path(folder) / "c.zarr").sample(10**6)
    donors = record["sources"][0]["donors"]
    return [
        record["donors"],
        {name: n for name, n in donors.items() if n},
        cells.obs["donor"].astype(str).sort_index(),
    ]


VERBS: dict[str, Callable[[AnnData, Any], Any]] = {
    "pp.split_donors": _split,
    "pp.label_cd49d": _label,
    "pp.build_corpus": _corpus,
    "tl.signature": _signature,
    "tl.programmes": _programmes,
    "tl.signature_report": _report,
    "tl.cross_validate": _cross_validate,
    "tl.leakage_audit": _audit,
    "tl.patient_cd49d": _patients,
    "tl.finetune": _finetune,
    "tl.perturb": _perturb,
    "tl.gene_interactions": _interactions,
    "tl.gene_attribution": _attribution,
    "tl.gene2vec": _gene2vec,
    "pl.cd49d": _cd49d_plot,
    "pl.confusion": _confusion_plot,
}
# Verbs that write down whose cells they left out, and where; signature_report goes by the record of
# tl.signature.
WRITES = {
    "pp.split_donors": "own",
    "tl.signature": "signature",
    "tl.programmes": "programmes",
    "tl.signature_report": "signature",
    "tl.cross_validate": "cv",
    "tl.leakage_audit": "leakage_audit",
    "tl.finetune": "scbert",
    "tl.perturb": "perturb",
    "tl.gene2vec": "gene2vec",
    "tl.gene_interactions": "gene_interactions",
    "tl.gene_attribution": "gene_attribution",
    "pp.label_cd49d": "cd49d",
}
EVERY_VERB = pytest.mark.parametrize("verb", VERBS)
NEED_A_MODEL = {
    "tl.signature",
    "tl.perturb",
    "tl.gene_interactions",
    "tl.gene_attribution",
    "pl.confusion",
}


@pytest.fixture(scope="module")
def expected(plain: AnnData, model: Any) -> Callable[[str], Any]:
    """What a verb says of donors that are plain text, computed once."""
    known: dict[str, Any] = {}

    def of(verb: str) -> Any:
        if verb not in known:
            known[verb] = VERBS[verb](plain.copy(), model)
        return known[verb]

    return of


def _same(found: Any, wanted: Any, cells: int | None = None) -> None:
    """Equal tables, arrays and numbers; of what is said of cells only those that have a donor are
    compared.
    """
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, pd.DataFrame | pd.Series):
            one = one.iloc[:cells] if cells is not None and len(one) > len(other) else one
            compare: Any = (
                pd.testing.assert_frame_equal
                if isinstance(other, pd.DataFrame)
                else pd.testing.assert_series_equal
            )
            compare(one, other, check_dtype=False, check_categorical=False, rtol=1e-5, atol=1e-6)
        elif isinstance(other, np.ndarray):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        else:
            assert one == other


def _mixed(names: pd.Series) -> pd.Series:
    """Every way to write a number, in one column."""
    ways: list[Callable[[str], Any]] = [
        int,
        float,
        str,
        lambda n: f" {n} ",
        lambda n: f"{n}.0",
        np.int64,
        str.encode,
    ]
    return pd.Series(
        [ways[i % len(ways)](name) for i, name in enumerate(names)], names.index, dtype=object
    )


TYPES: dict[str, Callable[[pd.Series], pd.Series]] = {
    "floats": lambda names: names.astype(float),
    "categories of integers": lambda names: (
        names.astype(int).astype("category").cat.add_categories([99])
    ),
    "everything": _mixed,
}


@EVERY_VERB
@pytest.mark.parametrize("kind", TYPES)
def test_the_type_of_the_column_changes_nothing(
    verb: str, kind: str, plain: AnnData, model: Any, expected: Any
) -> None:
    adata = plain.copy()
    adata.obs["donor"] = TYPES[kind](plain.obs["donor"])
    _same(VERBS[verb](adata, model), expected(verb))


@EVERY_VERB
def test_cells_of_no_donor_change_nothing(
    verb: str, with_words: AnnData, model: Any, expected: Any
) -> None:
    adata = with_words.copy()
    with pytest.warns(UserWarning, match="cells are left out, since they have no donor") as told:
        found = VERBS[verb](adata, model)
    assert any("'Unassigned' (10)" in str(one.message) for one in told)
    if verb in WRITES:
        params = adata.uns[WRITES[verb]]["params"]
        assert dict(
            zip(params["not_donors"], params["n_not_donors"], strict=True)
        ) == dict.fromkeys(WORDS, 10)
    _same(found, expected(verb), DONORS * CELLS)


ONE_DONOR_FOR_NOW = {
    "pp.label_cd49d",
    "tl.patient_cd49d",  # which is given what pp.label_cd49d wrote
    "tl.finetune",
    "tl.gene_attribution",
    "tl.gene2vec",
    "pl.confusion",
}


@EVERY_VERB
def test_a_column_that_is_not_there_is_an_error(
    verb: str, plain: AnnData, model: Any, gated: AnnData, tmp_path: Path
) -> None:
    adata = (
        plain.copy()
        if verb not in ("tl.patient_cd49d", "tl.signature_report", "pl.confusion")
        else gated.copy()
    )
    adata.obs["Donor"] = adata.obs.pop("donor")
    if (
        verb == "tl.leakage_audit"
    ):  # the default name may be missing, and then the answer is that nobody can tell
        with pytest.raises(KeyError, match=r"'patient' is not in adata\.obs; it has"):
            sc_cll.tl.leakage_audit(adata, donor_key="patient", labels_key="label", gap=False)
        return
    if verb in ONE_DONOR_FOR_NOW:  # until the next release: nobody need have named the column
        with pytest.raises(FutureWarning, match=r"no column 'donor'.* donor_key=None for"):
            VERBS[verb](adata, model)
        return
    with pytest.raises(
        (KeyError, ValueError), match=r"'donor' is not in .*obs; it has 'Donor', "
    ) as error:
        VERBS[verb](adata, model)
    if isinstance(error.value, KeyError):
        mdata = mudata.MuData({"rna": AnnData(obs=adata.obs[["age"]])})
        mdata.obs["donor"] = adata.obs["Donor"]
        exec(str(error.value).split("MuData: ")[1].rstrip('."'), {"mdata": mdata})  # noqa: S102
        assert mdata["rna"].obs["donor"].tolist() == adata.obs["Donor"].tolist()


@EVERY_VERB
def test_a_missing_donor_is_said(verb: str, plain: AnnData, model: Any, gated: AnnData) -> None:
    if verb in ("tl.leakage_audit", "pl.confusion"):
        pytest.skip("says itself how many donors are known")
    adata = (
        plain.copy() if verb not in ("tl.patient_cd49d", "tl.signature_report") else gated.copy()
    )
    run = VERBS[verb]
    if verb == "tl.patient_cd49d":
        run = lambda adata, _: sc_cll.tl.patient_cd49d(adata)  # noqa: E731
    adata.obs["donor"] = (
        adata.obs["donor"].where(np.arange(adata.n_obs) != 5, np.nan).astype("category")
    )
    with pytest.raises(
        ValueError,
        match=r"obs\['donor'\] is missing for 1 cells \('5'\); fill it or drop these cells",
    ):
        run(adata, model)
