"""tl.patient_cd49d: from cells to patients, for questions of survival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record, get
from scbert_cll._checks.words import key_in, listed, number_in
from scbert_cll._process import as_it_was
from scbert_cll.tl._patient_cd49d import calibration

_MEASURED: Final = (
    *("n_cells", "n_measured", "pct_measured", "pct_measured_low", "pct_measured_high"),
    *("bimodal", "clinical_class", "cd49d_call"),
)
_PREDICTED: Final = (
    *("n_predicted", "pct_predicted", "pct_predicted_low", "pct_predicted_high"),
    *("cd49d_predicted", "in_training", "note"),
)


@_docs.shared
def patient_cd49d(
    adata: AnnData,
    *,
    donor_key: str = _keys.DONOR,
    key: str = _keys.CD49D,
    labels_key: str | None = None,
    model: str | None = None,
    cv_key: str = _keys.CV,
    proba_key: str = _keys.PROBA,
    split_key: str | None = _keys.SPLIT,
    cells: Any = None,
    layer: str | None = None,
    positive_from: float = 30.0,
    min_cells: int = 20,
    obs_keys: Sequence[str] = (),
    key_added: str = _keys.PATIENT_CD49D,
) -> AnnData:
    """Pseudobulk of each donor, with the share of its CD49d+ cells, measured and predicted.

    Outcome belongs to patients, not to cells: a thousand cells of one patient are one patient. The
    object made here has one row per donor, to which outcomes are joined by name.

    The share of cells that are called positive is a biased estimate of the share that is positive
    (Forman 2008), and an interval of a binomial leaves out what a model gets wrong in all cells of
    a donor alike. So what is given is the mean predicted probability, with a prediction interval
    from how far off it was in other donors: donors with measured CD49d that the model has not
    learned from. Without four of them there is no interval, and without an interval no call.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, after :func:`~scbert_cll.pp.label_cd49d` with a `donor_key`.
        Donors without protein may be in it, if `cells` of `label_cd49d` left them out.
    donor_key
        `obs` column of donors.
    key
        Name of the results of :func:`~scbert_cll.pp.label_cd49d`.
    labels_key
        `obs` column that the predictions are of; None: `key`. Their last class is "positive".
    model
        Take the out-of-fold predictions of this model of :func:`~scbert_cll.tl.cross_validate`; no
        donor trained the model that predicts it. None takes `proba_key`.
    cv_key
        Name of the results of :func:`~scbert_cll.tl.cross_validate`.
    proba_key
        `obsm` with the probabilities of :func:`~scbert_cll.tl.finetune` or
        :func:`~scbert_cll.tl.predict`. Without it only measured shares are given.
    split_key
        `obs` column of the split that the model of `proba_key` was trained with. Donors in
        ``"train"`` or ``"val"`` took part. None: no donor of `adata` did, as when a saved model
        predicts new patients.
    cells
        Cells to count: boolean array, Series aligned by name, or boolean `obs` column, best those
        given to `label_cd49d`. None: the cells that `label_cd49d` gated, and all cells of donors of
        whom it gated none.
    %(counts_layer)s
    positive_from
        Percentage of positive cells from which a patient is positive.
    min_cells
        Cells that a donor needs to get an interval, or to tell anything of the error of others.
    obs_keys
        Columns of `obs` with one value per donor (age, batch, outcome) to take along.
    key_added
        Name of the record.

    Returns
    -------
    New AnnData (patients × genes); `adata` stays as it is. `X` holds sums of raw counts (float64),
    `var` is that of `adata`, and

    ``adata.obs['n_cells']`` : int64
        Cells that were counted and summed.
    ``adata.obs['n_measured']`` : int64
        Cells that were gated by protein.
    ``adata.obs['pct_measured']`` : float64
        Percentage of positive cells by protein.
    ``adata.obs['pct_measured_low']``, ``adata.obs['pct_measured_high']`` : float64
        Wilson's 95 % interval of it, which is of these cells, not of another sample.
    ``adata.obs['bimodal']`` : float64, 0 or 1
        Whether the donor's own cells form two populations.
    ``adata.obs['clinical_class']``, ``adata.obs['cd49d_call']`` : categorical
        Four classes, and negative or positive: from 30 %, or bimodal whatever the percentage.
    ``adata.obs['n_predicted']`` : int64
        Counted cells with a prediction (out of fold: those with a label).
    ``adata.obs['pct_predicted']`` : float64
        Mean predicted probability of positive, in percent.
    ``adata.obs['pct_predicted_low']``, ``adata.obs['pct_predicted_high']`` : float64
        95 % prediction interval of the percentage that would be measured, widened to the predicted
        one where other donors' truths lie to one side of it.
    ``adata.obs['cd49d_predicted']`` : ordered Categorical, negative < positive
        Where the whole interval lies; missing (uncertain) where it spans `positive_from`. By
        percentage alone: bimodality cannot be predicted, so a bimodal patient below 30 % is
        negative here and positive in `cd49d_call`.
    ``adata.obs['in_training']`` : bool
        The model learned from this donor, so its prediction looks better than it is. It gets no
        interval.
    ``adata.obs['note']`` : str
        Why there is no interval.
    ``adata.uns['patient_cd49d']`` : dict
        ``params``; ``predictions``: where they came from, or why there are none; ``calibration``:
        measured and predicted log odds of the donors that the intervals come from.

    The columns of predictions (from n_predicted on) are there only if there are predictions.

    Raises
    ------
    KeyError
        There is no donor table, or a column, layer, model or split is missing.
    TypeError
        What `proba_key` holds has no names of classes.
    ValueError
        No raw counts, a counted cell without a donor, predictions of other labels or other donors,
        or several values of a column in one donor.

    Notes
    -----
    The interval is found on log odds, with half a cell added to either side, and is that of a
    further observation. With six or more other donors the truth is read off the regression line of
    measured over predicted log odds, with its usual prediction interval; so it need not be centred
    at `pct_predicted`. Models often predict too close to the middle, which the line mends. With
    four or five the prediction is taken as it is: t quantile × root of the sum of squared errors
    over n − 1, × √(1 + 1/n). A donor never tells of its own error. Where the line does not rise
    there is no interval: the model knows nothing of the share. It is supposed that new patients are
    like these donors, and that errors are about normal; with ten donors intervals are wide.

    Quantification: Forman 2008 (doi:10.1007/s10618-008-0097-y). The 30 % rule: Gattei et al. 2008
    (Blood 111:865); bimodal patients: Tissino et al. 2020 (doi:10.1182/blood.2019003179).

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> mdata = sc_cll.datasets.cll_toy(n_cells=600, n_genes=200)
    >>> cll = sc_cll.pp.cll_mask(mdata)
    >>> sc_cll.pp.label_cd49d(mdata, cells=cll, donor_key="donor", normalize="clr_protein")
    >>> adata = mdata["rna"]
    >>> sc_cll.tl.cross_validate(adata, models=["gene_only"], n_repeats=1, n_bootstrap=20)
    >>> patients = sc_cll.tl.patient_cd49d(adata, model="gene_only")
    >>> patients.shape
    (10, 200)
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    _checks.adata.new_key(key_added)
    number_in(positive_from, "positive_from", 0, 100)
    number_in(min_cells, "min_cells", 1, np.inf, whole=True)
    labels_key = labels_key or key
    table = get.donor_table(adata, key=key).rename(index=str)
    params_of_labels = adata.uns[key].get("params", {})
    _same(params_of_labels, f"pp.label_cd49d (key {key!r})", donor_key=donor_key)
    counted = _counted(adata, donor_key, key, cells)
    donor = _checks.people.donors(adata, donor_key, cells=counted)
    not_donors = _checks.people.left_out(donor)
    counted = counted & donor.notna().to_numpy()
    donor = donor[counted]
    of_patients = _of_patients(adata, donor, obs_keys)
    if model is None:
        predictions = _of_matrix(adata, donor, proba_key, split_key, labels_key)
    else:
        keys = {"labels_key": labels_key, "donor_key": donor_key}
        predictions = _out_of_fold(adata, donor, model, cv_key, keys)
    patients, note = _sums(adata, counted, donor, layer)
    obs = _measured(table, donor, patients.obs_names)
    record: dict[str, object] = {"predictions": predictions.source}
    if predictions.positive is not None:
        positive = predictions.positive.loc[donor.index].astype(np.float64)
        by_donor = positive.groupby(donor.to_numpy())
        obs["n_predicted"] = by_donor.count().reindex(obs.index).astype(np.int64)
        obs["pct_predicted"] = 100 * by_donor.mean().reindex(obs.index)
        obs["in_training"] = obs.index.isin(list(predictions.trained))
        others = calibration.others(obs, min_cells)
        obs = obs.join(calibration.intervals(obs, others, min_cells))
        obs["cd49d_predicted"] = calibration.call(obs, positive_from)
        obs, record["calibration"] = obs[[*_MEASURED, *_PREDICTED]], others
    patients.obs = obs.join(of_patients)
    params |= {"labels_key": labels_key, "positive_from": float(positive_from)}
    record["params"] = params | note | not_donors
    _record.write(patients, uns={key_added: record})
    return patients


