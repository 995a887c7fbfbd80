"""Counts and tokens of an AnnData: whatever reads them gets them here.

A slot is `X`, a layer, or ``"raw"`` for `adata.raw`. Only genes come out, finite and not negative,
as canonical CSR; `counts` are whole numbers. Other checks read through this module, so it lies
among them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.genes import features_of, only_genes
from scbert_cll._checks.words import key_in, listed

type Csr = sparse.csr_matrix
type Noted = tuple[Csr, dict[str, int]]  # n_rounded, if float32 had left others
RAW: Final = "raw"
_FLOAT16_WHOLE: Final = 2048  # above this a float16 has no odd numbers
_EPSILON: Final = 4 * float(np.finfo(np.float32).eps)
_MAX_ROUND_OFF: Final = 0.01  # distance from a whole number
_N_SAMPLED: Final = 50  # cells that tell logarithms from fractions
_LARGEST_LOG: Final = 20.0  # of counts, a common total included
# A matrix at least this large whose largest value is no more than the number of bins is taken for
# binned data. With more bins than a few, raw counts may stay below them, too; tokens then give
# themselves away by their common maximum.
_MIN_CELLS, _MIN_GENES = 50, 200
_FEW_BINS: Final = 10


class Slot(NamedTuple):
    """A matrix as it is stored, its genes, its name in Python, and the layer asked for."""

    values: Any
    var: Any
    where: str
    layer: str | None

    def code(self, for_sparse: str, for_dense: str) -> str:
        """Python that changes the values, written with ``{0}`` for the matrix."""
        is_raw = self.where == "adata.raw.X"
        change = for_sparse if sparse.issparse(self.values) else for_dense
        start = "adata = adata.raw.to_adata(); " if is_raw else ""
        return start + change.format("adata.X" if is_raw else self.where)


def slot_name(layer: str | None) -> str:
    """The slot as one writes it in Python: ``adata.X``, or a layer of `adata`."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def slot(adata: AnnData, layer: str | None) -> Slot:
    """`X` (None), a layer, or `adata.raw`; a layer that is called "raw" comes before the latter."""
    if layer == RAW and RAW not in adata.layers and adata.raw is not None:
        return Slot(adata.raw.X, adata.raw.var, "adata.raw.X", layer)
    if layer is None:
        return Slot(adata.X, adata.var, slot_name(layer), layer)
    elsewhere = _elsewhere(adata, layer) if isinstance(layer, str) else ""
    key_in(layer, adata.layers, "adata.layers", elsewhere)
    return Slot(adata.layers[layer], adata.var, slot_name(layer), layer)


def is_binned(adata: AnnData, layer: str | None) -> bool:
    """Whether `pp.bin_expression` wrote the layer."""
    record = None if layer is None else adata.uns.get(layer)
    return isinstance(record, Mapping) and "edges" in record


