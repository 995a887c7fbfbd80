"""Files of a signature: gene sets (GMT) and its whole table (CSV), written and read; whether those of a corpus are whole."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import scbert_cll
from scbert_cll import _checks, _keys
from scbert_cll._corpus.format import read_manifest, states
from scbert_cll._signature import gene_sets
from scbert_cll._signature.weights import DOWN, UP, weights

__all__ = ["check_corpus", "read_gmt", "write_csv", "write_gmt"]


def check_corpus(path: str | PathLike[str]) -> pd.DataFrame:
    """Compare every file of a corpus with its checksum.

    Reading a corpus finds out about damaged chunks, too, but when it comes to them. This reads all of it: after copying one, or before days of training.

    Parameters
    ----------
    path
        A corpus of :func:`~scbert_cll.pp.build_corpus`.

    Returns
    -------
    One row per file: ``file``, ``bytes`` it should have, ``is_whole``, and ``problem`` (``missing``, its size, ``checksum differs``; else empty).

    Raises
    ------
    FileNotFoundError
        There is no corpus.
    ValueError
        It is something else, or of a newer version.

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
    table = pd.DataFrame(states(read_manifest(path)), columns=["file", "bytes", "problem"])
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

    The selected genes become two sets, ``NAME_UP`` and ``NAME_DN``, each with the clearest gene first; one of them where all genes go in
    one direction. Weights are lost: :func:`write_csv` keeps them.

    Parameters
    ----------
    signature
        An object with a signature of :func:`~scbert_cll.tl.signature`; or a table with ``gene`` and ``weight``, or one of `tl.signature`, of which the
        selected genes are written.
    path
        File to write, ``.gmt``.
    name
        Name of the sets, one word.
    key
        Where in `uns` the signature is.
    overwrite
        Replace a file that exists.

    Returns
    -------
    None. Each line has the name of a set, where it is from (version of the package, classes, donors, threshold) and genes.

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
    _checks.gmt_name(name)
    table, facts = _parts(signature, key)
    n = int(table["selected"].sum()) if "selected" in table else len(table)
    _checks.not_empty(n, str(facts.get("reason", "")), "a GMT file has no set without genes, so none was written")
    weight = weights(table)
    _checks.gmt_genes(weight.index)
    halves = {name + UP: weight.index[weight > 0], name + DOWN: weight.index[weight < 0]}
    lines = ["\t".join([half, _origin(facts), *genes]) for half, genes in halves.items() if len(genes)]
    _write({path: "\n".join(lines) + "\n"}, overwrite=overwrite)


def write_csv(
    signature: AnnData | pd.DataFrame,
    path: str | PathLike[str],
    *,
    key: str = _keys.SIGNATURE,
    overwrite: bool = False,
) -> None:
    """Write a signature with the evidence for every tested gene.

    ``pandas.read_csv`` reads the table back, and :func:`~scbert_cll.tl.score_signature` takes it as it is. Where it is from goes to a file of the same name that
    ends with ``.json``.

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
    None. The ``.csv`` has the columns of ``uns["signature"]["genes"]``; the ``.json`` the version of the package, the parameters, the numbers of donors and genes, and
    the reason if nothing was selected (for a table: the version alone).

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
    >>> pd.read_csv(path)
        gene  weight
    0  ITGA4     1.0
    1  CXCR4    -1.0
    """
    path = Path(path)
    _checks.choice(path.suffix, (".csv",), "The ending of the file")
    table, facts = _parts(signature, key)
    _checks.not_empty(len(table), str(facts.get("reason", "")), "there is no gene to write")
    origin = json.dumps(_plain({"scbert_cll": scbert_cll.__version__} | facts), indent=1, ensure_ascii=False)
    _write({path: table.to_csv(index=False), path.with_suffix(".json"): origin + "\n"}, overwrite=overwrite)


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
        A line has not a name, a description and genes, parted by tabs, or two sets have the same name.
    """
    return gene_sets.read_gmt(Path(path))


def _parts(signature: AnnData | pd.DataFrame, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table, and the plain values that go with it."""
    if not isinstance(signature, AnnData):
        _checks.signature_table(signature)
        return signature, {}
    record = _checks.signature_record(signature, key)
    return record["genes"], {name: value for name, value in record.items() if not isinstance(value, pd.DataFrame)}


def _origin(facts: Mapping[str, Any]) -> str:
    """Where a signature is from, in one word: some readers part a line at every blank."""
    words = [f"scbert_cll_{scbert_cll.__version__}"]
    if params := facts.get("params"):
        classes = list(params["classes"])
        words += [f"{params['groupby']}:{classes[-1]}_vs_{classes[0]}", f"{facts['n_donors']}_donors"]
        words += [f"q<{params['alpha']:g}"]
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


def _write(texts: Mapping[Path, str], *, overwrite: bool) -> None:
    """Write all files aside, then rename them: each is whole or not there."""
    for path in texts:
        _checks.checkpoint.new_file(path, overwrite=overwrite)
    aside = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}.new") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside[path].write_text(text, encoding="utf-8")
        for path in texts:
            aside[path].replace(path)
    finally:
        for left in aside.values():
            left.unlink(missing_ok=True)
