"""Groups of cells and classes as numbers, and which gene a token is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import choice
from scbert_cll.model._protocols import Classifier


def coded(groups: pd.Series, cells: AnnData) -> tuple[np.ndarray, list[str]]:
    """Number of each cell's group, -1 where it has none, and the groups' names."""
    _checks.adata.one_group_per_cell(groups, cells)
    categorical = groups.astype("category").cat.remove_unused_categories()
    return categorical.cat.codes.to_numpy(), list(map(str, categorical.cat.categories))


def evenly_spaced(codes: np.ndarray, n: int | None) -> np.ndarray:
    """Rows of at most n cells of each group, in their order."""
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    if n is not None:
        places = [np.linspace(0, len(rows) - 1, n).astype(int) for rows in members]
        chosen = zip(members, places, strict=True)
        members = [rows[np.unique(at)] for rows, at in chosen]
    return np.sort(np.concatenate(members))


def code_of(model: Classifier, target: str | None) -> int:
    """Number of the class that is asked about: the last one where none is named."""
    classes = model.classes
    name = classes[-1] if target is None else choice(target, classes, "target")
    return classes.index(name)


def genes_of(cells: Mapping[str, Tensor]) -> np.ndarray:
    """Gene of each token, (b, n)."""
    tokens = cells["tokens"]
    places = torch.arange(tokens.shape[1]).expand(tokens.shape)
    return cells.get("genes", places).cpu().numpy()
