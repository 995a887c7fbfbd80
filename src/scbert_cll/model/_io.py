"""The file format of a model: a folder.

A model is a folder that a text editor can read: ``config.json`` (network, setup, binning, versions, checksum), ``vocab.txt``
(one gene per line, in the network's order), ``labels.json`` (classifiers), ``history.csv``, ``edges.csv`` (bins learned per gene),
``linear.safetensors`` (the logistic regression beside a classifier) and ``weights.safetensors``. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as serialize_arrays
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from scbert_cll._files import read_json, sha256, write_json

FORMAT: Final = "scbert_cll model"
FORMAT_VERSION: Final = 2  # 2: with the linear part
CONFIG, VOCAB, LABELS, WEIGHTS = "config.json", "vocab.txt", "labels.json", "weights.safetensors"
HISTORY, EDGES, LINEAR = "history.csv", "edges.csv", "linear.safetensors"
_NEEDED: Final = (CONFIG, VOCAB, WEIGHTS)
_CONFIG_KEYS: Final = {"format_version", "sha256", "class", "is_trained", "setup", "network", "binning"}
_OURS: Final = {CONFIG, VOCAB, LABELS, WEIGHTS, HISTORY, EDGES, LINEAR}


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
    """Write a model folder aside and rename it into place, so that a crash leaves the old one as it was.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is False, or it holds files that are not a model's.
    """
    path = Path(path).resolve()
    may_replace(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    aside.mkdir()
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        (aside / WEIGHTS).write_bytes(serialize(tensors))  # save_file would make it unreadable for the group
        (aside / VOCAB).write_text("".join(f"{gene}\n" for gene in genes), encoding="utf-8")
        if labels is not None:
            write_json(aside / LABELS, labels)
        if history is not None:
            history.to_csv(aside / HISTORY, index_label="epoch")
        if edges is not None:
            edges.to_csv(aside / EDGES, index_label="gene")
        if linear is not None:
            (aside / LINEAR).write_bytes(serialize_arrays(dict(linear)))
        sums = {file.name: sha256(file) for file in sorted(aside.iterdir())}
        write_json(aside / CONFIG, {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": sums} | config)
        _swap(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def load_folder(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a model folder: its config, genes, labels, history and weights (on the CPU).

    Raises
    ------
    FileNotFoundError
        There is no such folder, or files are missing from it.
    ValueError
        It is not a model folder of this package, was written by a newer version, or is damaged.
    """
    path = Path(path)
    _is_ours(path)
    config = read_json(path / CONFIG)
    if config.get("format") != FORMAT:
        raise ValueError(f"{path} is not a model folder of scbert_cll: its {CONFIG} does not say format = {FORMAT!r}.")
    if absent := sorted(_CONFIG_KEYS - set(config)):
        raise ValueError(f"{path / CONFIG} is damaged: it lacks {', '.join(absent)}.")
    if config["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path} was written by a newer scbert_cll (format {config['format_version']}, this version reads {FORMAT_VERSION}); "
            "upgrade scbert_cll to read it."
        )
    for name, expected in config["sha256"].items():
        if not (path / name).is_file() or sha256(path / name) != expected:
            raise ValueError(
                f"{path / name} is damaged or missing: its checksum differs from the one in {CONFIG}. Restore the folder from a copy."
            )
    weights = _read_tensors(path / WEIGHTS, load_file)
    return {
        "config": config,
        "genes": (path / VOCAB).read_text(encoding="utf-8").splitlines(),
        "labels": read_json(path / LABELS) if (path / LABELS).exists() else None,
        "history": None if (history := _read_table(path / HISTORY)) is None else history.rename(index=int),
        "edges": _read_table(path / EDGES),
        "linear": _read_tensors(path / LINEAR, load_arrays) if (path / LINEAR).exists() else None,
        "weights": weights,
    }


def may_replace(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds a model without `overwrite`, or anything else at all."""
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace the model in it, or name another folder.")
    other = sorted({p.name for p in path.iterdir()} - _OURS) if path.is_dir() else [path.name]
    if other:
        raise FileExistsError(
            f"{path} holds files that are not a model's ({', '.join(other[:5])}); name another folder."
        )


def _swap(aside: Path, path: Path) -> None:
    """Put the finished folder in place; the old one goes only when the new one is there."""
    if not path.exists():
        aside.rename(path)
        return
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        aside.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_ours(path: Path) -> None:
    if path.is_file():
        raise ValueError(f"{path} is a file; a model of scbert_cll is a folder.")
    if not path.is_dir():
        old = path.with_name(f".{path.name}.old")
        hint = f" A save was cut short: the model before it is in {old}." if old.exists() else ""
        raise FileNotFoundError(f"There is no model folder {path}.{hint}")
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if missing:
        there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(
            f"{path} is not a whole model folder of scbert_cll: {', '.join(missing)} missing; it holds {there}."
        )


def _read_tensors(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _read_table(path: Path) -> pd.DataFrame | None:
    """Numbers exactly as they were written; a gene called NA or 7157 stays a name."""
    if not path.exists():
        return None
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers: pd.DataFrame = text.iloc[:, 1:].replace("", "nan").map(float)  # read_csv rounds in some versions of pandas
    index = text.iloc[:, 0]
    return numbers.set_axis(pd.Index(index.astype(int) if index.name == "epoch" else index), axis=0)
