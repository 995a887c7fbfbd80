"""The one door to counts: whatever reads counts of an AnnData gets them here.

It lies among the checks, not above them, since other checks (of tokens, of what is to be
normalised) read through it. A slot is `X`, a layer, or ``"raw"`` for `adata.raw`. Only genes come
out, finite and not negative, as canonical CSR; `counts` are whole numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.features import of as features_of
from scbert_cll._checks.features import only_genes
from scbert_cll._checks.matrix import (
    FLOAT16_WHOLE,
    are_finite,
    are_whole,
    as_csr,
    can_be_copied,
    first,
    in_core,
    stored_as,
)
from scbert_cll._checks.words import key_in, listed
from scbert_cll._counts import slot_name

__all__ = ["RAW", "are_finite", "as_csr", "counts", "in_core", "matrix"]  # and what is defined here

RAW: Final = "raw"
_EPSILON: Final = 4 * float(np.finfo(np.float32).eps)
_MOST_OFF: Final = 0.01  # of a whole number; what is further off is no round-off
_SEEN: Final = 50  # cells that tell logarithms from fractions
_LARGEST_LOG: Final = 20.0  # of counts, a common total included


class Slot(NamedTuple):
    """Where counts are asked for: the matrix as it is stored, its genes, and its name in Python."""

    values: Any
    var: Any
    where: str


class Counts(NamedTuple):
    """Counts, cells × genes, and what is to be noted of them."""

    csr: sparse.csr_matrix
    note: dict[str, int]  # n_rounded, if float32 had left values beside whole numbers


def slot(adata: AnnData, layer: str | None) -> Slot:
    """`X` (None), a layer, or `adata.raw`; a layer that is called "raw" comes before the latter."""
    if layer == RAW and RAW not in adata.layers and adata.raw is not None:
        return Slot(adata.raw.X, adata.raw.var, "adata.raw.X")
    if layer is not None:
        key_in(
            layer,
            adata.layers,
            "adata.layers",
            _elsewhere(adata, layer) if isinstance(layer, str) else "",
        )
    return Slot(adata.X if layer is None else adata.layers[layer], adata.var, slot_name(layer))


def is_binned(adata: AnnData, layer: str | None) -> bool:
    """A layer that `pp.bin_expression` wrote."""
    return (
        layer is not None
        and isinstance(adata.uns.get(layer), Mapping)
        and "edges" in adata.uns[layer]
    )


def matrix(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Values of the genes, finite and not negative, as canonical CSR whatever they were stored as."""
    return _values(adata, layer, slot(adata, layer))


def counts(adata: AnnData, layer: str | None, *, only_x: bool = False) -> sparse.csr_matrix:
    """`matrix`, and all values whole numbers: raw counts.

    With `only_x` no other slot can be chosen, and none is offered.
    """
    return noted_counts(adata, layer, only_x=only_x).csr


def noted_counts(adata: AnnData, layer: str | None, *, only_x: bool = False) -> Counts:
    """`counts`, and what the caller has to write down of them."""
    found = slot(adata, layer)
    csr = _values(adata, layer, found)
    _warn_of_float16(found.values, csr, found.where)
    if are_whole(csr.data):
        return Counts(csr, {})
    rounded = nearly_whole(csr.data)
    if rounded is None:
        raise ValueError(_no_counts(adata, layer, found, csr, only_x=only_x))
    n = int((rounded != csr.data).sum())
    return Counts(
        sparse.csr_matrix((rounded, csr.indices, csr.indptr), shape=csr.shape), {"n_rounded": n}
    )


