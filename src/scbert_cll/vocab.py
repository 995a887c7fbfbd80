"""Gene vocabularies: ordered names, found by name, with aliases that are never guessed.

A model's tokens are tied to an order of genes. Every gene of every data set enters that order
through its name, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from scbert_cll import _checks
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._disk.in_place import replace
from scbert_cll._gene_names import resolver
from scbert_cll._gene_names.resolver import How

__all__ = ["Aliases", "GeneVocab", "How", "Vocabulary", "read_aliases"]

type Aliases = Mapping[str, str | Iterable[str]] | str | PathLike[str]
type Vocabulary = GeneVocab | AnnData | Iterable[str] | str | PathLike[str]


def __dir__() -> list[str]:
    return __all__


_TEXT, _H5AD = (".txt", ""), ".h5ad"
_TABLE = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


class GeneVocab:
    """Gene names in a fixed order, each once.

    The order is the model's: gene ``i`` of the vocabulary is column ``i`` of the matrix and row
    ``i`` of every gene embedding. A vocabulary does not change once made.

    Parameters
    ----------
    names
        Gene names in order; none empty, none twice.

    Examples
    --------
    >>> vocab = GeneVocab(["CD5", "CD19", "ITGA4"])
    >>> len(vocab), "ITGA4" in vocab
    (3, True)
    >>> vocab.index(["ITGA4", "VCAM1"])
    array([ 2, -1])
    """

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[str]) -> None:
        index = pd.Index([str(name) for name in names], dtype=object)
        self._names = _checks.genes.gene_names(index, "the vocabulary")

    @classmethod
    def of(cls, source: Vocabulary) -> GeneVocab:
        """Make one from whatever names genes in order.

        A vocabulary, a file, an AnnData (its genes, no antibodies) or names.
        """
        if isinstance(source, GeneVocab):
            return source
        if isinstance(source, str | PathLike):
            return cls.read(source)
        return cls(_genes(source.var) if isinstance(source, AnnData) else source)

    @classmethod
    def read(cls, path: str | PathLike[str], *, column: str | int = 0) -> GeneVocab:
        """Read a vocabulary from a file.

        Parameters
        ----------
        path
            ``.txt`` (one gene a line), ``.csv`` or ``.tsv`` with a header line, or ``.h5ad`` (the
            genes of its ``var``, without antibodies and others that ``feature_types`` tells of;
            nothing else of it is read). Text may be compressed (``.gz``), and in UTF-8, UTF-16 or
            Windows-1252.
        column
            Name or position of the column that holds the genes, for ``.csv`` and ``.tsv``.

        Raises
        ------
        ValueError
            If a name is there twice, or the kind of file is not known.
        KeyError
            If the column is not in the table.
        """
        path = Path(path)
        kind = _kind(path)
        if kind == _H5AD:
            with h5py.File(_checks.files.plain_file(path)) as file:
                return cls(_genes(read_elem(file["var"])))
        if kind in _TEXT:
            return cls(_read_table(path, header=None)[0].str.strip())
        table = _read_table(path)
        if isinstance(column, int):
            column = dict(enumerate(table.columns)).get(column, f"column {column}")
        key_in(column, table, path.name)
        return cls(table[column])

    def save(self, path: str | PathLike[str]) -> None:
        """Write the genes to a file that :meth:`read` takes.

        What is there is replaced when they read back as they are.

        Parameters
        ----------
        path
            ``.txt`` (one gene a line, UTF-8), or ``.csv`` or ``.tsv`` with the header ``gene``;
            with ``.gz`` compressed.

        Raises
        ------
        ValueError
            The kind of file is another one.
        """
        path = Path(path)
        kind = _kind(path, (*_TEXT, *_TABLE))
        table = pd.DataFrame({"gene": self._names})
        sep, head = _TABLE.get(kind, "\t"), kind in _TABLE

        def write(aside: Path) -> None:
            table.to_csv(aside, sep=sep, header=head, index=False, lineterminator="\n")

        replace(path, write, lambda aside: GeneVocab.read(aside) == self)

    @property
    def names(self) -> pd.Index:
        """The genes in order."""
        return self._names

    def index(self, names: Iterable[str]) -> np.ndarray:
        """Position of each name in the vocabulary as int64, −1 where it is not there.

        Exact names only.
        """
        wanted = pd.Index(list(names), dtype=object)
        return np.asarray(self._names.get_indexer(wanted), dtype=np.int64)

    def resolve(
        self, names: Iterable[str], *, aliases: Aliases | None = None, others: Iterable[str] = ()
    ) -> pd.DataFrame:
        """Say for every gene of a data set which vocabulary gene it stands for, and why.

        The first rule that holds is taken:

        ``exact``
            The name is in the vocabulary. Such a name never stands for anything else.
        ``genome``
            It is in the vocabulary without the name of a genome before it (``GRCh38_ITGA4``,
            ``hg38-ITGA4``, ``mm10___Itga4``). The rules below see the name without it, too. Of two
            species only the one is taken that has more genes in the vocabulary, and a mouse gene
            never stands for one that is written in capitals: mouse genes are no human genes.
        ``ensembl``
            An Ensembl gene id that is there with another version or without one
            (``ENSG00000115232.14``), or under the symbol of that gene; or a symbol whose gene is
            there under its id. ``_PAR_Y`` stays a gene of its own.
        ``alias``
            Name and vocabulary gene have the same approved name: the vocabulary may be the older
            side (``SEPTIN7`` finds ``SEPT7``). `aliases` is asked first, then the table that comes
            with the package: approved, previous and alias symbols and Ensembl ids of HGNC and NCBI.
            A name that a table lists as approved stands for itself even if it is also an alias. A
            gene that the data hold under its vocabulary name, or its approved one, takes no alias:
            a data set does not name one gene twice, so the alias is another gene.
        ``ambiguous``
            The alias belongs to several approved genes, or several vocabulary genes share the
            approved name. Never guessed.
        ``suffix``
            ``TBCE-1`` or ``TBCE.1``, the mark ``var_names_make_unique`` puts on a second ``TBCE``.
            Taken only if ``TBCE`` is in the vocabulary and in the data, the numbers before this one
            are in the data as well, the base has no such ending itself (``IGHV1-69-2`` is not
            ``IGHV1-69``) and no table knows the name as a gene. ``HLA-A`` and ``NKX2-1`` cannot be
            hit: the base is no gene.
        ``date``
            What a spreadsheet makes of a gene's name: ``1-Mar``, ``Sep-02``, ``2023-03-01`` or
            ``44256``, where no table has such a gene. Not guessed: ``1-Mar`` was *MARCH1* or
            *MARC1*.
        ``unmatched``
            None of these.

        Parameters
        ----------
        names
            All gene names of the data set; the rules look at the others, too.
        aliases
            Mapping alias → approved name (or names), or the file of one; see :func:`read_aliases`.
            It goes before the table of the package.
        others
            Names in the same data that are no genes, e.g. antibodies: a gene that was called
            ``CD19-1`` because of them is ``CD19``.

        Returns
        -------
        One row per name: ``name``, ``gene`` (empty where there is none), ``index`` (−1), ``how``.
        """
        read = None if aliases is None else read_aliases(aliases)
        return resolver.resolve(names, self._names, aliases=read, others=others)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneVocab):
            return NotImplemented
        return self._names.equals(other._names)

    def __hash__(self) -> int:
        return hash(tuple(self._names))

    def __repr__(self) -> str:
        return f"GeneVocab({len(self)} genes: {listed(self, 3)})"


def read_aliases(source: Aliases) -> dict[str, frozenset[str]]:
    """Read a table of gene aliases: every alias with all the approved names it may stand for.

    Parameters
    ----------
    source
        A mapping alias → approved name (or several), or a ``.tsv`` / ``.csv`` file, compressed or
        not: with columns ``alias`` and ``symbol``; or HGNC's, with ``symbol`` and
        ``alias_symbol`` / ``prev_symbol`` / ``ensembl_gene_id`` (several separated by ``|``); or
        two columns without a header, alias then approved.

    Returns
    -------
    Alias → approved names. Approved names are in it, each standing for itself alone.
    """
    pairs = _alias_pairs(source)
    table = {symbol: {symbol} for _, symbol in pairs}
    approved = frozenset(table)
    for alias, symbol in pairs:
        if alias not in approved:
            table.setdefault(alias, set()).add(symbol)
    return {alias: frozenset(symbols) for alias, symbols in table.items()}


def _alias_pairs(source: Aliases) -> list[tuple[str, str]]:
    if isinstance(source, Mapping):
        return [
            (str(alias), str(symbol))
            for alias, symbols in source.items()
            for symbol in ([symbols] if isinstance(symbols, str) else symbols)
        ]
    path = Path(source)
    table = _read_table(path)
    if {"alias", "symbol"} <= set(table):
        return list(zip(table["alias"], table["symbol"], strict=True))
    hgnc = table.columns.intersection(["prev_symbol", "alias_symbol", "ensembl_gene_id"])
    if "symbol" in table and len(hgnc):
        cells = table[["symbol", *hgnc]].melt("symbol", value_name="aliases")
        cells = cells.assign(aliases=cells["aliases"].str.split("|")).explode("aliases")
        cells = cells[cells["aliases"] != ""]
        return list(zip(cells["aliases"], cells["symbol"], strict=True))
    if table.shape[1] != 2:
        raise ValueError(
            f"{path.name} must have columns 'alias' and 'symbol', or HGNC's 'symbol' and "
            f"'alias_symbol' / 'prev_symbol', or two columns without a header; it has "
            f"{listed(table.columns, 12)}."
        )
    table = _read_table(path, header=None)
    return list(zip(table[0], table[1], strict=True))


def _kind(path: Path, kinds: Sequence[str] = (*_TEXT, *_TABLE, _H5AD)) -> str:
    """The ending that says what a file is, without that of its compression."""
    endings = ["", *(ending.lower() for ending in path.suffixes)]
    while endings[-1] in (".gz", ".bz2", ".xz"):
        endings.pop()
    return choice(endings[-1], kinds, f"the kind of file of {path.name!r}")


def _read_table(path: Path, header: int | None = 0) -> pd.DataFrame:
    """A table of text: a gene may be called NA or NAN."""
    sep = _TABLE.get(_kind(path), "\t")
    file, in_file = _checks.files.open_table(path)
    if in_file == ";" and sep == ",":
        sep = ";"  # as Excel writes .csv where the comma is decimal
    return pd.read_csv(file, sep=sep, header=header, dtype=str, keep_default_na=False)


def _genes(var: Any) -> Iterable[str]:
    """Names of the rows of `var` that are genes."""
    features = _checks.genes.features_of(var)
    if not features.is_gene.any():
        _checks.genes.only_genes(features)
    return features.names[features.is_gene]
