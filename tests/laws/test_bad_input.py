"""The table of bad input: what is given, what is said, that the user's object stays as it was, and
that the remedy works.

One row a kind of mistake, through the public door; the test file of each room has the finer cases.
What is no mistake (other matrix formats, other gene orders, empty genes) must give the same answer.
Each remedy is code that is run on the refused object: `MEND` is followed by the same call,
`INSTEAD` is the call that works. `docs/bad_input.md` is made from here: ``python
tests/laws/test_bad_input.py``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from urllib3.exceptions import HTTPError

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll._gene_names import table as name_table

pp, tl = sc_cll.pp, sc_cll.tl
FAST = {"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", "enable_progress_bar": False}
NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
# symbols, and ids of other genes
MIXED = ["ITGA4", "CD19", "CD5", "ENSG00000156738", "ENSG00000132646", "ENSG00000122545"]


def _cells() -> AnnData:
    """72 cells × 30 genes of six donors, with protein, labels, split and tokens."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (72, 30)).astype(np.float32)
    counts[:, 29] = 0  # a gene nobody expresses
    positive = np.arange(72) % 2 == 0
    counts[np.ix_(positive, np.arange(4, 10))] += rng.poisson(9.0, (36, 6))  # what goes with CD49d
    obs = pd.DataFrame(
        {"donor": [f"P{i // 12}" for i in range(72)]}, index=[f"cell{i}" for i in range(72)]
    )
    obs["cd49d"] = pd.Categorical(np.where(positive, "CD49d+", "CD49d-"), ["CD49d-", "CD49d+"])
    obs["split"] = np.select([np.arange(72) < 36, np.arange(72) < 54], ["train", "val"], "test")
    adata = AnnData(
        sparse.csr_matrix(counts), obs, pd.DataFrame(index=[f"GENE{i}" for i in range(30)])
    )
    adata.obsm["protein"] = pd.DataFrame(
        {"CD49d": rng.poisson(np.where(positive, 80, 5)), "CD19": rng.poisson(50, 72)},
        index=obs.index,
        dtype=float,
    )
    pp.bin_expression(adata)
    return adata


@pytest.fixture(scope="module")
def classifier() -> sc_cll.ScBERTClassifier:
    return tl.finetune(_cells(), network=NETWORK, **FAST)


def _same(first: AnnData, second: AnnData) -> bool:
    def matrix(x: Any) -> np.ndarray:
        x = 0 if x is None else x
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
    adata.layers["counts"] = adata.X.copy()
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


def antibodies(adata: AnnData) -> None:
    """The last two rows are antibodies, as in a file of Cell Ranger."""
    adata.var["feature_types"] = ["Gene Expression"] * 28 + ["Antibody Capture"] * 2


def half_said(adata: AnnData) -> None:
    adata.var["feature_types"] = ["Gene Expression"] * 29 + [None]


def soup(adata: AnnData) -> None:
    """Some genes corrected for what floats in the droplet."""
    adata.X = adata.X.toarray()
    adata.X[:, :6] *= 0.93


def masked(adata: AnnData) -> None:
    adata.X = adata.X.toarray()
    adata.X[2, 3] = np.nan


def counts_in_raw(adata: AnnData) -> None:
    adata.raw = adata.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)


def no_matrix(adata: AnnData) -> None:
    adata.layers["counts"], adata.X = adata.X, None


def proteins(*names: str) -> Callable[[AnnData], None]:
    def change(adata: AnnData) -> None:
        adata.obsm["protein"] = adata.obsm["protein"].set_axis(list(names), axis=1)

    return change


def a_verdict(adata: AnnData) -> None:
    """What a demultiplexer says of the droplets."""
    adata.obs["demux"] = np.where(np.arange(72) % 5 == 0, "Doublet", "Negative")


def own_prediction(adata: AnnData) -> None:
    adata.obs["scbert_pred"] = adata.obs["cd49d"]


def more_genes(adata: AnnData) -> None:
    """The same cells with 15 genes more, binned with them."""
    rng = np.random.default_rng(1)
    counts = sparse.hstack(
        [adata.X, sparse.csr_matrix(rng.poisson(2.0, (72, 15)))], format="csr", dtype=np.float32
    )
    whole = AnnData(
        counts, adata.obs, pd.DataFrame(index=[*adata.var_names, *(f"MORE{i}" for i in range(15))])
    )
    pp.bin_expression(whole)
    adata._init_as_actual(whole)


def empty_signature(adata: AnnData) -> None:
    tl.signature(adata)  # six cells of each class per donor


def unlearned(adata: AnnData) -> None:
    """Labels that follow no gene, where the network is asked."""
    adata.obs["cd49d"] = adata.obs["cd49d"].to_numpy()[np.random.default_rng(1).permutation(72)]


def cross_validate(adata: AnnData, **kwargs: Any) -> None:
    tl.cross_validate(adata, **{"models": ["majority"], "n_repeats": 1, "n_bootstrap": 10} | kwargs)


def one_class_each(**columns: Any) -> Callable[[AnnData], None]:
    """Donors of one class each, in turn, and columns with one value of each donor."""

    def change(adata: AnnData) -> None:
        donor = adata.obs["donor"].str[1:].astype(int).to_numpy()
        other = (adata.obs["cd49d"] == "CD49d+").to_numpy() != (donor % 2 == 1)
        adata.obs.loc[other, "cd49d"] = None
        for key, values in columns.items():
            adata.obs[key] = np.array(list(values))[donor]

    return change


