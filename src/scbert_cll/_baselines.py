"""What costs nothing, on the same cells: majority, the marker's own gene, and logistic regression."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll import _keys

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def compare(
    adata: AnnData, *, gene: str, labels_key: str = _keys.CD49D, split_key: str = _keys.SPLIT, seed: int = 0
) -> pd.DataFrame:
    """Macro-F1 and AUROC on the labelled test cells: scBERT's predictions beside baselines trained on its training cells.

    The strength of the logistic regressions' penalty is chosen on the validation cells, which scBERT uses to stop.
    """
    x, y, parts = _design(adata, labels_key, split_key)
    classes = list(adata.obs[labels_key].cat.categories)
    proba = cast("pd.DataFrame", adata.obsm[_keys.PROBA])
    found = {"scBERT": proba[classes].to_numpy()[parts["test"]]}
    arms = {"logistic regression": np.arange(adata.n_vars)}
    if gene in adata.var_names:
        column = adata.var_names.get_loc(gene)
        arms |= {
            f"logistic regression without {gene}": np.delete(arms["logistic regression"], column),
            f"logistic regression on {gene} alone": np.array([column]),
        }
    for name, columns in arms.items():
        found[name] = _logistic(x[:, columns], y, parts, seed).predict_proba(x[parts["test"]][:, columns])
    dummy = DummyClassifier(strategy="prior").fit(x[parts["train"]], y[parts["train"]])
    found["majority"] = dummy.predict_proba(x[parts["test"]])
    truth = y[parts["test"]]
    rows = {name: _scores(truth, proba) | {"n_cells": len(truth)} for name, proba in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def by_donor(
    adata: AnnData, donor_key: str, *, labels_key: str = _keys.CD49D, split_key: str = _keys.SPLIT
) -> pd.DataFrame:
    """Observed and predicted percentage of the second class among each donor's labelled test cells."""
    positive = adata.obs[labels_key].cat.categories[-1]
    obs = cast("pd.DataFrame", adata.obs)
    test = obs[(obs[split_key] == _keys.TEST) & obs[labels_key].notna()]
    grouped = test.groupby(test[donor_key].astype(str))
    return pd.DataFrame(
        {
            "n_cells": grouped.size(),
            "observed": 100 * grouped[labels_key].agg(lambda s: (s == positive).mean()).astype(float),
            "predicted": 100 * grouped[_keys.PRED].agg(lambda s: (s == positive).mean()).astype(float),
        }
    )


def recovery(
    adata: AnnData, attention: pd.DataFrame, *, labels_key: str = _keys.CD49D, split_key: str = _keys.SPLIT
) -> pd.DataFrame:
    """How many planted genes are among as many first genes of each ranking."""
    truth = adata.uns[_keys.TRUTH].set_index("gene")["sign"]
    n = len(truth)
    x, y, parts = _design(adata, labels_key, split_key)
    coefficients = pd.Series(_logistic(x, y, parts, 0)[-1].coef_[0], index=adata.var_names)
    by_gene = attention.set_index("gene")
    rankings = {
        "attention difference": by_gene["difference"],
        "attention (the study's ranking)": by_gene["attention"],
        "logistic regression coefficient": coefficients,
    }
    rows: dict[str, dict[str, float]] = {}
    for name, values in rankings.items():
        first = values.abs().nlargest(n).index
        hits = first.intersection(truth.index)
        rows[name] = {"found": len(hits), "of": n, "sign_right": int((np.sign(values[hits]) == truth[hits]).sum())}
    rows["expected by chance"] = {"found": n * n / adata.n_vars, "of": n, "sign_right": n * n / adata.n_vars / 2}
    return pd.DataFrame.from_dict(rows, orient="index")


def _design(
    adata: AnnData, labels_key: str, split_key: str
) -> tuple[sparse.csr_matrix, np.ndarray, dict[str, np.ndarray]]:
    """log2(1 + counts per 10,000), class codes, and the labelled rows of each part."""
    x = sparse.csr_matrix(adata.X, dtype=np.float64, copy=True)
    x.data *= 1e4 / np.repeat(np.asarray(x.sum(1)).ravel(), np.diff(x.indptr))
    x.data = np.log2(1 + x.data)
    y = adata.obs[labels_key].cat.codes.to_numpy()
    split = adata.obs[split_key].to_numpy()
    return x, y, {part: np.flatnonzero((split == part) & (y >= 0)) for part in _keys.SPLIT_ORDER}


def _logistic(x: sparse.csr_matrix, y: np.ndarray, parts: dict[str, np.ndarray], seed: int) -> LogisticRegression:
    """Class-balanced L2 logistic regression on standardised genes; the penalty that predicts the validation cells best."""
    train, val = parts["train"], parts["val"]
    fitted = []
    for strength in _STRENGTHS if len(val) and len(np.unique(y[val])) > 1 else (1e-2,):
        model = make_pipeline(
            StandardScaler(with_mean=False),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, random_state=seed),
        ).fit(x[train], y[train])
        loss = log_loss(y[val], model.predict_proba(x[val]), labels=model.classes_) if len(val) else 0.0
        fitted.append((loss, strength, model))
    return min(fitted, key=lambda row: row[:2])[-1]


def _scores(truth: np.ndarray, proba: np.ndarray) -> dict[str, float]:
    several = len(np.unique(truth)) > 1
    auroc = roc_auc_score(truth, proba[:, 1]) if several and proba.shape[1] == 2 else np.nan
    return {"macro_f1": f1_score(truth, proba.argmax(1), average="macro", zero_division=0), "auroc": float(auroc)}
