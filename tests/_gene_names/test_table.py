"""The table of gene names that comes with the package, and the script that makes it."""

from __future__ import annotations

import json
import lzma
import re
import sqlite3
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbert_cll import pp
from scbert_cll._disk.formats import sha256
from scbert_cll._gene_names import table
from scbert_cll._gene_names.resolver import resolve

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "make_gene_names.py"
MOST = 600_000  # bytes in the wheel


def test_mitochondrial_genes_are_called_as_hgnc_calls_them() -> None:
    """NCBI's COX2 is MT-CO2, and so is PTGS2's: neither is guessed."""
    names = table.shipped().approved
    assert {names[f"MT-{name}"] for name in ("CO1", "CO2", "ND1", "CYB")} == {
        "MT-CO1",
        "MT-CO2",
        "MT-ND1",
        "MT-CYB",
    }
    assert names["ENSG00000198804"] == "MT-CO1"
    assert set(names["COX2"].split("|")) == {"MT-CO2", "PTGS2"}
    resolved = resolve(["COX2", "MTCO1"], pd.Index(["MT-CO1", "MT-CO2", "PTGS2"]))
    assert resolved["how"].tolist() == ["ambiguous", "alias"]


def test_the_table_is_small_and_says_what_it_is() -> None:
    names, note = table.shipped(), json.loads((table.FOLDER / table.NOTE).read_text())
    assert (table.FOLDER / table.TABLE).stat().st_size <= MOST
    assert names.sha256 == note["sha256"] == sha256(table.FOLDER / table.TABLE)
    assert names.version == note["version"]
    assert names.label == f"{note['version']}, sha256 {note['sha256'][:12]}"
    assert sum(name == symbol for name, symbol in names.approved.items()) == note["n_genes"]
    with lzma.open(table.FOLDER / table.TABLE, "rt") as file:
        head = file.read(400)
    assert "CC0" in head
    assert "public domain" in head


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("ITGA4", "ITGA4"),
        ("CD49D", "ITGA4"),
        ("ENSG00000115232", "ITGA4"),
        ("CD20", "MS4A1"),
        ("ENSG00000177455", "CD19"),
        ("SEPT7", "SEPTIN7"),
        ("MARCH1", "MARCHF1"),
        ("H2AFZ", "H2AZ1"),
    ],
)
def test_names_of_genes(name: str, symbol: str) -> None:
    assert table.shipped().approved[name] == symbol


def test_an_approved_name_stands_for_itself_and_every_other_for_approved_ones() -> None:
    approved = table.shipped().approved
    symbols = {symbol for several in approved.values() for symbol in several.split("|")}
    assert all(approved[symbol] == symbol for symbol in symbols)


def damaged(folder: Path, flip: int) -> Path:
    """The table's folder with one byte of a file changed."""
    for name, data in ((n, (table.FOLDER / n).read_bytes()) for n in (table.TABLE, table.NOTE)):
        (folder / name).write_bytes(data)
    data = bytearray((folder / table.TABLE).read_bytes())
    data[flip] ^= 1
    (folder / table.TABLE).write_bytes(bytes(data))
    return folder


@pytest.mark.parametrize("flip", [0, 100_000, -1])
def test_a_damaged_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: int
) -> None:
    folder = damaged(tmp_path, flip)
    whole = table.shipped
    monkeypatch.setattr(table, "shipped", lambda: whole(folder))
    adata = ad.AnnData(np.ones((2, 2), dtype=np.float32), var=pd.DataFrame(index=["CD49D", "CD5"]))
    with pytest.raises(
        ValueError, match=r"damaged: the checksum of .*names\.tsv\.xz.*tools/make_g"
    ):
        pp.align_genes(adata, ["ITGA4", "CD5"])


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"cannot be read: .*names\.json.*Install the package again"
    ):
        table.shipped(tmp_path)
    (tmp_path / table.NOTE).write_text("[")
    with pytest.raises(ValueError, match=r"cannot be read: .*names\.json is damaged"):
        table.shipped(tmp_path)


# ---- the script


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments, "--version", "test 1", "--out", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


HGNC = """\
hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tentrez_id\tensembl_gene_id
1\tITGA4\tApproved\tCD49D\t\t3676.0\tENSG00000115232
2\tSEPT7\tApproved\tSEPT7A|NAME\tCDC10\t989\tENSG00000122545
3\tGONE~withdrawn\tEntry Withdrawn\t\t\t\t
4\tMS4A1\tApproved\tCD20\t"CD20A|MS4A2"\t931\tENSG00000156738
5\tKRT20\tApproved\tNAME\t\t54474\t
"""