def matrix(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Values of the genes, finite and not negative, as canonical CSR."""
    return _values(adata, slot(adata, layer))


def counts(adata: AnnData, layer: str | None, *, only_x: bool = False) -> Csr:
    """Raw counts of the genes as canonical CSR.

    With `only_x` no other slot can be chosen, and none is offered.
    """
    return noted_counts(adata, layer, only_x=only_x)[0]


def noted_counts(adata: AnnData, layer: str | None, *, only_x: bool = False) -> Noted:
    """`counts`, and what the caller has to record of them."""
    source = slot(adata, layer)
    csr = _values(adata, source)
    is_float16 = getattr(source.values, "dtype", None) == np.float16
    if is_float16 and csr.data.max(initial=0) > _FLOAT16_WHOLE:
        warnings.warn(
            f"{source.where} is of float16, which has all whole numbers up to "
            f"{_FLOAT16_WHOLE:,} only; larger counts were rounded when it was made.",
            stacklevel=3,
        )
    if are_whole(csr.data):
        return csr, {}
    rounded = nearly_whole(csr.data)
    if rounded is None:
        raise ValueError(_not_counts(adata, source, csr, only_x=only_x))
    n_rounded = int((rounded != csr.data).sum())
    return _with_data(csr, rounded), {"n_rounded": n_rounded}


def nearly_whole(values: np.ndarray) -> np.ndarray | None:
    """Whole numbers if values are off by no more than float32 loses over a logarithm; else None."""
    whole = np.rint(values)
    size = np.abs(whole)
    tolerance = np.minimum(_EPSILON * (1 + size) * (1 + np.log1p(size)), _MAX_ROUND_OFF)
    return whole if (np.abs(values - whole) <= tolerance).all() else None


def stored(adata: AnnData, source: Slot) -> sparse.csr_matrix:
    """What a slot holds of the genes, whatever the values."""
    only_genes(features_of(adata.var))
    if source.values is None:
        raise ValueError(
            f"{source.where} is empty (None); put the values there or name the layer that "
            f"holds them. {_elsewhere(adata, source.layer)}".rstrip()
        )
    can_be_copied(source.values, source.where)
    csr = as_csr(source.values, source.where)
    return csr[:, _columns_of_raw(adata)] if source.where == "adata.raw.X" else csr


# -- tokens


def look_binned(top: float, n_at_top: int, shape: tuple[int, int], n_bins: int) -> bool:
    """Whether a matrix never exceeds a few bins, or meets their number exactly in most cells.

    `top` is the largest value, and `n_at_top` the number of cells that hold it.
    """
    is_large = shape[0] >= _MIN_CELLS and shape[1] >= _MIN_GENES
    at_top = n_bins <= _FEW_BINS or (top == n_bins and n_at_top > shape[0] / 2)
    return bool(is_large and 0 < top <= n_bins and at_top)


def tokens(adata: AnnData, layer: str) -> tuple[sparse.csr_matrix, Mapping[str, Any]]:
    """A layer that pp.bin_expression wrote, and its record in `uns`."""
    remedy = "Bin the counts first: pp.bin_expression(adata)."
    key_in(layer, adata.layers, "adata.layers", remedy)
    record = adata.uns.get(layer)
    if not isinstance(record, Mapping) or "n_bins" not in record.get("params", {}):
        raise ValueError(
            f"adata.uns[{layer!r}] does not say how adata.layers[{layer!r}] was binned; write "
            f"both with pp.bin_expression."
        )
    only_genes(features_of(adata.var), then=", and bin again: pp.bin_expression(adata)")
    csr = matrix(adata, layer)
    largest = int(record["params"]["n_bins"])
    if csr.data.max(initial=0) > largest or not are_whole(csr.data):
        bad = (csr.data > largest) | (csr.data != np.trunc(csr.data))
        raise ValueError(
            f"adata.layers[{layer!r}] may hold bins 0 to {largest}; found "
            f"{first_of(csr, bad, adata)}. Bin again."
        )
    return csr, record


def totals_of(genes: pd.Index) -> dict[str, int | str]:
    """Record of the genes whose counts make a cell's total: their number, and a checksum of names.

    The order of the names does not matter.
    """
    names = "\n".join(sorted(str(gene) for gene in genes))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    return {"n_genes": len(genes), "genes_digest": digest}


# -- matrices, whatever they are stored as


def can_be_copied(values: Any, where: str) -> None:
    """Refuse a sparse matrix of a type that SciPy cannot copy."""
    if sparse.issparse(values) and values.dtype == np.float16:
        raise ValueError(
            f"{where} is a sparse matrix of float16, which SciPy cannot copy: {where}.data = "
            f"{where}.data.astype('float32')."
        )


def as_csr(values: Any, where: str) -> sparse.csr_matrix:
    """Any matrix of numbers (sparse, dense, lazy, masked, of objects) as canonical CSR in memory.

    The user's own arrays are never changed.
    """
    csr = sparse.csr_matrix(_as_numbers(in_core(values), where))
    if not csr.has_canonical_format:
        csr = csr.copy()  # it shares the arrays of the user's matrix
        csr.sum_duplicates()
    return csr


def in_core(values: Any) -> Any:
    """A matrix as it is, or read if it is lazy (dask) or on disk."""
    if hasattr(values, "compute"):
        values = values.compute()
    return values.to_memory() if hasattr(values, "to_memory") else values


def are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers; taken in parts that stay in the processor's cache."""
    starts = range(0, len(values), 2**16) if values.dtype.kind == "f" else ()
    parts = (values[start : start + 2**16] for start in starts)
    return all((np.trunc(part) == part).all() for part in parts)


def are_finite(values: np.ndarray) -> bool:
    """Whether all values are finite and none is negative."""
    # a NaN makes both NaN
    return bool(values.min(initial=0) >= 0 and np.isfinite(values.max(initial=0)))


def first_of(csr: sparse.csr_matrix, is_bad: np.ndarray, adata: AnnData) -> str:
    """The first stored value that is bad: its value, cell and gene."""
    i = int(np.flatnonzero(is_bad)[0])
    cell = adata.obs_names[int(np.searchsorted(csr.indptr, i, side="right") - 1)]
    return f"{csr.data[i]:g} (cell {cell!r}, gene {adata.var_names[csr.indices[i]]!r})"


def _with_data(csr: sparse.csr_matrix, data: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix((data, csr.indices, csr.indptr), shape=csr.shape)


def _as_numbers(values: Any, where: str) -> Any:
    """A sparse matrix or array in a type that sparse matrices have."""
    if isinstance(values, np.ma.MaskedArray):
        if n := np.ma.count_masked(values):
            raise ValueError(
                f"{where} is a masked array, and {n} of its values are masked. "
                f"If these are zeros: {where} = {where}.filled(0)."
            )
        values = values.data
    if sparse.issparse(values):
        if values.dtype == np.float16:
            csr = values.tocsr()
            return _with_data(csr, csr.data.astype(np.float32))
        return values.astype(np.uint8) if values.dtype == bool else values
    array = np.asarray(values)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{where} holds objects that are not numbers ({error}); expected raw counts."
            ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {array.dtype}, expected numbers: raw counts.")
    wider = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}
    return array.astype(wider.get(array.dtype, array.dtype), copy=False)


def _values(adata: AnnData, source: Slot) -> sparse.csr_matrix:
    csr = stored(adata, source)
    if are_finite(csr.data):
        return csr
    is_bad, what = ~np.isfinite(csr.data), "NaN or infinite"
    if not is_bad.any():
        is_bad, what = csr.data < 0, "negative"
    remedy = ""
    if np.isnan(csr.data).any() and not np.isinf(csr.data).any():
        for_dense = "{0} = np.nan_to_num(np.asarray({0}, dtype=float))"
        code = source.code("{0}.data = np.nan_to_num({0}.data)", for_dense)
        why = "If a gene that was not measured is to count as not expressed"
        remedy = f"{why}: {code}. "
    raise ValueError(
        f"{source.where} holds {what} values, first {first_of(csr, is_bad, adata)}; expected raw "
        f"counts, zero or more. {remedy}{_elsewhere(adata, source.layer)}".rstrip()
    )


def _columns_of_raw(adata: AnnData) -> np.ndarray:
    """Where the genes of `adata` are in `adata.raw`, by name; antibodies there are left aside."""
    is_gene = features_of(adata.raw.var, "adata.raw.var").is_gene
    names = pd.Index(adata.raw.var_names).where(is_gene, None)
    missing = adata.var_names[~adata.var_names.isin(names)]
    twice = adata.var_names[adata.var_names.isin(names[names.duplicated() & is_gene])]
    if len(missing) or len(twice):
        problem, then = f"no gene {listed(missing)}", ""
        if not len(missing):
            problem = f"more than one gene {listed(twice)}"
            then = ", then pp.align_genes"
        raise ValueError(
            f"adata.raw has {problem} of adata.var_names, so its counts cannot be matched by "
            f"name. Start from it: adata = adata.raw.to_adata(){then}."
        )
    return np.asarray(names.get_indexer_for(adata.var_names))


# -- what to say where there are no counts


def _not_counts(adata: AnnData, source: Slot, csr: Csr, *, only_x: bool) -> str:
    """What was found, what it looks like, and where counts are or how they are made."""
    unit = _unit_of(csr) or ("log" if "log1p" in adata.uns else "")
    is_small = not unit and csr.data.max() < _LARGEST_LOG
    hint = " It looks log-transformed." if unit == "log" or is_small else ""
    if unit == "scaled":
        hint = " It looks scaled to a common total."
    if unit in ("", "fractions"):
        for_dense = "{0} = np.rint(np.asarray({0}, dtype=float))"
        code = source.code("{0} = {0}.rint()", for_dense)
        hint += (
            f" {'These look like' if unit else 'If these are'} fractions of counts (SoupX, "
            f"CellBender, EM counts of Alevin or RSEM): round them, {code}."
        )
    if not only_x:
        layers = listed(filter(None, adata.layers.keys()))
        hint += f" Name the layer with the raw counts; this object has layers {layers}."
    first = first_of(csr, csr.data != np.trunc(csr.data), adata)
    return (
        f"{source.where} must hold raw counts (whole numbers); first other value: {first}.{hint} "
        f"{_elsewhere(adata, source.layer, only_x=only_x)}".rstrip()
    )


def _elsewhere(adata: AnnData, layer: str | None, *, only_x: bool = False) -> str:
    """Two other slots that hold whole numbers, and how each is used."""
    slots = _slots(adata, only_x=only_x)
    return " ".join([hint for name, hint in slots if name != (layer or "X")][:2])


def _slots(adata: AnnData, *, only_x: bool) -> Iterator[tuple[str, str]]:
    """Every slot that holds whole numbers, and what to do if these are wanted."""
    for name, values in adata.layers.items():
        if name is not None and not is_binned(adata, name) and _hold_counts(values):
            pass_it = "" if only_x else f"pass layer={name!r}, or "
            where = slot_name(name)
            use = f"{pass_it}adata.X = {where}.copy()"
            yield name, f"{where} holds whole numbers: {use}."
    if adata.raw is not None and _hold_counts(adata.raw.X):
        pass_it = "" if only_x or RAW in adata.layers else f"pass layer={RAW!r}, or "
        use = f"{pass_it}adata = adata.raw.to_adata()"
        yield "", f"adata.raw holds whole numbers: {use}."
    if adata.X is not None and not only_x and _hold_counts(adata.X):
        yield "X", "adata.X holds whole numbers: leave layer out."


def _hold_counts(values: Any) -> bool:
    """Whether these could be counts: whole numbers, some above zero."""
    try:
        data = as_csr(values, "").data
    except (TypeError, ValueError):
        return False
    return bool(data.max(initial=0) > 0 and are_finite(data) and are_whole(data))


def _unit_of(csr: sparse.csr_matrix) -> str:
    """``log`` or ``scaled`` if cells are counts in that unit, ``fractions`` if many are whole."""
    if (np.trunc(csr.data) == csr.data).mean() > 0.05:
        return "fractions"
    n = min(csr.shape[0], _N_SAMPLED)
    rows = np.split(csr.data[: csr.indptr[n]].astype(np.float64), csr.indptr[1:n])
    rows = [row[row > 0] for row in rows if (row > 0).any()]
    bounded = [np.minimum(row, _LARGEST_LOG) for row in rows]
    in_units = {
        "scaled": rows,
        "log": [np.expm1(row) for row in bounded],
        "log2": [np.exp2(row) - 1 for row in bounded],
    }
    for unit, values in in_units.items():
        if rows and np.median([_in_steps(row) for row in values]) > 0.9:
            return unit.removesuffix("2")
    return ""


def _in_steps(values: np.ndarray) -> float:
    """Share of the values above the smallest that are whole multiples of it, up to 50 times."""
    steps = values[values > values.min()] / values.min()
    is_whole = (np.abs(steps - np.rint(steps)) < 0.02) & (steps < 50)
    return float(is_whole.mean()) if len(steps) else 0.0
