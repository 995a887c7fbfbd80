"""tl.gene_interactions: what two genes say together to a network, beyond what each says alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import is_model, number_in, unique
from scbert_cll.model import ScBERTClassifier

_MOST_GENES: Final = 50
_FEW_DONORS: Final = 2


def gene_interactions(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: Sequence[str],
    *,
    groupby: str | None = None,
    donor_key: str = _keys.DONOR,
    target: str | None = None,
    n_cells: int = 100,
    min_cells: int = 5,
    batch_size: int | None = None,
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.GENE_INTERACTIONS,
    copy: bool = False,
) -> AnnData | None:
    """Occlude pairs of genes: whether the network counts two genes together otherwise than one by one.

    Of a cell x that expresses both genes, f(x) − f(x without a) − f(x without b) + f(x without
    both), f being the network's logit. It is zero where each gene counts for itself. Positive: the
    two together speak for the class more than the sum of both. It describes the network: the test
    asks whether the effect holds over donors, not whether it is biology, and a network that has
    learned little has noise to show.

    Parameters
    ----------
    adata
        Cells × genes with the layer the model was trained on; best those of donors it was not
        trained on.
    model
        A trained classifier.
    genes
        2 to 50 genes, of which all pairs are taken: 50 are 1,225 pairs, each of which every cell
        that expresses both is computed for.
    groupby
        `obs` column of groups: each is shown apart. None: all cells together.
    donor_key
        `obs` column of donors, the unit of intervals and tests.
    target
        Class whose logit is meant, against the mean of the others; None: the last one.
    n_cells
        Cells of each donor and group to look at, at most; drawn at random where there are more.
    min_cells
        Cells that express both genes, needed for a donor to count.
    batch_size
        Cells at a time; affects speed and memory, not results.
    rng
        Seed of the drawing.
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['gene_interactions']`` : dict
        ``pairs``, DataFrame: ``group``, ``a``, ``b``, ``effect`` (mean over donors of the mean over
        their cells that express both; logit units), ``low`` and ``high`` (95 %, Student's t over
        donors), ``alone_a`` and ``alone_b`` (mean of f(x) − f(x without a), in the same cells),
        ``p``, ``q`` (Benjamini and Hochberg, over all rows), ``n_cells``, ``n_donors``, the
        clearest first; ``params``.

    Raises
    ------
    KeyError
        A gene, column or layer is missing.
    TypeError
        `model` is no classifier.
    ValueError
        Fewer than 2 or more than 50 genes, a gene twice, or an unknown class.

    Notes
    -----
    With ``tokens="expressed"`` the mean over n tokens makes pairs of any network non-additive:
    leaving out both tokens moves it by more than the sum, by (Δa + Δb) / (n − 2), Δ being the
    single changes. This is taken off, so that a network without attention has no interaction. What
    attention's own normaliser adds is left in, and q says only that a pair's effect is not zero in
    the network, which holds for most pairs of a network with attention. So go by the size, beside
    that of pairs of genes that have nothing to do with each other (see the page on non-additive
    programmes).
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERTClassifier",))
    _checks.slots.new_key(key_added)
    genes = _named(genes, adata, model)
    number_in(n_cells, "n_cells", 1, np.inf, whole=True)
    groups = (
        pd.Series("all", adata.obs_names, dtype="category")
        if groupby is None
        else _checks.adata.groups(adata, groupby)
    )
    donors = _checks.people.donors(adata, donor_key)
    _checks.tokens.tokens(adata, model.layer)
    destination = _checks.adata.target(adata, copy=copy)
    cells = (
        pd.DataFrame({"group": groups.astype(object), "donor": donors})
        .reset_index(drop=True)
        .dropna()
    )
    cells = _some(cells, n_cells, np.random.default_rng(rng))
    chosen = adata[cells.index.to_numpy()].copy()
    found = _of_cells(chosen, model, genes, target, batch_size)
    rows = [
        {"group": str(group)} | _summary(pair, values[own], cells["donor"].iloc[own], min_cells)
        for group, own in cells.groupby("group", sort=False).indices.items()
        for pair, values in found.items()
    ]
    params |= {"genes": genes, "target": target or model.classes[-1]} | _checks.people.left_out(
        donors
    )
    _record.write(destination, uns={key_added: {"pairs": _table(rows), "params": params}})
    return destination if copy else None