def counts_or_values(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`matrix`, rounded where the values are counts but for round-off."""
    csr = matrix(adata, layer)
    whole = None if are_whole(csr.data) else nearly_whole(csr.data)
    return (
        csr
        if whole is None
        else sparse.csr_matrix((whole, csr.indices, csr.indptr), shape=csr.shape)
    )


def nearly_whole(values: np.ndarray) -> np.ndarray | None:
    """Whole numbers, where values are off by no more than float32 loses on the way to a logarithm and back; else None."""
    whole = np.rint(values)
    size = np.abs(whole)
    lost = np.minimum(_EPSILON * (1 + size) * (1 + np.log1p(size)), _MOST_OFF)
    return whole if (np.abs(values - whole) <= lost).all() else None


def genes_of(adata: AnnData, layer: str | None) -> AnnData:
    """The cells with all genes of a slot: itself, or of `adata.raw` its own genes with the counts in `X`."""
    found = slot(adata, layer)
    if found.where != "adata.raw.X":
        return adata
    obs: Any = adata.obs
    whole = AnnData(as_csr(found.values, found.where), obs=obs, var=found.var)
    whole.obsm.update(adata.obsm)
    whole.obsp.update(adata.obsp)
    whole.uns.update(adata.uns)
    return whole


def _values(adata: AnnData, layer: str | None, found: Slot) -> sparse.csr_matrix:
    csr = stored(adata, layer, found)
    if are_finite(csr.data):
        return csr
    bad, what = ~np.isfinite(csr.data), "NaN or infinite"
    if not bad.any():
        bad, what = csr.data < 0, "negative"
    mend = "" if not np.isnan(csr.data).any() or np.isinf(csr.data).any() else _without_nan(found)
    raise ValueError(
        f"{found.where} holds {what} values, first {first(csr, bad, adata)}; expected raw "
        f"counts, zero or more. "
        f"{mend}{_elsewhere(adata, layer)}".rstrip()
    )


def stored(adata: AnnData, layer: str | None, found: Slot) -> sparse.csr_matrix:
    """What a slot holds of the genes, whatever the values."""
    only_genes(features_of(adata.var))
    if found.values is None:
        hint = f" {_elsewhere(adata, layer)}".rstrip()
        raise ValueError(
            f"{found.where} is empty (None); put the values there or name the layer that "
            f"holds them.{hint}"
        )
    can_be_copied(found.values, found.where)
    csr = as_csr(found.values, found.where)
    return csr[:, _columns_of_raw(adata)] if found.where == "adata.raw.X" else csr


def _columns_of_raw(adata: AnnData) -> np.ndarray:
    """Where the genes of `adata` are in `adata.raw`, by name.

    Antibodies there are no genes, whatever their names.
    """
    found = features_of(adata.raw.var, "adata.raw.var")
    names = pd.Index(adata.raw.var_names).where(found.is_gene, None)
    missing = adata.var_names[~adata.var_names.isin(names)]
    twice = adata.var_names[adata.var_names.isin(names[names.duplicated() & found.is_gene])]
    if len(missing) or len(twice):
        what = (
            f"has no gene {listed(missing)}"
            if len(missing)
            else f"has more than one gene {listed(twice)}"
        )
        raise ValueError(
            f"adata.raw {what} of adata.var_names, so its counts cannot be matched by name. "
            f"Start from it: adata = adata.raw.to_adata()"
            + ("." if len(missing) else ", then pp.align_genes.")
        )
    return np.asarray(names.get_indexer_for(adata.var_names))


def _warn_of_float16(values: Any, csr: sparse.csr_matrix, where: str) -> None:
    if getattr(values, "dtype", None) == np.float16 and csr.data.max(initial=0) > FLOAT16_WHOLE:
        warnings.warn(
            f"{where} is of float16, which has all whole numbers up to {FLOAT16_WHOLE:,} "
            f"only; larger counts were rounded when it was made.",
            stacklevel=4,
        )


# -- what to say where there are no counts
# --------------------------------------------------------------------------------


def _no_counts(
    adata: AnnData, layer: str | None, found: Slot, csr: sparse.csr_matrix, *, only_x: bool
) -> str:
    """What was found, what it looks like, and where counts are or how they are made."""
    elsewhere = _elsewhere(adata, layer, only_x=only_x)
    kind = _looks_like(csr)
    if not kind and "log1p" in adata.uns:
        kind = "log"
    hint = {
        "log": " It looks log-transformed.",
        "scaled": " It looks scaled to a common total.",
    }.get(kind, "")
    if kind in ("", "fractions"):
        known = "These look like" if kind else "If these are"
        small = not kind and csr.data.max() < _LARGEST_LOG
        hint = (
            f"{' It looks log-transformed.' if small else ''} {known} fractions of counts (SoupX, "
            f"CellBender, EM counts of Alevin or RSEM): round them, {_rounding(found)}."
        )
    others = listed(filter(None, adata.layers.keys()))
    name = (
        "" if only_x else f" Name the layer with the raw counts; this object has layers {others}."
    )
    bad = csr.data != np.trunc(csr.data)
    start = (
        f"{found.where} must hold raw counts (whole numbers); first other value: "
        f"{first(csr, bad, adata)}."
    )
    return f"{start}{hint}{name} {elsewhere}".rstrip()


def _elsewhere(adata: AnnData, layer: str | None, *, only_x: bool = False) -> str:
    """Slots that hold whole numbers, and how each is used."""
    found = [hint for name, hint in _slots(adata, only_x=only_x) if name != (layer or "X") and hint]
    return " ".join(found[:2])


def _slots(adata: AnnData, *, only_x: bool) -> Iterator[tuple[str, str]]:
    """Every slot, and what to do if its counts are wanted; nothing where it holds none."""
    for name, values in adata.layers.items():
        if name is not None and not is_binned(adata, name) and _holds_counts(values):
            use = f"adata.X = adata.layers[{name!r}].copy()"
            yield (
                name,
                (
                    f"adata.layers[{name!r}] holds whole numbers: "
                    f"{use if only_x else f'pass layer={name!r}, or {use}'}."
                ),
            )
    if adata.raw is not None and _holds_counts(adata.raw.X):
        use = "adata = adata.raw.to_adata()"
        can_pass = not only_x and RAW not in adata.layers
        yield (
            "",
            (
                f"adata.raw holds whole numbers: "
                f"{f'pass layer={RAW!r}, or {use}' if can_pass else use}."
            ),
        )
    if adata.X is not None and not only_x and _holds_counts(adata.X):
        yield "X", "adata.X holds whole numbers: leave layer out."


def _holds_counts(values: Any) -> bool:
    """Whether these could be counts: whole numbers, some above zero."""
    try:
        data = as_csr(values, "").data
    except (TypeError, ValueError):
        return False
    return bool(data.max(initial=0) > 0 and are_finite(data) and are_whole(data))


def _rounding(found: Slot) -> str:
    """Python that rounds a slot."""
    if found.where == "adata.raw.X":
        return f"adata = adata.raw.to_adata(); adata.X = {_round('adata.X', found.values)}"
    return f"{found.where} = {_round(found.where, found.values)}"


def _round(where: str, values: Any) -> str:
    kind = stored_as(values)
    return f"{where}.rint()" if kind == "sparse" else f"np.rint(np.asarray({where}, dtype=float))"


def _without_nan(found: Slot) -> str:
    """Python that puts zeros in the place of NaN."""
    if found.where == "adata.raw.X":
        start, where = "adata = adata.raw.to_adata(); ", "adata.X"
    else:
        start, where = "", found.where
    if stored_as(found.values) == "sparse":
        do = f"{where}.data = np.nan_to_num({where}.data)"
    else:
        do = f"{where} = np.nan_to_num(np.asarray({where}, dtype=float))"
    return f"If a gene that was not measured is to count as not expressed: {start}{do}. "


def _looks_like(csr: sparse.csr_matrix) -> str:
    """``fractions`` where many values are whole.

    ``log`` or ``scaled`` where cells are counts in another unit; else an empty text.
    """
    if (np.trunc(csr.data) == csr.data).mean() > 0.05:
        return "fractions"
    rows = [csr.data[csr.indptr[i] : csr.indptr[i + 1]] for i in range(min(csr.shape[0], _SEEN))]
    rows = [row[row > 0].astype(np.float64) for row in rows]
    rows = [row for row in rows if len(row)]
    ways = {"scaled": rows, "log": [np.expm1(np.minimum(row, _LARGEST_LOG)) for row in rows]}
    ways["log "] = [np.exp2(np.minimum(row, _LARGEST_LOG)) - 1 for row in rows]
    found = [
        kind
        for kind, values in ways.items()
        if rows and np.median([_in_steps(row) for row in values]) > 0.9
    ]
    return found[0].strip() if found else ""


def _in_steps(values: np.ndarray) -> float:
    """Share of the values above the smallest that are whole multiples of it, up to 50 times."""
    steps = values[values > values.min()] / values.min()
    return (
        float(((np.abs(steps - np.rint(steps)) < 0.02) & (steps < 50)).mean())
        if len(steps)
        else 0.0
    )
