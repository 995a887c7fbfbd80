"""Files of a signature, as gene sets (GMT) and as a table (CSV); whether a corpus is whole."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, listed
from scbert_cll._corpus.format import read_manifest, states
from scbert_cll._disk.formats import as_text, read_json, same, sha256, versions
from scbert_cll._disk.in_place import Same, Write, replace_all
from scbert_cll._signature import gene_sets, weights
from scbert_cll._signature import record as signature_record
from scbert_cll._version import __version__

__all__ = ["check_corpus", "read_csv", "read_gmt", "write_csv", "write_gmt"]

_COLUMNS = "columns"  # kinds of the columns, in the .json beside a .csv
_SUM = "sha256"  # of the .csv, there
_KIND = re.compile(r"object|bool|u?int(8|16|32|64)|float(16|32|64)")  # of a column
_FORMAT_VERSION = 2  # of that .json; 2: with the kinds of the columns

type Facts = Mapping[str, Any]


def check_corpus(path: str | PathLike[str]) -> pd.DataFrame:
    """Compare every file of a corpus with its checksum, and the folder with its manifest.

    Reading a corpus finds out about damaged chunks, too, but when it comes to them. This reads all
    of it: after copying one, or before days of training.

    Parameters
    ----------
    path
        A corpus of :func:`~scbert_cll.pp.build_corpus`.

    Returns
    -------
    One row per file: ``file``, ``bytes`` it should have, ``is_whole``, and ``problem``
    (``missing``, its size, ``checksum differs``, ``not in the manifest``; else empty). A folder
    that the manifest does not list is one row.

    Raises
    ------
    FileNotFoundError
        There is no corpus.
    ValueError
        It is something else, or of a newer version; or its manifest is damaged.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> rna = sc_cll.datasets.cll_toy(n_cells=200, n_genes=200)["rna"]
    >>> rna.write_h5ad(f"{folder}/a.h5ad")
    >>> table = sc_cll.pp.build_corpus([f"{folder}/a.h5ad"], f"{folder}/corpus.zarr", vocab=rna)
    >>> bool(sc_cll.io.check_corpus(f"{folder}/corpus.zarr")["is_whole"].all())
    True
    """
    files = states(read_manifest(path))
    table = pd.DataFrame(files, columns=["file", "bytes", "problem"])
    table.insert(2, "is_whole", table["problem"] == "")
    return table


def write_gmt(
    signature: AnnData | pd.DataFrame,
    path: str | PathLike[str],
    *,
    name: str = "CD49D",
    key: str = _keys.SIGNATURE,
    overwrite: bool = False,
) -> None:
    """Write a signature as gene sets, which every program for gene sets reads.

    The selected genes become two sets, ``NAME_UP`` and ``NAME_DN``, each with the clearest gene
    first; one of them where all genes go in one direction. Weights are lost: :func:`write_csv`
    keeps them.

    Parameters
    ----------
    signature
        An object with a signature of :func:`~scbert_cll.tl.signature`; or a table with ``gene`` and
        ``weight``, or one of `tl.signature`, of which the selected genes are written.
    path
        File to write, ``.gmt``; ``.gmt.gz`` is compressed.
    name
        Name of the sets, one word.
    key
        Where in `uns` the signature is.
    overwrite
        Replace a file that exists.

    Returns
    -------
    None. Each line has the name of a set, where it is from (version of the package, classes,
    donors, threshold) and genes.

    Raises
    ------
    FileExistsError
        The file exists.
    KeyError
        There is no signature.
    ValueError
        The signature is empty, or a name has blanks in it.

    Examples
    --------
    >>> import pandas as pd, scbert_cll as sc_cll
    >>> from tempfile import mkdtemp
    >>> path = f"{mkdtemp()}/signature.gmt"
    >>> sc_cll.io.write_gmt(pd.DataFrame({"gene": ["ITGA4", "CXCR4"], "weight": [1.0, -1.0]}), path)
    >>> sc_cll.io.read_gmt(path)
    {'CD49D_UP': ['ITGA4'], 'CD49D_DN': ['CXCR4']}
    """
    path = Path(path)
    gene_sets.check_gmt_name(name)
    table, facts = _parts(signature, key)
    n = int(table["selected"].sum()) if "selected" in table else len(table)
    reason = str(facts.get("reason", ""))
    weights.check_not_empty(n, reason, "a GMT file has no set without genes")
    weight = weights.weights(table)
    gene_sets.check_gmt_genes(weight.index)
    up, down = weight.index[weight > 0], weight.index[weight < 0]
    halves = {name + weights.UP: list(up), name + weights.DOWN: list(down)}
    sets = {half: genes for half, genes in halves.items() if genes}
    lines = ["\t".join([half, _origin(facts), *genes]) for half, genes in sets.items()]
    data = ("\n".join(lines) + "\n").encode()
    data = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
    whole: Same = lambda aside: same(gene_sets.read_gmt(aside), sets)  # noqa: E731
    _write({path: (lambda aside: aside.write_bytes(data), whole)}, overwrite=overwrite)


def write_csv(
    signature: AnnData | pd.DataFrame,
    path: str | PathLike[str],
    *,
    key: str = _keys.SIGNATURE,
    overwrite: bool = False,
) -> None:
    """Write a signature with the evidence for every tested gene.

    :func:`read_csv` reads the table back to the bit, and :func:`~scbert_cll.tl.score_signature`
    takes it as it is. Where it is from goes to a file of the same name that ends with ``.json``.
    Other programs must not take a gene called NA for a missing one: ``pandas.read_csv(path,
    keep_default_na=False)``.

    Parameters
    ----------
    signature
        An object with a signature of :func:`~scbert_cll.tl.signature`, or its table.
    path
        File to write, ``.csv``.
    key
        Where in `uns` the signature is.
    overwrite
        Replace files that exist.

    Returns
    -------
    None. The ``.csv`` has the columns of ``uns["signature"]["genes"]``; the ``.json`` the versions
    of what wrote it, the checksum of the ``.csv``, the kinds of its columns, the parameters, the
    numbers of donors and genes, and the reason if nothing was selected (for a table: versions and
    kinds alone).

    Raises
    ------
    FileExistsError
        One of the files exists.
    KeyError
        There is no signature.
    ValueError
        No gene was tested, or the file is not to be a ``.csv``.

    Examples
    --------
    >>> import pandas as pd, scbert_cll as sc_cll
    >>> from tempfile import mkdtemp
    >>> path = f"{mkdtemp()}/signature.csv"
    >>> sc_cll.io.write_csv(pd.DataFrame({"gene": ["ITGA4", "CXCR4"], "weight": [1.0, -1.0]}), path)
    >>> sc_cll.io.read_csv(path)
        gene  weight
    0  ITGA4     1.0
    1  CXCR4    -1.0
    """
    path = Path(path)
    choice(path.suffix, (".csv",), "The ending of the file")
    table, facts = _parts(signature, key)
    reason = str(facts.get("reason", ""))
    weights.check_not_empty(len(table), reason, "there is no gene to write")
    table = _tidy(table)
    kinds = {str(name): str(column.dtype) for name, column in table.items()}
    content = _as_csv(table)
    checksum = hashlib.sha256(content.encode()).hexdigest()
    facts = {"versions": versions("pandas", "numpy"), _COLUMNS: kinds, **facts}
    head = {"scbert_cll": __version__, "format_version": _FORMAT_VERSION}
    origin = _plain({**head, **facts, _SUM: checksum})
    text = json.dumps(origin, indent=1, ensure_ascii=False) + "\n"
    of_table = as_text(content, lambda aside: same(_read(aside, kinds), table))
    of_origin = as_text(text, lambda aside: same(read_json(aside), origin))
    _write({path: of_table, path.with_suffix(".json"): of_origin}, overwrite=overwrite)


def read_csv(path: str | PathLike[str]) -> pd.DataFrame:
    """Read the table of a signature that :func:`write_csv` wrote, as it was.

    Numbers come back to the bit, and names stay names: a gene called NA, 1-Mar or 7157 is text.

    Parameters
    ----------
    path
        The ``.csv``. The ``.json`` beside it says which columns are numbers; without it, those are
        whose every field is a number or empty, ``gene`` never.

    Returns
    -------
    The table: text (a missing one is empty), numbers and bools.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The ``.json`` is of another table.

    Warns
    -----
    UserWarning
        The ``.csv`` has changed since it was written: the ``.json`` is of an earlier version.
    """
    path = _checks.files.plain_file(path)
    origin = path.with_suffix(".json")
    facts = read_json(_checks.files.plain_file(origin)) if origin.exists() else {}
    kinds = facts.get(_COLUMNS)
    words = kinds.values() if isinstance(kinds, Mapping) else [None]
    if kinds is not None and not all(_KIND.fullmatch(str(word)) for word in words):
        raise ValueError(
            f"{origin.name} is damaged: its columns must map names to kinds such as 'float64'. "
            "Remove it, or get it again."
        )
    table = _read(path, kinds)
    if (checksum := sha256(path)) != facts.get(_SUM, checksum):
        warnings.warn(
            f"{path.name} has changed since it was written: {origin.name} says where an earlier "
            f"version is from. Write both again with sc_cll.io.write_csv(..., overwrite=True).",
            stacklevel=2,
        )
    return table


def read_gmt(path: str | PathLike[str]) -> dict[str, list[str]]:
    """Read sets of genes from a GMT file.

    Parameters
    ----------
    path
        A ``.gmt`` file, as MSigDB has them; compressed (``.gz``) or not.

    Returns
    -------
    Genes of each set, by name, in the order of the file; a gene that a set names twice once.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A line has not a name, a description and genes, parted by tabs, or two sets have the same
        name.
    """
    return gene_sets.read_gmt(Path(path))


def _parts(signature: AnnData | pd.DataFrame, key: str) -> tuple[pd.DataFrame, Facts]:
    """The table, and the plain values that go with it."""
    if not isinstance(signature, AnnData):
        weights.check_table(signature)
        return signature, {}
    record = signature_record.read(signature, key, "Or hand over a signature.")
    facts = {k: v for k, v in record.items() if not isinstance(v, pd.DataFrame)}
    return record["genes"], facts


def _origin(facts: Facts) -> str:
    """Where a signature is from, in one word: some readers part a line at every blank."""
    words = [f"scbert_cll_{__version__}"]
    if params := facts.get("params"):
        first, *_, last = params["classes"] if len(params["classes"]) else ("", "slope")
        words.append(f"{params['groupby']}:{last}_vs_{first}".removesuffix("_vs_"))
        words += [f"{facts['n_donors']}_donors", f"q<{params['alpha']:g}"]
    return re.sub(r"\s+", "_", ";".join(words))


def _plain(value: Any) -> Any:
    """Values that JSON has; a number without a value, or an infinite one, is a word."""
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _as_csv(table: pd.DataFrame) -> str:
    """Text of a table; a carriage return needs the quotes that pandas only gives to line feeds."""
    texts = [list(column) for _, column in table.items() if column.dtype == object]
    texts.append(list(table))
    is_quoted = any("\r" in field for fields in texts for field in fields)
    quoting: Any = csv.QUOTE_NONNUMERIC if is_quoted else csv.QUOTE_MINIMAL
    return str(table.to_csv(index=False, quoting=quoting, lineterminator="\n"))


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of NumPy's bools, integers and floats; all else as text, empty where missing."""
    columns = table.reset_index(drop=True).items()
    return pd.DataFrame({str(name): _tidy_column(column) for name, column in columns})