def _counted(adata: AnnData, donor_key: str, key: str, cells: Any) -> np.ndarray:
    """Cells to count: those given, or those that were gated, and all of donors without any."""
    if cells is not None:
        if isinstance(cells, pd.Series):
            cells = cells.reindex(adata.obs_names)
        return _checks.adata.cells(adata, cells, "cells")
    # a score is given to gated cells only
    gated = _checks.adata.obs_column(adata, _keys.score(key)).notna()
    donor = _checks.people.donors(adata, donor_key, allow_missing=True, quiet=True)
    missing = cast("pd.DataFrame", adata.obs)[donor_key].isna()
    is_gated = donor.isin(donor[gated].dropna())  # some cell of this donor
    return np.asarray(gated | missing | (donor.notna() & ~is_gated))


def _of_patients(adata: AnnData, donor: pd.Series, keys: Sequence[str]) -> pd.DataFrame:
    """Columns of `obs` with one value per donor, by donor."""
    obs = cast("pd.DataFrame", adata.obs).loc[donor.index]
    if same := sorted(set(keys) & {*_MEASURED, *_PREDICTED}):
        columns = f"columns that are made here: {listed(same)}"
        raise ValueError(f"obs_keys names {columns}; rename them in adata.obs.")
    for key in keys:
        key_in(key, obs, "adata.obs")
        n_values = obs[key].groupby(donor, observed=True).nunique(dropna=False)
        if len(bad := n_values.index[n_values > 1]):
            raise ValueError(
                f"adata.obs[{key!r}] has several values in {len(bad)} donors ({listed(bad)}); "
                f"obs_keys takes columns with one value per donor."
            )
    return obs[list(keys)].set_axis(donor.to_numpy())[~donor.duplicated().to_numpy()]


