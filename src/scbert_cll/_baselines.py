"""What the demo shows beside scBERT: baselines on the same cells, donors one by one, and planted genes found."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _names
from scbert_cll._evaluation.donors import by_donor as _by_donor
from scbert_cll._evaluation.metrics import score
from scbert_cll.estimators import baselines, seeded
from scbert_cll.get import signature
from scbert_cll.model import ScBERTClassifier

_SHOWN = {"logistic_l2": "logistic regression on log expression", "gene_only": "logistic regression on {gene} alone"}
_METRICS = ("macro_f1", "auroc")


def compare(
    adata: AnnData, *, gene: str, labels_key: str = _keys.CD49D, split_key: str = _keys.SPLIT, seed: int = 0
) -> pd.DataFrame:
    """Macro-F1 and AUROC on the labelled test cells: what tl.finetune found, and baselines trained on the same cells."""
    found: pd.DataFrame = adata.uns[_keys.SCBERT]["comparison"]
    table = found[found["part"] == _keys.TEST].set_index("model")[[*_METRICS, "n_cells"]]
    table = table.rename({"predicted": "scBERT", "network": "its network alone"})
    table = table.rename({"logistic regression": "its logistic regression alone (on tokens)"}).iloc[::-1]
    known = baselines(gene)
    names = ["logistic_l2", *(["gene_only"] if gene in adata.var_names else []), "majority"]
    parts = {part: _labelled(adata, labels_key, split_key, part) for part in (_keys.TRAIN, _keys.TEST)}
    train, test = (AnnData(cells.X, var=pd.DataFrame(index=cells.var_names)) for cells in parts.values())
    y = {part: cells.obs[labels_key] for part, cells in parts.items()}
    classes = list(y[_keys.TRAIN].cat.categories)
    for name in names:
        model = seeded(known[name], seed)
        model.fit(train, y[_keys.TRAIN].set_axis(train.obs_names))
        proba = pd.DataFrame(model.predict_proba(test), columns=model.classes_).reindex(columns=classes, fill_value=0.0)
        codes = y[_keys.TEST].cat.codes.to_numpy()
        row = {metric: score(metric, codes, proba.to_numpy(), classes).value for metric in _METRICS}
        table.loc[_SHOWN.get(name, name).format(gene=gene)] = row | {"n_cells": float(len(codes))}
    return table


def by_donor(
    adata: AnnData, donor_key: str, *, labels_key: str = _keys.CD49D, split_key: str = _keys.SPLIT
) -> pd.DataFrame:
    """Observed and predicted percentage of the last class among each donor's labelled test cells."""
    cells = _labelled(adata, labels_key, split_key, _keys.TEST)
    classes = list(cells.obs[labels_key].cat.categories)
    proba = _names.own_columns(cast("pd.DataFrame", cells.obsm[_keys.PROBA]), cells.uns)[classes].to_numpy(float)[None]
    donors = cells.obs[donor_key].astype(str).to_numpy()
    table = _by_donor(cells.obs[labels_key].cat.codes.to_numpy(), donors, {"scBERT": proba}, classes)
    return table.set_index("donor")[["n_cells", "observed", "predicted"]]


def recovery(adata: AnnData, attention: pd.DataFrame, classifier: ScBERTClassifier) -> pd.DataFrame:
    """How many planted genes are in the signature, and among as many first genes of each ranking."""
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
    """Coefficients of the linear part per standard deviation of a gene's token, last class against first."""
    linear = classifier.linear_
    if linear is None:
        return pd.Series(dtype=float)
    tokens = _checks.tokens(adata[:, classifier.genes], classifier.layer)[0].astype(float)
    mean = np.asarray(tokens.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(tokens.multiply(tokens).mean(0)).ravel() - mean**2, 0))
    return pd.Series((linear.coefficients[-1] - linear.coefficients[0]) * spread, index=classifier.genes)


def _labelled(adata: AnnData, labels_key: str, split_key: str, part: str) -> AnnData:
    known = (adata.obs[split_key] == part) & adata.obs[labels_key].notna()
    return adata[known.to_numpy()]
