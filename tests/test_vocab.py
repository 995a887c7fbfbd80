from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbert_cll import vocab as vocab_module
from scbert_cll.vocab import GeneVocab, read_aliases

NAMES = ["CD5", "CD19", "ITGA4", "HLA-A", "NKX2-1", "NA"]
gene_lists = st.lists(
    st.from_regex(r"[A-Z][A-Z0-9-]{0,8}", fullmatch=True), min_size=1, max_size=30, unique=True
)


def how(vocab: GeneVocab, names: list[str], aliases: object = None) -> list[tuple[str, str]]:
    found = vocab.resolve(names, aliases=aliases)
    return list(zip(found["how"], found["gene"], strict=True))


def test_completion_offers_what_is_of_this_module() -> None:
    offered = {"Aliases", "GeneVocab", "How", "Vocabulary", "read_aliases"}
    assert set(dir(vocab_module)) == set(vocab_module.__all__) == offered
    namespace: dict[str, object] = {}
    exec("from scbert_cll.vocab import *", namespace)  # noqa: S102
    assert offered <= set(namespace)
    assert not {"np", "pd", "re", "Any", "h5py"} & set(namespace)


# --- an ordered set of names


def test_behaves_like_an_ordered_set() -> None:
    vocab = GeneVocab(NAMES)
    assert len(vocab) == 6
    assert list(vocab) == list(vocab.names) == NAMES
    assert "ITGA4" in vocab
    assert "itga4" not in vocab
    assert vocab == GeneVocab(NAMES)
    assert hash(vocab) == hash(GeneVocab(NAMES))
    assert vocab != GeneVocab(NAMES[::-1])
    assert vocab != NAMES
    assert repr(vocab) == "GeneVocab(6 genes: 'CD5', 'CD19', 'ITGA4' and 3 more)"
    assert pickle.loads(pickle.dumps(vocab)) == vocab  # noqa: S301


def test_index() -> None:
    index = GeneVocab(NAMES).index(["HLA-A", "VCAM1", "CD5", "HLA-A"])
    assert index.dtype == np.int64
    assert index.tolist() == [3, -1, 0, 3]
    assert GeneVocab(NAMES).index([]).tolist() == []


