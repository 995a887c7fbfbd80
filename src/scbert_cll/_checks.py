"""Every check of a user's input, and the sentence that goes with it.

A check never changes what it looks at. It returns what the caller needs next (a column, a matrix), or raises with what
was expected, what was found, the offenders by name and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _keys

# A matrix at least this large whose largest value is no more than the number of bins is taken for binned data.
_LOOKS_BINNED_CELLS, _LOOKS_BINNED_GENES = 50, 200
# With more bins than this raw counts may stay below them, too; tokens then give themselves away by their common maximum.
_FEW_BINS = 10


def listed(items: Iterable[Any], n: int = 5) -> str:
    """Say the first `n` items by name and how many more there are."""
    items = [str(i) for i in items]
    shown = ", ".join(repr(i) for i in items[:n]) or "none"
    return shown + (f" and {len(items) - n} more" if len(items) > n else "")


def anndata(adata: Any, *, repeated_genes: bool = False) -> AnnData:
    """An AnnData in memory with cells, genes and unique names (genes may repeat where they are going to be summed)."""
    if not isinstance(adata, AnnData):
        hint = ' Take one modality, e.g. mdata["rna"].' if isinstance(getattr(adata, "mod", None), Mapping) else ""
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}.{hint}")
    if adata.isbacked:
        raise ValueError(f"adata is backed by {str(adata.filename)!r}; read it into memory first: adata = adata.to_memory()")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"Expected at least one cell and one gene, found {adata.n_obs} cells x {adata.n_vars} genes.")
    unique(adata.obs_names, "obs_names", "adata.obs_names_make_unique()")
    if not repeated_genes:
        unique(adata.var_names, "var_names", "adata.var_names_make_unique(), or pp.align_genes to sum them")
    return adata


def target(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or the user's own, which then must not be a view."""
    if copy:
        return adata.copy()
    if adata.is_view:
        raise ValueError(
            "adata is a view of another AnnData, so what is written to it would not reach the object you keep; "
            "make it its own object first (adata = adata.copy()) or pass copy=True."
        )
    return adata


def unique(names: pd.Index, what: str, remedy: str) -> None:
    """No name twice."""
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(f"{what} must be unique; found more than once: {listed(twice)}. Remedy: {remedy}.")


def gene_names(names: pd.Index, what: str) -> pd.Index:
    """Gene names that can be written one a line: at least one, none empty, none twice."""
    bad = names[[not n or n != n.strip() or len(n.splitlines()) > 1 for n in names]]
    if len(bad) or not len(names):
        raise ValueError(f"{what} needs names without blanks around them or line breaks; found {listed(bad)}.")
    unique(names, what, "keep one of each")
    return names


def number_in(value: Any, what: str, least: float, most: float, *, whole: bool = False) -> None:
    """A number within limits; no truth value, no text."""
    kind = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{what} must be a {'whole ' * whole}number from {least:g} to {most:g}; found {value!r}.")


def share(value: float, what: str) -> None:
    """A number from 0 to 1."""
    number_in(value, what, 0, 1)


def two_columns(table: pd.DataFrame, what: str) -> None:
    """A table of aliases in a form that is known."""
    if table.shape[1] != 2:
        raise ValueError(
            f"{what} must have columns 'alias' and 'symbol', or HGNC's 'symbol' and 'alias_symbol' / 'prev_symbol', "
            f"or two columns without a header; it has {listed(table.columns, 12)}."
        )


def vocabulary_coverage(found: pd.DataFrame, missing: pd.Index, n_vocab: int, *, min_matched: float) -> None:
    """Enough of a vocabulary is in the data (`found` as `GeneVocab.resolve` makes it)."""
    n_matched = n_vocab - len(missing)
    if n_matched and n_matched >= min_matched * n_vocab:
        return
    other = found.loc[found["index"] < 0, "name"]
    ensembl = [pd.Series(names, dtype=object).str.match(r"ENS[A-Z]*G\d").mean() > 0.5 for names in (other, missing)]
    if len(other) and ensembl[0] != ensembl[1]:
        kinds = ("Ensembl ids", "symbols") if ensembl[0] else ("symbols", "Ensembl ids")
        hint = f"The data are named by {kinds[0]}, the vocabulary by {kinds[1]}: put the same kind into adata.var_names."
    elif other.str.upper().isin(missing).sum() > max(n_matched, 0.2 * len(other)):
        hint = "The names look like mouse symbols: map them to their human orthologues first."
    else:
        hint = (
            "Give the matrix with all genes (not only highly variable ones), an alias table (aliases=), "
            "or lower min_matched on purpose."
        )
    raise ValueError(
        f"{n_matched} of {n_vocab} vocabulary genes are in adata ({n_matched / n_vocab:.1%}), expected at least "
        f"{min_matched:.0%}. Only in adata ({len(other)}): {listed(other, 3)}; only in the vocabulary "
        f"({len(missing)}): {listed(missing, 3)}. {hint}"
    )


