"""Ready gene vectors in the forms they come in, as a table with one row per gene name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from scbert_cll import _checks
from scbert_cll._checks.words import listed, unique

_HEAD: Final = 2**16  # bytes, of the first line and what follows it
_DIGITS: Final = 12  # of a number of vectors


def source(vectors: Any) -> str:
    """What to write down about where the vectors come from."""
    first = vectors[0] if isinstance(vectors, tuple) else vectors
    is_file = isinstance(first, str | PathLike)
    return Path(first).name if is_file else type(vectors).__name__


def read_vectors(vectors: Any) -> pd.DataFrame:
    """Vectors in any of the accepted forms as a table, one row per gene name."""
    if isinstance(vectors, pd.DataFrame):
        table = vectors
    elif hasattr(vectors, "index_to_key"):  # gensim's KeyedVectors
        table = pd.DataFrame(vectors.vectors, index=vectors.index_to_key)
    elif isinstance(vectors, str | PathLike):
        table = _read_file(vectors)
    elif isinstance(vectors, tuple) and len(vectors) == 2:
        table = _read_file(*vectors)
    else:
        raise TypeError(
            f"vectors must be a file, (npy file, gene names), a gensim KeyedVectors or a DataFrame "
            f"genes x dimensions; found {type(vectors).__name__}."
        )
    unique(table.index, "the gene names of vectors", "keep one row per gene")
    table = table.apply(pd.to_numeric, errors="coerce")
    values: pd.DataFrame = table.astype(np.float32)
    bad = values.index[~np.isfinite(values.to_numpy()).all(axis=1)]
    if len(bad):
        raise ValueError(f"vectors has non-finite values for {len(bad)} genes: {listed(bad)}.")
    return values


def _read_file(
    file: str | PathLike[str], names: str | PathLike[str] | Sequence[str] | None = None
) -> pd.DataFrame:
    """A word2vec file, text or binary, or an npy file with its names."""
    path = Path(file)
    try:
        if path.suffix == ".npy":
            return _read_npy(path, path.with_suffix(".txt") if names is None else names)
        if names is not None:
            raise ValueError("gene names are given beside a .npy file only")
        return _read_word2vec(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"vectors: {error}") from error
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"vectors: {path} cannot be read: {error}. Expected word2vec text or binary, or .npy "
            f"with a .txt of gene names."
        ) from error


def _read_npy(path: Path, names: str | PathLike[str] | Sequence[str]) -> pd.DataFrame:
    """Rows of the array get the names in the order of the list."""
    # mapped, since it is no larger than the file then
    values = np.load(_checks.files.plain_file(path), mmap_mode="r", allow_pickle=False)
    if isinstance(names, str | PathLike):
        names = _checks.files.read_text(names).split()
    genes = list(names)
    if not isinstance(values, np.ndarray):
        raise ValueError("it holds several arrays, as .npz does")
    if values.ndim != 2 or len(values) != len(genes):
        raise ValueError(f"its shape is {values.shape}, and there are {len(genes)} gene names")
    return pd.DataFrame(np.array(values), index=genes)


def _read_word2vec(path: Path) -> pd.DataFrame:
    """Binary, or text by pandas, which takes tabs and a missing header line, too."""
    data = _checks.files.read_bytes(path, lines=False)
    head, _, rest = data[:_HEAD].partition(b"\n")
    is_marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"))
    # UTF-16 has zeros
    if not is_marked and any(byte > 127 or byte == 0 for byte in rest[:4096]):
        return _read_binary(data, head)
    text = _checks.files.read_text(path)
    table: pd.DataFrame = pd.read_csv(
        StringIO(text),
        skiprows=int(len(text.partition("\n")[0].split()) == 2),  # the header line
        sep=r"\s+",
        header=None,
        index_col=0,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
    )
    return table


def _read_binary(data: bytes, head: bytes) -> pd.DataFrame:
    """Vectors behind their names; the first line says how many there are, and their size."""
    numbers = head.split()
    if len(numbers) != 2 or not all(n.isdigit() and len(n) < _DIGITS for n in numbers):
        raise ValueError(
            f"its first line must be two numbers, of vectors and of their dimensions; it begins "
            f"with {head[:20]!r}"
        )
    n, size = map(int, numbers)
    if not size or n * (size * 4 + 2) > len(data):
        raise ValueError(
            f"its first line says {n:,} vectors of {size:,} dimensions, and it holds "
            f"{len(data):,} bytes"
        )
    names, values, at = [], np.empty((n, size), dtype=np.float32), len(head) + 1
    for i in range(n):
        end = data.index(b" ", at)
        names.append(data[at:end].lstrip(b"\n").decode())
        values[i] = np.frombuffer(data, "<f4", size, end + 1)
        at = end + 1 + size * 4
    return pd.DataFrame(values, index=names)