def _sums(
    adata: AnnData, counted: np.ndarray, donor: pd.Series, layer: str | None
) -> tuple[AnnData, dict[str, int]]:
    """Raw counts summed by donor, and what is to be noted of them."""
    import scanpy as sc  # seconds to import

    counts, note = _checks.counts.noted_counts(adata, layer)
    by_donor = pd.DataFrame({_keys.DONOR: pd.Categorical(donor)}, index=donor.index)
    cells = AnnData(counts[counted], obs=by_donor)
    with as_it_was():  # numba's threads
        sums = sc.get.aggregate(cells, _keys.DONOR, "sum")
    obs = pd.DataFrame(index=by_donor[_keys.DONOR].cat.categories.astype(object))
    values = np.asarray(sums.layers["sum"], dtype=np.float64)
    return AnnData(values, obs=obs, var=cast("pd.DataFrame", adata.var).copy()), note


def _measured(table: pd.DataFrame, donor: pd.Series, names: pd.Index) -> pd.DataFrame:
    """Columns of what the protein says; missing for donors without gated cells."""
    old = "n_cells", "pct_positive", "ci_low", "ci_high"
    new = dict(zip(old, _MEASURED[1:5], strict=True))
    measured = table.rename(columns=new).reindex(names)
    measured["n_cells"] = donor.value_counts().reindex(names)
    measured["n_measured"] = measured["n_measured"].fillna(0)
    types = {"n_cells": np.int64, "n_measured": np.int64, "bimodal": np.float64}
    return measured[list(_MEASURED)].astype(types)


