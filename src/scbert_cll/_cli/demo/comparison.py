"""Comparisons for the demo: baselines on the same cells, and planted genes that are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.estimators import baselines, seeded
from scbert_cll.get import signature
from scbert_cll.model import ScBERTClassifier

_SHOWN = {
    "logistic_l2": "logistic regression on log expression",
    "gene_only": "logistic regression on {gene} alone",
}


def labelled(adata: AnnData, part: str) -> AnnData:
    """Cells of a part of the split that have a label."""
    mask = (adata.obs[_keys.SPLIT] == part) & adata.obs[_keys.CD49D].notna()
    return adata[mask.to_numpy()]


def probabilities(adata: AnnData, *, gene: str | None, seed: int) -> dict[str, np.ndarray]:
    """Probabilities of the labelled test cells (n, classes) by baseline, trained as scBERT is."""
    names = ["logistic_l2", *(["gene_only"] if gene is not None else []), "majority"]
    models = baselines(gene or "")
    layer = adata.uns[_keys.BINNED]["params"]["layer"]
    train, test = (labelled(adata, part) for part in (_keys.TRAIN, _keys.TEST))
    x_train, x_test = (
        AnnData(
            cells.X if layer == "X" else cells.layers[layer],
            var=pd.DataFrame(index=cells.var_names),
        )
        for cells in (train, test)
    )
    y = train.obs[_keys.CD49D]
    by_name: dict[str, np.ndarray] = {}
    for name in names:
        model: Any = seeded(models[name], seed)
        model.fit(x_train, y.set_axis(x_train.obs_names))
        proba = pd.DataFrame(model.predict_proba(x_test), columns=model.classes_)
        proba = proba.reindex(columns=list(y.cat.categories), fill_value=0.0)
        by_name[_SHOWN.get(name, name).format(gene=gene)] = proba.to_numpy(float)
    return by_name


def recovery(adata: AnnData, attention: pd.DataFrame, classifier: ScBERTClassifier) -> pd.DataFrame:
    """Number of planted genes in the signature, and among as many first genes of each ranking."""
    truth = adata.uns[_keys.TRUTH].set_index("gene")["sign"]
    n, by_gene = len(truth), attention.set_index("gene")
    rankings = {
        "attention difference": by_gene["difference"],
        "attention (the study's ranking)": by_gene["attention"],
        "logistic regression coefficient": _coefficients(adata, classifier),
    }
    rows = {"signature": _hits(signature(adata).set_index("gene")["sign"], truth)}
    for name, values in rankings.items():
        rows[name] = _hits(values[values.abs().nlargest(n).index], truth)
    chance = n * n / adata.n_vars
    rows["expected by chance"] = {"named": n, "planted": chance, "of": n, "sign_right": chance / 2}
    return pd.DataFrame.from_dict(rows, orient="index")


def _hits(values: pd.Series, truth: pd.Series) -> dict[str, float]:
    """Of the genes named, those that were planted, and with which sign."""
    hits = values.index.intersection(truth.index)
    right = int((np.sign(values[hits]) == truth[hits]).sum())
    return {"named": len(values), "planted": len(hits), "of": len(truth), "sign_right": right}


def _coefficients(adata: AnnData, classifier: ScBERTClassifier) -> pd.Series:
    """Coefficients per standard deviation of a gene's token, last class against first."""
    linear = classifier.linear_
    if linear is None:
        return pd.Series(dtype=float)
    tokens = _checks.counts.tokens(adata[:, classifier.genes], classifier.layer)[0].astype(float)
    mean = np.asarray(tokens.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(tokens.multiply(tokens).mean(0)).ravel() - mean**2, 0))
    return pd.Series(
        (linear.coefficients[-1] - linear.coefficients[0]) * spread, index=classifier.genes
    )
