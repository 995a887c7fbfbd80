"""Tensors of a model: whether they are finite, whether they are the same, and their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scbert_cll._checks.words import listed

type Tensors = Mapping[str, Tensor | np.ndarray]  # by their names
_UNUSABLE: Final = (
    "Such a network calls all cells alike. Load the model that was saved before, or train anew "
    "with a smaller lr=."
)


def not_finite(tensors: Tensors) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity.

    A device is waited for once, whatever their number.
    """
    if not tensors:
        return []
    whole = [torch.as_tensor(tensor).detach() for tensor in tensors.values()]
    local = [part.to_local() if hasattr(part, "to_local") else part for part in whole]
    fine = torch.stack([tensor.isfinite().all() for tensor in local]).tolist()
    return [name for name, is_fine in zip(tensors, fine, strict=True) if not is_fine]


def usable(tensors: Tensors, what: str = "The model", remedy: str = _UNUSABLE) -> None:
    """Refuse tensors that are not finite, by name."""
    if bad := not_finite(tensors):
        raise ValueError(
            f"{what} holds values that are no finite numbers in {listed(bad)}. {remedy}"
        )


def gene_vectors(
    values: np.ndarray, genes: pd.Index, where: str, *, is_table: bool = False
) -> Tensor:
    """Vectors (genes × dimensions) of finite numbers."""
    bad = genes[~np.isfinite(values).all(axis=1)]
    if len(bad):
        mended = f"np.nan_to_num({where}, posinf=0.0, neginf=0.0)"
        if is_table:
            mended = f"{where}.replace([np.inf, -np.inf], np.nan).fillna(0)"
        raise ValueError(
            f"{where} holds values that are no finite numbers for {len(bad)} genes: "
            f"{listed(bad)}. Make it anew, or put zeros there, which a gene without a vector has: "
            f"{where} = {mended}."
        )
    return torch.from_numpy(values)


def bits(value: Any) -> Any:
    """Tensors, in any mappings and lists, as kind, shape and bytes, which `same` compares."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return [str(value.dtype), list(value.shape), flat.view(torch.uint8).numpy()]
    if isinstance(value, Mapping):
        return {name: bits(v) for name, v in value.items()}
    return [bits(v) for v in value] if isinstance(value, list | tuple) else value


def tensors_digest(tensors: Tensors) -> str:
    """Checksum of tensors or arrays and their names."""
    checksum = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        checksum.update(name.encode())
        checksum.update(torch.as_tensor(tensor).detach().cpu().numpy().tobytes())
    return checksum.hexdigest()
