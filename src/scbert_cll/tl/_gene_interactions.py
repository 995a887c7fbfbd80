"""tl.gene_interactions: what two genes say together to a network, beyond what each says alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import is_model, number_in, unique
from scbert_cll._gene_names.resolver import known_in_data

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

_MOST_GENES: Final = 50
_PAIR: Final = ["group", "a", "b"]
_NUMBERS: Final = (
    "effect", "low", "high", "alone_a", "alone_b", "p", "q", "n_cells", "n_donors"
)  # fmt: skip


@_docs.shared
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
    """Occlude pairs of genes: whether the network counts two genes together as it does one by one.

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
    %(classifier)s
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
    %(batch_size)s
    rng
        Seed of the drawing.
    %(key_added)s
    %(copy)s

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
    %(no_classifier)s
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
    _checks.adata.new_key(key_added)
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    number_in(len(names), "The number of genes", 2, _MOST_GENES, whole=True)
    names = known_in_data(names, adata.var_names, "adata.var_names")
    unique(pd.Index(names), "genes", "name each gene once")
    _checks.genes.places_in_model(names, model.genes)
    number_in(n_cells, "n_cells", 1, np.inf, whole=True)
    groups = _checks.adata.groups(adata, groupby)
    donors = _checks.people.donors(adata, donor_key)
    _checks.counts.tokens(adata, model.layer)
    destination = _checks.adata.target(adata, copy=copy)
    cells = pd.DataFrame({"group": groups.astype(object), "donor": donors})
    cells = cells.reset_index(drop=True).dropna()
    order = pd.Series(np.random.default_rng(rng).permutation(len(cells)), cells.index)
    cells = cells[order.groupby([cells["group"], cells["donor"]]).rank() <= n_cells]
    drawn = adata[cells.index.to_numpy()].copy()
    pairs, in_groups = list(combinations(names, 2)), sorted(set(cells["group"]))
    members = [[name] for name in names] + [list(pair) for pair in pairs]
    sets = {str(i): occluded for i, occluded in enumerate(members)}
    change = model.get_set_effects(sets, drawn, target=target, batch_size=batch_size)
    effects = _effects(drawn, model, names, change.to_numpy())
    effects = effects.join(cells.reset_index(drop=True), on="cell").dropna()
    rows = [(group, *pair) for group in in_groups for pair in pairs]
    index = pd.MultiIndex.from_tuples(rows, names=_PAIR)
    table = _summary(effects, min_cells).reindex(index)
    counts = dict.fromkeys(("n_cells", "n_donors"), 0)
    table = table.fillna(counts).astype(dict.fromkeys(counts, np.int64)).reset_index()
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"])
    table = table.sort_values("p", kind="stable", ignore_index=True)
    params |= {"genes": names, "target": target or model.classes[-1]}
    params |= _checks.people.left_out(donors)
    _record.write(destination, uns={key_added: {"pairs": table, "params": params}})
    return destination if copy else None


def _effects(
    adata: AnnData, model: ScBERTClassifier, genes: list[str], change: np.ndarray
) -> pd.DataFrame:
    """Interaction, and effects of the first and second gene: a row per pair and cell with both."""
    pairs = np.array(list(combinations(range(len(genes)), 2)))
    single, together = np.split(change, [len(genes)], axis=1)
    first, second = single[:, pairs[:, 0]], single[:, pairs[:, 1]]
    expressed = _checks.counts.tokens(adata, model.layer)[0] > 0
    pooling: np.ndarray | float = 0.0
    if model.config.n_zeros == 0:
        in_model = adata.var_names.isin(model.genes)
        n_tokens = np.asarray(expressed[:, in_model].sum(axis=1))
        pooling = 1 / np.maximum(n_tokens - 2, 1)
    has = expressed[:, adata.var_names.get_indexer(pd.Index(genes))].toarray()
    both = has[:, pairs[:, 0]] & has[:, pairs[:, 1]]
    cell, pair = np.nonzero(both)
    effect = together - (1 + pooling) * (first + second)
    a, b = np.array(genes, dtype=object)[pairs[pair]].T
    table = {"cell": cell, "a": a, "b": b, "effect": effect[both]}
    return pd.DataFrame(table | {"alone_a": -first[both], "alone_b": -second[both]})


def _summary(effects: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Numbers of each pair: means over donors, Student's interval and test; q is still missing."""
    by_donor = effects.groupby([*_PAIR, "donor"])[["effect", "alone_a", "alone_b"]]
    means = by_donor.mean().assign(n_cells=by_donor.size())
    donors = means[means["n_cells"] >= min_cells].groupby(_PAIR)
    table, n = donors.mean(), donors.size()
    mean: pd.Series = table["effect"]
    error: pd.Series = donors["effect"].std() / np.sqrt(n)
    reach = stats.t.ppf(0.975, n - 1) * error  # missing with one donor
    p = pd.Series(2 * stats.t.sf(mean.abs() / error, n - 1), table.index)
    p = p.mask((mean == 0) & (error == 0), 1.0)
    table = table.assign(low=mean - reach, high=mean + reach, p=p, q=np.nan)
    return table.assign(n_cells=donors["n_cells"].sum(), n_donors=n)[list(_NUMBERS)]
