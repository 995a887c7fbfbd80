"""A network that has learned planted genes."""

from __future__ import annotations

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier


def taught(adata, epochs: int, fractions=(0.7, 0.15, 0.15), **kwargs) -> ScBERTClassifier:
    sb.pp.split_donors(adata, "donor", labels_key="label", fractions=fractions, rng=0)
    sb.pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=0, gene_embedding="learned", **kwargs)
    model.train(epochs, split_key="split", accelerator="cpu", enable_progress_bar=False)
    return model
