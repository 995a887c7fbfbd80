"""Run by test_pandas_crossed.py in two interpreters: results of every verb and command, written by
one and written again by the other.

`crossing.py first FOLDER` writes files; `crossing.py again FOLDER` reads them, works on them and
writes them again.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import mudata
import pandas as pd
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll import _record
from scbert_cll.__main__ import main

QUICK = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
SHORT = {"n_random": 20, "n_bootstrap": 5}
HAS_ANNBATCH = find_spec("annbatch") is not None


def prepared() -> AnnData:
    """Labelled, split, binned, with what every verb on cells writes."""
    mdata = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200, n_donors=8, n_bimodal=5)
    sc_cll.pp.label_cd49d(mdata, donor_key="donor")
    adata = mdata["rna"]
    adata.obs["note"] = pd.Series([f"text {i}" for i in range(adata.n_obs)], index=adata.obs_names)
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d")
    sc_cll.pp.bin_expression(adata)
    sc_cll.pp.balance(adata, "cd49d")
    sc_cll.tl.gene2vec(adata, n_dims=8, min_detected=0.0)
    return adata


def of_networks(adata: AnnData, folder: Path) -> None:
    pretrained = sc_cll.tl.pretrain(
        adata, network={k: v for k, v in NETWORK.items() if k != "gene_embedding"}, **QUICK
    )
    classifier = sc_cll.tl.finetune(adata, pretrained, donor_key="donor", **QUICK)
    classifier.save(folder / "model", overwrite=True)
    sc_cll.tl.predict(adata, classifier, unassigned_below=0.5)
    sc_cll.tl.gene_attention(adata, classifier)
    sc_cll.tl.gene_attribution(adata, classifier)


def of_tables(adata: AnnData) -> None:
    sc_cll.tl.signature(adata, min_cells=3)
    sc_cll.tl.leakage_audit(adata)
    sc_cll.tl.cross_validate(adata, models=["majority", "logistic_l2"], n_repeats=1, n_bootstrap=20)
    sc_cll.tl.score_signature(adata, list(adata.var_names[:20]))


def of_patients() -> AnnData:
    patients = sc_cll.datasets.cll_cohort(n_patients=200, n_genes=200)
    who = {"time_key": "TTT", "event_key": "treated"}
    sc_cll.tl.survival(patients, "IGHV", **who)
    sc_cll.tl.prognosis(
        patients, patients.uns["truth"]["signature"], covariates=["IGHV"], **who, **SHORT
    )
    return patients


def first(folder: Path) -> None:
    adata = prepared()
    plain = adata.copy()
    of_networks(adata, folder)
    of_tables(adata)
    objects = {
        "cells": adata,
        "aligned": sc_cll.pp.align_genes(plain, list(plain.var_names[:80])),
        "balanced": sc_cll.pp.balance(unweighted(plain), "cd49d", method="oversample", copy=True),
        "donors": sc_cll.tl.patient_cd49d(plain),
        "patients": of_patients(),
    }
    for name, made in objects.items():
        made.write_h5ad(folder / f"{name}.h5ad")
        made.write_zarr(folder / f"{name}.zarr")
    mdata = sc_cll.datasets.cll_toy(n_cells=300, n_genes=200)
    sc_cll.pp.label_cd49d(mdata, donor_key="donor")
    mdata.write(folder / "both.h5mu")
    command(
        "predict",
        f"{folder}/cells.h5ad",
        "--model",
        f"{folder}/model",
        "--out",
        f"{folder}/predicted.h5ad",
    )
    if HAS_ANNBATCH:
        asked = {
            "vocab": list(plain.var_names),
            "obs_columns": ("cd49d", "note"),
            "val_fraction": 0.3,
        }
        sc_cll.pp.build_corpus([folder / "cells.h5ad"], folder / "corpus", **asked)
        of_corpus(folder)


def of_corpus(folder: Path) -> None:
    """From a corpus to a store of predictions; both may be the other's."""
    classifier = sc_cll.ScBERTClassifier.load(folder / "model")
    out = folder / f"corpus_{len(list(folder.glob('corpus_*')))}.zarr"
    sc_cll.tl.predict_corpus(folder / "corpus", classifier, out, groupby="cd49d")


