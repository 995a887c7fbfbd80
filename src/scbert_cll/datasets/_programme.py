"""The programmes of cll_toy: genes follow CD49d, two switches, or CD49d in hidden cells."""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import pandas as pd

from scbert_cll import _keys
from scbert_cll._checks.words import choice

Programme = Literal["additive", "combination", "subset"]

_LOG_FC: Final = (0.45, 0.85)  # size of a planted effect, natural log units
_COMBINED: Final = 2.0  # how much larger it is in a combination, which is far harder to see
_SUBSET: Final = 0.3  # share of CLL cells in which the programme acts
# every so many-th planted gene belongs to the other part
_EVERY: Final = {"combination": 2, "subset": 5}
_PARTS: Final = {"combination": ("first", "second"), "subset": ("programme", "marker")}


def kind_of(programme: bool | Programme) -> str:
    """The kind by name; ``"none"`` for the control."""
    if isinstance(programme, bool):
        return "additive" if programme else "none"
    return choice(programme, get_args(Programme), "programme")


def truth(sign: pd.Series, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """One row per planted gene, those that go up first; no effect in the control."""
    sign = sign[sign != 0].sort_values(ascending=False, kind="stable")
    size = rng.uniform(*_LOG_FC, len(sign)) * (_COMBINED if kind == "combination" else 1.0)
    acts = kind != "none"
    parts = _PARTS.get(kind, ("programme", "programme"))
    other = np.arange(len(sign)) % _EVERY.get(kind, 1) == _EVERY.get(kind, 1) - 1
    columns = {"gene": sign.index, "sign": sign * acts, "log_fc": sign * size * acts}
    part = np.where(other, *parts[::-1])
    return pd.DataFrame(columns | {"part": part}).set_axis([str(i) for i in range(len(sign))])


def switches(cells: pd.DataFrame, kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """Add the hidden switch, on in some CLL cells whatever their CD49d.

    An additive programme needs none.
    """
    if kind not in _PARTS:
        return cells
    on = rng.random(len(cells)) < (_SUBSET if kind == "subset" else 0.5)
    return cells.assign(**{_keys.SWITCH: on & (cells["cell_type"] == "CLL").to_numpy()})


def acting(cells: pd.DataFrame, table: pd.DataFrame, kind: str) -> np.ndarray:
    """Change of each planted gene in each cell, natural log: cells × planted genes."""
    level = cells["cd49d_latent"].fillna(0.0).to_numpy()[:, None]
    size = table["log_fc"].to_numpy()
    if kind not in _PARTS:
        return np.asarray(level * size)
    on, other = cells[_keys.SWITCH].to_numpy(), (table["part"] == _PARTS[kind][1]).to_numpy()
    if kind == "subset":
        return np.asarray(on[:, None] * np.where(other, 1.0, level) * size)
    positive = (cells["cd49d_true"] == cells["cd49d_true"].cat.categories[-1]).to_numpy()
    cll = (cells["cell_type"] == "CLL").to_numpy()[:, None]
    # a cell is positive where the two switches differ
    first, second = (np.where(switch, 0.5, -0.5)[:, None] for switch in (on, on ^ positive))
    return np.asarray(cll * np.where(other, second, first) * size)
