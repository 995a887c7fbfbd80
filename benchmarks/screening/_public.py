"""The package's own way to a classifier, as one arm: `tl.gene2vec`, then `tl.finetune` with its
defaults and the demo's epochs.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import scbert_cll as sc_cll
from benchmarks.screening._data import Fold, Set

PASSES, EPOCHS = 20_000, (10, 40)  # of all training cells, as in the demo


def fit_public(data: Set, fold: Fold, seed: int) -> dict[str, Any]:
    """Logits (class 1 over class 0) of the validation and test cells."""
    start = time.perf_counter()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parts = {"train": fold.train, "val": fold.val, "test": fold.test}
    split = np.repeat(list(parts), [len(rows) for rows in parts.values()])
    rows = np.concatenate(list(parts.values()))
    adata = AnnData(data.counts[rows].astype(np.float32))
    adata.obs["label"] = pd.Categorical(np.where(data.y[rows] == 1, "b", "a"))
    adata.obs["split"] = pd.Categorical(split, categories=list(parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc_cll.pp.bin_expression(adata)
        sc_cll.pp.balance(adata, "label")
        sc_cll.tl.gene2vec(adata, rng=seed)
        epochs = int(np.clip(PASSES // len(fold.train), *EPOCHS))
        model = sc_cll.tl.finetune(
            adata,
            labels_key="label",
            max_epochs=epochs,
            accelerator="cpu",
            rng=seed,
            enable_progress_bar=False,
        )
        p = np.clip(model.predict(adata, soft=True)["b"].to_numpy(dtype=float), 1e-6, 1 - 1e-6)
    logits = dict(
        zip(
            parts,
            np.split(np.log(p / (1 - p)), np.cumsum([len(r) for r in parts.values()])[:-1]),
            strict=True,
        )
    )
    losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    seconds = time.perf_counter() - start
    return (
        {k: logits[k] for k in ("val", "test")}
        | {f"{k}_last": logits[k] for k in ("val", "test")}
        | {
            "losses": losses,
            "seconds": seconds,
        }
    )