def unweighted(adata: AnnData) -> AnnData:
    adata = adata.copy()
    del adata.obs["balance_weight"], adata.layers["binned"], adata.uns["binned"]
    return adata


def command(*words: str) -> None:
    code = main([*words, *([] if words[0] == "signature" else ["--overwrite"])])
    assert code == 0, words


def again(folder: Path) -> None:
    """Of every file: read it, let a verb work on it, write it and read it once more; and each
    command on the file of the other.
    """
    failed: list[str] = []

    def tried(what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001
            failed.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")

    for path in sorted(folder.glob("*.h5ad")) + sorted(folder.glob("*.zarr")):
        tried(path.name, lambda path=path: rewritten(path, folder))
    tried("both.h5mu", lambda: rewritten_both(folder))
    if HAS_ANNBATCH:
        tried("predict_corpus", lambda: of_corpus(folder))
    tried("verbs", lambda: every_verb_again(folder))
    tried(
        "command predict",
        lambda: command(
            "predict",
            f"{folder}/cells.h5ad",
            "--model",
            f"{folder}/model",
            "--out",
            f"{folder}/p2.h5ad",
        ),
    )
    tried(
        "command finetune",
        lambda: command(
            "finetune",
            f"{folder}/cells.h5ad",
            "--out",
            f"{folder}/m2",
            "--max-epochs",
            "1",
            "--network.n_hidden",
            "8",
            "--accelerator",
            "cpu",
        ),
    )
    tried(
        "command signature",
        lambda: command(
            "signature",
            f"{folder}/cells.h5ad",
            "--min-cells",
            "3",
            "--out",
            f"{folder}/s{sys.version_info[1]}{pd.__version__[0]}",
        ),
    )
    tried("what the command wrote", lambda: rewritten(folder / "p2.h5ad", folder, verb=False))
    if failed:
        sys.exit("\n".join(failed))


def rewritten(path: Path, folder: Path, *, verb: bool = True) -> None:
    read = ad.read_zarr if path.suffix == ".zarr" else ad.read_h5ad
    adata = read(path)
    before = adata.copy()
    if verb:
        _record.write(adata, uns={"looked_at": {"by": pd.DataFrame({"pandas": [pd.__version__]})}})
    target = folder / f"again_{path.name}"
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(target)
    found = read(target)
    assert list(found.obs_names) == list(before.obs_names)
    for column in before.obs:
        assert found.obs[column].astype(str).tolist() == before.obs[column].astype(str).tolist(), (
            column
        )
    assert set(found.uns) >= set(before.uns)


def rewritten_both(folder: Path) -> None:
    mdata = mudata.read_h5mu(folder / "both.h5mu")
    sc_cll.pp.label_cd49d(mdata, donor_key="donor", key_added="twice")
    mdata.write(folder / "again_both.h5mu")
    assert mudata.read_h5mu(folder / "again_both.h5mu")["rna"].obs["twice"].notna().any()


def every_verb_again(folder: Path) -> None:
    """All of them work on the file of the other interpreter, and what comes out can be written."""
    adata = ad.read_h5ad(folder / "cells.h5ad")
    for key in ("scbert", "signature", "cv", "binned"):
        assert key in adata.uns
    tables = [
        sc_cll.get.signature(adata),
        sc_cll.get.evaluation(adata),
        sc_cll.get.predictions(adata),
    ]
    assert all(len(table) for table in tables[1:])
    sc_cll.pp.bin_expression(adata)
    of_networks(adata, folder)
    of_tables(adata)
    adata.write_h5ad(folder / "verbs.h5ad")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"first": first, "again": again}[sys.argv[1]](Path(sys.argv[2]))