def visits(adata: AnnData) -> None:
    adata.obs["visit"] = np.where(np.arange(72) // 2 % 2 == 0, "first", "second")


def between(key: str) -> Callable[[AnnData], None]:
    """Donors compared with each other, adjusted for a column."""
    options = {"design": "between", "min_cells": 5, "min_donors": 3}
    return lambda adata: tl.signature(adata, covariates=[key], **options)


def damaged_names(adata: AnnData) -> None:
    """The package's table of names, with one byte of it changed on the disk."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(name_table.FOLDER, "names")
        path = Path("names", name_table.TABLE)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        damaged = partial(name_table.shipped, Path("names"))
        with mock.patch.object(name_table, "shipped", damaged):
            pp.align_genes(adata, ["CD49D", "GENE0"])


def orthologues(first: str, human: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"mouse": [f"{first}{i}" for i in range(30)], "human": [f"{human}{i}" for i in range(30)]}
    )


ROWS: dict[str, tuple[Callable, Callable, type[Exception], str]] = {
    "negative count": (
        put(-1),
        pp.bin_expression,
        ValueError,
        (
            r"negative values, first -1 \(cell "
            r"'cell2', "
            r"gene "
            r"'GENE3'\)"
        ),
    ),
    "NaN": (
        put(np.nan),
        pp.bin_expression,
        ValueError,
        (
            r"NaN or infinite values, first nan \(cell "
            r"'cell2', "
            r"gene "
            r"'GENE3'\)"
        ),
    ),
    "infinite": (
        put(np.inf),
        pp.bin_expression,
        ValueError,
        (
            r"NaN or infinite values, first inf "
            r"\(cell "
            r"'cell2'"
        ),
    ),
    "half a count": (
        put(1.5),
        pp.bin_expression,
        ValueError,
        (
            r"whole numbers.*first other value: 1.5 "
            r"\(cell "
            r"'cell2', "
            r"gene "
            r"'GENE3'\)"
        ),
    ),
    "natural log": (
        take_logs,
        pp.bin_expression,
        ValueError,
        "It looks log-transformed. Name the layer with the raw counts",
    ),
    "binned twice": (
        nothing,
        lambda a: pp.bin_expression(a, layer="binned", key_added="b"),
        ValueError,
        "looks binned already",
    ),
    "empty cell": (
        empty_cell,
        pp.bin_expression,
        ValueError,
        (
            r"1 cells have no counts in adata.X "
            r"\('cell5'\).*filter_cells"
        ),
    ),
    "no cells": (
        nothing,
        lambda a: pp.bin_expression(a[:0].copy()),
        ValueError,
        "found 0 cells x 30 genes",
    ),
    "duplicated genes": (
        rename("var_names"),
        pp.bin_expression,
        ValueError,
        "var_names must be unique; found more than once: 'GENE0'",
    ),
    "duplicated cells": (
        rename("obs_names"),
        pp.bin_expression,
        ValueError,
        "obs_names must be unique; found more than once: 'cell0'",
    ),
    "missing layer": (
        nothing,
        lambda a: pp.bin_expression(a, layer="raw"),
        KeyError,
        "'raw' is not in adata.layers; it has 'binned'",
    ),
    "missing column": (
        nothing,
        lambda a: pp.split_donors(a, "patient"),
        KeyError,
        "'patient' is not in adata.obs; it has 'donor', 'cd49d'",
    ),
    "missing protein": (
        nothing,
        lambda a: pp.label_cd49d(a, marker="CD38"),
        KeyError,
        "CD38.*'CD19'",
    ),
    "missing protein matrix": (
        lambda a: a.obsm.pop("protein"),
        pp.label_cd49d,
        (KeyError, ValueError),
        "protein",
    ),
    "symbols and Ensembl ids": (
        lambda a: setattr(a, "var_names", [*MIXED, *a.var_names[len(MIXED) :]]),
        lambda a: pp.align_genes(a, MIXED[:3]),
        ValueError,
        r"adata.var_names mixes symbols \(10%: 'ITGA4'.*Ensembl ids \(10%: 'ENSG0.*gene_key=",
    ),
    "too few genes": (
        nothing,
        lambda a: pp.align_genes(a, [f"OTHER{i}" for i in range(30)]),
        ValueError,
        "0 of 30 vocabulary genes.*'GENE0'",
    ),
    "one class": (
        labels("CD49d+"),
        finetune,
        ValueError,
        (
            r"adata.obs\['cd49d'\] needs at least "
            r"two "
            r"classes; "
            r"found "
            r"'CD49d\+'"
        ),
    ),
    "no labels": (labels(None), finetune, ValueError, "needs at least two classes; found none"),
    "class not in training": (
        labels(np.where(np.arange(72) < 54, "a", "b")),
        finetune,
        ValueError,
        "No labelled training cell of class",
    ),
    "one donor": (
        lambda a: a.obs.__setitem__("donor", "P0"),
        lambda a: pp.split_donors(a, "donor"),
        ValueError,
        "donor",
    ),
    "NaN donors": (
        lambda a: setattr(a, "obs", a.obs.assign(donor=[None, *a.obs["donor"][1:]])),
        lambda a: pp.split_donors(a, "donor"),
        ValueError,
        "cell0",
    ),
    "no split": (lambda a: a.obs.pop("split"), lambda a: pp.balance(a, "cd49d"), KeyError, "split"),
    "small class for SMOTE": (
        rare_class,
        lambda a: pp.balance(a, "cd49d", method="smote"),
        ValueError,
        r"CD49d\+",
    ),
    "a view": (
        nothing,
        lambda a: pp.bin_expression(a[:40]),
        ValueError,
        "is a view of another AnnData.*adata.copy",
    ),
    "a MuData for an AnnData": (
        nothing,
        lambda a: pp.bin_expression(MuData({"rna": a.copy()})),
        TypeError,
        'mdata\\["rna"\\]',
    ),
    "unpaired MuData": (
        nothing,
        lambda a: pp.label_cd49d(
            MuData({"rna": a[:60].copy(), "prot": AnnData(a.obsm["protein"][6:].add_prefix("p"))})
        ),
        ValueError,
        "cell",
    ),
    "proteins that are no counts": (
        lambda a: a.obsm["protein"].__setitem__("CD19", -1.0),
        lambda a: tl.finetune(a, protein_key="protein", network=NETWORK, **FAST),
        ValueError,
        "must hold raw protein counts: finite, none negative",
    ),
    "missing modality": (
        nothing,
        lambda a: pp.label_cd49d(MuData({"rna": a.copy()})),
        (KeyError, ValueError),
        "rna",
    ),
    "resampled rows in a cross-validation": (
        oversampled,
        cross_validate,
        ValueError,
        (
            r"cells were added by resampling \(.*-copy1.*Start from the "
            r"cells "
            r"as "
            r"measured"
        ),
    ),
    "copies across folds": (
        copied_cell,
        cross_validate,
        ValueError,
        (
            r"2 cells have the same counts as another one on the other side of "
            r"a "
            r"fold "
            r"\('cell0', "
            r"'cell70'\)"
        ),
    ),
    "unknown model name": (
        nothing,
        lambda a: cross_validate(a, models=["xgboost"]),
        KeyError,
        "'xgboost' is not in the models that go by a name; it has.*'majority'",
    ),
    "no model at all": (
        nothing,
        lambda a: cross_validate(a, models={"x": 3}),
        TypeError,
        "a scikit-learn classifier, found int",
    ),
    "no donors to hold out": (
        lambda a: a.obs.pop("donor"),
        cross_validate,
        KeyError,
        "'donor' is not in adata.obs; it has 'cd49d', 'split'",
    ),
    "no split to audit": (
        lambda a: a.obs.pop("split"),
        tl.leakage_audit,
        KeyError,
        (
            r"'split' is not in "
            r"adata.obs.*pp.split_donors"
        ),
    ),
    "nothing to test": (
        lambda a: a.obs.__setitem__("split", "train"),
        tl.leakage_audit,
        ValueError,
        "has no cell in 'test'",
    ),
    "a signature of logs": (
        take_logs,
        tl.signature,
        ValueError,
        "It looks log-transformed. Name the layer with the raw counts",
    ),
    "a signature of one class": (
        labels("CD49d+"),
        tl.signature,
        ValueError,
        (
            r"needs at least two "
            r"classes; "
            r"found "
            r"'CD49d\+'"
        ),
    ),
    "one donor's difference": (
        nothing,
        lambda a: tl.signature(a, min_donors=1),
        ValueError,
        "min_donors must be a whole number from 2 to inf; found 1",
    ),
    "genes to leave out that are not there": (
        nothing,
        lambda a: tl.signature(a, exclude_genes=["ITGA4"]),
        KeyError,
        "'ITGA4'",
    ),
    "three classes between donors": (
        labels(np.arange(72) % 3),
        lambda a: tl.signature(a, design="between"),
        ValueError,
        r"design='between' compares two classes; adata.obs\['cd49d'\] has '0', '1', '2'",
    ),
    "a covariate that is not there": (
        one_class_each(),
        between("batch"),
        KeyError,
        "'batch' is not in adata.obs; it has 'donor'",
    ),
    "a covariate that is the same in all": (
        one_class_each(batch="aaaaaa"),
        between("batch"),
        ValueError,
        r"'batch' is the same in all donors \('a'\). Leave it out of covariates",
    ),
    "a covariate that is the class": (
        one_class_each(batch="ababab"),
        between("batch"),
        ValueError,
        r"'batch' cannot be told from the class: CD49d\+: a 0, b 3; CD49d-: a 3, b 0. Leave it out",
    ),
    "a level that one donor has": (
        one_class_each(batch="aabbac"),
        between("batch"),
        ValueError,
        r"'batch' has levels that only one donor has: 'c' \('P5'\).*Merge levels",
    ),
    "words among the numbers of a covariate": (
        one_class_each(age=["61", "72", "unknown", "66", "55", "59.5"]),
        between("age"),
        ValueError,
        r"'age' has words where numbers are meant: 'unknown'.*errors='coerce'",
    ),
    "a covariate of cells between donors": (
        visits,
        between("visit"),
        ValueError,
        r"'visit' varies within donors \('P0'.*compare within donors: design='within'",
    ),
    "what is compared as covariate": (
        nothing,
        lambda a: tl.signature(a, covariates=["cd49d"]),
        ValueError,
        "'cd49d' is what is compared; take it out of covariates",
    ),
    "the donor as sample": (
        nothing,
        lambda a: tl.signature(a, sample_key="donor"),
        ValueError,
        r"adata.obs\['donor'\] has one sample of each donor.*Leave sample_key out",
    ),
    "programmes of few cells": (
        nothing,
        tl.programmes,
        ValueError,
        r"has to recur in min_donors=4 donors, and 0 have min_cells=50 .*Lower .* min_cells=12",
    ),
    "programmes with few permutations": (
        nothing,
        lambda a: tl.programmes(a, min_cells=12, n_permutations=19, alpha=0.01),
        ValueError,
        "n_permutations=19 cannot give a p as small as alpha=0.01.*Take n_permutations=99",
    ),
    "programmes of too many parts": (
        nothing,
        lambda a: tl.programmes(a, min_cells=12, ranks=(2, 40)),
        ValueError,
        r"ranks must be two or more different whole numbers from 2 to \d+.*For example ranks=range",
    ),
    "human genes to be made human": (
        nothing,
        lambda a: pp.to_human(a, orthologues("Gene", "GENE")),
        ValueError,
        "30 of 30 genes of adata are human.*pp.align_genes",
    ),
    "orthologues of other genes": (
        nothing,
        lambda a: pp.to_human(a, orthologues("Gene", "X")),
        ValueError,
        "0 of 30 genes, with 0.0% of the counts, have one human orthologue.*Pass a table of the",
    ),
    "a damaged table of gene names": (
        nothing,
        damaged_names,
        ValueError,
        r"table of gene names is damaged: the checksum of names.*Install the package again",
    ),
    "a veto of nobody": (
        nothing,
        lambda a: tl.signature(a, veto=True),
        ValueError,
        "veto=True needs a model",
    ),
    "no signature to report": (
        nothing,
        lambda a: tl.signature_report(a, n_random=19, n_permutations=19),
        KeyError,
        "'signature' is not in adata.uns.*Run tl.signature first",
    ),
    "no signature to list": (
        nothing,
        sc_cll.get.signature,
        KeyError,
        "'signature' is not in adata.uns.*Run tl.signature first",
    ),
    "no signature to draw": (
        nothing,
        lambda a: sc_cll.pl.signature(a, show=False),
        KeyError,
        "'signature' is not in adata.uns.*Run tl.signature first",
    ),
    "no signature to write": (
        nothing,
        lambda a: sc_cll.io.write_gmt(a, "no.gmt"),
        KeyError,
        "'signature' is not in adata.uns.*Run tl.signature first",
    ),
    "an empty signature to write": (
        empty_signature,
        lambda a: sc_cll.io.write_gmt(a, "no.gmt"),
        ValueError,
        (
            r"The signature is empty \(0 donors have 20 cells "
            r".*no "
            r"set "
            r"without "
            r"genes"
        ),
    ),
    "an empty signature to score": (
        empty_signature,
        tl.score_signature,
        ValueError,
        (
            r"The signature is empty \(0 donors have 20 cells "
            r".*hand "
            r"over "
            r"a "
            r"signature"
        ),
    ),
    "logs to score": (
        take_logs,
        lambda a: tl.score_signature(a, ["GENE0"]),
        ValueError,
        "If these are log-expression values, pass normalize=False",
    ),
    "a signature of other genes": (
        nothing,
        lambda a: tl.score_signature(a, ["ITGA4", "ITGB1", "GENE0"]),
        ValueError,
        (
            "1 of the 3 genes of the signature, with 33% of its weight, are in adata; expected at "
            "least 50%.*Missing: 'ITGA4', 'ITGB1'"
        ),
    ),
    "antibodies among the genes": (
        antibodies,
        pp.bin_expression,
        ValueError,
        (
            r"2 of 30 rows of var are not genes \(var\['feature_types'\] "
            r"is "
            r"'Antibody "
            r"Capture'\): "
            r"'GENE28', 'GENE29'"
        ),
    ),
    "antibodies among the genes of a signature": (
        antibodies,
        tl.signature,
        ValueError,
        (
            r"2 of 30 rows of var are not genes.*Leave them out: "
            r"adata "
            r"= "
            r"adata\["
        ),
    ),
    "rows of which nothing is said": (
        half_said,
        pp.bin_expression,
        ValueError,
        (
            r"says nothing of 1 rows \('GENE29'\): "
            r"are "
            r"they "
            r"genes"
        ),
    ),
    "fractions of counts": (
        soup,
        pp.bin_expression,
        ValueError,
        (
            r"These look like fractions of counts \(SoupX.*round "
            r"them, "
            r"adata.X "
            r"= "
            r"np.rint"
        ),
    ),
    "counts in adata.raw": (
        counts_in_raw,
        pp.bin_expression,
        ValueError,
        "adata.raw holds whole numbers: pass layer='raw'",
    ),
    "counts in adata.raw, for a signature": (
        counts_in_raw,
        tl.signature,
        ValueError,
        "adata.raw holds whole numbers: pass layer='raw'",
    ),
    "a gene that was not measured": (
        masked,
        pp.bin_expression,
        ValueError,
        (
            r"If a gene that was not measured is to count as not expressed: "
            r"adata.X "
            r"= "
            r"np.nan_to_num"
        ),
    ),
    "no matrix": (
        no_matrix,
        pp.bin_expression,
        ValueError,
        (
            r"adata.X is empty \(None\).*adata.layers\['counts'\] holds "
            r"whole "
            r"numbers: "
            r"pass "
            r"layer='counts'"
        ),
    ),
    "two clones of a protein": (
        proteins("CD49d-1", "CD49d-2"),
        pp.label_cd49d,
        KeyError,
        "'CD49d' fits more than one protein .*: 'CD49d-1', 'CD49d-2'; name one of them exactly",
    ),
    "a protein whose number begins alike": (
        proteins("CD38", "CD31"),
        lambda a: pp.label_cd49d(a, marker="CD3"),
        KeyError,
        "'CD3' is not among the 2 proteins .*, closest first: 'CD38', 'CD31'",
    ),
    "no donors but doublets": (
        a_verdict,
        lambda a: pp.split_donors(a, "demux"),
        ValueError,
        "No cell has a donor: .* holds 'Doublet', 'Negative', which are no donors",
    ),
    "a slash in the name of a result": (
        nothing,
        lambda a: pp.bin_expression(a, key_added="my/key"),
        ValueError,
        (
            r"cannot be a name in a file.*Choose "
            r"another, "
            r"e.g. "
            r"key_added='my_key'"
        ),
    ),
    "a result in the place of what is read": (
        nothing,
        lambda a: pp.split_donors(a, "donor", key_added="donor"),
        ValueError,
        (
            "key_added='donor' would replace 'donor', which is read here. Choose "
            "another, "
            "e.g. "
            "key_added='donor_result'"
        ),
    ),
    "labels where the predictions go": (
        own_prediction,
        lambda a: tl.finetune(a, labels_key="scbert_pred", network=NETWORK, **FAST),
        ValueError,
        (
            r"labels_key='scbert_pred' is where the result "
            r"goes.*adata.obs\['my_scbert_pred'\] "
            r"= "
            r"adata.obs\['scbert_pred'\]"
        ),
    ),
    "a log without a place": (
        nothing,
        lambda a: tl.finetune(a, network=NETWORK, logger="csv", **FAST),
        ValueError,
        (
            r'logger="csv" writes into the folder of the run: name checkpoint_dir="run", '
            r"or "
            r"hand "
            r"over "
            r"a logger of Lightning"
        ),
    ),
    "a keyword with a slip": (
        nothing,
        lambda a: tl.finetune(a, network=NETWORK, max_epoch=1),
        TypeError,
        (
            r"tl.finetune has no argument 'max_epoch' "
            r"\(did "
            r"you "
            r"mean "
            r"'max_epochs'\?\)"
        ),
    ),
    "a keyword of another package": (
        nothing,
        lambda a: tl.finetune(a, network=NETWORK, random_state=1),
        TypeError,
        (
            r"'random_state' \(did you "
            r"mean "
            r"'rng'\?\)"
        ),
    ),
    "donors that have no effect": (
        nothing,
        lambda a: tl.gene2vec(a, donor_key="patient"),
        ValueError,
        "donor_key='patient' has no effect on method='svd'",
    ),
    "no set of genes": (
        nothing,
        lambda a: tl.score_signature(a, "GENE0"),
        ValueError,
        (
            r"is not the path of a .gmt file; to score "
            r"one "
            r"gene, "
            r"pass "
            r"\['GENE0'\]"
        ),
    ),
}


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
    "other method": (
        binned(method="uniform"),
        ValueError,
        "method is 'uniform', the model has 'log2'",
    ),
    "half a token": (
        halve_tokens,
        ValueError,
        r"may hold bins 0 to 5; found .*cell 'cell\d+'.*Bin again",
    ),
    "totals of other genes": (
        more_genes,
        ValueError,
        (
            r"was cut from totals of 45 genes, 15 of them not among the model's: 'MORE0'.*totals "
            r"of 30 genes"
        ),
    ),
    "no tokens": (
        lambda a: a.layers.pop("binned"),
        KeyError,
        "'binned' is not in adata.layers.*pp.bin_expression",
    ),
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


ASK_ROWS: dict[str, tuple[Callable, Callable, type[Exception], str]] = {
    "no held-out cells": (
        nothing,
        lambda a, m: tl.signature(
            a[a.obs["split"] == "train"].copy(), m, min_cells=5, min_donors=3
        ),
        ValueError,
        "No donor has 5 labelled cells that are test or validation cells.*Run pp.split_donors",
    ),
    "a veto of a network that learned nothing": (
        unlearned,
        lambda a, m: tl.signature(a, m, min_cells=5, veto=True),
        ValueError,
        (
            "veto=True needs an AUROC of 0.75 within held-out donors; the network's is 0.*Leave "
            "veto out"
        ),
    ),
    "zero as a baseline that was never seen": (
        nothing,
        lambda a, m: tl.gene_attribution(a, m, method="integrated_gradients"),
        ValueError,
        'starts from genes that are not expressed.*Use method="gate_gradient"',
    ),
    "sets for single genes": (
        nothing,
        lambda a, m: tl.gene_attribution(a, m, gene_sets={"one": ["GENE0"]}),
        ValueError,
        "gene_sets= and method=\"group_occlusion\" belong together; found method='gate_gradient'",
    ),
    "an empty signature to knock out": (
        empty_signature,
        tl.perturb,
        ValueError,
        (
            r"The signature is empty \(0 donors .*; "
            r"name "
            r"genes="
        ),
    ),
    "a gene to knock out that is not there": (
        nothing,
        lambda a, m: tl.perturb(a, m, ["ITGA4"]),
        KeyError,
        "'ITGA4'",
    ),
    "a level that is not named": (
        nothing,
        lambda a, m: tl.perturb(a, m, ["GENE0"], kind="set"),
        ValueError,
        'kind="set" needs level=',
    ),
    "a level beyond the bins": (
        nothing,
        lambda a, m: tl.perturb(a, m, ["GENE0"], kind="set", level=9),
        ValueError,
        "level must be a whole number from 0 to 5; found 9",
    ),
    "a pair of one": (
        nothing,
        lambda a, m: tl.gene_interactions(a, m, ["GENE0"]),
        ValueError,
        "The number of genes must be a whole number from 2",
    ),
    "no classifier": (
        nothing,
        lambda a, m: tl.signature(a, "model"),
        TypeError,
        "ScBERTClassifier",
    ),
}


@pytest.mark.filterwarnings(
    "ignore:.*there is little to attribute:UserWarning"
)  # true, and not the mistake
@pytest.mark.parametrize("row", ASK_ROWS)
def test_what_cannot_be_asked_of_a_network_is_refused(row, classifier):
    spoil, call, error, sentence = ASK_ROWS[row]
    adata = _cells()
    spoil(adata)
    before = adata.copy()
    with pytest.raises(error, match=sentence):
        call(adata, classifier)
    assert _same(before, adata)


# -- patients and their outcome
# ---------------------------------------------------------------------------------------


def _patients() -> AnnData:
    """60 patients × 172 genes with an outcome."""
    return sc_cll.datasets.cll_cohort(n_patients=60, n_genes=172)


def column(key: str, value: Any, n: int = 60) -> Callable[[AnnData], None]:
    """Spoil a column of the first patients."""

    def change(adata: AnnData) -> None:
        values = adata.obs[key].astype(object)
        values.iloc[:n] = value
        adata.obs[key] = values.infer_objects()

    return change


def times_365(adata: AnnData) -> None:
    adata.obs["TTT"] *= 365.25


def times_12(adata: AnnData) -> None:
    adata.obs["TTT"] *= 12


def r_words(adata: AnnData) -> None:
    adata.obs["treated"] += 1


def dates(adata: AnnData) -> None:
    adata.obs["TTT"] = pd.to_timedelta(adata.obs["TTT"].round() * 365, "D")


def intensities(adata: AnnData) -> None:
    adata.X = 2**adata.X


def no_expression(adata: AnnData) -> None:
    adata.X = None


def treated_ever(adata: AnnData) -> None:
    adata.obs["ever"] = adata.obs["treated"]


def prognosis(adata: AnnData, signature: Any = ("ITGA4", "PLANTED01"), **options: Any) -> None:
    asked = {"time_key": "TTT", "event_key": "treated", "n_random": 20, "n_bootstrap": 0}
    tl.prognosis(adata, None if "score_key" in options else signature, **asked | options)


def asked_with(*args: Any, **options: Any) -> Callable[[AnnData], None]:
    return lambda adata: prognosis(adata, *args, **options)


def survival(adata: AnnData, groupby: Any = "IGHV", **options: Any) -> None:
    tl.survival(adata, groupby, **{"time_key": "TTT", "event_key": "treated"} | options)


def grouped_by(groupby: Any, **options: Any) -> Callable[[AnnData], None]:
    return lambda adata: survival(adata, groupby, **options)


OUTCOME_ROWS: dict[str, tuple[Callable, Callable, type[Exception], str]] = {
    "a time below zero": (
        column("TTT", -1.0, 1),
        survival,
        ValueError,
        (
            r"'TTT' has 1 times that are negative or "
            r"infinite: "
            r"'P0001' "
            r"\(first "
            r"-1\)"
        ),
    ),
    "days called years": (
        times_365,
        prognosis,
        ValueError,
        (
            "'TTT' does not look like years: median .*time_unit='days' .*Or make them "
            "years: "
            "of "
            "days "
            ".* / 365.25"
        ),
    ),
    "months called years": (
        times_12,
        survival,
        ValueError,
        (
            "'TTT' does not look like years: .*time_unit='months' .*Or make them years: "
            "of "
            "months "
            ".* "
            "/ 12"
        ),
    ),
    "differences of dates": (
        dates,
        prognosis,
        ValueError,
        (
            "must hold times as numbers; found .* in 'P0001'.*differences of dates; in "
            "years "
            "they "
            "are "
            ".dt.days / 365.25"
        ),
    ),
    "a time in words": (
        column("TTT", "2 years", 1),
        survival,
        ValueError,
        "found '2 years' in 'P0001'. Dates become times by subtraction",
    ),
    "the event as time": (
        nothing,
        asked_with(time_key="treated"),
        ValueError,
        "columns of the outcome and strata must be unique; found more than once: 'treated'",
    ),
    "yes and no": (
        column("treated", "yes", 1),
        survival,
        ValueError,
        (
            r"0 \(no event, censored\) and 1 \(event\); found 'yes' in 'P0001'. Say "
            r"what "
            r"the "
            r"words "
            r"mean, .*{'yes': 1, 'no': 0}"
        ),
    ),
    "R's 1 and 2": (r_words, survival, ValueError, "found '2'. 1 and 2 are R's words: subtract 1"),
    "all censored": (
        column("treated", 0),
        prognosis,
        ValueError,
        "All 60 patients are censored: nobody has the event 'treated'",
    ),
    "no outcome": (
        column("TTT", np.nan),
        survival,
        ValueError,
        "No patient has an outcome .*samples and clinical data match",
    ),
    "a patient twice": (
        rename("obs_names"),
        prognosis,
        ValueError,
        "1 samples are in adata more than once: 'P0001'. A patient counts once",
    ),
    "left before entering": (
        nothing,
        asked_with(entry_key="years_to_sample"),
        ValueError,
        (
            r"patients leave \('TTT'\) before they enter \('years_to_sample'\).*same day "
            r"and "
            r"in "
            r"the "
            r"same unit"
        ),
    ),
    "two ends": (
        column("died_untreated", 1),
        asked_with(competing_key="died_untreated"),
        ValueError,
        "have both 'treated' and 'died_untreated'.*Follow-up ends with the first",
    ),
    "too few events": (
        nothing,
        asked_with(covariates=["IGHV", "TP53", "age", "Binet"]),
        ValueError,
        (
            r"6 coefficients \('score', 'IGHV: unmutated'.*need 10 events each, that is "
            r"60; "
            r"there "
            r"are "
            r"\d+. Name at most"
        ),
    ),
    "the outcome as covariate": (
        nothing,
        asked_with(covariates=["TTT"]),
        ValueError,
        "'TTT' is an outcome, so it cannot explain one; take it out",
    ),
    "another outcome as covariate": (
        nothing,
        asked_with(covariates=["OS"]),
        ValueError,
        "'OS' is an outcome, so it cannot explain one; take it out",
    ),
    "an outcome as score": (
        nothing,
        asked_with(score_key="died"),
        ValueError,
        "'died' is an outcome, so it cannot explain one; name another score_key",
    ),
    "the outcome under another name": (
        treated_ever,
        asked_with(covariates=["ever"]),
        ValueError,
        (
            r"'ever' tells \(almost\) exactly who has the event.*Was it recorded "
            r"after "
            r"the "
            r"outcome"
        ),
    ),
    "a constant covariate": (
        column("age", 60.0),
        asked_with(covariates=["age"]),
        ValueError,
        "'age' is the same in all .* patients that are left",
    ),
    "names as covariate": (
        lambda a: a.obs.__setitem__("who", a.obs_names.to_numpy(dtype=object)),
        asked_with(covariates=["who"]),
        ValueError,
        (
            r"'who' has 60 different words \('P0001', .*at "
            r"most "
            r"10 "
            r"are "
            r"taken.*pd.to_numeric"
        ),
    ),
    "a covariate nobody has": (
        column("TP53", np.nan),
        asked_with(covariates=["TP53"]),
        ValueError,
        "0 patients have all covariates.*Missing: 'TP53' in 60",
    ),
    "one covariate, no list": (
        nothing,
        asked_with(covariates="IGHV"),
        TypeError,
        (
            r"covariates must be a list .*found the "
            r"text "
            r"'IGHV'. "
            r"Write "
            r"\['IGHV'\]"
        ),
    ),
    "counts for a prognosis": (
        intensities,
        prognosis,
        ValueError,
        "adata.X must be log-expression; its largest value is .*np.log2 for intensities",
    ),
    "no expression": (
        no_expression,
        prognosis,
        ValueError,
        "adata.X has no expression, and a signature needs some; score_key=",
    ),
    "genes of other names": (
        nothing,
        asked_with(["ENSG00000990001", "ENSG00000990002"]),
        ValueError,
        (
            r"0 of the 2 genes of the signature, "
            r".*Missing: "
            r"'ENSG00000990001'.*\(symbols "
            r"or "
            r"Ensembl\)"
        ),
    ),
    "an object for a signature": (
        nothing,
        lambda a: prognosis(a, a),
        TypeError,
        (
            r"found AnnData. Of an object that "
            r"holds "
            r"one, "
            r"pass "
            r"get.signature\(adata\)"
        ),
    ),
    "a cut that is looked for": (
        nothing,
        asked_with(cut="best"),
        ValueError,
        "cut must be 'median' or the share .*chosen to make p small is not offered",
    ),
    "groups of a measurement": (
        nothing,
        grouped_by("age"),
        ValueError,
        (
            r"holds \d+ different numbers, and groups are categories. "
            r"Cut "
            r"it "
            r"first "
            r".*tl.prognosis\(score_key='age'\)"
        ),
    ),
    "one group": (
        column("IGHV", "mutated"),
        survival,
        ValueError,
        "A comparison needs at least two groups; .* has 'mutated'",
    ),
    "a small group": (
        column("Binet", "A", 56),
        grouped_by("Binet", min_group=10),
        ValueError,
        "Every group needs 10 patients with an outcome; .*Merge groups",
    ),
    "several columns of groups": (
        nothing,
        grouped_by(["IGHV", "TP53"]),
        TypeError,
        "Expected one name of adata.obs, found list: 'IGHV', 'TP53'",
    ),
    "cells for patients": (
        lambda a: a.obs.__delitem__("TTT"),
        survival,
        KeyError,
        "'TTT' is not in adata.obs; .* one row per patient",
    ),
    "a view of patients": (
        nothing,
        lambda a: prognosis(a[:50]),
        ValueError,
        "is a view of another AnnData.*adata.copy",
    ),
    "no prognosis to list": (
        nothing,
        sc_cll.get.prognosis,
        KeyError,
        "'prognosis' is not in adata.uns; .*Run tl.prognosis first",
    ),
    "no curves to draw": (
        nothing,
        lambda a: sc_cll.pl.survival(a, show=False),
        KeyError,
        "'survival' is not in adata.uns; .*Run tl.survival or tl.prognosis first",
    ),
}


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
@pytest.mark.parametrize("row", OUTCOME_ROWS)
def test_an_outcome_that_cannot_be_is_refused(row):
    spoil, call, error, sentence = OUTCOME_ROWS[row]
    adata = _patients()
    spoil(adata)
    before = adata.copy()
    with pytest.raises(error, match=sentence):
        call(adata)
    assert before.obs.equals(adata.obs)
    assert set(before.uns) == set(adata.uns)
    assert (before.X is None and adata.X is None) or np.array_equal(before.X, adata.X)


# -- remedies
# --------------------------------------------------------------------------------------------------

LABEL = "sc_cll.pp.label_cd49d(adata, normalize='clr_protein')"
SPLIT = "sc_cll.pp.split_donors(adata, 'donor', labels_key='cd49d')"
BIN_AGAIN = "sc_cll.pp.bin_expression(adata, edges=model.binning)"
KEEP_GOOD = "adata = adata[adata.obs_names != 'cell2'].copy()"

# What is run before the same call is tried again.
MEND: dict[str, str] = {
    **dict.fromkeys(("negative count", "NaN", "infinite", "half a count"), KEEP_GOOD),
    "empty cell": "sc.pp.filter_cells(adata, min_counts=1)",
    "duplicated genes": "adata.var_names_make_unique()",
    "symbols and Ensembl ids": "adata = adata[:, ~adata.var_names.str.startswith('ENSG')].copy()",
    "duplicated cells": "adata.obs_names_make_unique()",
    "missing protein matrix": "adata.obsm['protein'] = protein",
    **dict.fromkeys(("one class", "no labels", "a signature of one class"), LABEL),
    "class not in training": SPLIT,
    "NaN donors": "adata = adata[adata.obs['donor'].notna()].copy()",
    **dict.fromkeys(("no split", "no split to audit", "nothing to test"), SPLIT),
    "proteins that are no counts": "adata.obsm['protein'] = protein",
    "resampled rows in a cross-validation": "adata = adata[~adata.obs['is_synthetic']].copy()",
    "copies across folds": "adata = adata[adata.obs_names != 'cell70'].copy()",
    **dict.fromkeys(
        (
            *(
                "no signature to report",
                "no signature to list",
                "no signature to draw",
                "no signature to write",
            ),
            *(
                "an empty signature to write",
                "an empty signature to score",
                "an empty signature to knock out",
            ),
        ),
        "sc_cll.tl.signature(adata, min_cells=5)",
    ),
    **dict.fromkeys(("other bins", "other method", "half a token", "no tokens"), BIN_AGAIN),
    "other genes": f"aliases = {{f'Gene{{i}}': f'GENE{{i}}' for i in range(30)}}\nadata = "
    f"sc_cll.pp.align_genes(adata, list(model.genes), aliases=aliases)\n{BIN_AGAIN}",
    **dict.fromkeys(
        ("antibodies among the genes", "antibodies among the genes of a signature"),
        "adata = adata[:, adata.var['feature_types'].isin(['Gene Expression'])].copy()",
    ),
    "rows of which nothing is said": "adata.var['feature_types'] = "
    "adata.var['feature_types'].astype(object).fillna('Gene "
    "Expression')",
    "fractions of counts": "adata.X = np.rint(np.asarray(adata.X, dtype=float))",
    "a gene that was not measured": "adata.X = np.nan_to_num(np.asarray(adata.X, dtype=float))",
    "totals of other genes": f"adata = sc_cll.pp.align_genes(adata, "
    f"list(model.genes))\n{BIN_AGAIN}",
    "a covariate that is not there": "batch = dict(zip(['P0', 'P1', 'P2', 'P3', 'P4', 'P5'], "
    "'aabbab'))\nadata.obs['batch'] = adata.obs['donor'].map(batch)",
    "a level that one donor has": "adata.obs['batch'] = adata.obs['batch'].replace('c', 'b')",
    "words among the numbers of a covariate": "adata.obs['age'] = "
    "pd.to_numeric(adata.obs['age'].astype(str), errors='coerce')",
    "a time below zero": "adata = adata[adata.obs['TTT'] >= 0].copy()",
    "days called years": "adata.obs['TTT'] /= 365.25",
    "differences of dates": "adata.obs['TTT'] = adata.obs['TTT'].dt.days / 365.25",
    "a time in words": "adata.obs['TTT'] = pd.to_numeric(adata.obs['TTT'], errors='coerce')",
    "yes and no": "adata.obs['treated'] = adata.obs['treated'].map({'yes': 1, 1: 1, 0: 0})",
    "R's 1 and 2": "adata.obs['treated'] -= 1",
    "a patient twice": "adata = adata[~adata.obs_names.duplicated()].copy()",
    "two ends": "adata.obs.loc[adata.obs['treated'] == 1, 'died_untreated'] = 0",
    "counts for a prognosis": "sc.pp.log1p(adata, base=2)",
    "no prognosis to list": "sc_cll.tl.prognosis(adata, ['ITGA4'], time_key='TTT', "
    "event_key='treated', "
    "n_random=20, "
    "n_bootstrap=0)",
    "no curves to draw": "sc_cll.tl.survival(adata, 'IGHV', time_key='TTT', event_key='treated')",
}

FINETUNE = (
    "sc_cll.tl.finetune(adata, {}, network={{'gene_embedding': 'learned'}}, accelerator='cpu')"
)
CROSS = "sc_cll.tl.cross_validate(adata, models={}, n_repeats=1, n_bootstrap=10)"
OUTCOME = "time_key='TTT', event_key='treated'"
PROGNOSIS = (
    f"sc_cll.tl.prognosis(adata, ['ITGA4', 'PLANTED01'], {OUTCOME}, n_random=20, n_bootstrap=0{{}})"
)
# The call that works, on the refused object.
INSTEAD: dict[str, str] = {
    "natural log": "sc_cll.pp.bin_expression(adata, layer='counts', key_added='tokens')",
    "binned twice": "sc_cll.pp.bin_expression(adata, key_added='tokens')",
    "no cells": "sc_cll.pp.bin_expression(adata)",
    "missing layer": "sc_cll.pp.bin_expression(adata)",
    "missing column": "sc_cll.pp.split_donors(adata, 'donor')",
    "missing protein": "sc_cll.pp.label_cd49d(adata, marker='CD49d', normalize='clr_protein')",
    "too few genes": "aliases = {f'GENE{i}': f'OTHER{i}' for i in "
    "range(30)}\nsc_cll.pp.align_genes(adata, "
    "[f'OTHER{i}' for i in range(30)], aliases=aliases)",
    "one donor": "sc_cll.pp.split_donors(adata, 'donor', unit='cell')",
    "small class for SMOTE": "sc_cll.pp.balance(adata, 'cd49d', method='weights')",
    "a view": "part = adata[:40].copy()\nsc_cll.pp.bin_expression(part)",
    "a MuData for an AnnData": "mdata = mudata.MuData({'rna': "
    "adata})\nsc_cll.pp.bin_expression(mdata['rna'])",
    "unpaired MuData": "both = adata.obs_names.intersection(protein.index[6:])\nmdata = "
    "mudata.MuData({'rna': "
    "adata[both].copy(), 'prot': "
    "ad.AnnData(protein.loc[both])})\nsc_cll.pp.label_cd49d(mdata, "
    "normalize='clr_protein')",
    "missing modality": "mdata = mudata.MuData({'rna': adata, 'prot': "
    "ad.AnnData(protein)})\nsc_cll.pp.label_cd49d(mdata, normalize='clr_protein')",
    "unknown model name": CROSS.format("['majority']"),
    "no model at all": "from sklearn.dummy import "
    "DummyClassifier\n" + CROSS.format("{'x': DummyClassifier()}"),
    "no donors to hold out": "sc_cll.tl.cross_validate(adata, models=['majority'], donor_key=None, "
    "scheme='random_cell', n_repeats=1, n_bootstrap=10)",
    "a signature of logs": "sc_cll.tl.signature(adata, layer='counts')",
    "one donor's difference": "sc_cll.tl.signature(adata, min_donors=4)",
    "genes to leave out that are not there": "sc_cll.tl.signature(adata, "
    "exclude_genes=adata.var_names.intersection(['ITGA4']))",
    "three classes between donors": "sc_cll.tl.signature(adata)",
    **dict.fromkeys(
        ("a covariate that is the same in all", "a covariate that is the class"),
        "sc_cll.tl.signature(adata, design='between', min_cells=5, min_donors=3)",
    ),
    "a covariate of cells between donors": "sc_cll.tl.signature(adata, covariates=['visit'], "
    "design='within', min_cells=5)",
    **dict.fromkeys(
        ("what is compared as covariate", "the donor as sample"),
        "sc_cll.tl.signature(adata, min_cells=5)",
    ),
    "programmes of few cells": "sc_cll.tl.programmes(adata, min_cells=12)",
    "programmes with few permutations": "sc_cll.tl.programmes(adata, min_cells=12, "
    "n_permutations=99, alpha=0.01)",
    "programmes of too many parts": "sc_cll.tl.programmes(adata, min_cells=12, ranks=range(2, 8))",
    "human genes to be made human": "sc_cll.pp.align_genes(adata, list(adata.var_names))",
    "orthologues of other genes": "table = pd.DataFrame({'mouse': adata.var_names, 'human': "
    "'X' + adata.var_names})\nsc_cll.pp.to_human(adata, table)",
    "a damaged table of gene names": "sc_cll.pp.align_genes(adata, ['CD49D', 'GENE0'])",
    "a veto of nobody": "sc_cll.tl.signature(adata)",
    "logs to score": "sc_cll.tl.score_signature(adata, ['GENE0'], normalize=False)",
    "a signature of other genes": "sc_cll.tl.score_signature(adata, ['ITGA4', 'ITGB1', 'GENE0'], "
    "min_matched=0.3)",
    "no set of genes": "sc_cll.tl.score_signature(adata, ['GENE0'])",
    "counts in adata.raw": "sc_cll.pp.bin_expression(adata, layer='raw')",
    "counts in adata.raw, for a signature": "sc_cll.tl.signature(adata, layer='raw')",
    "no matrix": "sc_cll.pp.bin_expression(adata, layer='counts')",
    "two clones of a protein": "sc_cll.pp.label_cd49d(adata, marker='CD49d-1', "
    "normalize='clr_protein')",
    "a protein whose number begins "
    "alike": "sc_cll.pp.label_cd49d(adata, marker='CD38', normalize='clr_protein')",
    "no donors but doublets": "sc_cll.pp.split_donors(adata, 'donor')",
    "a slash in the name of a result": "sc_cll.pp.bin_expression(adata, key_added='my_key')",
    "a result in the place of what is "
    "read": "sc_cll.pp.split_donors(adata, 'donor', key_added='donor_result')",
    "labels where the predictions go": "adata.obs['my_scbert_pred'] = "
    "adata.obs['scbert_pred']\n" + FINETUNE.format("labels_key='my_scbert_pred', max_epochs=1"),
    "a log without a place": "from tempfile import "
    "mkdtemp\n" + FINETUNE.format("max_epochs=1, logger='csv', checkpoint_dir=mkdtemp()"),
    "a keyword with a slip": FINETUNE.format("max_epochs=1"),
    "a keyword of another package": FINETUNE.format("max_epochs=1, rng=1"),
    "donors that have no effect": "sc_cll.tl.gene2vec(adata)",
    "no held-out cells": "sc_cll.tl.signature(adata, model, min_cells=5, min_donors=3)",
    "a veto of a network that learned nothing": "sc_cll.tl.signature(adata, model, min_cells=5)",
    "zero as a baseline that was never "
    "seen": "sc_cll.tl.gene_attribution(adata, model, method='gate_gradient')",
    "sets for single genes": "sc_cll.tl.gene_attribution(adata, model, method='group_occlusion', "
    "gene_sets={'one': "
    "['GENE0']})",
    "a gene to knock out that is not there": "sc_cll.tl.perturb(adata, model, ['GENE0'])",
    "a level that is not named": "sc_cll.tl.perturb(adata, model, ['GENE0'], kind='set', level=0)",
    "a level beyond the bins": "sc_cll.tl.perturb(adata, model, ['GENE0'], kind='set', level=5)",
    "a pair of one": "sc_cll.tl.gene_interactions(adata, model, ['GENE0', 'GENE1'])",
    "no classifier": "sc_cll.tl.signature(adata, model, min_cells=5)",
    "the event as time": PROGNOSIS.format(""),
    **dict.fromkeys(
        ("all censored", "no outcome"),
        "sc_cll.tl.survival(adata, 'IGHV', time_key='OS', event_key='died')",
    ),
    "left before entering": PROGNOSIS.format(""),
    "too few events": PROGNOSIS.format(", covariates=['IGHV']"),
    **dict.fromkeys(
        ("the outcome as covariate", "another outcome as covariate"),
        PROGNOSIS.format(", covariates=['IGHV']"),
    ),
    "an outcome as score": f"sc_cll.tl.prognosis(adata, score_key='age', {OUTCOME}, n_bootstrap=0)",
    **dict.fromkeys(
        (
            "the outcome under another name",
            "a constant covariate",
            "a covariate nobody has",
            "one covariate, no list",
        ),
        PROGNOSIS.format(", covariates=['IGHV']"),
    ),
    "names as covariate": "adata.obs['who'] = "
    "pd.to_numeric(adata.obs['who'].str[1:])\n" + PROGNOSIS.format(", covariates=['who']"),
    "no expression": f"sc_cll.tl.prognosis(adata, score_key='age', {OUTCOME}, n_bootstrap=0)",
    "genes of other names": PROGNOSIS.format(""),
    "an object for a signature": PROGNOSIS.format(""),
    "a cut that is looked for": PROGNOSIS.format(", cut='median'"),
    "groups of a measurement": f"adata.obs['age group'] = pd.cut(adata.obs['age'], [0, 65, 120], "
    f"labels=['to "
    f"65', "
    f"'above'])\nsc_cll.tl.survival(adata, 'age group', {OUTCOME})",
    "one group": f"sc_cll.tl.survival(adata, 'TP53', {OUTCOME}, min_group=1)",
    "a small group": f"adata.obs['Binet'] = adata.obs['Binet'].astype(str).replace({{'B': 'B or "
    f"C', "
    f"'C': "
    f"'B "
    f"or "
    f"C'}})\nsc_cll.tl.survival(adata, 'Binet', {OUTCOME}, min_group=1)",
    "months called years": f"sc_cll.tl.survival(adata, 'IGHV', {OUTCOME}, time_unit='months')",
    "several columns of groups": f"adata.obs['both'] = adata.obs['IGHV'].astype(str) + ', ' + "
    f"adata.obs['TP53'].astype(str)\nsc_cll.tl.survival(adata, 'both', {OUTCOME}, min_group=1)",
    "cells for patients": "sc_cll.tl.survival(adata, 'IGHV', time_key='OS', event_key='died')",
    "a view of patients": "part = adata[:50].copy()\nsc_cll.tl.prognosis(part, ['ITGA4', "
    "'PLANTED01'], "
    "time_key='TTT', event_key='treated', n_random=20, n_bootstrap=0)",
}


def follow(row: str, call: Callable, adata: AnnData, model: Any = None) -> None:
    """Do what the remedy says, on the refused object."""
    protein = pd.DataFrame(_cells().obsm["protein"])
    names = {
        "adata": adata,
        "model": model,
        "protein": protein,
        "sc_cll": sc_cll,
        "ad": ad,
        "mudata": mudata,
        "np": np,
        "pd": pd,
        "sc": sc,
    }
    if row in INSTEAD:
        exec(INSTEAD[row], names)  # noqa: S102
        return
    exec(MEND[row], names)  # noqa: S102
    call(*(x for x in (names["adata"], model) if x is not None))


IGNORED = pytest.mark.filterwarnings("ignore")  # what is told on the way is tested where it belongs


@IGNORED
@pytest.mark.parametrize("row", ROWS)
def test_the_remedy_works(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil, call, _, _ = ROWS[row]
    adata = _cells()
    spoil(adata)
    follow(row, call, adata)


@IGNORED
@pytest.mark.parametrize("row", PREDICT_ROWS)
def test_the_remedy_works_for_a_prediction(row, classifier):
    spoil, _, _ = PREDICT_ROWS[row]
    adata = _cells()
    spoil(adata)
    follow(row, tl.predict, adata, classifier)


@IGNORED
@pytest.mark.parametrize("row", ASK_ROWS)
def test_the_remedy_works_for_a_network(row, classifier):
    spoil, call, _, _ = ASK_ROWS[row]
    adata = _cells()
    spoil(adata)
    follow(row, call, adata, classifier)


@IGNORED
@pytest.mark.parametrize("row", OUTCOME_ROWS)
def test_the_remedy_works_for_an_outcome(row):
    spoil, call, _, _ = OUTCOME_ROWS[row]
    adata = _patients()
    spoil(adata)
    follow(row, call, adata)


def test_every_row_has_one_remedy():
    rows = [*ROWS, *PREDICT_ROWS, *ASK_ROWS, *OUTCOME_ROWS]
    assert len(set(rows)) == len(rows)
    assert sorted([*MEND, *INSTEAD]) == sorted(rows)


COHORT_ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "samples of other names": (
        {"sample": ["X1", "X2"]},
        {},
        ValueError,
        (
            "No sample is in both tables. The expression has 'P1', 'P2'; .* 'X1', 'X2'. "
            "Use "
            "the "
            "same "
            "names"
        ),
    ),
    "samples in another column": (
        {"sample": ["X1", "X2"], "rna": ["P1", "P2"]},
        {},
        ValueError,
        "The column 'rna' has 2 of them: sample_key='rna'",
    ),
    "a sample twice": (
        {"sample": ["P1", "P1"]},
        {},
        ValueError,
        "Samples of the clinical table must be unique; found more than once: 'P1'",
    ),
    "days in a table of years": (
        {"t": [700, 4000]},
        {},
        ValueError,
        (
            r"'t' does not look like years: .*unit='days' \(then the "
            r"longest "
            r"is "
            r"11.0 "
            r"years\)"
        ),
    ),
    "words without a meaning": (
        {"e": ["dead", "alive"]},
        {},
        ValueError,
        "found 'dead', 'alive', .*: say what they mean: event_values=",
    ),
    "a time without an event": (
        {},
        {"event_key": None},
        ValueError,
        "time_key='t' needs event_key=: a time alone does not say",
    ),
    "a unit that is none": (
        {"t": [60.0, 150.0]},
        {"unit": "weeks"},
        ValueError,
        "unit must be one of 'years', 'months', 'days'; found 'weeks'",
    ),
    "the outcome elsewhere": (
        {},
        {"time_key": "TTT"},
        KeyError,
        "'TTT' is not in the clinical table; it has 't', 'e'",
    ),
}


READ = "sc_cll.datasets.read_cohort(rna, clinical, time_key='t', event_key='e'{})"
COHORT_REMEDIES = {
    "samples of other names": "clinical['sample'] = clinical['sample'].str.replace('X', "
    "'P')\n" + READ.format(""),
    "samples in another column": READ.format(", sample_key='rna'"),
    "a sample twice": "clinical = clinical.drop_duplicates('sample', "
    "ignore_index=True)\n" + READ.format(""),
    "days in a table of years": READ.format(", unit='days'"),
    "words without a meaning": READ.format(", event_values={'dead': 1, 'alive': 0}"),
    "a time without an event": READ.format(""),
    "a unit that is none": "clinical['t'] *= 7\n" + READ.format(", unit='days'"),
    "the outcome elsewhere": READ.format(""),
}


def _tables(columns: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rna = pd.DataFrame({"P1": [5.0, 6.0], "P2": [7.0, 8.0]}, index=["ITGA4", "CD38"])
    return rna, pd.DataFrame({"sample": ["P1", "P2"], "t": [1.0, 2.0], "e": [0, 1]} | columns)


@pytest.mark.filterwarnings(
    "ignore:1 samples are in both tables:UserWarning"
)  # one is left after the remedy
@pytest.mark.parametrize("row", COHORT_ROWS)
def test_tables_of_patients_that_do_not_fit_are_refused(row):
    columns, options, error, sentence = COHORT_ROWS[row]
    rna, clinical = _tables(columns)
    with pytest.raises(error, match=sentence):
        sc_cll.datasets.read_cohort(rna, clinical, **{"time_key": "t", "event_key": "e"} | options)
    exec(COHORT_REMEDIES[row], {"sc_cll": sc_cll, "rna": rna, "clinical": clinical})  # noqa: S102


# -- files and commands
# ------------------------------------------------------------------------------------------------

COHORT = "sc_cll.datasets.read_cohort(None, 'patients.csv', time_key='t', event_key='died')"
OF_A_TABLE = (
    "seen = pd.read_csv('patients.csv', {})\nsc_cll.datasets.read_cohort(None, seen, "
    "time_key='t', event_key='died')"
)
SIGNATURE_CSV = "gene,weight\nITGA4,1.0\n"

# Files that lie there, what is called, and what is answered.
FILE_ROWS: dict[str, tuple[dict[str, str], str, type[Exception], str]] = {
    "commas of decimals or of thousands": (
        {"patients.csv": "id;t;died;LDH\nP1;1;1;1,234\nP2;2;0;2,345\n"},
        COHORT,
        ValueError,
        (
            r"'1,234', '2,345' \(column 'LDH'\), which may have decimal commas or "
            r"thousands. "
            r"Say "
            r"which: pass pd.read_csv"
        ),
    ),
    "commas here and points there": (
        {"patients.csv": "id;t;died;LDH\nP1;3,5;1;1.000\nP2;2,5;0;2.000\n"},
        COHORT,
        ValueError,
        "numbers with decimal commas, and others with points, e.g. '1.000', '2.000'",
    ),
    "decimal commas between commas": (
        {"patients.csv": 'id,t,died\nP1,"3,5",1\nP2,"2,25",0\n'},
        COHORT,
        ValueError,
        "These look like decimal commas",
    ),
    "a workbook": (
        {"patients.csv": "PK\x03\x04 and so on"},
        COHORT,
        ValueError,
        "patients.csv is a workbook or an archive; save the sheet as CSV, or pass pd.read_excel",
    ),
    "a quote that is not closed": (
        {"patients.csv": 'id,t,died,said\nP1,3.5,1,a\nP2,2.5,0,"b\nP3,4.5,1,c\n'},
        COHORT,
        ValueError,
        (
            "patients.csv has a quote in line 3 that is closed in line 4 or never, "
            "so "
            "the "
            "rows "
            "between would be lost"
        ),
    ),
    "a column twice": (
        {},
        (
            "table = pd.DataFrame([['ITGA4', 1.0, 2.0]], columns=['gene', 'weight', "
            "'weight'])\nsc_cll.io.write_csv(table, "
            "'signature.csv')"
        ),
        ValueError,
        (
            "the columns of the table must be unique; found more than once: 'weight'. "
            "Remedy: "
            "keep one of each"
        ),
    ),
    "the record of another table": (
        {
            "signature.csv": SIGNATURE_CSV,
            "signature.json": '{"columns": {"gene": "object", "log2_fc": "float64"}}',
        },
        "sc_cll.io.read_csv('signature.csv')",
        ValueError,
        (
            "signature.json is of another table: it has the columns 'gene', "
            "'log2_fc', "
            "and "
            "signature.csv has 'gene', 'weight'"
        ),
    ),
    "no file of sets": (
        {"sets.gmt": "NAME,GENE0,GENE1\n"},
        "sc_cll.io.read_gmt('sets.gmt')",
        ValueError,
        "is not a GMT file: every line needs a name, a description and at least one gene",
    ),
    "a file in the place of a result": (
        {"s.gmt": "mine"},
        "sc_cll.io.write_gmt(pd.DataFrame({'gene': ['ITGA4'], 'weight': [1.0]}), 's.gmt')",
        FileExistsError,
        "s.gmt exists; pass overwrite=True",
    ),
}
FILE_REMEDIES = {
    "commas of decimals or of thousands": OF_A_TABLE.format("sep=';', decimal=','"),
    "commas here and points there": OF_A_TABLE.format("sep=';', decimal=',', thousands='.'"),
    "decimal commas between commas": OF_A_TABLE.format("decimal=','"),
    "a workbook": "seen = pd.DataFrame({'id': ['P1', 'P2'], 't': [3.5, 2.25], 'died': [1, 0]})  # "
    "pd.read_excel(...)\nsc_cll.datasets.read_cohort(None, seen, time_key='t', "
    "event_key='died')",
    "a quote that is not closed": (
        "table = Path('patients.csv')\n"
        "table.write_text(table.read_text().replace('\"', ''))\n" + COHORT
    ),
    "a column twice": "table = pd.DataFrame([['ITGA4', 1.0, 2.0]], columns=['gene', 'weight', "
    "'weight'])\nsc_cll.io.write_csv(table.loc[:, ~table.columns.duplicated()], "
    "'signature.csv')",
    "the record of another table": (
        "Path('signature.json').unlink()\nsc_cll.io.read_csv('signature.csv')"
    ),
    "no file of sets": (
        "sets = Path('sets.gmt')\n"
        "lines = [line.split(',') for line in sets.read_text().splitlines()]\n"
        "new = ['\\t'.join([name, '-', *genes]) + '\\n' for name, *genes in lines]\n"
        "sets.write_text(''.join(new))\n"
        "sc_cll.io.read_gmt('sets.gmt')"
    ),
    "a file in the place of a "
    "result": "sc_cll.io.write_gmt(pd.DataFrame({'gene': ['ITGA4'], 'weight': [1.0]}), "
    "'s.gmt', "
    "overwrite=True)",
}


def _with_files(row: str) -> dict[str, Any]:
    """Put the files of a row here; the names that its code needs."""
    for name, text in FILE_ROWS[row][0].items():
        Path(name).write_bytes(text.encode("latin-1"))
    return {"sc_cll": sc_cll, "pd": pd, "Path": Path}


@IGNORED
@pytest.mark.parametrize("row", FILE_ROWS)
def test_files_that_cannot_be_read_as_they_are_are_refused(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = _with_files(row)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FILE_ROWS[row][2], match=FILE_ROWS[row][3]):
        exec(FILE_ROWS[row][1], names)  # noqa: S102
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    exec(FILE_REMEDIES[row], names)  # noqa: S102


QUICK = "--max-epochs 1 --accelerator cpu"
# What is typed, and what is answered with exit status 2; then what works.
COMMAND_ROWS: dict[str, tuple[str, str]] = {
    "two modalities that may be the RNA": (
        "signature two.h5mu --labels-key cd49d --out s",
        (
            r"several modalities that may be the RNA \('rna', 'gex'\).*Name the RNA with "
            r"--modality"
        ),
    ),
    "an RNA of another name": (
        "predict cells.h5mu --model model --layer X --out p.h5ad",
        (
            "no RNA by its usual name; it has the modalities 'cells', 'prot'. Name the RNA "
            "with "
            "--modality"
        ),
    ),
    "a folder below a file": (
        "signature cells.h5ad --labels-key cd49d --out notes.txt/s",
        "notes.txt is a file, so nothing can be put into it. Name another place with --out",
    ),
    "a result in the place of the cells": (
        "predict cells.h5ad --model model --out cells.h5ad",
        "cells.h5ad exists. Name another file with --out, or pass --overwrite to replace it",
    ),
    "a model in the place of another": (
        f"finetune cells.h5ad --labels-key cd49d --out model {QUICK}",
        "model exists. Name another folder with --out, or pass --overwrite",
    ),
    "a demo in the place of another": (
        "demo --input cells.h5ad --out earlier",
        (
            "earlier exists. Name another folder with --out, or pass --overwrite to "
            "replace "
            "the run in it; it has .report.md."
        ),
    ),
    "a column that is not there": (
        "signature cells.h5ad --labels-key CD49d --out s",
        "'CD49d' is not in adata.obs; it has 'cd49d'.*Name the column with --labels-key",
    ),
    "donors that are not there": (
        "signature cells.h5ad --labels-key cd49d --donor-key patient --out s",
        (
            "'patient' is not in adata.obs; it has 'donor'.*Name the column with --donor-key, or "
            "pass --donor-key none"
        ),
    ),
    "cells that are not there": (
        "predict cells.h5ad --model model --cells best --out p.h5ad",
        "'best' is not in adata.obs; it has .*Name the column with --cells",
    ),
    "logarithms": (
        "signature logs.h5ad --labels-key cd49d --out s",
        (
            r"It looks log-transformed.*adata.layers\['counts'\] holds whole numbers: pass "
            r"--layer counts"
        ),
    ),
    "cells that were not binned": (
        f"finetune logs.h5ad --labels-key cd49d --out m {QUICK}",
        "'binned' is not in adata.layers; it has 'counts'.*name the raw counts with --layer",
    ),
    "an option of a corpus": (
        "predict cells.h5ad --model model --groupby donor --out p.h5ad",
        "--groupby: only for a corpus, and cells.h5ad is a file of cells. Leave this out",
    ),
    "an option with a slip": (
        f"finetune cells.h5ad --labels-key cd49d --more.learning_rate 0.01 --out m {QUICK}",
        r"--more has no argument 'learning_rate' \(did you mean 'lr'\?\)",
    ),
    "a result of another kind": (
        "predict cells.h5ad --model model --out p.csv",
        "The ending of --out must be one of '.h5ad'; found '.csv'",
    ),
    "no such model": (
        "predict cells.h5ad --model modell --out p.h5ad",
        "There is no model folder modell",
    ),
    "no such file": ("predict cell.h5ad --model model --out p.h5ad", "There is no file cell.h5ad"),
}
COMMAND_REMEDIES = {
    "two modalities that may be the "
    "RNA": "signature two.h5mu --modality rna --labels-key cd49d --out s",
    "an RNA of another name": "predict cells.h5mu --modality cells --model model --layer X --out "
    "p.h5ad",
    **dict.fromkeys(
        ("a folder below a file", "a column that is not there", "donors that are not there"),
        "signature cells.h5ad --labels-key cd49d --out s",
    ),
    "a result in the place of the cells": "predict cells.h5ad --model model --out p.h5ad",
    "a model in the place of "
    "another": f"finetune cells.h5ad --labels-key cd49d --out model --overwrite {QUICK}",
    "a demo in the place of another": f"demo --input cells.h5ad --out d {QUICK}",
    **dict.fromkeys(
        (
            "cells that are not there",
            "an option of a corpus",
            "a result of another kind",
            "no such model",
            "no such file",
        ),
        "predict cells.h5ad --model model --out p.h5ad",
    ),
    "logarithms": "signature logs.h5ad --layer counts --labels-key cd49d --out s",
    "cells that were not binned": f"finetune logs.h5ad --layer counts --labels-key cd49d --out m "
    f"{QUICK}",
    "an option with a slip": f"finetune cells.h5ad --labels-key cd49d --more.lr 0.01 --out m "
    f"{QUICK}",
}


def _lab(folder: Path, model: Any) -> None:
    """What a lab has lying about: cells in several files, a trained model, notes."""
    adata = _cells()
    adata.write_h5ad(folder / "cells.h5ad")
    model.save(folder / "model")
    (folder / "notes.txt").write_text("mine")
    (folder / "earlier").mkdir()
    (folder / "earlier" / "report.md").write_text("of an earlier demo")
    plain = AnnData(adata.X, adata.obs, adata.var)
    logs = plain.copy()
    take_logs(logs)
    logs.write_h5ad(folder / "logs.h5ad")
    protein = AnnData(
        adata.obsm["protein"].to_numpy(),
        adata.obs[[]],
        pd.DataFrame(index=list(adata.obsm["protein"])),
    )
    for name, modalities in {"cells.h5mu": ["cells"], "two.h5mu": ["rna", "gex"]}.items():
        found = {modality: plain.copy() for modality in modalities}
        if "gex" in found:
            found["gex"].var_names = "other " + found["gex"].var_names
        MuData({**found, "prot": protein}).write(folder / name)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, classifier) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    _lab(folder, classifier)
    return folder


@pytest.fixture
def here(lab, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in, with logging as it was afterwards."""
    shutil.copytree(lab, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    loggers = [
        logging.getLogger(name)
        for name in ("", "scbert_cll", "lightning.pytorch.utilities.rank_zero")
    ]
    before = [(list(log.handlers), list(log.filters), log.level) for log in loggers]
    yield tmp_path
    for log, (handlers, filters, level) in zip(loggers, before, strict=True):
        log.handlers, log.filters = handlers, filters
        log.setLevel(level)


def _state(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


DEMO = "a demo in the place of another"
WHOLE_DEMO = pytest.param(DEMO, marks=pytest.mark.slow)  # whose remedy is a demo


@IGNORED
@pytest.mark.parametrize("row", [WHOLE_DEMO if row == DEMO else row for row in COMMAND_ROWS])
def test_a_command_that_cannot_be_carried_out_is_refused_and_the_remedy_works(row, here, capsys):
    command, sentence = COMMAND_ROWS[row]
    before = _state(here)
    assert main(command.split()) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert _state(here) == before
    assert main(COMMAND_REMEDIES[row].split()) == 0


def test_every_file_and_command_has_one_remedy():
    assert set(FILE_ROWS) == set(FILE_REMEDIES)
    assert set(COMMAND_ROWS) == set(COMMAND_REMEDIES)


def test_other_things_than_tables_are_refused(tmp_path):
    with pytest.raises(
        TypeError,
        match=r"expression must be a DataFrame or the path of a table; found AnnData. Of an "
        r"AnnData, adata.to_df\(\).T",
    ):
        sc_cll.datasets.read_cohort(_patients(), _patients().obs)
    path = tmp_path / "patients.xlsx"
    path.write_bytes(b"PK\x03\x04\x14\x00\xff")
    with pytest.raises(
        ValueError,
        match=r"patients.xlsx is a workbook or an archive; save the sheet as CSV, or pass "
        r"pd.read_excel",
    ):
        sc_cll.datasets.read_cohort(None, path)


def test_without_a_network_where_to_put_the_file_is_said(tmp_path, monkeypatch):
    def nobody(*args: Any, **kwargs: Any) -> None:
        raise HTTPError("no network")

    monkeypatch.setattr("urllib3.PoolManager.request", nobody)
    with pytest.raises(
        ConnectionError,
        match=r"Could not load https.*GSE39671.*no network.*load it elsewhere and put it at "
        r".*GSE39671_series_matrix.txt.gz",
    ):
        sc_cll.datasets.download_geo_series("GSE39671", tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_a_signature_are_not_replaced_unasked(tmp_path):
    table = pd.DataFrame({"gene": ["ITGA4"], "weight": [1.0]})
    for write, name in ((sc_cll.io.write_gmt, "s.gmt"), (sc_cll.io.write_csv, "s.csv")):
        path = tmp_path / name
        path.write_text("mine")
        with pytest.raises(FileExistsError, match=rf"{name} exists; pass overwrite=True"):
            write(table, path)
        assert path.read_text() == "mine"


def test_too_few_donors_is_an_answer_and_no_error():
    adata = _cells()
    tl.signature(adata)
    assert adata.uns["signature"]["reason"].startswith("0 donors have 20 cells of every class")
    assert sc_cll.get.signature(adata).empty
    assert tl.signature_report(adata).reason == adata.uns["signature"]["reason"]


@pytest.mark.filterwarnings("ignore:design='between' compares donors")
def test_a_design_that_the_donors_do_not_allow_names_one_that_they_do():
    adata = ad.concat({i: _cells() for i in range(2)}, index_unique="-")
    adata.obs["donor"] = adata.obs["donor"] + adata.obs_names.str[-2:]
    is_last = pd.factorize(adata.obs["donor"])[0] % 2 == 1
    adata.obs.loc[(adata.obs["cd49d"] == "CD49d+") != is_last, "cd49d"] = None
    tl.signature(adata, min_cells=5)
    reason = adata.uns["signature"]["reason"]
    assert reason.startswith("0 donors have 5 cells of every class")
    assert "design='between' would compare 12 donors" in reason
    tl.signature(adata, min_cells=5, design="between")
    assert not adata.uns["signature"]["reason"]


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
    with pytest.raises(
        ValueError, match="classes the model does not know: 'bright'; it knows 'CD49d-', 'CD49d\\+'"
    ):
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
    with pytest.raises(
        FileNotFoundError, match=r"not a whole model folder of scbert_cll.*it holds model.pt"
    ):
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
    np.testing.assert_array_equal(
        adata.layers["binned"].toarray(), expected.layers["binned"].toarray()
    )
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


# -- the page
# --------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "bad_input.md"
INTRODUCTION = """\
# Bad input

Bad input is refused before anything is computed. The sentence says what was expected, what was
found, and names the first offenders. Your object is then as it was.

This page is made from the table that the tests run. Each input is given to the function, and the
sentence is what it answered. The remedy was then executed on the refused object and ended well. A
remedy is followed by the same call, or is the call that works. In the code `adata` is the refused
object, `model` a trained classifier, `protein` a table of protein counts of the same cells, `rna`
and `clinical` the tables of a cohort. A command is typed after `python -m scbert_cll`.
"""
_LONGEST = 420


def page() -> str:
    """The table as a page."""
    model = tl.finetune(_cells(), network=NETWORK, **FAST)
    cells: list[list[str]] = []
    parts = [INTRODUCTION]
    for title, rows in SECTIONS.items():
        cells = [_line(_asked(row), _said(row, rows, model), _remedy(row)) for row in rows]
        parts.append(
            f"## {title}\n\n| input | what is said | remedy |\n|---|---|---|\n" + "".join(cells)
        )
    return "\n".join(parts)


def _remedy(row: str) -> str:
    return {**MEND, **INSTEAD, **COHORT_REMEDIES, **FILE_REMEDIES, **COMMAND_REMEDIES}[row]


def _asked(row: str) -> str:
    """The mistake in words, and of a command what was typed."""
    return f"{row}: `{COMMAND_ROWS[row][0]}`" if row in COMMAND_ROWS else row


def _answer(row: str, model: Any) -> str:
    """What a command, or a call with files, answers in a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(io.StringIO()) as told,
    ):
        if row in COMMAND_ROWS:
            _lab(Path(folder), model)
            main(COMMAND_ROWS[row][0].split())
            return (
                told.getvalue()
                .strip()
                .rpartition("error: ")[2]
                .replace(f"{os.path.realpath(folder)}/", "")
            )
        try:
            exec(FILE_ROWS[row][1], _with_files(row))  # noqa: S102
        except (ValueError, FileExistsError) as error:
            return f"`{type(error).__name__}`: {error.args[0]}"
    raise AssertionError(f"{row} is not refused")


def _said(row: str, rows: dict[str, Any], model: Any) -> str:
    """The sentence that this row's call answers with."""
    if rows is FILE_ROWS or rows is COMMAND_ROWS:
        return _answer(row, model)
    try:
        if rows is COHORT_ROWS:
            columns, options, _, _ = rows[row]
            sc_cll.datasets.read_cohort(
                *_tables(columns), **{"time_key": "t", "event_key": "e"} | options
            )
        adata = _patients() if rows is OUTCOME_ROWS else _cells()
        rows[row][0](adata)
        if rows is PREDICT_ROWS:
            tl.predict(adata, model)
        rows[row][1](*((adata, model) if rows is ASK_ROWS else (adata,)))
    except (ValueError, KeyError, TypeError) as error:
        return f"`{type(error).__name__}`: {error.args[0]}"
    raise AssertionError(f"{row} is not refused")


def _line(row: str, said: str, remedy: str) -> str:
    """A row of a table in Markdown, whatever is in the texts."""
    text = " ".join(said.split())
    if len(text) > _LONGEST:
        text = text[: text.rindex(" ", 0, _LONGEST)] + " …"
    for sign in "|<>*[]_":
        text = text.replace(sign, f"\\{sign}")
    code = "<br>".join(f"`{line}`" for line in remedy.replace("|", "\\|").splitlines())
    return f"| {row} | {text} | {code} |\n"


SECTIONS = {
    "Cells, genes, labels and donors": ROWS,
    "Data that a model cannot read": PREDICT_ROWS,
    "What cannot be asked of a network": ASK_ROWS,
    "Patients and their outcome": OUTCOME_ROWS,
    "Tables of a cohort": COHORT_ROWS,
    "Files": FILE_ROWS,
    "The command line": COMMAND_ROWS,
}


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?", "#", text)


@pytest.mark.slow  # asks every row of the tables again
@IGNORED
def test_the_page_is_what_the_table_gives():
    assert _without_numbers(PAGE.read_text(encoding="utf-8")) == _without_numbers(page()), (
        "make it anew: python tests/laws/test_bad_input.py"
    )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PAGE.write_text(page(), encoding="utf-8")
