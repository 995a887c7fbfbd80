"""Groups of cells as numbers, and the class that is asked about."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scbert_cll._checks.words import choice
from scbert_cll.model._protocols import Classifier


def coded(groups: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Number of each cell's group, -1 where it has none, and the groups' names."""
    categorical = groups.astype("category").cat.remove_unused_categories()
    return categorical.cat.codes.to_numpy(), [str(name) for name in categorical.cat.categories]


def evenly_spaced(codes: np.ndarray, n: int | None) -> np.ndarray:
    """Rows of at most n cells of each group, in their order."""
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    if n is not None:
        members = [
            rows[np.unique(np.linspace(0, len(rows) - 1, n).astype(int))] for rows in members
        ]
    return np.sort(np.concatenate(members))


def target_of(model: Classifier, target: str | None) -> str:
    """The class that is asked about: the last one where none is named."""
    return model.classes[-1] if target is None else choice(target, model.classes, "target")
