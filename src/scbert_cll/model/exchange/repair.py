"""repair_model: a classifier that an older version saved, with coefficients in the right order."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from scbert_cll._checks.words import choice
from scbert_cll._disk.formats import CHECKSUM
from scbert_cll.model.exchange import folder

# Of the largest coefficient: what rounding leaves of a sum over classes that is zero.
_ZERO: Final = 1e-6
_FAR: Final = 1e-3  # what no rounding leaves
# What the writer puts into a config itself.
_HEAD: Final = ("format", "format_version", "versions", "sha256", CHECKSUM)


def repair_model(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    order: Literal["auto", "C", "F"] = "auto",
    overwrite: bool = False,
) -> str:
    """Write a classifier of an older version anew, with its coefficients in the right order.

    These are of its logistic regression. Versions before format 3 handed coefficients of three or
    more classes to safetensors column by column. safetensors 0.8 and later wrote them in that order
    and read them row by row, so that each class got other genes' coefficients; 0.7 and earlier
    wrote them right. Over the classes, the coefficients of a gene sum to zero in the right order (a
    fit with an L2 penalty starts and ends there), and in the wrong order they do not. That tells
    which it was.

    Parameters
    ----------
    path
        Folder of the saved classifier; it stays as it is.
    out
        Folder for the repaired one.
    order
        ``"auto"``: told by the sums. ``"F"``: safetensors 0.8 or later wrote the folder. ``"C"``:
        an older safetensors did.
    overwrite
        Replace a model that is in `out`.

    Returns
    -------
    The order that was found or given: ``"F"`` where the coefficients were mixed up, ``"C"`` where
    they were right.

    Raises
    ------
    FileExistsError, FileNotFoundError
        `out` exists, or there is no model in `path`.
    ValueError
        Nothing needs repair: the format is new, there are two classes, or there is no logistic
        regression. Or the sums do not tell the order: give it, and keep the result that is right
        about cells whose class is known.

    Examples
    --------
    >>> sc_cll.model.repair_model("model", "repaired")
    'F'
    >>> model = sc_cll.ScBERTClassifier.load("repaired")
    """
    choice(order, ("auto", "C", "F"), "order")
    saved = folder.load_folder(path, linear_order="C")
    version, linear = saved.config["format_version"], saved.linear
    n_classes = 0 if linear is None else len(linear["coefficients"])
    if linear is None or version >= folder.ORDERED or n_classes < folder.MANY:
        holds = f"{n_classes} classes" if n_classes else "no logistic regression"
        raise ValueError(
            f"{path} needs no repair: it has format {version} and {holds}. Load it as it is."
        )
    mixed = linear["coefficients"]
    right: folder.Order = _order_of(mixed, path) if order == "auto" else order
    config = {name: value for name, value in saved.config.items() if name not in _HEAD}
    repaired = {**linear, "coefficients": folder.in_order(mixed, right)}
    saved = replace(saved, config=config, linear=repaired)
    folder.save_folder(Path(out), saved, overwrite=overwrite)
    return right


def _order_of(coefficients: np.ndarray, path: str | os.PathLike[str]) -> folder.Order:
    """The order in which the coefficients of every gene sum to zero over the classes."""
    largest = np.abs(coefficients).max(initial=0) or 1.0
    orders: tuple[folder.Order, ...] = ("C", "F")
    sums = {
        order: np.abs(folder.in_order(coefficients, order).sum(axis=0)).max() / largest
        for order in orders
    }
    right = min(orders, key=lambda order: sums[order])
    if sums[right] < _ZERO and max(sums.values()) > _FAR:
        return right
    raise ValueError(
        f"The coefficients of {path} do not tell in which order they were written. Remedy: write "
        f'both, order="C" and order="F", and keep the one that is right about cells whose class is '
        f"known."
    )