def choice(value: str, allowed: Sequence[str], what: str) -> str:
    """One of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {listed(allowed, 20)}; found {value!r}.")
    return value


def key_in(key: str, store: Any, where: str, remedy: str = "") -> None:
    """A key that exists; the ones that do are listed."""
    if key not in store:
        there = listed([k for k in store if k is not None], 12)  # layers[None] is X
        raise KeyError(f"{key!r} is not in {where}; it has {there}." + (f" {remedy}" if remedy else ""))


def obs_column(adata: AnnData, key: str, *, allow_missing: bool = True) -> pd.Series:
    """A column of `obs`, without missing values where they cannot be allowed."""
    key_in(key, adata.obs, "adata.obs")
    column: pd.Series = cast("pd.DataFrame", adata.obs)[key]
    if not allow_missing and column.isna().any():
        bad = adata.obs_names[column.isna()]
        raise ValueError(f"adata.obs[{key!r}] is missing for {len(bad)} cells ({listed(bad)}); fill it or drop these cells.")
    return column


def matrix(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`X` or a layer as canonical CSR, whatever it was (csr, csc, csr_array, dense); finite and not negative."""
    if layer is not None:
        key_in(layer, adata.layers, "adata.layers")
    found = adata.X if layer is None else adata.layers[layer]
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if found is None:
        raise ValueError(f"{where} is empty (None); put the counts there or name the layer that holds them.")
    csr = sparse.csr_matrix(found)
    if not csr.has_canonical_format:
        csr = csr.copy()  # it shares the arrays of the user's matrix
        csr.sum_duplicates()
    if csr.data.min(initial=0) >= 0 and np.isfinite(csr.data.max(initial=0)):  # a NaN makes both NaN
        return csr
    bad, what = ~np.isfinite(csr.data), "NaN or infinite"
    if not bad.any():
        bad, what = csr.data < 0, "negative"
    raise ValueError(f"{where} holds {what} values, first {_first(csr, bad, adata)}; expected raw counts, zero or more.")


