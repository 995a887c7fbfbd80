from __future__ import annotations

from scbert_cll.estimators._base import CellEstimator
from scbert_cll.estimators._baselines import baselines
from scbert_cll.estimators._latent import optional_baselines
from scbert_cll.estimators._scbert import scbert_variants


def available(gene: str = "ITGA4") -> dict[str, CellEstimator]:
    """Every estimator that goes by a name, unfitted: baselines, optional ones, scBERT's variants.

    Parameters
    ----------
    gene
        The gene of ``"gene_only"`` and ``"scbert_without_gene"``.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> sorted(sc_cll.estimators.available())[:3]
    ['gene_only', 'gradient_boosting', 'knn']
    """
    return {**baselines(gene), **optional_baselines(), **scbert_variants(gene)}