def test_a_newer_set_of_hgnc_makes_a_table(tmp_path: Path) -> None:
    (tmp_path / "hgnc.txt").write_text(HGNC)
    done = make(tmp_path, str(tmp_path / "hgnc.txt"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 genes, ")
    names = table.shipped(tmp_path)
    assert names.version == "test 1"
    assert names.approved == {
        **{symbol: symbol for symbol in ("ITGA4", "SEPT7", "MS4A1", "KRT20")},
        "CD49D": "ITGA4",
        "ENSG00000115232": "ITGA4",
        "ENSG00000122545": "SEPT7",
        "CDC10": "SEPT7",
        "SEPT7A": "SEPT7",
        "NAME": "KRT20|SEPT7",
        "CD20": "MS4A1",
        "CD20A": "MS4A1",
        "MS4A2": "MS4A1",
        "ENSG00000156738": "MS4A1",
    }


def test_an_older_set_is_brought_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "hgnc.txt").write_text(HGNC)
    with sqlite3.connect(tmp_path / "org.sqlite") as database:
        database.executescript(
            """
            CREATE TABLE genes (_id, gene_id); CREATE TABLE gene_info (_id, symbol);
            CREATE TABLE ensembl (_id, ensembl_id); CREATE TABLE alias (_id, alias_symbol);
            INSERT INTO genes VALUES (1, '3676'), (2, '989'), (3, '54474'), (4, '1'), (5, '2');
            INSERT INTO gene_info VALUES
              (1, 'ITGA4'), (2, 'SEPTIN7'), (3, 'KRT20'), (4, 'NEWGENE'), (5, 'LOC5');
            INSERT INTO ensembl VALUES (3, 'ENSG00000171431'), (4, 'ENSG00000999999'), (5, 'ENSG1');
            INSERT INTO alias VALUES (3, 'CD20'), (3, 'K20'), (4, 'NG'), (1, 'IA4'), (3, 'FLJ123');
            """
        )
    done = make(tmp_path, str(tmp_path / "hgnc.txt"), "--ncbi", str(tmp_path / "org.sqlite"))
    assert done.returncode == 0, done.stderr
    approved = table.shipped(tmp_path).approved
    assert approved["SEPT7"] == approved["CDC10"] == approved["SEPTIN7"] == "SEPTIN7"
    assert approved["CD20"] == "MS4A1"  # HGNC's word counts
    assert approved["K20"] == approved["ENSG00000171431"] == "KRT20"
    assert approved["NG"] == approved["ENSG00000999999"] == "NEWGENE"
    assert approved["IA4"] == "ITGA4"
    assert not {"LOC5", "FLJ123"} & set(approved)


def test_another_file_is_no_set_of_hgnc(tmp_path: Path) -> None:
    (tmp_path / "hgnc.txt").write_text("gene\tname\nA\tB\n")
    done = make(tmp_path, str(tmp_path / "hgnc.txt"))
    assert done.returncode != 0
    assert "hgnc.txt is not HGNC's complete set: it has no column 'symbol'" in done.stderr


@pytest.mark.realdata
def test_real_genes_of_both_sides(shared_file: object) -> None:
    """Names of 2017 are found in a vocabulary of Ensembl ids, and the way back is the same."""
    names = pd.Index(Path(shared_file("data/panglao_gene_order_16906.txt")).read_text().split())
    ids = pd.Series({s: i for i, s in table.shipped().approved.items() if re.match("ENSG", i)})
    there = resolve(names, pd.Index(ids.to_numpy()))
    assert (there["index"] >= 0).mean() > 0.9
    found = there[there["index"] >= 0]
    back = resolve(found["gene"], names)
    assert (back["gene"].to_numpy() == found["name"].to_numpy()).mean() > 0.99


def test_the_wheel_has_the_table() -> None:
    """It takes all files of the package's folder but those that are ignored."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/scbert_cll"]}
    ignored = (ROOT / ".gitignore").read_text().split()
    for name in (table.TABLE, table.NOTE, "README.md"):
        assert (table.FOLDER / name).is_file()
        assert not any(fnmatch(name, pattern) for pattern in ignored)
