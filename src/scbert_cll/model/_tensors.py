"""Tensors of a model: whether they are finite, whether they are the same, and their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from scbert_cll.model import _finite

_UNUSABLE: Final = (
    "Such a network calls all cells alike. Load the model that was saved before, or train anew "
    "with a smaller lr=."
)


def not_finite(tensors: Mapping[str, Tensor | np.ndarray]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity.

    A device is waited for once, whatever their number.
    """
    whole = {name: torch.as_tensor(tensor).detach() for name, tensor in tensors.items()}
    local = [one.to_local() if hasattr(one, "to_local") else one for one in whole.values()]
    if not local:
        return []
    fine = torch.stack([tensor.isfinite().all() for tensor in local]).tolist()
    return [name for name, is_fine in zip(whole, fine, strict=True) if not is_fine]


def usable(tensors: Mapping[str, Tensor | np.ndarray], what: str = "The model") -> None:
    """Refuse tensors that are not finite, by name."""
    _finite.tensors(not_finite(tensors), what, _UNUSABLE)


def bits(value: Any) -> Any:
    """Tensors, in any mappings and lists, as kind, shape and bytes, which `same` compares."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return [str(value.dtype), list(value.shape), flat.view(torch.uint8).numpy()]
    if isinstance(value, Mapping):
        return {name: bits(v) for name, v in value.items()}
    return [bits(v) for v in value] if isinstance(value, list | tuple) else value


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of a network's weights."""
    return arrays_digest(
        {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    )


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Checksum of arrays and their names."""
    checksum = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        checksum.update(name.encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()
