"""What the demo shows next to scBERT: baselines of the same cells, donors one by one, and planted genes found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.donors import by_donor
from scbert_cll.estimators import baselines, seeded
from scbert_cll.get import signature
from scbert_cll.model import ScBERTClassifier

_SHOWN = {
    "logistic_l2": "logistic regression on log expression",
    "gene_only": "logistic regression on {gene} alone",
}

__all__ = ["by_donor", "labelled", "probabilities", "recovery"]


def probabilities(
    adata: AnnData,
    *,
    gene: str | None,
    labels_key: str = _keys.CD49D,
    split_key: str = _keys.SPLIT,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Baselines trained on the labelled training cells: name → probabilities of the labelled test cells (n, classes)."""
    known = baselines(gene or "")
    names = ["logistic_l2", *(["gene_only"] if gene is not None else []), "majority"]
    parts = {
        part: labelled(adata, labels_key, split_key, part) for part in (_keys.TRAIN, _keys.TEST)
    }
    train, test = (
        AnnData(_counts(cells), var=pd.DataFrame(index=cells.var_names)) for cells in parts.values()
    )
    y = parts[_keys.TRAIN].obs[labels_key]
    classes, found = list(y.cat.categories), {}
    for name in names:
        model = seeded(known[name], seed)
        model.fit(train, y.set_axis(train.obs_names))
        proba = pd.DataFrame(model.predict_proba(test), columns=model.classes_).reindex(
            columns=classes, fill_value=0.0
        )
        found[_SHOWN.get(name, name).format(gene=gene)] = proba.to_numpy(float)
    return found


def _counts(cells: AnnData) -> Any:
    """The raw counts that were binned."""
    layer = cells.uns[_keys.BINNED]["params"]["layer"]
    return cells.X if layer == "X" else cells.layers[layer]


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
    tokens = _checks.tokens.tokens(adata[:, classifier.genes], classifier.layer)[0].astype(float)
    mean = np.asarray(tokens.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(tokens.multiply(tokens).mean(0)).ravel() - mean**2, 0))
    return pd.Series(
        (linear.coefficients[-1] - linear.coefficients[0]) * spread, index=classifier.genes
    )


def labelled(adata: AnnData, labels_key: str, split_key: str, part: str) -> AnnData:
    """Cells of a part of the split that have a label."""
    known = (adata.obs[split_key] == part) & adata.obs[labels_key].notna()
    return adata[known.to_numpy()]
