from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.people import DONOR
from scbert_cll._checks.words import listed, number_in
from scbert_cll._process import same_random_state
from scbert_cll._protein import cite_seq
from scbert_cll._protein import names as protein_names
from scbert_cll._protein.cite_seq import Data
from scbert_cll._record import plain_strings
from scbert_cll.pp import _gate

Thresholds = float | tuple[float, float] | Mapping[str, float | tuple[float, float]]
ALL = "all"  # the one batch where no batch_key is given

# Where the cells that passed so far are one population, positive begins above this quantile of the
# negative cells.
_Z_99 = 2.326
_USUAL_EXCLUDE = ("CD3", "CD14")


@_docs.shared
def label_cd49d(
    data: AnnData | MuData,
    *,
    protein_key: str | None = None,
    rna_key: str | None = None,
    marker: str = "CD49d",
    method: Literal["gmm", "quantile", "manual"] = "gmm",
    normalize: cite_seq.Normalize = "clr_cell",
    batch_key: str | None = None,
    donor_key: str | None = DONOR,
    cells: np.ndarray | pd.Series | str | None = None,
    margin: float = 0.1,
    quantiles: tuple[float, float] = (1 / 3, 2 / 3),
    thresholds: Thresholds | None = None,
    key_added: str = _keys.CD49D,
    rng: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells negative or positive for CD49d, or any marker, from its protein.

    The protein is normalised and gated within each batch, all donors pooled: a homogeneous donor
    gated alone would be cut at its own median. Labels are only given where the data have two
    populations; otherwise the function refuses and names the alternatives. The donor table applies
    the clinical rule of 30 % positive cells, with bimodal donors apart.

    Parameters
    ----------
    data
        CITE-seq: an AnnData with raw protein counts in ``obsm``, or a MuData with an RNA and a
        protein modality of the same cells. Results go to the AnnData, or to the RNA modality.
    protein_key
        ``obsm`` key or modality of the protein. By default the one with a usual name. An unnamed
        array takes its names from ``uns[f"{protein_key}_names"]`` or ``uns["protein_names"]``.
    rna_key
        RNA modality of a MuData. By default the one with a usual name.
    marker
        Protein to gate. Its exact name wins. Otherwise it is looked for as a word of the names, in
        capitals or not: ``CD49d`` is found in ``CD49d-CCATTCAACTTCCGG``, ``C0576_anti-human_CD49d``
        and ``CD49d|ITGA4|AHS0063|pAbO``. A name with only the gene of a CD number counts, too
        (``ITGA4``, by HGNC). Digits never run together: CD31 is not ``CD3-1``, and CD45 is not
        ``CD45RA``. Isotype controls, tetramers, antibodies against the mouse in a human panel, and
        one antibody against several targets (``CD66a/c/e``) are only taken by their exact name. Two
        matches are refused by name.
    method
        ``gmm``: threshold where the posterior of a two-component Gaussian mixture is 0.5, per
        batch; needs a lower BIC than one component, Ashman's D ≥ 2, a dip between the two, and
        medians further apart than counting noise. ``quantile``: lower and upper part of the cells
        of a batch; always labels, so it states a contrast, not positivity. ``manual``: your
        `thresholds`.
    normalize
        ``clr_cell``: log1p(x / g), g = exp(mean of log1p over the proteins of the cell), Seurat's
        CLR with margin 2; removes the depth of a cell; wants a panel of a dozen proteins or more.
        Proteins that hold anything but raw counts are left out of g, with a warning that names
        them. ``clr_protein``: log1p(x) minus its mean over the gated cells of the batch, the
        centred log-ratio across cells (Seurat's margin 1, without its second log, which crushes
        levels below the mean). ``none``: use the values as they are, e.g. dsb-normalised.
    batch_key
        ``obs`` column of batches that are gated apart. Each must pool donors.
    donor_key
        ``obs`` column of donors; None for cells of one donor, without a donor table. Cells of no
        donor (``"doublet"``, ``"unassigned"``, see :doc:`/donors`) are not gated.
    cells
        Cells to gate, e.g. B cells: boolean array, Series aligned by name, or boolean ``obs``
        column. Others stay NA.
    margin
        Cells with a posterior between `margin` and 1 − `margin` are ambiguous: NA (``gmm``).
    quantiles
        Lower and upper quantile within a batch (``quantile``).
    thresholds
        One level, or (low, high) with NA between, or a dict of these by batch (``manual``); on the
        normalised scale.
    %(key_of_results)s
    rng
        Seed of the mixture's starts.
    copy
        Return a labelled copy instead of writing to `data`.

    Returns
    -------
    None, or the copy. Sets, for the default `key_added`:

    ``adata.obs['cd49d']`` : ordered Categorical ``<marker>-`` < ``<marker>+``
        NA in the ambiguous band and outside `cells`.
    ``adata.obs['cd49d_level']`` : ordered Categorical ``zero`` < ``low`` < ``high``
        ``zero`` is called negative. With two thresholds (``quantile``, ``manual`` pair) ``low``
        lies between and ``high`` above them; with one (``gmm``, ``manual`` number) ``low`` and
        ``high`` are the positive cells below and from their median in the batch.
    ``adata.obs['cd49d_score']`` : float64
        ``gmm``: posterior of positive, held constant beyond the point where unequal variances would
        turn it. Otherwise the rank within the batch in (0, 1): monotone in the level, not a
        probability.
    ``adata.uns['cd49d']`` : dict
        ``params``, with ``protein``, the name that the marker was found under, and ``left_out``,
        the proteins that ``clr_cell`` left out, if any; ``thresholds`` (batch × low, threshold,
        high); ``separation`` (batch × n_cells, ashman_d, valley, bic_1, bic_2, count_gap, means,
        sds, weight; NaN without mixture); ``classes`` (n_cells per class); ``score`` (``posterior``
        or ``rank``); and ``donors``: n_cells gated, n_neg and n_pos labelled, pct_positive of all
        gated cells by the threshold, its Wilson 95 % interval ci_low–ci_high, ashman_d and bimodal
        of the donor's own cells (a description: it labels no cell), clinical_class and cd49d_call.
        ``quantile`` has no threshold, so there the last two and the percentage are missing.

    Raises
    ------
    KeyError
        Protein, marker or column is not there, or the marker fits several proteins; what is there
        is listed.
    ValueError
        Values of the marker that are not raw counts, unpaired cells, a constant marker, a marker
        without two populations.

    Notes
    -----
    Ashman's D = √2 (μ₂ − μ₁) / √(σ₁² + σ₂²) (Ashman, Bird & Zepf 1994, Astron. J. 108:2348). D ≥ 2
    gives two modes only if both components are alike, and two unlike ones also fit one skewed
    population; hence the density must dip between the means as well. For the fit alone, counts are
    spread evenly over ±½, so that a pile of zeros is not taken for a population.

    Clinical rule: positive from 30 % of the CLL cells (Gattei et al. 2008, Blood 111:865; Bulian et
    al. 2014, PMID 24516016); bimodal donors behave like positive ones whatever their percentage
    (Tissino et al. 2020, doi:10.1182/blood.2019003179). A donor is bimodal if its own cells form
    two components by the same measures, each with 5 % of at least 50 cells, on the two sides of the
    threshold. The rule is about CLL cells: gate them with `cells`, as T cells and monocytes carry
    CD49d.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scbert_cll as sc_cll
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> positive = np.repeat([False, True], 100)
    >>> counts = {"CD49d": rng.poisson(np.where(positive, 60, 4)), "CD19": rng.poisson(50, 200)}
    >>> protein = pd.DataFrame(counts, dtype=float)
    >>> adata = AnnData(rng.poisson(1.0, (200, 5)).astype("float32"))
    >>> adata.obsm["protein"] = protein.set_index(adata.obs_names)
    >>> sc_cll.pp.label_cd49d(adata, donor_key=None, normalize="clr_protein")
    >>> adata.obs["cd49d"].value_counts().to_dict()
    {'CD49d-': 100, 'CD49d+': 100}
    """
    params = _record.params(locals())
    cells_key = cells if isinstance(cells, str) else None
    stems = ("", "_level", "_score")
    _checks.adata.new_key(key_added, [batch_key, donor_key, cells_key], stems=stems)
    seed = int(np.random.default_rng(rng).integers(2**31 - 1))
    gate = _gate.Gate(marker, method, margin, quantiles, thresholds, seed)
    protein = cite_seq.find(data, protein_key, rna_key)
    rna, j = protein.rna, cite_seq.lookup(protein, marker)
    gated = cite_seq.mask(data, rna, cells)
    if not gated.any():
        raise ValueError(f"cells selects none of the {rna.n_obs} cells.")
    holders: list[Any] = [rna, data, *getattr(data, "mod", {}).values()]
    if not any(DONOR in holder.obs for holder in holders):
        donor_key = _checks.people.donor_key_of(rna, donor_key)
    donor = None if donor_key is None else cite_seq.donors(data, rna, donor_key, gated)
    if donor is not None:
        gated = gated & donor.notna().to_numpy()
    batch = _batch(data, rna, gated, batch_key)
    if donor is not None and method != "manual":
        _pool_donors(donor[gated], batch[gated])
    levels = cite_seq.levels(protein, j, normalize, batch, gated)
    if np.ptp(level := levels.level[gated]) == 0:
        raise ValueError(
            f"{marker!r} in {protein.where} has the same level ({level[0]:g}) in all {level.size} "
            "gated cells; there is nothing to label."
        )

    cuts = _gate.fit(gate, levels)
    called = _call(gate, levels, cuts)
    n_cells = called["label"].value_counts(sort=False)
    params |= _record.params({"donor_key": donor_key})
    params |= {"protein": protein.names[j], "protein_matrix": protein.where}
    params["n_gated"] = int(gated.sum())
    if levels.left_out:
        params["left_out"] = list(levels.left_out)
    uns = {
        "thresholds": cuts.table,
        "separation": cuts.separation,
        "classes": n_cells.to_frame("n_cells").rename(index=str),
        "score": "posterior" if cuts.mixtures else "rank",
        "params": params,
    }
    if donor is not None:
        params |= _checks.people.left_out(donor)
        uns["donors"] = _gate.donor_table(levels, donor, called["label"], cuts.table)
    data, adata = _targets(data, rna, copy=copy)
    names = (key_added, _keys.level(key_added), _keys.score(key_added))
    called = called.set_axis(list(names), axis=1).set_axis(adata.obs_names)
    obs = {name: called[name] for name in names}
    _record.write(adata, obs=obs, uns={key_added: uns})
    plain_strings(data)
    return data if copy else None


def _batch(data: Data, rna: AnnData, gated: np.ndarray, key: str | None) -> np.ndarray:
    """Batch of every cell as text, complete for the gated cells."""
    if key is None:
        return np.full(rna.n_obs, ALL, dtype=object)
    values = cite_seq.column(data, rna, key)
    if len(bad := rna.obs_names[gated & values.isna().to_numpy()]):
        raise ValueError(
            f"obs[{key!r}] is missing for {len(bad)} gated cells ({listed(bad)}); fill it "
            "or leave them out with cells=."
        )
    return _checks.people.class_names(values).fillna("").to_numpy(dtype=object)


def _pool_donors(donor: pd.Series, batch: np.ndarray) -> None:
    """Refuse batches of one donor, unless all cells are of one."""
    n_donors = donor.groupby(batch).nunique()
    alone = n_donors.index[n_donors == 1]
    if len(alone) and donor.nunique() > 1:
        raise ValueError(
            f"Batches with a single donor cannot be gated apart ({listed(alone)}): a donor "
            "without two populations would be cut in two. Pool them with batch_key=None, or give "
            "method='manual' with thresholds per batch."
        )


def _call(gate: _gate.Gate, levels: cite_seq.Levels, cuts: _gate.Cuts) -> pd.DataFrame:
    """Label, three-step level and score of every cell."""
    level, batch, gated = levels.level, levels.batch, levels.gated
    low, high = (cuts.table[name].reindex(batch).to_numpy() for name in ("low", "high"))
    is_negative = gated & np.where(low < high, level <= low, level < low)
    is_positive = gated & (level >= high)
    names = [f"{gate.marker}-", f"{gate.marker}+"]
    for is_one, name in zip((is_negative, is_positive), names, strict=True):
        if not is_one.any():
            rows = cuts.table[["low", "high"]].iterrows()
            pairs = "; ".join(f"{b}: {one:.3g}, {two:.3g}" for b, (one, two) in rows)
            raise ValueError(
                f"No cell is labelled {name!r}: thresholds (low, high) are {pairs}, and levels run "
                f"from {level[gated].min():.3g} to {level[gated].max():.3g}. Choose others, or "
                "another method=."
            )
    by_batch = pd.Series(level).where(is_positive).groupby(batch)
    has_band = (low < high) & (gate.method != "gmm")
    # without a band "low" and "high" are the positive cells below and from their median
    is_high = is_positive & (has_band | (level >= by_batch.transform("median")))
    is_low = gated & ~is_negative & ~is_high & (has_band | is_positive)
    steps = np.select([is_negative, is_low, is_high], [0, 1, 2], -1)
    label = np.select([is_negative, is_positive], [0, 1], -1)
    ordered = partial(pd.Categorical.from_codes, ordered=True)
    columns = {
        "label": ordered(label, pd.Index(names)),
        "level": ordered(steps, pd.Index(_keys.LEVEL_ORDER)),
        "score": _score(levels, cuts.mixtures),
    }
    return pd.DataFrame(columns)


def _score(levels: cite_seq.Levels, mixtures: Mapping[str, _gate.Mixture]) -> pd.Series:
    """Posterior of positive, or the middle rank within the batch where there is no mixture."""
    score = pd.Series(levels.level).where(levels.gated)
    if not mixtures:
        by_batch = score.groupby(levels.batch)
        return (by_batch.rank() - 0.5) / by_batch.transform("count")
    for name, mixture in mixtures.items():
        here = levels.gated & (levels.batch == name)
        score[here] = mixture.posterior(levels.level[here])
    return score


def _targets(data: Data, rna: AnnData, *, copy: bool) -> tuple[Data, AnnData]:
    """The object to return and the AnnData to write to: copies, or the user's own."""
    if not copy or not isinstance(data, MuData):
        adata = _checks.adata.target(rna, copy=copy)
        return data if isinstance(data, MuData) else adata, adata
    name = next(name for name, part in data.mod.items() if part is rna)
    with same_random_state():  # mudata draws a name that nobody sees
        data = data.copy()
    return data, data.mod[name]


# ---- the cells to label


def cll_mask(
    data: AnnData | MuData,
    *,
    protein_key: str | None = None,
    rna_key: str | None = None,
    markers: Sequence[str] = ("CD19", "CD5"),
    exclude: Sequence[str] | None = None,
    normalize: cite_seq.Normalize = "clr_protein",
    thresholds: Mapping[str, float] | None = None,
) -> pd.Series:
    """Find the CD19+CD5+ cells of a CLL sample by their protein.

    CD5 is dim on CLL cells and bright on T cells, so one threshold over all cells would put CLL
    with the negative ones. Markers are therefore gated one after the other, each among the cells
    that passed those before it: CD19 among all cells, CD5 among the CD19+ cells, where it separates
    CLL from normal B cells. Where these form one population, as in a pure clone, positive is what
    lies above 99 % of the CD5-negative cells among the cells that did not pass (monocytes, NK
    cells): the internal negative control of flow cytometry. The mask suits ``cells=`` of
    :func:`label_cd49d`; nothing is written.

    Parameters
    ----------
    data, protein_key, rna_key, normalize
        As for :func:`label_cd49d`, all cells as one batch; across cells is the better scale here,
        because lineage markers are a large part of all that a cell binds.
    markers
        Proteins a cell must be positive for, in the order of gating; found as `marker` of
        :func:`label_cd49d`.
    exclude
        Proteins a cell must not be positive for. By default CD3 and CD14, so far as the panel has
        them and they form two populations; what is named here must.
    thresholds
        Level from which a marker is positive, on the normalised scale; replaces the search for that
        marker.

    Returns
    -------
    Boolean Series over the cells (of the RNA); its ``attrs`` hold ``thresholds``, the levels used,
    and ``proteins``, the name that each marker was found under.

    Raises
    ------
    KeyError
        A protein is not in the panel, or a marker fits several; the ones that are there are listed.
    ValueError
        A marker does not separate the cells; the remedy is `thresholds`.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> mdata = sc_cll.datasets.cll_toy()
    >>> mask = sc_cll.pp.cll_mask(mdata)
    >>> sc_cll.pp.label_cd49d(mdata, cells=mask, normalize="clr_protein")
    """
    protein = cite_seq.find(data, protein_key, rna_key)
    given = dict(thresholds or {})
    excluded = list(_USUAL_EXCLUDE if exclude is None else exclude)
    if unused := sorted(set(given) - {*markers, *excluded}):
        raise KeyError(
            f"thresholds names {listed(unused)}, which is in neither markers nor exclude."
        )
    for marker, threshold in given.items():
        number_in(threshold, f"thresholds[{marker!r}]", -np.inf, np.inf)
    if exclude is None:
        names = list(protein.names)
        present = {m for m in excluded if protein_names.positions(names, m)}
        excluded = [marker for marker in excluded if marker in present | given.keys()]
    named = (*markers, *excluded)
    places = {marker: cite_seq.lookup(protein, marker) for marker in named}
    every = np.ones(protein.rna.n_obs, dtype=bool)
    passed, used = every.copy(), dict[str, float]()
    batch = np.zeros(every.size, dtype=int)
    gates = [*((m, True) for m in markers), *((m, False) for m in excluded)]
    for marker, is_wanted in gates:
        levels = cite_seq.levels(protein, places[marker], normalize, batch, every)
        if marker in given:
            used[marker] = float(given[marker])
        elif is_wanted:
            used[marker] = _threshold(levels, passed, marker)
        elif (mixture := _two(levels, every)) is not None:
            used[marker] = mixture.cut(0.5)
        elif exclude is None:
            continue
        else:
            raise ValueError(_one_population(marker, "the cells"))
        is_positive = levels.level >= used[marker]
        passed &= is_positive if is_wanted else ~is_positive
    mask = pd.Series(passed, index=protein.rna.obs_names, name="+".join(markers))
    mask.attrs["thresholds"] = used
    mask.attrs["proteins"] = {m: str(protein.names[places[m]]) for m in used}
    return mask


def _threshold(levels: cite_seq.Levels, passed: np.ndarray, marker: str) -> float:
    """Between two populations of the cells that passed, else above the negative of the others."""
    if (mixture := _two(levels, passed)) is not None:
        return mixture.cut(0.5)
    if (mixture := _two(levels, ~passed)) is not None:
        return float(mixture.means[0] + _Z_99 * mixture.sds[0])
    where = f"the {passed.sum()} cells gated so far, nor the {(~passed).sum()} others,"
    raise ValueError(_one_population(marker, where))


def _two(levels: cite_seq.Levels, cells: np.ndarray) -> _gate.Mixture | None:
    """A mixture of two populations, or None."""
    mixture = _gate.fit_cells(levels, cells, seed=0)
    if mixture is None or not mixture.separable:
        return None
    return None if mixture.count_gap < _gate.MIN_COUNT_GAP else mixture


def _one_population(marker: str, where: str) -> str:
    return (
        f"{marker!r} does not separate {where} into two populations, so no threshold can be "
        f"found; give one, on the normalised scale: thresholds={{{marker!r}: ...}}, or leave the "
        "marker out."
    )