def counts(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`matrix`, and all values whole numbers: raw counts."""
    csr = matrix(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if not are_whole(csr.data):
        bad = csr.data != np.trunc(csr.data)
        log = "log1p" in adata.uns or csr.data.max() < 20
        hint = " It looks log-transformed." if log else ""
        raise ValueError(
            f"{where} must hold raw counts (whole numbers); first other value: {_first(csr, bad, adata)}.{hint} "
            f"Name the layer with the raw counts; this object has layers {listed(filter(None, adata.layers.keys()))}."
        )
    return csr


def are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers; taken in parts that stay in the processor's cache."""
    parts = (values[i : i + 2**16] for i in range(0, len(values), 2**16)) if values.dtype.kind == "f" else ()
    return all((np.trunc(part) == part).all() for part in parts)


def is_binned(adata: AnnData, layer: str | None) -> bool:
    """A layer that `pp.bin_expression` wrote."""
    return layer is not None and isinstance(adata.uns.get(layer), Mapping) and "edges" in adata.uns[layer]


def not_binned(csr: sparse.csr_matrix, adata: AnnData, layer: str | None, n_bins: int) -> None:
    """Counts, not tokens: binning twice is a silent disaster."""
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if is_binned(adata, layer) or _looks_binned(csr, n_bins):
        raise ValueError(
            f"{where} looks binned already (its largest value is {csr.data.max(initial=0):g}, n_bins={n_bins}); "
            "bin raw counts, once."
        )


def _looks_binned(csr: sparse.csr_matrix, n_bins: int) -> bool:
    """A large matrix that never exceeds a few bins, or that meets the number of bins exactly in most cells."""
    large = csr.shape[0] >= _LOOKS_BINNED_CELLS and csr.shape[1] >= _LOOKS_BINNED_GENES and csr.nnz > 0
    if not large or (largest := csr.data.max()) > n_bins:
        return False
    if n_bins <= _FEW_BINS:
        return True
    at_top = np.searchsorted(csr.indptr, np.flatnonzero(csr.data == largest), side="right")
    return bool(largest == n_bins and len(np.unique(at_top)) > csr.shape[0] / 2)


def other_key(key_added: str, layer: str | None) -> None:
    """Results never replace the counts they are made from."""
    if key_added == layer:
        raise ValueError(f"key_added={key_added!r} is the layer with the counts and would replace it; take another name.")


def same_or_default(
    asked: Mapping[str, Any], edges: Any, default: Mapping[str, Any], fit_on: object
) -> dict[str, Any]:
    """The parameters `edges` were made with; what was asked for beside them must agree or be the default."""
    if not isinstance(edges, Mapping) or "edges" not in edges or not set(asked) <= set(edges.get("params", {})):
        raise ValueError("edges must be the whole entry that pp.bin_expression left in the other object: adata.uns['binned'].")
    if fit_on is not None:
        raise ValueError("edges= are ready-made, there is nothing to fit: give either edges or fit_on.")
    made = {name: type(value)(edges["params"][name]) for name, value in default.items()}
    if other := [f"{n}={v!r} (edges: {made[n]!r})" for n, v in asked.items() if v not in (default[n], made[n])]:
        raise ValueError(f"The edges were made with other parameters than {', '.join(other)}; leave these out.")
    return made


def edges_of_genes(edges: Any, adata: AnnData) -> Any:
    """Edges as they are, or, where every gene has its own, in the order of the genes of `adata`."""
    if not isinstance(edges, pd.DataFrame):
        return np.asarray(edges, dtype=np.float64)
    ours, theirs = adata.var_names.difference(edges.index), edges.index.difference(adata.var_names)
    if len(ours) or len(theirs):
        raise ValueError(
            f"The edges belong to other genes: without edges {listed(ours)}; edges without a gene {listed(theirs)}. "
            "Align first: pp.align_genes(adata, vocab) with the genes the edges were made on."
        )
    return edges.loc[adata.var_names]


def cells(adata: AnnData, which: Any, what: str) -> np.ndarray:
    """Chosen cells as a mask: all (None), a mask, a true/false column, or the training cells of a split column."""
    if which is None:
        return np.ones(adata.n_obs, dtype=bool)
    column = obs_column(adata, which, allow_missing=False) if isinstance(which, str) else which
    if isinstance(which, str) and not pd.api.types.is_bool_dtype(column):
        column = split(adata, which) == _keys.TRAIN
    mask = np.asarray(column)
    if mask.dtype != bool or mask.shape != (adata.n_obs,) or not mask.any():
        raise ValueError(
            f"{what} must choose at least one cell: a true/false value for each of the {adata.n_obs} cells, or the name "
            f"of such a column (or of a split column) of adata.obs; found {mask.dtype} of shape {mask.shape}, "
            f"{int(mask.sum()) if mask.dtype == bool else 0} true."
        )
    return mask


def no_empty_cells(totals: np.ndarray, adata: AnnData, where: str) -> None:
    """Every cell has at least one count."""
    empty = adata.obs_names[np.asarray(totals) == 0]
    if len(empty):
        raise ValueError(
            f"{len(empty)} cells have no counts in {where} ({listed(empty)}); "
            "remove them first: sc.pp.filter_cells(adata, min_counts=1)."
        )


def split(adata: AnnData, key: str, *, need: Sequence[str] = (_keys.TRAIN,)) -> pd.Series:
    """A split column: train / val / test only, with cells in every part that is needed."""
    key_in(key, adata.obs, "adata.obs", "Make one with pp.split_donors: donors, not cells, are held out.")
    column = cast("pd.DataFrame", adata.obs)[key].astype(object)
    other = sorted({str(v) for v in column.dropna().unique()} - set(_keys.SPLIT_ORDER))
    if other:
        raise ValueError(f"adata.obs[{key!r}] may hold {listed(_keys.SPLIT_ORDER)}; found also {listed(other)}.")
    for part in need:
        if not (column == part).any():
            raise ValueError(f"adata.obs[{key!r}] has no cell in {part!r}; it holds {listed(column.dropna().unique())}.")
    return column


def classes(labels: pd.Series, key: str, *, within: str = "") -> list[str]:
    """The classes that occur, in the column's own order; at least two."""
    categorical = labels.astype("category")
    found = [str(c) for c in categorical.cat.categories if (categorical == c).any()]
    if len(found) < 2:
        raise ValueError(f"adata.obs[{key!r}] needs at least two classes{within}; found {listed(found)}.")
    return found


def at_least(value: float, least: float, what: str) -> None:
    """A number that is not too small."""
    if value < least:
        raise ValueError(f"{what} must be at least {least:g}; found {value:g}.")


def enough_matched(names: pd.Index, known: pd.Index, what: str, *, min_matched: float) -> None:
    """Enough of the genes of an AnnData are known by name to `what`."""
    matched = names.isin(known)
    if matched.mean() < min_matched or not matched.any():
        raise ValueError(
            f"{matched.sum()} of {len(names)} genes of adata are in {what}, expected at least {min_matched:.0%}. "
            f"adata has {listed(names[~matched], 3)}; {what} has {listed(known[~known.isin(names)], 3)}. "
            "Use the same kind of name on both sides (symbols or Ensembl), or lower min_matched."
        )


def tokens(adata: AnnData, layer: str, n_bins: int | None = None) -> tuple[sparse.csr_matrix, Mapping[str, Any]]:
    """A layer that pp.bin_expression wrote, and its record in `uns`; with `n_bins`, no token may be larger."""
    key_in(layer, adata.layers, "adata.layers", "Bin the counts first: pp.bin_expression(adata).")
    record = adata.uns.get(layer)
    if not isinstance(record, Mapping) or "n_bins" not in record.get("params", {}):
        raise ValueError(
            f"adata.uns[{layer!r}] does not say how adata.layers[{layer!r}] was binned; write both with pp.bin_expression."
        )
    csr = matrix(adata, layer)
    largest = int(record["params"]["n_bins"]) if n_bins is None else n_bins
    if csr.nnz and csr.data.max() > largest:
        bad = csr.data > largest
        raise ValueError(f"adata.layers[{layer!r}] may hold bins 0 to {largest}; found {_first(csr, bad, adata)}. Bin again.")
    return csr, record


def same_binning(found: Mapping[str, Any], expected: Mapping[str, Any], layer: str) -> None:
    """Tokens cut the way the model's training data were."""
    differing = [
        f"{name} is {found['params'].get(name)!r}, the model has {expected['params'].get(name)!r}"
        for name in ("method", "n_bins", "target_sum")
        if found["params"].get(name) != expected["params"].get(name)
    ]
    if not differing and not _same_edges(found["edges"], expected["edges"]):
        differing = ["its edges were learned from other cells"]
    if differing:
        raise ValueError(
            f"adata.layers[{layer!r}] was binned differently from the model's training data: {'; '.join(differing)}. "
            "Bin the counts again like the model's: pp.bin_expression(adata, edges=model.binning)."
        )


def _same_edges(found: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        if not isinstance(found, pd.DataFrame):
            return False
        genes = expected.index.intersection(found.index)
        found, expected = found.loc[genes], expected.loc[genes]
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return found.shape == expected.shape and np.allclose(found, expected)


def tokens_in_every_cell(n_tokens: np.ndarray, adata: AnnData, layer: str) -> None:
    """Every cell has a gene to attend to."""
    empty = adata.obs_names[n_tokens == 0]
    if len(empty):
        raise ValueError(
            f"{len(empty)} cells have no gene above bin 0 among the model's genes in adata.layers[{layer!r}] "
            f"({listed(empty)}); remove them first."
        )


def labels(adata: AnnData, key: str, known: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Codes of a label column (-1 where missing), with no class that is unknown or has no cell among `rows`."""
    column = obs_column(adata, key)
    names = column.astype(object).where(column.notna(), None)
    unseen = sorted({str(v) for v in names.dropna().unique()} - set(known))
    if unseen:
        raise ValueError(f"adata.obs[{key!r}] has classes the model does not know: {listed(unseen)}; it knows {listed(known)}.")
    codes = pd.Categorical(names.map(lambda v: None if v is None else str(v)), categories=list(known)).codes
    absent = [c for i, c in enumerate(known) if not (codes[rows] == i).any()]
    if absent:
        raise ValueError(
            f"No labelled training cell of class {listed(absent)} in adata.obs[{key!r}]; "
            "split so that every class has training donors, or remove the class."
        )
    return codes.astype(np.int64)


def known_genes(genes: Sequence[str], adata: AnnData) -> None:
    """Genes that are in the data."""
    unknown = [g for g in genes if g not in adata.var_names]
    if unknown:
        raise KeyError(f"{listed(unknown)} not in adata.var_names, which has e.g. {listed(adata.var_names, 3)}.")


def weights(values: np.ndarray, key: str) -> None:
    """Weights that training can use."""
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(f"adata.obs[{key!r}] must hold finite weights of zero or more for all training cells; make it with pp.balance.")


def is_model(model: Any, names: Sequence[str]) -> None:
    """A model of this package (told by its class's name, since here nothing imports torch)."""
    if type(model).__name__ not in names:
        raise TypeError(f"Expected a model ({listed(names)}), found {type(model).__name__}.")


def groups(adata: AnnData, key: str) -> pd.Series:
    """A column of groups as a categorical in which every category occurs."""
    column = obs_column(adata, key).astype("category").cat.remove_unused_categories()
    if not column.notna().any():
        raise ValueError(f"adata.obs[{key!r}] is missing for all {adata.n_obs} cells; there is no group to summarise.")
    return column


def _first(csr: sparse.csr_matrix, bad: np.ndarray, adata: AnnData) -> str:
    """Name the first stored value that is bad: its value, cell and gene."""
    i = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(csr.indptr, i, side="right") - 1)
    return f"{csr.data[i]:g} (cell {adata.obs_names[row]!r}, gene {adata.var_names[csr.indices[i]]!r})"