def _named(genes: Sequence[str], adata: AnnData, model: ScBERTClassifier) -> list[str]:
    """Genes that the data and the model know, each once, not too many."""
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    number_in(len(names), "The number of genes", 2, _MOST_GENES, whole=True)
    unique(pd.Index(names), "genes", "name each gene once")
    _checks.genes.known_genes(names, adata)
    _checks.genes.places_in_model(names, model.genes)
    return names


def _some(cells: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most n cells of each donor and group, in their order."""
    order = pd.Series(rng.permutation(len(cells)), cells.index)
    place = order.groupby([cells["group"], cells["donor"]]).rank()
    return cells[place <= n]


def _of_cells(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: list[str],
    target: str | None,
    batch_size: int | None,
) -> dict[tuple[str, str], np.ndarray]:
    """Of every pair in every cell: interaction, what a and what b says alone.

    Missing where the cell does not express both.
    """
    pairs = list(combinations(range(len(genes)), 2))
    members = [[gene] for gene in genes] + [[genes[a], genes[b]] for a, b in pairs]
    sets = {str(i): names for i, names in enumerate(members)}
    effects = model.get_set_effects(sets, adata, target=target, batch_size=batch_size).to_numpy()
    alone, together = effects[:, : len(genes)], effects[:, len(genes) :]
    expressed = _checks.tokens.tokens(adata, model.layer)[0] > 0
    has = expressed[:, adata.var_names.get_indexer(pd.Index(genes))].toarray()
    a, b = np.array(pairs).T
    first, second = alone[:, a], alone[:, b]
    n_tokens = np.asarray(expressed[:, adata.var_names.isin(model.genes)].sum(axis=1))
    pooling = 1 / np.maximum(n_tokens - 2, 1) if model.config.tokens == "expressed" else 0.0
    values = np.stack([together - (1 + pooling) * (first + second), -first, -second], axis=-1)
    values[~(has[:, a] & has[:, b])] = np.nan
    return {(genes[i], genes[j]): values[:, k] for k, (i, j) in enumerate(pairs)}


def _summary(
    pair: tuple[str, str], values: np.ndarray, donors: pd.Series, min_cells: int
) -> dict[str, Any]:
    """Mean over donors, with Student's interval and test of the interaction."""
    table = (
        pd.DataFrame(values, columns=["effect", "alone_a", "alone_b"])
        .assign(donor=donors.to_numpy())
        .dropna()
    )
    by_donor = table.groupby("donor").mean().assign(size=table.groupby("donor").size())
    by_donor = by_donor[by_donor["size"] >= min_cells]
    n, mean, reach, p = len(by_donor), by_donor["effect"].mean(), np.nan, np.nan
    if n >= _FEW_DONORS:
        error = by_donor["effect"].std() / np.sqrt(n)
        reach = stats.t.ppf(0.975, n - 1) * error
        p = 2 * stats.t.sf(np.abs(mean) / error, n - 1) if error > 0 else float(mean == 0)
    found = {"a": pair[0], "b": pair[1], "effect": mean, "low": mean - reach, "high": mean + reach}
    found |= {name: by_donor[name].mean() for name in ("alone_a", "alone_b")}
    return found | {"p": p, "q": np.nan, "n_cells": int(by_donor["size"].sum()), "n_donors": n}


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The clearest pair first, and the share of false ones among those up to it."""
    table = pd.DataFrame(rows)
    tested = table["p"].notna()
    table.loc[tested, "q"] = (
        stats.false_discovery_control(table.loc[tested, "p"]) if tested.any() else np.nan
    )
    return table.sort_values("p", kind="stable", ignore_index=True).rename(index=str)
