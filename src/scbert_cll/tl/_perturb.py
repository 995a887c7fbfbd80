"""tl.perturb: in-silico knock-out of genes, per donor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, is_model, key_in
from scbert_cll._signature import checks as signature_checks
from scbert_cll.model import ScBERTClassifier

Kind = Literal["drop", "set"]

_KINDS: Final = ("drop", "set")
_FEW_DONORS: Final = 2


def perturb(
    adata: AnnData,
    model: ScBERTClassifier,
    genes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    kind: Kind = "drop",
    level: int | None = None,
    groupby: str | None = None,
    donor_key: str = _keys.DONOR,
    target: str | None = None,
    min_cells: int = 5,
    batch_size: int | None = None,
    key_added: str = _keys.PERTURB,
    copy: bool = False,
) -> AnnData | None:
    """Predict the cells as they would be without a gene, or with it at another level.

    What changes is the network's opinion. That a real knock-out would do the same to the protein is
    a hypothesis, and a weak one: genes of one module say the same to the network, so that dropping
    one of them changes little, and dropping all of them more.

    Parameters
    ----------
    adata
        Cells × genes with the layer the model was trained on.
    model
        A trained classifier.
    genes
        Genes to change one at a time, or sets of genes by name, each changed together. None: the
        selected genes of :func:`~scbert_cll.tl.signature`.
    kind
        ``"drop"``: the genes are not expressed. ``"set"``: they are at `level` in every cell.
    level
        Token of ``"set"``, 1 to the number of bins.
    groupby
        `obs` column of groups: each is shown apart. None: all cells together.
    donor_key
        `obs` column of donors, the unit of the intervals.
    target
        Class whose log-odds are meant; None: the last one.
    min_cells
        Changed cells a donor needs to count.
    batch_size
        Cells at a time; affects speed and memory, not results.
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['perturb']`` : dict
        ``summary``, DataFrame: ``group``, ``name``, ``log_odds`` (mean over donors of the mean
        change over the cells that change), ``low`` and ``high`` (95 %, Student's t over donors),
        ``shift`` (how far the embedding moves), ``n_cells``, ``n_donors``; ``donors``, the same per
        donor; ``params``.
    ``adata.varm['perturb']`` : DataFrame (genes × "group|donor"), float64, unless sets were named
        Mean change of the log-odds; missing for genes that were not changed and donors with too few
        cells.
    ``adata.varm['perturb_summary']`` : DataFrame (genes × "group|log_odds", "group|low",
    "group|high", "group|shift"), float64, unless sets were named
        The columns of the summary, per group.

    Raises
    ------
    KeyError
        A gene, column or layer is missing, or `genes` is None and there is no signature.
    TypeError
        `model` is no classifier.
    ValueError
        The signature is empty, ``"set"`` without a `level`, or a level that is no token.
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERTClassifier",))
    choice(kind, _KINDS, "kind")
    _checks.slots.new_key(key_added)
    sets = _sets(adata, genes)
    groups = (
        pd.Series("all", adata.obs_names, dtype="category")
        if groupby is None
        else _checks.adata.groups(adata, groupby)
    )
    donors = _checks.people.donors(adata, donor_key)
    groups = groups.where(donors.notna())
    destination = _checks.adata.target(adata, copy=copy)
    tables = [
        _per_donor(change.name, change.rows, change.log_odds, change.shift, groups, donors)
        for change in model.perturb_genes(
            sets, adata, level=_level(kind, level), target=target, batch_size=batch_size
        )
    ]
    by_donor = pd.concat(tables, ignore_index=True)
    summary = _summary(
        by_donor[by_donor["n_cells"] >= min_cells],
        list(sets),
        [str(g) for g in groups.cat.categories],
    )
    params |= {"level": 0 if level is None else level, "target": target or model.classes[-1]}
    params |= _checks.people.left_out(donors)
    record = {"summary": summary, "donors": by_donor, "params": params}
    varm = {}
    if not isinstance(genes, Mapping):
        enough = by_donor[by_donor["n_cells"] >= min_cells]
        wide = enough.pivot_table(
            index="name", columns=["group", "donor"], values="log_odds", observed=True
        )
        varm = {
            key_added: wide.reindex(adata.var_names),
            f"{key_added}_summary": _by_gene(summary).reindex(adata.var_names),
        }
    own = (
        [("varm", key_added), ("varm", f"{key_added}_summary")]
        if key_added in destination.uns
        else []
    )
    _record.write(destination, varm=varm, uns={key_added: record}, replaces=own)
    return destination if copy else None


def _sets(
    adata: AnnData, genes: Sequence[str] | Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Sets of genes by name; single genes go by their own."""
    if isinstance(genes, Mapping):
        return {str(name): list(members) for name, members in genes.items()}
    if genes is None:
        key_in(_keys.SIGNATURE, adata.uns, "adata.uns", "Run tl.signature first, or name genes=.")
        record = adata.uns[_keys.SIGNATURE]
        table = record["genes"]
        genes = table.loc[table["selected"], "gene"].tolist() if len(table) else []
        signature_checks.not_empty(
            len(genes), str(record["reason"]), "there is nothing to change; name genes="
        )
    return {gene: [gene] for gene in ([genes] if isinstance(genes, str) else genes)}


def _level(kind: str, level: int | None) -> int:
    if kind == "drop":
        return 0
    if level is None:
        raise ValueError('kind="set" needs level=, the token to set: 1 to the number of bins.')
    return level


def _per_donor(
    name: str,
    rows: np.ndarray,
    log_odds: np.ndarray,
    shift: np.ndarray,
    groups: pd.Series,
    donors: pd.Series,
) -> pd.DataFrame:
    """Means over the changed cells of each donor and group."""
    cells = pd.DataFrame({"group": groups.iloc[rows].astype(object), "donor": donors.iloc[rows]})
    cells = cells.assign(log_odds=log_odds, shift=shift).dropna(subset="group")
    found = cells.groupby(["group", "donor"]).agg(
        log_odds=("log_odds", "mean"), shift=("shift", "mean"), n_cells=("shift", "size")
    )
    found = found.reset_index().astype(
        {"group": str, "donor": str, "log_odds": float, "shift": float, "n_cells": int}
    )
    found.insert(0, "name", name)
    return found


def _by_gene(summary: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the summary, genes × "group|number"."""
    numbers = ["log_odds", "low", "high", "shift"]
    parts = {
        str(group): rows.set_index("name")[numbers]
        for group, rows in summary.groupby("group", sort=False)
    }
    return pd.concat(parts, axis=1)


def _summary(by_donor: pd.DataFrame, names: list[str], groups: list[str]) -> pd.DataFrame:
    """Mean over donors and Student's interval."""
    rows = []
    for group in groups:
        for name in names:
            own = by_donor[(by_donor["group"] == group) & (by_donor["name"] == name)]
            n, mean = len(own), own["log_odds"].mean()
            reach = np.nan
            if n >= _FEW_DONORS:
                reach = stats.t.ppf(0.975, n - 1) * own["log_odds"].std() / np.sqrt(n)
            values = {
                "log_odds": mean,
                "low": mean - reach,
                "high": mean + reach,
                "shift": own["shift"].mean(),
            }
            rows.append(
                {"group": group, "name": name}
                | values
                | {"n_cells": int(own["n_cells"].sum()), "n_donors": n}
            )
    return pd.DataFrame(rows).rename(index=str)
