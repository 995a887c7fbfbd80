"""The file format of a model: a folder.

A model is a folder that a text editor can read: ``config.json`` (network, setup, binning, versions,
checksums of all files and of itself), ``vocab.txt`` (one gene per line, in the network's order),
``labels.json`` (classifiers), ``history.csv``, ``edges.csv`` (bins learned per gene),
``linear.safetensors`` (the logistic regression beside a classifier) and ``weights.safetensors``.
Nothing in it is executed when it is read, and of these files only those that ``config.json`` lists
are read: one that it does not list is another model's, and refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from scbert_cll._checks import manifests
from scbert_cll._disk import formats
from scbert_cll._disk.formats import (
    CHECKSUM,
    is_sealed,
    plain,
    read_json,
    same,
    sealed,
    sha256,
    versions,
)
from scbert_cll._disk.in_place import replace, settle, whole, written
from scbert_cll.model._tensors import bits, usable

FORMAT: Final = "scbert_cll model"
# 2: with the linear part; 3: its arrays lie in the order they are read in, whichever safetensors
# wrote them; 4: config.json has a checksum of itself
FORMAT_VERSION: Final = 4
SEALED: Final = 4  # the first version of which that is so
CONFIG, VOCAB, LABELS, WEIGHTS = "config.json", "vocab.txt", "labels.json", "weights.safetensors"
HISTORY, EDGES, LINEAR = "history.csv", "edges.csv", "linear.safetensors"
_NEEDED: Final = (CONFIG, VOCAB, WEIGHTS)
_CONFIG_KEYS: Final = {
    "format_version",
    "sha256",
    "class",
    "is_trained",
    "setup",
    "network",
    "binning",
}
_OURS: Final = {CONFIG, VOCAB, LABELS, WEIGHTS, HISTORY, EDGES, LINEAR}
_BINNING: Final = manifests.Keys(
    {"params": manifests.Keys({"n_bins": int})}, {"edges": manifests.Maybe([manifests.NUMBER])}
)
_JOINED: Final = manifests.Keys(
    {"combine": re.compile("none|average|residual"), "strength": manifests.NUMBER}
)
_LABELS_KINDS: Final = manifests.Keys({"labels_key": str, "classes": [str]})
_KINDS: Final = manifests.Keys(
    {
        "format_version": int,
        "sha256": manifests.Each(str, "|".join(sorted(map(re.escape, _OURS - {CONFIG})))),
        "class": str,
        "is_trained": bool,
        "setup": manifests.Keys({"layer": str}),
        "network": manifests.Keys({}),
        "binning": _BINNING,
    },
    {"kept_epoch": manifests.Maybe(int), "joined": manifests.Maybe(_JOINED)},
)
_WRITERS: Final = ("scvi-tools", "torch", "safetensors", "numpy", "pandas", "scikit-learn")
ORDERED: Final = 3  # the first version whose arrays are sure to lie in the order they are read in
_TABLES: Final = {"history": HISTORY, "edges": EDGES}
MANY: Final = 3  # classes

Order = Literal["C", "F"]


def save_folder(
    path: str | os.PathLike[str],
    *,
    config: dict[str, Any],
    genes: list[str],
    weights: Mapping[str, Tensor],
    labels: dict[str, Any] | None = None,
    history: pd.DataFrame | None = None,
    edges: pd.DataFrame | None = None,
    linear: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder aside, load it and compare, and rename it into place.

    A crash leaves the old one as it was.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is False, or it holds files that are not a model's.
    ValueError
        Weights are not finite.
    NotAsWrittenError
        What is loaded is not what was to be saved.
    """
    usable(weights)
    usable(linear or {}, "The logistic regression beside the network")
    path = Path(path).resolve()
    may_replace(path, overwrite=overwrite)
    model = {"config": config, "genes": genes, "labels": labels, "history": history, "edges": edges}
    model |= {
        "linear": None if linear is None else _contiguous(linear),
        "weights": _contiguous(weights),
    }

    def write(aside: Path) -> None:
        _refuse_others(path, overwrite=overwrite)  # by now nobody else writes there
        _write(aside, model)

    replace(path, write, lambda aside: _is(load_folder(aside), model))


