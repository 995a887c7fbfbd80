"""datasets.planted_donors: plain donors with a planted effect of a known kind, or with none."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _docs, _keys
from scbert_cll._checks.words import choice, number_in

type _Rng = np.random.Generator
Design = Literal["paired", "gated"]
Effect = Literal["additive", "combination", "switch", "none", "donor", "abundance", "slope"]

_OF_THE_CLASS: Final = ("additive", "combination", "switch")
_CLASSES: Final = ("negative", "positive")
_N_MODULES: Final = 12
# shares of positive cells of the last donors of the gated design
_HOMOGENEOUS: Final = (0.02, 0.97, 0.03)
_AMBIENT: Final = 0.05
_MIN_GENES: Final = 60


@_docs.shared
def planted_donors(
    *,
    design: Design = "paired",
    effect: Effect = "additive",
    size: float = 1.2,
    n_donors: int = 8,
    n_cells: int = 160,
    n_genes: int = 400,
    n_planted: int = 24,
    rng: int | np.random.Generator | None = 0,
) -> AnnData:
    """Simulate donors whose classes differ in a known way, or in no way that is theirs.

    Log-normal Poisson counts; genes move in modules, in cells and in donors; every donor differs
    from the others in every gene.

    Parameters
    ----------
    design
        ``"paired"``: every donor has both classes. ``"gated"``: the class is a noisy gate on a
        continuous protein that the effect follows; all donors but three have both classes, depth
        varies more, a twentieth of the RNA is ambient, and *ITGA4* is weakly tied to the protein
        where there is an effect at all (a truth that ``truth`` does not count).
    effect
        ``"additive"``: two thirds of the planted genes go up with the class, the others down.
        Without any effect of a single gene: ``"combination"`` (two hidden switches, each with its
        genes; the class is whether they differ) and ``"switch"`` (the planted genes go up with the
        class where a hidden switch, with genes of its own, is on, and down where it is off).
        Nothing of the class: ``"none"``; ``"donor"`` (donors with more positive cells have the
        planted genes changed, in all their cells); ``"abundance"`` (positive cells have twice the
        depth); ``"slope"`` (in each donor every gene goes with the class, in a direction of the
        donor's own).
    size
        Of the effect, natural log units.
    n_donors, n_cells, n_genes, n_planted
        Donors, cells of each, genes, and planted genes.
    %(rng)s

    Returns
    -------
    AnnData of raw counts (CSR float32), with

    ``obs['donor']``, ``obs['label']`` : categorical
        Donors, and negative < positive.
    ``var['truth']`` : int64
        1, −1 or 0: up, down or not with the class; in a combination or under a switch, 1 for each
        gene that takes part.

    Raises
    ------
    ValueError
        A choice is unknown, or there are too few donors or genes.

    Examples
    --------
    >>> import scbert_cll
    >>> adata = scbert_cll.datasets.planted_donors(size=0.6)
    >>> adata.var["truth"].value_counts().to_dict()
    {0: 376, 1: 16, -1: 8}
    """
    choice(design, get_args(Design), "design")
    choice(effect, get_args(Effect), "effect")
    number_in(n_donors, "n_donors", 4, np.inf, whole=True)
    number_in(n_cells, "n_cells", 2, np.inf, whole=True)
    number_in(n_genes, "n_genes", _MIN_GENES, np.inf, whole=True)
    number_in(n_planted, "n_planted", 3, n_genes // 2, whole=True)
    streams = np.random.default_rng(rng).spawn(3)
    genes = _genes(n_genes, n_planted, effect, streams[0])
    cells = _cells(design, effect, n_donors, n_cells, streams[1])
    change = size * _acting(genes, cells, effect)
    expected = _expected(genes, cells, change, design, streams[2])
    counts = sparse.csr_matrix(streams[2].poisson(expected).astype(np.float32))
    return AnnData(counts, obs=cells[[_keys.DONOR, "label"]], var=genes[["truth"]])


def _genes(n: int, n_planted: int, effect: Effect, rng: _Rng) -> pd.DataFrame:
    """One row per gene: level, module, and its part in the effect."""
    names = ["ITGA4", *(f"GENE{i:04d}" for i in range(1, n))]
    genes = pd.DataFrame({"level": np.exp(rng.normal(-0.5, 1.2, n))}, index=names)
    genes["module"] = np.where(rng.random(n) < 0.5, rng.integers(0, _N_MODULES, n), 0)
    genes["loading"] = rng.normal(0, 0.3, n) * (rng.random(n) < 0.5)
    planted = 1 + rng.permutation(n - 1)[:n_planted]
    levels = np.exp(rng.uniform(np.log(0.2), np.log(3), n_planted))
    genes.loc[genes.index[planted], "level"] = levels
    part = np.zeros(n, dtype=np.int64)  # 1 or 2: up or down, of one switch or the other
    part[planted] = 1 + (np.arange(n_planted) % 3 == 2)
    genes["part"] = part if effect in (*_OF_THE_CLASS, "donor") else 0
    if effect not in _OF_THE_CLASS:
        return genes.assign(truth=0)
    second = -1 if effect == "additive" else 1
    return genes.assign(truth=genes["part"].map({0: 0, 1: 1, 2: second}))


def _cells(design: Design, effect: Effect, n_donors: int, n: int, rng: _Rng) -> pd.DataFrame:
    """One row per cell: donor, class, what the effect follows, and the hidden switches."""
    homogeneous = dict(enumerate(_HOMOGENEOUS, start=n_donors - len(_HOMOGENEOUS)))
    parts = []
    for donor in range(n_donors):
        shift = 0.15 if donor % 2 else -0.15
        share = rng.uniform(0.35, 0.65) + shift * (effect == "donor")
        share = homogeneous.get(donor, share) if design == "gated" else share
        positive = rng.random(n) < share
        protein = positive + (rng.normal(0, 0.25, n) if design == "gated" else 0.0)
        first = rng.random(n) < 0.5
        label = protein > 0.5 if design == "gated" else positive
        columns = {"code": donor, "positive": label, "protein": protein, "first": first}
        parts.append(pd.DataFrame(columns | {"odd": donor % 2}))
    cells = pd.concat(parts, ignore_index=True)
    # the class is whether the two differ
    cells["second"] = cells["first"] ^ cells["positive"]
    cells.index = pd.Index([f"cell{i + 1:05d}" for i in range(len(cells))])
    donors = pd.Index([f"D{i + 1:02d}" for i in range(n_donors)])
    cells[_keys.DONOR] = pd.Categorical.from_codes(cells["code"], donors)
    codes = cells["positive"].astype(int)
    cells["slope"] = codes * (effect == "slope")
    cells["depth"] = 1.0 + codes * (effect == "abundance")
    cells["label"] = pd.Categorical.from_codes(codes, pd.Index(_CLASSES), ordered=True)
    return cells


def _expected(
    genes: pd.DataFrame, cells: pd.DataFrame, change: Any, design: Design, rng: _Rng
) -> np.ndarray:
    """Expected counts, cells × genes."""
    donor, n = cells["code"].to_numpy(), len(genes)
    n_donors = int(donor.max()) + 1
    log = np.log(genes["level"].to_numpy()) + rng.normal(0, 0.25, (n_donors, n))[donor]
    factor = rng.normal(0, 1, (len(cells), _N_MODULES))
    factor += rng.normal(0, 0.3, (n_donors, _N_MODULES))[donor]
    log = log + factor[:, genes["module"]] * genes["loading"].to_numpy()
    slope = rng.normal(0, 0.5, (n_donors, n))[donor]
    log += change + slope * cells["slope"].to_numpy()[:, None]
    if design == "gated" and genes["truth"].any():
        log[:, 0] += 0.3 * cells["protein"].to_numpy()
    profile = np.exp(log + rng.normal(0, 0.3, log.shape))
    depth = np.exp(rng.normal(0, 0.35 if design == "paired" else 0.6, len(cells)))
    if design == "gated":
        profile += _AMBIENT * profile.mean(axis=0)
    return np.asarray((depth * cells["depth"].to_numpy())[:, None] * profile)


def _acting(genes: pd.DataFrame, cells: pd.DataFrame, effect: Effect) -> Any:
    """By how many sizes each gene of each cell is changed: cells × genes."""
    one, other = ((genes["part"] == part).to_numpy() for part in (1, 2))
    level = cells["protein"].to_numpy()[:, None]
    on = np.where(cells["first"], 0.5, -0.5)[:, None]
    if effect == "additive":
        return level * one - level * other
    if effect == "combination":
        return on * one + np.where(cells["second"], 0.5, -0.5)[:, None] * other
    if effect == "donor":
        return cells["odd"].to_numpy()[:, None] * (one.astype(float) - other)
    if effect == "switch":
        return 2 * on * (level - 0.5) * one + on * other
    return 0.0
