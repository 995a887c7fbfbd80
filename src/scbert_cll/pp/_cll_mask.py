from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scbert_cll._checks.words import listed
from scbert_cll._protein import cite_seq
from scbert_cll._protein import names as protein_names
from scbert_cll.pp import _mixture

# Where the cells that passed so far are one population, positive begins above this quantile of the
# negative cells.
_Z_99 = 2.326
_USUAL_EXCLUDE = ("CD3", "CD14")


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
        passed &= (levels.level >= used[marker]) == is_wanted
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


def _two(levels: cite_seq.Levels, cells: np.ndarray) -> _mixture.Mixture | None:
    """A mixture of two populations, or None."""
    mixture = _mixture.fit_cells(levels, cells, seed=0)
    if mixture is None or not mixture.separable:
        return None
    return None if mixture.count_gap < _mixture.MIN_COUNT_GAP else mixture


def _one_population(marker: str, where: str) -> str:
    return (
        f"{marker!r} does not separate {where} into two populations, so no threshold can be "
        f"found; give one, on the normalised scale: thresholds={{{marker!r}: ...}}, or leave the "
        "marker out."
    )
