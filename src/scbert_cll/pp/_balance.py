from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._process import calm

Method = Literal["weights", "oversample", "undersample", "smote"]


def balance(
    adata: AnnData,
    groupby: str | Sequence[str],
    *,
    method: Method = "weights",
    split_key: str = _keys.SPLIT,
    use_rep: str | None = None,
    k_neighbors: int = 5,
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Balance the groups of the training cells, by weights or by resampling.

    Only training cells with a label take part; validation and test cells stay as they are, at the
    prevalence of nature. Resampling before the split would put copies of a cell on both sides, so
    without a split this raises. Weights change no row and are the default; SMOTE is there for
    comparison with earlier work: in thousands of genes it seldom helps.

    Parameters
    ----------
    adata
        Cells with labels and a split.
    groupby
        ``obs`` column, or several whose combinations are the groups, e.g. ``["cd49d", "donor"]``.
        Cells with a missing value in any are left alone.
    method
        ``weights``; ``oversample``: copies of random cells up to the largest group;
        ``undersample``: random cells down to the smallest; ``smote``: new cells between a cell and
        one of its neighbours in the group, up to the largest group.
    split_key
        ``obs`` column with ``train``, as :func:`split_donors` writes it.
    use_rep
        ``obsm`` in which SMOTE looks for neighbours. By default 50 principal components of the
        training cells' log-normalised ``X``.
    k_neighbors
        Neighbours of SMOTE; a group that is to grow needs more cells than that.
    rng
        Seed of the resampling.
    copy
        Return a balanced copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy. Sets

    ``adata.obs['balance_weight']`` : float32 (``weights``)
        Inverse of the group's size, mean 1 over the training cells with a label; 0 for all others.
    ``adata.obs['is_synthetic']`` : bool (resampling)
        True for the rows that were added, at the end, with new names; the original rows keep their
        order. ``undersample`` drops rows and adds none.
    ``adata.uns['balance']`` : dict
        ``params`` and ``groups``, a table of n_before and n_after, or weight, per group.

    Raises
    ------
    KeyError
        There is no split, or no such column.
    ValueError
        One group only, a group no larger than `k_neighbors`, an object that was balanced before, or
        one with layers or graphs that new cells would falsify.

    Notes
    -----
    SMOTE (Chawla et al. 2002, doi:10.1613/jair.953) puts a new cell at (1 − u) a + u b of two cells
    of a group. Matrices of whole numbers in ``X``, ``layers`` and ``obsm`` stay whole: each count
    of a is kept with probability 1 − u and each of b with u, which has that point as its mean and
    stays as sparse as a cell. Others are interpolated. A new cell has an ``obs`` value, its donor
    for one, where both parents share it; else it is missing. So it is with words, categories, dates
    and truth values in a table of ``obsm``. Bin afterwards: tokens have no middle.

    Examples
    --------
    >>> import numpy as np, scbert_cll as sb
    >>> from anndata import AnnData
    >>> adata = AnnData(np.ones((8, 3), dtype="float32"))
    >>> adata.obs["cd49d"] = ["CD49d-"] * 6 + ["CD49d+"] * 2
    >>> adata.obs["split"] = "train"
    >>> sb.pp.balance(adata, "cd49d")
    >>> adata.obs.groupby("cd49d")["balance_weight"].sum().to_dict()
    {'CD49d+': 4.0, 'CD49d-': 4.0}
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    choice(method, get_args(Method), "method")
    keys = [groupby] if isinstance(groupby, str) else list(groupby)
    _not_twice(adata, method)
    group = _training_groups(adata, keys, split_key)
    params["groupby"] = keys
    n_before = group.value_counts().sort_index()
    table = pd.DataFrame({"n_before": n_before}).rename_axis("group")
    table = table.rename(index=str)
    record = {"params": params, "groups": table}
    if method == "weights":  # every group weighs the same, the mean over its cells is 1
        adata = _checks.adata.target(adata, copy=copy)
        weight = n_before.sum() / (len(n_before) * n_before)
        table["weight"] = weight.to_numpy()
        weights = group.map(weight).fillna(0.0).astype(np.float32)
        obs, uns = {_keys.BALANCE_WEIGHT: weights}, {_keys.BALANCE: record}
        _record.write(adata, obs=obs, uns=uns)
        return adata if copy else None
    if not copy:
        _checks.adata.target(adata, copy=False)
    seed = int(np.random.default_rng(rng).integers(2**31 - 1))
    new = _resampled(adata, group, method, use_rep, k_neighbors, seed)
    is_old = new.obs_names.isin(group.index[group.isna()])
    n_after = _group_names(new, keys)[~is_old].value_counts()
    table["n_after"] = n_after.reindex(n_before.index).to_numpy()
    _record.write(new, uns={_keys.BALANCE: record})
    if not copy:
        _record.become(adata, new)
    return new if copy else None


def _not_twice(adata: AnnData, method: str) -> None:
    """Refuse anything on top of a resampling, and a resampling on top of weights."""
    column, remedy = _keys.IS_SYNTHETIC, "start from the object before"
    if column not in adata.obs and method != "weights":
        column = _keys.BALANCE_WEIGHT
        remedy = f"remove the weights first: del adata.obs[{column!r}]"
    if column in adata.obs:
        raise ValueError(
            f"adata has been balanced already (it has adata.obs[{column!r}]); balancing twice "
            f"counts twice: {remedy}."
        )


def _training_groups(adata: AnnData, keys: list[str], split_key: str) -> pd.Series:
    """Group of each training cell with a label, missing for the others; at least two groups."""
    if split_key not in adata.obs:
        raise KeyError(
            f"{split_key!r} is not in adata.obs; it has {listed(adata.obs.columns, 12)}. Balance "
            "after the split, on training cells only: resampling before it puts copies of the "
            "same cell into training and test, and weights learned on all cells see the test's "
            "prevalence. Run pp.split_donors first."
        )
    is_train = _checks.adata.split(adata, split_key) == _keys.TRAIN
    group = _group_names(adata, keys).where(is_train)
    if not group.notna().any():
        raise ValueError(f"No training cell has a value in adata.obs[{listed(keys)}].")
    _checks.adata.classes(group, " + ".join(keys), within=" among the training cells")
    return group


def _group_names(adata: AnnData, keys: list[str]) -> pd.Series:
    """The values of each cell in one text; missing where one of them is."""
    columns = [_checks.adata.obs_column(adata, key) for key in keys]
    texts = [_checks.people.class_names(column) for column in columns]
    values = zip(*texts, strict=True)
    names = [None if None in one else " | ".join(one) for one in values]
    return pd.Series(names, index=adata.obs_names, dtype=object)


def _resampled(
    adata: AnnData, group: pd.Series, method: Method, rep: str | None, k: int, seed: int
) -> AnnData:
    """A new object: originals in their order (less those dropped), new rows after them."""
    rows = np.flatnonzero(group.notna())
    labels = group.iloc[rows].to_numpy(dtype=str)
    sampler = RandomOverSampler(random_state=seed)
    if method == "undersample":
        sampler = RandomUnderSampler(random_state=seed)
    elif adata.obsp:
        raise ValueError(
            f"adata.obsp holds {listed(adata.obsp)}: a graph over cells is wrong once cells are "
            "added. Delete it and compute it after balancing."
        )
    if method == "smote":
        smote = SMOTE(k_neighbors=k, random_state=seed)
        new = _smote(adata, group.iloc[rows], smote, rep)
    else:  # the matrix itself need not take part
        sampler.fit_resample(np.arange(rows.size)[:, None], labels)
        chosen = rows[np.asarray(sampler.sample_indices_)]
        if method == "undersample":
            new = adata[np.union1d(np.flatnonzero(group.isna()), chosen)].copy()
        else:
            new = _grown(adata, chosen[rows.size :], "copy")
    new.obs[_keys.IS_SYNTHETIC] = np.arange(new.n_obs) >= adata.n_obs
    return new


def _smote(adata: AnnData, group: pd.Series, smote: SMOTE, rep: str | None) -> AnnData:
    k, seed = smote.k_neighbors, smote.random_state
    rows = adata.obs_names.get_indexer(group.index)
    sizes = group.value_counts().sort_index()
    if len(small := sizes[(sizes <= k) & (sizes < sizes.max())]):
        named = ", ".join(f"{name!r} with {n}" for name, n in small.items())
        raise ValueError(
            f"SMOTE with k_neighbors={k} needs groups of at least {k + 1} training cells; found "
            f"{named}. Merge the group, lower k_neighbors, or use method='weights'."
        )
    _refuse_derived(adata)
    space = _neighbour_space(adata, rows, rep, seed)
    with calm():
        resampled, _ = smote.fit_resample(space, group.to_numpy(dtype=str))
    n = rows.size
    parents = resampled[n:, -n:]  # (new, training cells): 1 − u and u
    new = _grown(adata, rows[np.asarray(parents.argmax(axis=1)).ravel()], "smote")
    _Interpolation(rows, parents, np.random.default_rng(seed)).fill(new, adata)
    return new


def _grown(adata: AnnData, extra: np.ndarray, word: str) -> AnnData:
    """The object with the rows `extra` once more at its end, under new names."""
    names = dict.fromkeys(adata.obs_names)
    for name in adata.obs_names[extra]:
        i = 1
        while (fresh := f"{name}-{word}{i}") in names:
            i += 1
        names[fresh] = None
    with warnings.catch_warnings():  # names are unique with the next line
        warnings.filterwarnings("ignore", "Observation names are not unique")
        grown = adata[np.concatenate([np.arange(adata.n_obs), extra])].copy()
    grown.obs_names = list(names)
    return grown


# -- SMOTE: where cells are near, and what lies between two of them


def _refuse_derived(adata: AnnData) -> None:
    """Tokens have no middle, and `raw` would keep the old number of cells."""
    layers = [name for name, _ in adata.layers.items()]
    if binned := [name for name in layers if _checks.counts.is_binned(adata, name)]:
        raise ValueError(
            f"adata.layers[{listed(binned)}] holds bins, and there is nothing between "
            f"two of them: delete it, balance, then pp.bin_expression."
        )
    if adata.raw is not None:
        raise ValueError(
            "adata.raw is set, and SMOTE makes no raw values; keep the counts in a layer and "
            "del adata.raw first."
        )


def _neighbour_space(
    adata: AnnData, rows: np.ndarray, use_rep: str | None, seed: int
) -> sparse.csr_array:
    """Coordinates of the training cells, and next to them the identity.

    Any two rows of the identity are equally far apart, so it changes no neighbour; but after
    interpolation it holds each new cell's parents and their shares, which imbalanced-learn does not
    tell.
    """
    if use_rep is None:
        coordinates = _components(adata, rows, seed)
    else:
        key_in(use_rep, adata.obsm, "adata.obsm")
        values = adata.obsm[use_rep]
        if isinstance(values, pd.DataFrame):
            _only_numbers(values, f"adata.obsm[{use_rep!r}]")
            values = values.to_numpy(np.float64)
        coordinates = values[rows]
    # float64: an integer matrix would have its interpolated values cut off
    identity = sparse.eye_array(rows.size, format="csr")
    numbers = sparse.csr_array(coordinates).astype(np.float64)
    return sparse.hstack([numbers, identity], format="csr")


def _only_numbers(table: pd.DataFrame, where: str) -> None:
    """Refuse a table in which cells are neither near nor far."""
    is_number = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    numbers = table.columns[is_number]
    text = [str(name) for name in table.columns.difference(numbers, sort=False)]
    if text and not len(numbers):
        raise ValueError(
            f"{where} must hold numbers; it has none. Leave use_rep out, or name another obsm."
        )
    if text:
        raise ValueError(
            f"{where} must hold numbers only; {listed(text)} holds something else. Take the "
            f"others: adata.obsm['numbers'] = {where}.drop(columns={text!r}), then "
            "use_rep='numbers'."
        )


def _components(adata: AnnData, rows: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the training cells' X, log-normalised first if it holds counts."""
    matrix = _checks.counts.matrix(adata, None)[rows].astype(np.float64)
    train = AnnData(matrix)
    if _are_counts(matrix):
        sc.pp.normalize_total(train, target_sum=1e4)
        sc.pp.log1p(train)
    n = min(50, *(s - 1 for s in train.shape))
    if n < 1:
        return np.asarray(matrix.toarray())
    sc.pp.pca(train, n_comps=n, random_state=seed, svd_solver="arpack")
    return np.asarray(train.obsm["X_pca"])


@dataclass(frozen=True)
class _Interpolation:
    """New cells between training cells, added below the cells of an object.

    Parameters
    ----------
    rows
        Positions of the training cells.
    parents
        Shares of the training cells in each new cell (new cells × training cells).
    rng
        Of the counts that are drawn.
    """

    rows: np.ndarray
    parents: sparse.csr_array
    rng: np.random.Generator

    def fill(self, new: AnnData, old: AnnData) -> None:
        """Replace the added rows of `new` by what lies between their parents in `old`."""
        new.X = self._between(old.X)
        for key, values in old.layers.items():
            if key is not None:  # that is X
                new.layers[key] = self._between(values)
        for key, values in old.obsm.items():
            new.obsm[key] = self._of_obsm(values, new.obsm[key])
        for key in old.obs.columns:
            old_column = _checks.adata.obs_column(old, key)
            new.obs[key] = self._shared(old_column, _checks.adata.obs_column(new, key))

    def _of_obsm(self, old: Any, new: Any) -> Any:
        if isinstance(old, pd.DataFrame):
            return self._between_tables(old, new)
        if sparse.issparse(old) or np.asarray(old[:0]).dtype.kind in "biufc":
            return self._between(old)
        # words: those that both parents have, else none ("")
        arrays = (np.asarray(part).reshape(len(part), -1) for part in (old, new))
        words = self._between_tables(*map(pd.DataFrame, arrays))
        words = words.astype(object).fillna("")
        return words.to_numpy(dtype=object).reshape(new.shape)

    def _between_tables(self, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        """Columns of numbers between the parents; of others what both parents have."""
        numbers = [i for i in range(old.shape[1]) if _is_number(old.iloc[:, i])]
        columns: dict[int, pd.Series] = {}
        if numbers:
            values = old.iloc[:, numbers].to_numpy(dtype=np.float64, na_value=np.nan)
            for i, column in zip(numbers, self._between(values).T, strict=True):
                columns[i] = pd.Series(column, new.index)
        for i in set(range(old.shape[1])) - set(numbers):
            shared = self._shared(old.iloc[:, i], new.iloc[:, i])
            has_gaps = pd.api.types.is_object_dtype(shared) and shared.isna().any()
            columns[i] = shared.astype("category") if has_gaps else shared
        table = pd.DataFrame(dict(sorted(columns.items())), index=new.index)
        return table.set_axis(old.columns, axis=1)

    def _between(self, values: Any) -> Any:
        """`values` with the new rows below: thinned where they are counts, else interpolated.

        Same type and dtype.
        """
        if values is None:
            return None
        of_parents = values[self.rows]
        if not sparse.issparse(of_parents):
            of_parents = np.asarray(of_parents).reshape(len(self.rows), -1)
        source = sparse.csr_array(of_parents)
        made = self._thinned(source) if _are_counts(values) else self.parents @ source
        if sparse.issparse(values):
            parts = [sparse.csr_array(values), made.astype(values.dtype)]
            return type(values)(sparse.vstack(parts, format=values.format))
        added = made.toarray().astype(values.dtype).reshape(-1, *values.shape[1:])
        return np.concatenate([np.asarray(values), added])

    def _thinned(self, source: sparse.csr_array) -> sparse.csr_array:
        """Each count of a parent kept with the probability of its share.

        So counts stay whole, with the point between the parents as their mean.
        """
        shares = sparse.coo_array(self.parents)
        drawn = source[shares.col]
        p = np.repeat(np.clip(shares.data, 0, 1), np.diff(drawn.indptr))
        counts = self.rng.binomial(drawn.data.astype(np.int64), p)
        drawn.data = counts.astype(np.float64)
        n = shares.row.size
        places, shape = (shares.row, np.arange(n)), (self.parents.shape[0], n)
        to_child = sparse.csr_array((np.ones(n), places), shape=shape)
        made = sparse.csr_array(to_child @ drawn)
        made.eliminate_zeros()
        return made

    def _shared(self, old: pd.Series, new: pd.Series) -> pd.Series:
        """A column with values that both parents have, or nothing."""
        codes = pd.factorize(old)[0][self.rows]
        child, parent = sparse.coo_array(self.parents).coords
        spread = pd.Series(codes[parent]).groupby(child).agg(["min", "max"])
        differ = np.zeros(len(new), dtype=bool)
        differ[len(old) :] = spread["min"] != spread["max"]
        if not differ.any():
            return new
        if new.dtype.kind == "b":
            new = new.astype("boolean")
        elif new.dtype.kind in "iu":
            new = new.astype(np.float64)
        return new.mask(differ)


def _is_number(column: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _are_counts(values: Any) -> bool:
    data = values.data if sparse.issparse(values) else np.asarray(values)
    return bool((data == np.trunc(data)).all() and (data >= 0).all())
