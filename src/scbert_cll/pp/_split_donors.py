from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _deal, _docs, _keys, _record
from scbert_cll._checks.people import DONOR
from scbert_cll._checks.words import choice, listed

type _Rng = np.random.Generator
type _Label = pd.Series | None  # of each cell
_NOT_IN_TRAIN = 1e3
# test has no donor of several classes: worse than a class missing there
_NO_PAIRS = 50.0
_PARTS = np.array(_keys.SPLIT_ORDER)


@_docs.shared
def split_donors(
    adata: AnnData,
    donor_key: str = DONOR,
    *,
    labels_key: str | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    unit: Literal["donor", "cell"] = "donor",
    mixed: bool = False,
    key_added: str = _keys.SPLIT,
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Split donors, not cells, into train, val and test.

    Cells of one donor share genotype, clone and batch, so a donor on both sides of a split lets a
    model recognise the donor instead of the class. Whole donors are dealt out such that each part
    comes as close as whole donors allow to its share of the donors, of the cells and of the cells
    of every class.

    Parameters
    ----------
    adata
        Cells to split. Neither the order of the cells nor that of the donors matters.
    donor_key
        ``obs`` column of donors, without missing values; cells of no donor (``"doublet"``,
        ``"unassigned"``, see :doc:`/donors`) are left out.
    labels_key
        ``obs`` column of classes to balance over the parts; every class is then sure to occur in
        train. Cells without a label are split with their donor.
    fractions
        Shares of train, val and test; they sum to 1. A share of 0 leaves that part out: two donors
        can be split with ``(0.5, 0, 0.5)``.
    unit
        ``donor``, or ``cell``: a random split within every donor and class, for data of one or two
        donors. It has the same donors on both sides, so what is measured on it is optimistic;
        ``uns`` says so.
    mixed
        Also deal out, by their share, the cells that are not of their donor's most frequent class
        (`unit` ``donor``, with `labels_key`). So test has donors with cells of several classes
        where there are any, and models can be compared within them: between donors of one class
        each, who tells the donors apart tells the classes apart.
    %(key_of_results)s
    rng
        Of the search: among splits that are about equally even, which one.
    copy
        Return a split copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets, for the default `key_added`:

    ``adata.obs['split']`` : Categorical ``train``, ``val``, ``test``
        The part of each cell; a donor is in exactly one (`unit` ``donor``). NA where a cell has no
        donor.
    ``adata.uns['split']`` : dict
        ``params`` (with ``donors_shared``: whether donors are on more than one side) and
        ``donors``, a table of donor, split, n_cells and the number of cells per class.

    Raises
    ------
    ValueError
        Fewer donors than parts, missing donors, or a class that cannot be in train.

    Notes
    -----
    Donors are moved and swapped, from random starts, until the root mean squared deviation from
    `fractions` is close to the smallest one that was found; classes that are absent from a part
    come before evenness. Splits that are about equally even differ by `rng`.

    Examples
    --------
    >>> import numpy as np, scbert_cll as sc_cll
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((60, 3), dtype="float32"))
    >>> adata.obs["donor"] = np.repeat([f"d{i}" for i in range(6)], 10)
    >>> sc_cll.pp.split_donors(adata, "donor", fractions=(0.5, 0.25, 0.25))
    >>> adata.obs.groupby("split", observed=True)["donor"].nunique().to_dict()
    {'train': 3, 'val': 1, 'test': 2}
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    _checks.adata.new_key(key_added, [donor_key, labels_key])
    choice(unit, ("donor", "cell"), "unit")
    if mixed and (labels_key is None or unit == "cell"):
        raise ValueError(
            "mixed=True deals donors by the classes of their cells: name labels_key, and "
            "unit='donor'."
        )
    shares = np.asarray(fractions, dtype=float)
    are_three = shares.shape == (3,) and np.isclose(shares.sum(), 1)
    if not are_three or (shares < 0).any() or shares[0] == 0:
        raise ValueError(
            "fractions must be three shares (train, val, test), none negative, train above 0, sum "
            f"1; found {fractions}."
        )
    of_all = _checks.people.donors(adata, donor_key)
    donor = of_all.dropna()
    label = None
    if labels_key is not None:
        column = _checks.adata.obs_column(adata, labels_key)
        _checks.adata.classes(column, labels_key)
        label = _checks.people.class_names(column).loc[donor.index]
    generator = np.random.default_rng(rng)
    if unit == "cell":
        part = _deal_cells(donor, label, shares, generator)
    else:
        if (n := donor.nunique()) < (n_parts := np.count_nonzero(shares)):
            two = " fractions=(0.5, 0, 0.5) splits two donors;" if n == 2 else ""
            raise ValueError(
                f"adata.obs[{donor_key!r}] holds {n} donors ({listed(np.sort(donor.unique()))}) "
                f"for {n_parts} parts; expected at least one donor per part.{two} unit='cell' "
                "splits within donors, which is optimistic: every donor is on both sides."
            )
        part = _deal_donors(donor, label, shares, generator, mixed=mixed)
    if label is not None:
        _every_class_in_train(part, label, donor)

    params |= {"fractions": shares.tolist(), "donors_shared": unit == "cell"}
    params |= _checks.people.left_out(of_all)
    adata = _checks.adata.target(adata, copy=copy)
    parts = pd.Categorical(part.reindex(adata.obs_names), list(_keys.SPLIT_ORDER))
    record = {"params": params, "donors": _table(donor, label, part)}
    _record.write(adata, obs={key_added: parts}, uns={key_added: record})
    return adata if copy else None