def _write(folder: Path, model: Mapping[str, Any]) -> None:
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(
        serialize(model["weights"])
    )  # save_file would make it unreadable for the group
    written(folder / VOCAB, *formats.as_names(model["genes"]))
    if model["labels"] is not None:
        written(folder / LABELS, *formats.as_json(model["labels"]))
    if model["history"] is not None:
        written(folder / HISTORY, *formats.as_numbers(model["history"], "epoch"))
    if model["edges"] is not None:
        written(folder / EDGES, *formats.as_numbers(model["edges"], "gene"))
    if model["linear"] is not None:
        (folder / LINEAR).write_bytes(serialize(model["linear"]))
    sums = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(*_WRITERS),
        "sha256": sums,
    }
    written(folder / CONFIG, *formats.as_json(sealed(head | model["config"])))


def _contiguous(arrays: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
    """Arrays as they are handed to safetensors, which may write memory order whatever the strides (0.8 does)."""
    tensors = {
        name: torch.as_tensor(np.asarray(a, order="C") if isinstance(a, np.ndarray) else a)
        for name, a in arrays.items()
    }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _is(found: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether a loaded folder is the model that was to be saved, to the bit."""
    config = {name: found["config"].get(name) for name in model["config"]}
    values = same(config, plain(model["config"])) and same(found["labels"], plain(model["labels"]))
    values = values and found["genes"] == list(model["genes"])
    tables = all(
        (found[name] is None) == (model[name] is None) for name in _TABLES
    )  # numbers were compared when written
    weights = same(bits(found["weights"]), bits(model["weights"]))
    if model["linear"] is None:
        return values and tables and weights and found["linear"] is None
    return (
        values
        and tables
        and weights
        and same(bits(_contiguous(found["linear"])), bits(model["linear"]))
    )


def load_folder(
    path: str | os.PathLike[str], *, linear_order: Order | None = None
) -> dict[str, Any]:
    """Read a model folder: its config, genes, labels, history and weights (on the CPU).

    Parameters
    ----------
    path
        The folder.
    linear_order
        Of a folder of an older format: how the coefficients of the linear part were written, row by
        row ("C") or column by column ("F").

    Raises
    ------
    FileNotFoundError
        There is no such folder, or files are missing from it.
    ValueError
        It is not a model folder of this package, was written by a newer version, is damaged, or
        holds weights that are not finite; or it is of an older format, has three or more classes,
        and `linear_order` is not given.
    """
    return whole(Path(path), lambda folder: _load(folder, linear_order))


def _load(path: Path, linear_order: Order | None) -> dict[str, Any]:
    _is_ours(path)
    config = read_json(path / CONFIG)
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a model folder of scbert_cll: its {CONFIG} does not say format = "
            f"{FORMAT!r}."
        )
    if absent := sorted(_CONFIG_KEYS - set(config)):
        raise ValueError(f"{path / CONFIG} is damaged: it lacks {', '.join(absent)}.")
    version = config["format_version"]
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by a newer scbert_cll (format {version}, this version reads "
            f"{FORMAT_VERSION}); "
            "upgrade scbert_cll to read it."
        )
    listed = _listed(path, config)
    for name, expected in listed.items():
        if not (path / name).is_file() or sha256(path / name) != expected:
            raise ValueError(
                f"{path / name} is damaged or missing: its checksum differs from the one in "
                f"{CONFIG}. Restore the folder from a copy."
            )
    tables = {
        name: formats.read_numbers(path / file) if file in listed else None
        for name, file in _TABLES.items()
    }
    return {
        "config": config,
        "genes": formats.read_names(path / VOCAB),
        "labels": _read_labels(path / LABELS) if LABELS in listed else None,
        "history": None if tables["history"] is None else tables["history"].rename(index=int),
        "edges": tables["edges"],
        "linear": _read_linear(path, config, linear_order) if LINEAR in listed else None,
        "weights": _read_tensors(path / WEIGHTS),
    }


def _listed(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """Files of the model and their checksums, once config.json is known to be whole and nothing else of a model lies beside it."""
    is_old = config["format_version"] in range(1, SEALED) and CHECKSUM not in config
    remedy = "Restore the folder from a copy, or save the model again."
    manifests.readable_list(
        config, _KINDS, path / CONFIG, is_whole=None if is_old else is_sealed(config), remedy=remedy
    )
    listed: dict[str, str] = config["sha256"]
    if absent := [name for name in _NEEDED if name != CONFIG and name not in listed]:
        raise ValueError(
            f"{path / CONFIG} is damaged: it does not list {', '.join(absent)}. {remedy}"
        )
    if LINEAR in listed and config.get("joined") is None:
        raise ValueError(
            f"{path / CONFIG} is damaged: it lists {LINEAR} and does not say how it is "
            f"joined. {remedy}"
        )
    if others := sorted(name for name in _OURS - {CONFIG, *listed} if (path / name).exists()):
        raise ValueError(
            f"{path} holds {', '.join(others)}, which {CONFIG} does not list: another model "
            f"was there before, and left it. Delete what is not "
            "listed, or save the model again."
        )
    return listed


def _read_labels(path: Path) -> dict[str, Any]:
    """The label column and the classes, each once."""
    found = read_json(path)
    remedy = "Restore the folder from a copy, or save the model again."
    manifests.readable_list(found, _LABELS_KINDS, path, is_whole=None, remedy=remedy)
    if len(set(found["classes"])) < len(found["classes"]):
        raise ValueError(f"{path} is damaged: it names a class twice. {remedy}")
    return found


def _read_linear(
    path: Path, config: Mapping[str, Any], order: Order | None
) -> dict[str, np.ndarray]:
    """Coefficients (classes, genes) and intercept.

    Of an old folder in the order that they are known to have been written in.
    """
    arrays = {name: tensor.numpy().copy() for name, tensor in _read_tensors(path / LINEAR).items()}
    if order is not None:
        return arrays | {"coefficients": in_order(arrays["coefficients"], order)}
    if config["format_version"] < ORDERED and len(arrays["coefficients"]) >= MANY:
        raise ValueError(
            f"{path} was saved by an older scbert_cll and has {len(arrays['coefficients'])} "
            f"classes. With safetensors 0.8 or later that version "
            "mixed up the coefficients of the logistic regression, and the predictions with "
            "them. Remedy: "
            f'sc_cll.model.repair_model({str(path)!r}, "repaired"), then load "repaired".'
        )
    return arrays


def in_order(coefficients: np.ndarray, order: Order) -> np.ndarray:
    """Coefficients (classes, genes) whose bytes were written row by row ("C") or column by column ("F")."""
    return np.ascontiguousarray(coefficients.reshape(-1).reshape(coefficients.shape, order=order))


def may_replace(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds a model without `overwrite`, or anything else at all."""
    settle(path)
    _refuse_others(path, overwrite=overwrite)


def _refuse_others(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists; pass overwrite=True to replace the model in it, or name another "
            f"folder."
        )
    other = sorted({p.name for p in path.iterdir()} - _OURS) if path.is_dir() else [path.name]
    if other:
        raise FileExistsError(
            f"{path} holds files that are not a model's ({', '.join(other[:5])}); name "
            f"another folder."
        )


def _is_ours(path: Path) -> None:
    if path.is_file():
        raise ValueError(f"{path} is a file; a model of scbert_cll is a folder.")
    if not path.is_dir():
        raise FileNotFoundError(f"There is no model folder {path}.")
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if missing:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{path} is not a whole model folder of scbert_cll: {', '.join(missing)} missing; "
            f"it holds {there}."
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    usable(found, str(path))
    return found