@given(gene_lists, gene_lists)
def test_index_finds_what_is_there(names: list[str], others: list[str]) -> None:
    vocab = GeneVocab(names)
    for name, at in zip(others, vocab.index(others), strict=True):
        assert at == (names.index(name) if name in names else -1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["CD5", "CD19", "CD5"], "the vocabulary must be unique; found more than once: 'CD5'"),
        (["CD5", ""], "names without blanks around them or line breaks; found ''"),
        (["CD5", " CD19"], "found ' CD19'"),
        (["CD5", "CD\n19"], "line breaks"),
        ([], "found none"),
    ],
)
def test_bad_names(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneVocab(names)


# --- files


@given(gene_lists)
def test_save_and_read(names: list[str]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        GeneVocab(names).save(path)
        assert path.read_text(encoding="utf-8").splitlines() == names
        assert GeneVocab.read(path) == GeneVocab(names)


def test_read_text_as_people_write_it(tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_bytes(b"CD5\r\nCD19 \r\n\r\nITGA4\r\nHLA-A\nNKX2-1\nNA")
    assert GeneVocab.read(str(tmp_path / "genes.txt")) == GeneVocab(NAMES)
    with gzip.open(tmp_path / "genes.txt.gz", "wt") as file:
        file.write("\n".join(NAMES))
    assert GeneVocab.read(tmp_path / "genes.txt.gz") == GeneVocab(NAMES)


@pytest.mark.parametrize(("ending", "sep"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
def test_read_table(tmp_path: Path, ending: str, sep: str) -> None:
    table = pd.DataFrame({"gene": NAMES, "id": [f"ENSG{i}" for i in range(6)]})
    table.to_csv(tmp_path / f"genes{ending}", sep=sep, index=False)
    path = tmp_path / f"genes{ending}"
    assert GeneVocab.read(path) == GeneVocab(NAMES)
    assert (
        list(GeneVocab.read(path, column="id"))
        == list(GeneVocab.read(path, column=1))
        == table["id"].tolist()
    )
    with pytest.raises(KeyError, match=r"'symbol' is not in genes.*it has 'gene', 'id'"):
        GeneVocab.read(path, column="symbol")
    with pytest.raises(KeyError, match="it has 'gene', 'id'"):
        GeneVocab.read(path, column=2)


def test_read_h5ad(tmp_path: Path) -> None:
    adata = ad.AnnData(np.ones((2, 6)), var=pd.DataFrame({"n": 1}, index=NAMES))
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert GeneVocab.read(tmp_path / "a.h5ad") == GeneVocab(NAMES)


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"kind of file of 'genes.xlsx' must be one of '.txt', .*; found '.xlsx'"
    ):
        GeneVocab.read(tmp_path / "genes.xlsx")
    with pytest.raises(FileNotFoundError):
        GeneVocab.read(tmp_path / "genes.txt")


def test_of_takes_what_names_genes(tmp_path: Path) -> None:
    vocab = GeneVocab(NAMES)
    vocab.save(tmp_path / "vocab.txt")
    assert GeneVocab.of(vocab) is vocab
    adata = ad.AnnData(np.ones((2, 6)), var=pd.DataFrame(index=NAMES))
    for source in (
        NAMES,
        tuple(NAMES),
        np.array(NAMES),
        pd.Index(NAMES),
        adata,
        tmp_path / "vocab.txt",
    ):
        assert GeneVocab.of(source) == vocab
    assert GeneVocab.of(str(tmp_path / "vocab.txt")) == vocab


# --- resolve


def test_ensembl_versions() -> None:
    vocab = GeneVocab(["ENSG00000115232", "ENSG00000182162_PAR_Y", "ENSG00000000003.5"])
    assert how(
        vocab,
        [
            "ENSG00000115232.14",
            "ENSG00000182162.11",
            "ENSG00000182162.11_PAR_Y",
            "ENSG00000000003.6",
        ],
    ) == [
        ("ensembl", "ENSG00000115232"),
        ("unmatched", ""),
        ("ensembl", "ENSG00000182162_PAR_Y"),
        ("ensembl", "ENSG00000000003.5"),
    ]
    # an accession with a dot is no Ensembl id
    assert how(GeneVocab(["AC245407"]), ["AC245407.2"]) == [("unmatched", "")]


def test_alias() -> None:
    vocab = GeneVocab(["ITGA4", "MS4A1"])
    aliases = {"CD49D": "ITGA4", "CD20": ["MS4A1"], "VLA4": ["ITGA4", "ITGB1"]}
    assert how(vocab, ["CD49D", "CD20", "VLA4", "CD19"], aliases) == [
        ("alias", "ITGA4"),
        ("alias", "MS4A1"),
        ("ambiguous", ""),
        ("unmatched", ""),
    ]
    # without an own table by that of the package
    assert how(vocab, ["CD49D", "VLA-9"]) == [("alias", "ITGA4"), ("unmatched", "")]


def test_a_name_of_the_vocabulary_is_never_overwritten() -> None:
    assert how(GeneVocab(["CD49D", "ITGA4"]), ["CD49D"], {"CD49D": "ITGA4"}) == [("exact", "CD49D")]


def test_an_alias_beside_its_gene_is_another_gene() -> None:
    assert how(GeneVocab(["ITGA4"]), ["CD49D", "ITGA4"], {"CD49D": "ITGA4"}) == [
        ("unmatched", ""),
        ("exact", "ITGA4"),
    ]


def test_an_approved_name_is_not_an_alias() -> None:
    # B is a gene of its own and an old name of C; only C is in the vocabulary
    assert how(GeneVocab(["C"]), ["B"], {"A": "B", "B": "C"}) == [("unmatched", "")]


def test_the_vocabulary_may_be_the_older_side() -> None:
    aliases = {"SEPT7": "SEPTIN7", "CDC10": "SEPTIN7"}
    assert how(GeneVocab(["SEPT7"]), ["SEPTIN7"], aliases) == [("alias", "SEPT7")]
    assert how(GeneVocab(["SEPT7"]), ["CDC10"], aliases) == [("alias", "SEPT7")]
    # two vocabulary genes of the same approved name: no telling which
    assert how(GeneVocab(["SEPT7", "CDC10"]), ["SEPTIN7"], aliases) == [("ambiguous", "")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (["TBCE", "TBCE-1"], "suffix"),
        (["TBCE", "TBCE.1"], "suffix"),
        (["TBCE", "TBCE-1", "TBCE-2"], "suffix"),
        (["TBCE-1"], "unmatched"),  # without a first TBCE nothing was made unique
        (["TBCE", "TBCE-2"], "unmatched"),  # nor without a TBCE-1
        (["TBCE", "TBCE-0"], "unmatched"),
        (["TBCE", "TBCE_1"], "unmatched"),
        (["TBCE", "TBCE-AS1"], "unmatched"),
        (["IGHV1-69", "IGHV1-69-1", "IGHV1-69-2"], "unmatched"),  # a gene of its own
        (["NKX2", "NKX2-1"], "exact"),
        (["HLA-A", "HLA-B"], "unmatched"),
        (["AC245407", "AC245407.1"], "unmatched"),
    ],
)
def test_make_unique_endings(query: list[str], expected: str) -> None:
    vocab = GeneVocab(["TBCE", "IGHV1-69", "NKX2-1", "HLA-A", "NKX2"])
    assert how(vocab, query)[-1] == (
        expected,
        query[-1] if expected == "exact" else "TBCE" if expected == "suffix" else "",
    )


def test_a_gene_the_table_knows_is_no_duplicate() -> None:
    query, vocab = ["XYZ3", "XYZ3-1"], GeneVocab(["XYZ3"])
    assert how(vocab, query)[1] == ("suffix", "XYZ3")
    assert how(vocab, query, {"HERV-K3": "XYZ3-1"})[1] == ("unmatched", "")
    # the package's table knows this one
    assert how(GeneVocab(["ERVK3"]), ["ERVK3", "ERVK3-1"])[1] == ("unmatched", "")


@given(gene_lists, gene_lists)
def test_resolve_agrees_with_index_and_harms_no_exact_name(
    names: list[str], query: list[str]
) -> None:
    vocab = GeneVocab(names)
    aliases = dict(zip(query, reversed(names), strict=False))
    found = vocab.resolve(query, aliases=aliases)
    exact = vocab.index(query)
    assert found["name"].tolist() == query
    assert (found["index"][exact >= 0] == exact[exact >= 0]).all()
    assert (found["how"][exact >= 0] == "exact").all()
    for gene, at, why in found[["gene", "index", "how"]].itertuples(index=False):
        assert (at < 0) == (why in ("ambiguous", "unmatched")) == (gene == "")
        assert at < 0 or names[at] == gene


# --- tables of aliases


def test_read_aliases_from_files(tmp_path: Path) -> None:
    expected = read_aliases({"CD49D": "ITGA4", "NA": "NACA", "ABC": ["X1", "X2"]})
    assert expected["ABC"] == {"X1", "X2"}
    assert expected["ITGA4"] == {"ITGA4"}
    (tmp_path / "two.tsv").write_text(
        "alias\tsymbol\tentrez\nCD49D\tITGA4\t1\nNA\tNACA\t2\nABC\tX1\t3\nABC\tX2\t4\n"
    )
    (tmp_path / "bare.csv").write_text("CD49D,ITGA4\nNA,NACA\nABC,X1\nABC,X2\n")
    (tmp_path / "hgnc.tsv").write_text(
        "symbol\talias_symbol\tprev_symbol\nITGA4\t\tCD49D\nNACA\tNA\t\nX1\tABC\t\nX2\t\tABC\n"
    )
    (tmp_path / "ids.tsv").write_text("symbol\tensembl_gene_id\nITGA4\tENSG00000115232\nX1\t\n")
    assert read_aliases(tmp_path / "ids.tsv")["ENSG00000115232"] == {"ITGA4"}
    for name in ("two.tsv", "bare.csv", "hgnc.tsv"):
        assert read_aliases(tmp_path / name) == expected, name


def test_a_table_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(
        ValueError, match=r"a\.csv must have columns 'alias' and 'symbol'.*it has 'a', 'b', 'c'"
    ):
        read_aliases(tmp_path / "a.csv")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("table", "cd20"),
    [
        ("hgnc_2018_symbols.tsv.gz", ("alias", "MS4A1")),
        ("ncbi_alias_to_symbol_orgHs_3.16.tsv.gz", ("ambiguous", "")),  # KRT20's, too
    ],
)
def test_real_tables_and_vocabulary(shared_file: object, table: str, cd20: tuple[str, str]) -> None:
    vocab = GeneVocab.read(shared_file("data/panglao_gene_order_16906.txt"))
    aliases = read_aliases(shared_file(f"data/{table}"))
    assert len(vocab) == 16_906
    assert vocab.index(["A1BG", "ZBED1"]).tolist() == [0, 16_905]
    assert how(vocab, ["CD49D", "CD20", "HLA-A", "NKX2-1"], aliases) == [
        ("alias", "ITGA4"),
        cd20,
        ("exact", "HLA-A"),
        ("exact", "NKX2-1"),
    ]
    # what the vocabulary calls its own genes is never touched, whatever a table says
    assert (vocab.resolve(vocab, aliases=aliases)["how"] == "exact").all()
    # every other name with a numbered ending that the table approves stays apart from its base
    approved = [name for name, symbols in aliases.items() if symbols == {name}]
    assert "suffix" not in set(vocab.resolve([*vocab, *approved], aliases=aliases)["how"])