def _deal_donors(
    donor: pd.Series, label: _Label, shares: np.ndarray, rng: _Rng, *, mixed: bool
) -> pd.Series:
    """Part of each cell, whole donors only."""
    names = np.sort(donor.unique())
    used = np.flatnonzero(shares)
    n_cells = donor.value_counts().loc[names].to_numpy()
    present = None if label is None else pd.crosstab(donor, label).loc[names].to_numpy()
    columns = [n_cells, *([] if present is None else present.T)]
    # what it costs that a part has nothing of a column: no donor more than a class missing in
    # train, that more than one elsewhere
    cost = np.ones((used.size, 1 + len(columns)))
    cost[0, 2:] = _NOT_IN_TRAIN
    cost[:, :2] = [_deal.EMPTY, 0]
    others = None if present is None else present.sum(1) - present.max(1)
    if mixed and others is not None and others.any():
        columns.append(others)
        cost = np.column_stack([cost, [1.0] * (used.size - 1) + [_NO_PAIRS]])
    weights = _deal.weights_of(*columns)
    dealt = _deal.deal(
        weights, shares[used], rng, lacking=lambda n: ((n < 1e-9) * cost).sum((1, 2))
    )
    return donor.map(dict(zip(names, _PARTS[used[dealt]], strict=True)))


def _every_class_in_train(part: pd.Series, label: pd.Series, donor: pd.Series) -> None:
    absent = sorted(set(label.dropna()) - set(label[part == _keys.TRAIN].dropna()))
    if absent:
        donors = {name: np.sort(donor[label == name].unique()) for name in absent}
        where = "; ".join(f"{n!r} only in {listed(of)}" for n, of in donors.items())
        raise ValueError(
            f"Classes that cannot be in train with every part filled: {where}. Merge or drop the "
            "class, leave a part out with a share of 0, or split within donors with unit='cell' "
            "(optimistic: every donor is on both sides)."
        )


def _deal_cells(donor: pd.Series, label: _Label, shares: np.ndarray, rng: _Rng) -> pd.Series:
    """Part of each cell, random within donor and class.

    Cells are lined up by donor and class in random order, and each takes the part that lags its
    share most, so any stretch of the line, and so every stratum, has the shares within about one
    cell.
    """
    if len(donor) < (n_parts := np.count_nonzero(shares)):
        raise ValueError(
            f"Expected at least one cell per part; found {len(donor)} cells for {n_parts} parts."
        )
    labels = "" if label is None else label.fillna("").astype(str)
    strata = pd.DataFrame({"donor": donor, "label": labels}).sort_index()
    line = strata.assign(random=rng.permutation(len(strata)))
    line = line.sort_values(["donor", "label", "random"])
    n_dealt, dealt = np.zeros(shares.size), np.empty(len(line), dtype=int)
    for i in range(len(line)):
        dealt[i] = np.argmax((i + 1) * shares - n_dealt)
        n_dealt[dealt[i]] += 1
    return pd.Series(_PARTS[dealt], index=line.index).reindex(donor.index)


def _table(donor: pd.Series, label: _Label, part: pd.Series) -> pd.DataFrame:
    """Donor, split, number of cells, and of cells per class."""
    keys = [donor.rename("donor"), part.rename("split")]
    counts = donor.groupby(keys).size().rename("n_cells").to_frame()
    if label is not None:
        names = {name: f"n_{name}" for name in label.dropna().unique()}
        if "cells" in names:
            names["cells"] = "n_cells (class)"
        of_classes = pd.crosstab(keys, label).rename(columns=names)
        counts = counts.join(of_classes).fillna(0).astype(int)
    return counts.reset_index()