def _tidy_column(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return column
    if pd.api.types.is_numeric_dtype(column) and column.dtype != object:
        # pandas' own numbers, which may be missing
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan))
    return column.astype(object).where(column.notna(), "").map(str).astype(object)


def _read(path: Path, kinds: Mapping[str, str] | None) -> pd.DataFrame:
    """A table whose columns have these kinds, or those that their fields look like."""
    try:
        text = _checks.files.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not text in UTF-8, as io.write_csv writes it; save it as UTF-8."
        ) from error
    # newline="": every line break in a field stays as it is
    lines = StringIO(text, newline="")
    fields = pd.read_csv(lines, dtype=str, keep_default_na=False).astype(object)
    if kinds is None:
        kinds = {str(name): _kind(str(name), column) for name, column in fields.items()}
    if list(kinds) != list(fields):
        raise ValueError(
            f"{path.with_suffix('.json')} is of another table: it has the columns "
            f"{listed(kinds, 12)}, and {path.name} has {listed(fields, 12)}. Put the .json that "
            f"was written with it beside it, or remove this one."
        )
    return pd.DataFrame({k: _as_kind(fields[k], kind) for k, kind in kinds.items()})


def _kind(name: str, fields: pd.Series) -> str:
    """What the fields of a column are; where all are empty, text."""
    filled = fields[fields != ""]
    is_full = len(filled) == len(fields)
    if name == "gene" or filled.empty:
        return "object"
    if is_full and set(filled) <= {"True", "False"}:
        return "bool"
    is_name = filled.str.match(r"[+-]?0\d").any()  # such as 01
    if is_name or pd.to_numeric(filled, errors="coerce").isna().any():
        return "object"
    return "int64" if is_full and filled.str.fullmatch(r"[+-]?\d+").all() else "float64"


def _as_kind(fields: pd.Series, kind: str) -> pd.Series:
    if kind == "bool":
        return fields == "True"
    if kind == "object":
        return fields
    number = int if np.dtype(kind).kind in "iu" else float
    return pd.Series([number(field or "nan") for field in fields], dtype=kind)


def _write(files: Mapping[Path, tuple[Write, Same]], *, overwrite: bool) -> None:
    """Write all files aside, read them back, then rename them: each is whole or not there."""
    for path in files:
        _checks.files.new_file(path, overwrite=overwrite)
    replace_all(files)
