"""The table of human gene names: approved, previous and alias symbols, and Ensembl ids."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from scbert_cll._disk.formats import read_json, sha256

FOLDER: Final = Path(__file__).parent
TABLE, NOTE = "names.tsv.xz", "names.json"
_AGAIN: Final = "Install the package again, or make it anew with tools/make_gene_names.py"


@dataclass(frozen=True)
class NameTable:
    """Approved symbols of every name, joined by ``|`` where a name has several."""

    approved: Mapping[str, str]
    version: str  # of HGNC's table and of what brought it up to date
    sha256: str

    @property
    def label(self) -> str:
        """What a result records of it."""
        return f"{self.version}, sha256 {self.sha256[:12]}"


@cache
def shipped(folder: Path = FOLDER) -> NameTable:
    """The table that comes with the package.

    Raises
    ------
    ValueError
        It is not what it was when it was made.
    """
    try:
        note, checksum = read_json(folder / NOTE), sha256(folder / TABLE)
    except (OSError, ValueError) as error:
        raise ValueError(f"The table of gene names cannot be read: {error}. {_AGAIN}.") from error
    version, expected = str(note.get("version")), str(note.get("sha256"))
    if checksum != expected:
        raise ValueError(
            f"The table of gene names is damaged: the checksum of {folder / TABLE} begins with "
            f"{checksum[:12]}, and that of version {version!r} with {expected[:12]}. {_AGAIN}."
        )
    with lzma.open(folder / TABLE, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file if not line.startswith("#")]
    table = {line.partition("\t")[0]: line.partition("\t")[0] for line in lines}
    others: dict[str, str] = {}
    for name, symbol in _others(lines):
        if name not in table and symbol not in others.setdefault(name, symbol).split("|"):
            others[name] += f"|{symbol}"
    return NameTable(table | others, version, checksum)


def _others(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Every other name of a gene with its symbol."""
    for line in lines:
        symbol, ids, previous, aliases = line.split("\t")
        yield from ((f"ENSG{number:0>11}", symbol) for number in ids.split("|") if number)
        for names in (previous, aliases):
            yield from ((name, symbol) for name in names.split("|") if name)
