"""File formats: our model folder, and scBERT's checkpoint layout.

A model is a folder that a text editor can read: ``config.json`` (network, setup, binning, versions, checksum), ``vocab.txt``
(one gene per line, in the network's order), ``labels.json`` (classifiers), ``history.csv``, ``edges.csv`` (bins learned per gene) and
``weights.safetensors``. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from scbert_cll.nn import Config

FORMAT: Final = "scbert_cll model"
FORMAT_VERSION: Final = 1
CONFIG, VOCAB, LABELS, WEIGHTS = "config.json", "vocab.txt", "labels.json", "weights.safetensors"
HISTORY, EDGES = "history.csv", "edges.csv"
_NEEDED: Final = (CONFIG, VOCAB, WEIGHTS)
_CONFIG_KEYS: Final = {"format_version", "sha256", "class", "is_trained", "setup", "network", "binning"}
_OURS: Final = {CONFIG, VOCAB, LABELS, WEIGHTS, HISTORY, EDGES}


def save_folder(
    path: str | os.PathLike[str],
    *,
    config: dict[str, Any],
    genes: list[str],
    weights: Mapping[str, Tensor],
    labels: dict[str, Any] | None = None,
    history: pd.DataFrame | None = None,
    edges: pd.DataFrame | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder aside and rename it into place, so that a crash leaves the old one as it was.

    Raises
    ------
    FileExistsError
        `path` exists and `overwrite` is False, or it holds files that are not a model's.
    """
    path = Path(path).resolve()
    _may_replace(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    aside.mkdir()
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        (aside / WEIGHTS).write_bytes(serialize(tensors))  # save_file would make it unreadable for the group
        (aside / VOCAB).write_text("".join(f"{gene}\n" for gene in genes), encoding="utf-8")
        if labels is not None:
            _write_json(aside / LABELS, labels)
        if history is not None:
            history.to_csv(aside / HISTORY, index_label="epoch")
        if edges is not None:
            edges.to_csv(aside / EDGES, index_label="gene")
        sums = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
        _write_json(aside / CONFIG, {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": sums} | config)
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
    config = _read_json(path / CONFIG)
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
        if not (path / name).is_file() or _sha256(path / name) != expected:
            raise ValueError(
                f"{path / name} is damaged or missing: its checksum differs from the one in {CONFIG}. Restore the folder from a copy."
            )
    try:
        weights = load_file(path / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{path / WEIGHTS} is damaged: {error}.") from error
    return {
        "config": config,
        "genes": (path / VOCAB).read_text(encoding="utf-8").splitlines(),
        "labels": _read_json(path / LABELS) if (path / LABELS).exists() else None,
        "history": None if (history := _read_table(path / HISTORY)) is None else history.rename(index=int),
        "edges": _read_table(path / EDGES),
        "weights": weights,
    }


def plain(value: Any) -> Any:
    """Turn arrays and NumPy numbers into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def read_scbert_checkpoint(path: str | os.PathLike[str]) -> tuple[Config, dict[str, Tensor]]:
    """Read a checkpoint in the layout scBERT saves, as our `Config` and state dict.

    Only tensors are read (``weights_only=True``): nothing in the file is executed. The number of genes comes from the
    positions of the gene embedding, less the end token; without one it is not in the file, and `n_genes` is 0.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    theirs: dict[str, Tensor] = checkpoint.get("model_state_dict", checkpoint)
    config = _scbert_config(theirs)
    return config, {ours: take(theirs) for ours, take in _scbert_layout(config).items()}


def _scbert_config(theirs: Mapping[str, Tensor]) -> Config:
    """Read the network's dimensions off the shapes of its weights."""
    n_tokens, width = theirs["token_emb.weight"].shape
    features, dim_head = theirs["performer.net.layers.0.0.fn.fast_attention.projection_matrix"].shape
    positions = theirs["pos_emb.emb.weight"].shape[0] if "pos_emb.emb.weight" in theirs else 1
    finetuned = "to_out.fc3.weight" in theirs
    if finetuned:
        positions = theirs["to_out.fc1.weight"].shape[1]
    return Config(
        n_genes=positions - 1,
        n_bins=n_tokens - 2,
        n_hidden=width,
        n_layers=1 + max(int(k.split(".")[3]) for k in theirs if k.startswith("performer.net.layers.")),
        n_heads=theirs["performer.net.layers.0.0.fn.to_q.weight"].shape[0] // dim_head,
        dim_head=dim_head,
        n_features=features,
        dropout=0.0,
        gene_embedding="gene2vec" if "pos_emb.emb.weight" in theirs else "none",
        train_gene_embedding=False,
        tokens="all",
        end_token=True,
        head="scbert",
        n_classes=theirs["to_out.fc3.weight"].shape[0] if finetuned else 0,
    )


def _scbert_layout(config: Config) -> dict[str, Callable[[Mapping[str, Tensor]], Tensor]]:
    """For each of our weights, how to take it from theirs."""

    def same(name: str) -> Callable[[Mapping[str, Tensor]], Tensor]:
        return lambda theirs: theirs[name].float()

    layout = {"token_embedding.weight": same("token_emb.weight")}
    pairs = {"norm": "norm"}
    if config.gene_embedding == "gene2vec":
        layout["gene_embedding.weight"] = same("pos_emb.emb.weight")
    for i in range(config.n_layers):
        attention, feedforward = f"performer.net.layers.{i}.0", f"performer.net.layers.{i}.1"
        layout[f"blocks.{i}.attention.qkv.weight"] = _stacked([f"{attention}.fn.to_{x}.weight" for x in "qkv"])
        layout[f"blocks.{i}.attention.projection"] = same(f"{attention}.fn.fast_attention.projection_matrix")
        pairs |= {
            f"blocks.{i}.attention_norm": f"{attention}.norm",
            f"blocks.{i}.attention.out": f"{attention}.fn.to_out",
            f"blocks.{i}.feedforward_norm": f"{feedforward}.norm",
            f"blocks.{i}.feedforward.0": f"{feedforward}.fn.fn.w1",
            f"blocks.{i}.feedforward.2": f"{feedforward}.fn.fn.w2",
        }
    if config.n_classes:
        pairs |= {"head.layers.0": "to_out.fc1", "head.layers.3": "to_out.fc2", "head.layers.6": "to_out.fc3"}
        layout["head.collapse.weight"] = lambda theirs: theirs["to_out.conv1.weight"].float().flatten(1).view(1, -1)
        layout["head.collapse.bias"] = same("to_out.conv1.bias")
    else:
        pairs["to_bins"] = "to_out"
    for ours, name in pairs.items():
        layout |= {f"{ours}.{part}": same(f"{name}.{part}") for part in ("weight", "bias")}
    return layout


def _stacked(names: list[str]) -> Callable[[Mapping[str, Tensor]], Tensor]:
    return lambda theirs: torch.cat([theirs[name] for name in names]).float()


def _may_replace(path: Path, *, overwrite: bool) -> None:
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


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object.")
    return value


def _read_table(path: Path) -> pd.DataFrame | None:
    """Numbers exactly as they were written; a gene called NA or 7157 stays a name."""
    if not path.exists():
        return None
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers: pd.DataFrame = text.iloc[:, 1:].replace("", "nan").map(float)  # read_csv rounds in some versions of pandas
    index = text.iloc[:, 0]
    return numbers.set_axis(pd.Index(index.astype(int) if index.name == "epoch" else index), axis=0)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