class _Predictions(NamedTuple):
    """Probability of positive by cell, donors the model learned from, and where it is from.

    None: there is none.
    """

    positive: pd.Series | None
    trained: set[str]
    source: str


def _same(params: Mapping[str, object], step: str, **keys: str | None) -> None:
    """Refuse other keys than an earlier step recorded; of some it recorded nothing."""
    for name, key in keys.items():
        recorded = params.get(name)
        if recorded is not None and str(recorded) != str(key):
            both = f"{name}={str(recorded)!r}, here it is {str(key)!r}"
            raise ValueError(f"{step} has {both}; pass the same to both.")


def _of_matrix(
    adata: AnnData, donor: pd.Series, key: str, split_key: str | None, labels_key: str
) -> _Predictions:
    """Of `obsm`, as a model wrote them."""
    if key not in adata.obsm:
        why = f"{key!r} is not in adata.obsm, and no model= of tl.cross_validate was named"
        return _Predictions(None, set(), f"none: {why}")
    proba, where = adata.obsm[key], f"adata.obsm[{key!r}]"
    if not isinstance(proba, pd.DataFrame):
        what = "a DataFrame, cells × classes, as tl.predict writes it"
        raise TypeError(f"{where} must be {what}; found {type(proba).__name__}.")
    if key == _keys.PROBA:
        # the latter wrote the probabilities, if it is there
        made = adata.uns.get(_keys.SCBERT_PREDICT, adata.uns.get(_keys.SCBERT, {}))
        keys = {"labels_key": labels_key, "split_key": str(split_key)}
        _same(made.get("params", {}), f"The model of {where}", **keys)
    trained: set[str] = set()
    if split_key is not None:
        remedy = (
            "Which donors did the model learn from? Name the column of the split, or pass "
            "split_key=None if no donor of adata trained it."
        )
        key_in(split_key, cast("pd.DataFrame", adata.obs), "adata.obs", remedy)
        part = _checks.adata.split(adata, split_key, need=()).loc[donor.index]
        # fitted to, or chosen on
        trained = set(donor[part.isin([_keys.TRAIN, _keys.VAL])])
    label = _names.own(str(proba.columns[-1]), adata.uns)
    return _Predictions(proba.iloc[:, -1], trained, f"{where}, class {label!r}")


def _out_of_fold(
    adata: AnnData, donor: pd.Series, model: str, cv_key: str, keys: dict[str, str]
) -> _Predictions:
    """Mean over repeats of the predictions for donors that the models had not seen.

    With folds of cells they had.
    """
    key_in(cv_key, adata.uns, "adata.uns", "Run tl.cross_validate first.")
    record = adata.uns[cv_key]
    params, label = record["params"], str(record["classes"][-1])
    _same(params, f"tl.cross_validate (key {cv_key!r})", **keys)
    table = get.out_of_fold(adata, model=model, key=cv_key)
    positive = table[f"proba_{label}"].groupby(level=0).mean().reindex(adata.obs_names)
    scheme = params["scheme"]
    seen = set(donor) if scheme == "random_cell" else set()
    where = f"{model!r} (adata.uns[{cv_key!r}], {scheme}), class {label!r}"
    return _Predictions(positive, seen, f"out of fold by {where}")
