"""Make the table of gene names that comes with the package.

    python tools/make_gene_names.py hgnc_complete_set.txt --version "HGNC 2026-11"

HGNC's complete set (genenames.org, CC0; tab-separated, compressed or not) has approved, previous
and alias symbols and Ensembl ids. An older one is brought up to date with NCBI Gene (public
domain), as Bioconductor's org.Hs.eg.db has it (`--ncbi org.Hs.eg.sqlite`): where NCBI calls a gene
otherwise, that is its symbol, and the one of HGNC a previous one, but for mitochondrial genes (NCBI
calls MT-CO2 COX2, which PTGS2 is called, too); genes with an Ensembl id that HGNC's set lacks are
added; so are aliases that HGNC gives to no gene. Where two sources disagree
about a name, that of HGNC counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parents[1] / "src" / "scbert_cll" / "_gene_names"
COLUMNS = ("symbol", "alias_symbol", "prev_symbol", "ensembl_gene_id", "entrez_id")
HEADER = """\
# Names of human genes: {version}
# HGNC (genenames.org): CC0. NCBI Gene: public domain. Made by tools/make_gene_names.py.
# approved symbol, numbers of Ensembl ids (ENSG and eleven digits), previous symbols, aliases
"""
# what stands in files as the name of a gene: no clone and no description
NAME = re.compile(
    r"(?!(?:FLJ|MGC|DKFZ|HSPC|HSU|PRO|UNQ|PP|bA|dJ|HT|GS)\d)[A-Za-z0-9][\w.@/*+-]{0,24}"
)
MOST_IDS = 3  # of a gene; more are those of haplotypes
UNNAMED = re.compile(r"LOC\d+")  # symbols of NCBI for genes without one


@dataclass
class Gene:
    """One gene and all that it is or was called."""

    symbol: str
    ids: set[str] = field(default_factory=set)
    previous: set[str] = field(default_factory=set)
    aliases: set[str] = field(default_factory=set)

    @property
    def names(self) -> set[str]:
        return {self.symbol} | self.previous | self.aliases

    @property
    def line(self) -> str:
        known = {self.symbol}
        numbers = sorted(int(one.removeprefix("ENSG")) for one in self.ids)
        previous = sorted(self.previous - known)
        aliases = sorted(self.aliases - known - self.previous)
        parts = (map(str, numbers), previous, aliases)
        return "\t".join([self.symbol, *("|".join(part) for part in parts)])


def read_hgnc(path: Path) -> dict[str, Gene]:
    """Approved genes by Entrez id, or by symbol where they have none."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if absent := [name for name in COLUMNS if name not in table]:
        raise SystemExit(f"{path.name} is not HGNC's complete set: it has no column {absent[0]!r}.")
    if "status" in table:
        table = table[table["status"] == "Approved"]
    genes: dict[str, Gene] = {}
    for row in table.itertuples(index=False):
        gene = Gene(
            row.symbol, parts(row.ensembl_gene_id), parts(row.prev_symbol), parts(row.alias_symbol)
        )
        genes[row.entrez_id.removesuffix(".0") or row.symbol] = gene
    return genes


def parts(cell: str) -> set[str]:
    """Names of a cell, without those that no table can hold."""
    return {
        name for name in map(str.strip, cell.split("|")) if name and not set(name) & set("\t\n#")
    }


def bring_up_to_date(genes: dict[str, Gene], ncbi: Path) -> None:
    """Symbols, Ensembl ids, new genes and new aliases of NCBI."""
    with sqlite3.connect(f"file:{ncbi}?mode=ro", uri=True) as database:
        ask = "SELECT gene_id, {0} FROM genes JOIN {1} USING (_id)"
        symbols = dict(database.execute(ask.format("symbol", "gene_info")))
        ids = by_gene(database.execute(ask.format("ensembl_id", "ensembl")))
        aliases = by_gene(database.execute(ask.format("alias_symbol", "alias")))
    known = {name for gene in genes.values() for name in gene.names}
    has_id = {one for gene in genes.values() for one in gene.ids}
    for entrez, symbol in symbols.items():
        new_ids = {one for one in ids.get(entrez, ()) if one.startswith("ENSG")}
        if entrez not in genes:
            if UNNAMED.fullmatch(symbol) or not new_ids - has_id or symbol in known:
                continue
            genes[entrez] = Gene(symbol)
        gene = genes[entrez]
        is_mitochondrial = gene.symbol.startswith("MT-")
        if symbol != gene.symbol and not UNNAMED.fullmatch(symbol) and not is_mitochondrial:
            gene.previous.add(gene.symbol)
            gene.symbol = symbol
        gene.ids |= new_ids - has_id if len(new_ids) <= MOST_IDS else set()
        gene.aliases |= {
            one for one in aliases.get(entrez, ()) if one not in known and NAME.fullmatch(one)
        }


def by_gene(rows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for gene, name in rows:
        found.setdefault(gene, set()).add(name)
    return found


def write(genes: Iterable[Gene], version: str, sources: list[Path], folder: Path) -> None:
    """The table, and the note with its checksum."""
    by_symbol: dict[str, Gene] = {}
    for gene in genes:
        same = by_symbol.setdefault(gene.symbol, gene)
        same.ids |= gene.ids
        same.previous |= gene.previous
        same.aliases |= gene.aliases
    lines = [by_symbol[symbol].line for symbol in sorted(by_symbol)]
    text = HEADER.format(version=version) + "".join(f"{line}\n" for line in lines)
    data = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
    (folder / "names.tsv.xz").write_bytes(data)
    note = {
        "version": version,
        "sha256": hashlib.sha256(data).hexdigest(),
        "n_genes": len(lines),
        "sources": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources},
    }
    (folder / "names.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    print(f"{len(lines):,} genes, {len(data):,} bytes, sha256 {note['sha256']}")


def main() -> None:
    """Read the sources and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hgnc", type=Path, help="HGNC's complete set, .txt or .tsv, also .gz")
    parser.add_argument(
        "--ncbi", type=Path, help="org.Hs.eg.sqlite, to bring an older set up to date"
    )
    parser.add_argument("--version", required=True, help="of the sources, e.g. 'HGNC 2026-11'")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (default: the package's)")
    options = parser.parse_args()
    genes, sources = read_hgnc(options.hgnc), [options.hgnc]
    if options.ncbi is not None:
        bring_up_to_date(genes, options.ncbi)
        sources.append(options.ncbi)
    write(genes.values(), options.version, sources, options.out)


if __name__ == "__main__":
    main()
