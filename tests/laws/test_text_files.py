"""Text in whatever encoding, and numbers in whatever country's way: a result, or a sentence with
code that helps; through every reader.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import scbert_cll as sc_cll
from scbert_cll.__main__ import main

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16 without mark": lambda text: text.encode("utf-16-le"),
    "utf-32": lambda text: text.encode("utf-32"),
    "cp1252": lambda text: text.encode("cp1252"),
    "latin-1": lambda text: text.encode("latin-1"),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
LINES = {"unix": "\n", "windows": "\r\n", "old mac": "\r"}
CLINICAL = "Patient;Größe;years;died\nMüller;1;3.5;1\nP2;2;2.25;0\nP3;3;9;1\n"
GMT = "SET_A\tnaïve\tITGA4\tCD38\nSET_B\tüber\tCD5\n"


def outcomes(path: Path) -> Any:
    found = sc_cll.datasets.read_cohort(None, path, time_key="years", event_key="died")
    return found.obs.assign(died=found.obs["died"].astype(float))


def probes(path: Path) -> Any:
    array = AnnData(np.array([[5.0, 8.0]]), var=pd.DataFrame(index=["2061_at", "100_g_at"]))
    return sc_cll.pp.collapse_probes(array, path).to_df()


def orthologues(path: Path) -> Any:
    mouse = AnnData(np.array([[5, 8]]), var=pd.DataFrame(index=["Itga4", "Cd38"]))
    return sc_cll.pp.to_human(mouse, path, columns=["Maus", "human"]).to_df()


def vectors(path: Path) -> Any:
    adata = AnnData(np.ones((3, 3), np.float32), var=pd.DataFrame(index=["ITGA4", "CD38", "CD5"]))
    sc_cll.tl.gene2vec(adata, vectors=path, n_dims=2)
    return adata.varm["gene2vec"]


def geo(path: Path) -> Any:
    return sc_cll.datasets.read_geo_series(path).obs


SERIES = (
    '!Series_title\t"Größe"\n!Sample_title\t"a"\t"b"\n!Sample_geo_accession\t"GSM1"\t"GSM2"\n'
    '!Sample_characteristics_ch1\t"Geschlecht: männlich"\t"Geschlecht: '
    'weiblich"\n!series_matrix_table_begin\n'
    '"ID_REF"\t"GSM1"\t"GSM2"\n"p1"\t1.5\t2.5\n"p2"\t3.5\t2\n!series_matrix_table_end\n'
)
# reader: ending of its file, what is in it, and how it is read
READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "clinical table": (".csv", CLINICAL, outcomes),
    "gene sets": (".gmt", GMT, sc_cll.io.read_gmt),
    "vocabulary, text": (
        ".txt",
        "ITGA4\nCD38\nHLA-Ä\n",
        lambda path: list(sc_cll.vocab.GeneVocab.read(path)),
    ),
    "vocabulary, table": (
        ".csv",
        "gene,Größe\nITGA4,1\nCD38,2\n",
        lambda path: list(sc_cll.vocab.GeneVocab.read(path)),
    ),
    "aliases": (".tsv", "alias\tsymbol\tBemerkung\nCD49D\tITGA4\tfür\n", sc_cll.vocab.read_aliases),
    "probes": (".csv", "probe,gene,Anmerkung\n2061_at,ITGA4,für\n100_g_at,RABGGTA,x\n", probes),
    "orthologues": (".csv", "Maus,human,Grün\nItga4,ITGA4,für\nCd38,CD38,x\n", orthologues),
    "GEO series": (".txt", SERIES, geo),
}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second)
        return True
    return (
        bool(np.array_equal(first, second))
        if isinstance(first, np.ndarray)
        else bool(first == second)
    )


@pytest.mark.parametrize("lines", list(LINES))
@pytest.mark.parametrize("encoding", list(ENCODINGS))
@pytest.mark.parametrize("reader", list(READERS))
def test_the_same_whatever_the_encoding(
    reader: str, encoding: str, lines: str, tmp_path: Path
) -> None:
    ending, text, read = READERS[reader]
    (tmp_path / f"a{ending}").write_bytes(text.encode())
    expected = read(tmp_path / f"a{ending}")
    path = tmp_path / f"b{ending}"
    path.write_bytes(ENCODINGS[encoding](text.replace("\n", LINES[lines])))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read(path)
    assert same(found, expected)
    is_guessed = encoding in ("cp1252", "latin-1")
    assert (
        any("is not UTF-8; it is read as Windows-1252" in str(w.message) for w in told)
        == is_guessed
    )


@pytest.mark.parametrize("packed", list(PACKED))
@pytest.mark.parametrize("reader", list(READERS))
def test_the_same_when_compressed(reader: str, packed: str, tmp_path: Path) -> None:
    ending, text, read = READERS[reader]
    (tmp_path / f"a{ending}").write_bytes(text.encode())
    (tmp_path / f"b{ending}{packed}").write_bytes(PACKED[packed](text.encode()))
    assert same(read(tmp_path / f"b{ending}{packed}"), read(tmp_path / f"a{ending}"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8 with mark", "utf-16"])
def test_gene_vectors(encoding: str, tmp_path: Path) -> None:
    rows = "ITGA4 1 2\nCD38 3 4\nCD5 5 6\n"
    for i, text in enumerate((rows, "3 2\n" + rows)):
        path = tmp_path / f"v{i}.txt"
        path.write_bytes(ENCODINGS[encoding](text))
        np.testing.assert_array_equal(vectors(path), [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize("reader", [name for name in READERS if name != "GEO series"])
@given(data=st.binary(min_size=1, max_size=200))
def test_bytes_of_any_kind_are_a_result_or_a_sentence(
    reader: str, data: bytes, tmp_path_factory: Any
) -> None:
    ending, _, read = READERS[reader]
    path = tmp_path_factory.mktemp("any") / f"x{ending}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except UnicodeDecodeError:
            raise
        except (ValueError, KeyError, EOFError):
            pass


def table(sep: str, decimal: str, *, quoted: bool = False, excel: bool = False) -> str:
    """Times, an event and a number, as R's write.csv2, Excel or a lab's system write them."""
    rows = [
        ["id", "t", "died", "Hb"],
        ["P1", 3.5, 1, 1234.5],
        ["P2", 2.25, 0, 8.75],
        ["P3", 9.125, 1, 10.0],
    ]
    made = io.StringIO()
    write = csv.writer(
        made,
        delimiter=sep,
        quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL,
        lineterminator="\n",
    )
    write.writerows(
        [str(v).replace(".", decimal) if isinstance(v, float) else v for v in row] for row in rows
    )
    return f"sep={sep}\n" * excel + made.getvalue()


def read(path: Path, text: str, **options: Any) -> AnnData:
    path.write_text(text)
    return sc_cll.datasets.read_cohort(None, path, time_key="t", event_key="died", **options)


@pytest.mark.parametrize("excel", [False, True])
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize(
    ("sep", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")]
)
def test_numbers_are_those_of_the_country(
    sep: str, decimal: str, quoted: bool, excel: bool, tmp_path: Path
) -> None:
    adata = read(tmp_path / "t.csv", table(sep, decimal, quoted=quoted, excel=excel))
    assert adata.obs["t"].tolist() == [3.5, 2.25, 9.125]
    assert adata.obs["Hb"].tolist() == [1234.5, 8.75, 10.0]


def test_expression_of_write_csv2_is_that_of_write_csv(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rna = pd.DataFrame(
        rng.normal(6, 2, (5, 3)).round(3), index=list("ABCDE"), columns=["P1", "P2", "P3"]
    )
    rna.iloc[0, 1] = np.nan
    rna.to_csv(tmp_path / "dot.csv")
    rna.to_csv(tmp_path / "comma.csv", sep=";", decimal=",", na_rep="NA")
    seen = pd.DataFrame({"x": [1, 2, 3]}, index=["P1", "P2", "P3"])
    first, second = (
        sc_cll.datasets.read_cohort(tmp_path / f"{name}.csv", seen) for name in ("dot", "comma")
    )
    np.testing.assert_array_equal(first.X, second.X)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1,234,567", "2", "12,345"], [1234567, 2, 12345]),
        (["1,234.5", "2", "3"], [1234.5, 2, 3]),
        (["1'234.5", "2", "3"], [1234.5, 2, 3]),
        (["1 234", "2", "3"], [1234, 2, 3]),
    ],
)
def test_thousands_that_can_be_nothing_else(
    values: list[str], expected: list[float], tmp_path: Path
) -> None:
    rows = "".join(f'P{i},{i + 1},1,"{v}"\n' for i, v in enumerate(values))
    assert read(tmp_path / "t.csv", "id,t,died,LDH\n" + rows).obs["LDH"].tolist() == expected


def test_thousands_with_points_where_decimals_have_commas(tmp_path: Path) -> None:
    text = "id;t;died;LDH\nP1;3,5;1;1.234,5\nP2;2;0;1.000.250,75\nP3;9;1;7\n"
    assert read(tmp_path / "t.csv", text).obs["LDH"].tolist() == [1234.5, 1000250.75, 7]


@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_what_may_be_either_is_refused_and_the_remedies_work(sep: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(
        f'P{i}{sep}{i + 1}{sep}1{sep}"{v}"\n' for i, v in enumerate(["1,234", "2,345", "7"])
    )
    with pytest.raises(
        ValueError, match=r"'1,234', '2,345' .column 'LDH'.*may have decimal commas or thousands"
    ) as refused:
        read(path, sep.join(["id", "t", "died", "LDH"]) + "\n" + rows)
    for decimal, expected in (
        ("decimal=','", [1.234, 2.345, 7]),
        ("thousands=','", [1234, 2345, 7]),
    ):
        code = f"pd.read_csv(path, sep={sep!r}, {decimal})"
        assert code in str(refused.value)
        seen = eval(code, {"pd": pd, "path": path})  # noqa: S307
        adata = sc_cll.datasets.read_cohort(None, seen, time_key="t", event_key="died")
        assert adata.obs["LDH"].tolist() == expected


def test_commas_here_and_points_there_are_refused(tmp_path: Path) -> None:
    text = "id;t;died;LDH\nP1;3,5;1;1.000\nP2;2,5;0;2.000\n"
    with pytest.raises(
        ValueError,
        match=r"decimal commas, and others with points, e.g. '1.000', '2.000' .column 'LDH'",
    ):
        read(tmp_path / "t.csv", text)


def test_commas_in_a_table_of_commas_are_no_decimals(tmp_path: Path) -> None:
    text = 'id,t,died,FISH\nP1,3,1,"11,13"\nP2,2,0,"13,17"\nP3,5,0,"11,13"\n'
    assert read(tmp_path / "t.csv", text).obs["FISH"].astype(str).tolist() == [
        "11,13",
        "13,17",
        "11,13",
    ]
    with pytest.raises(ValueError, match="These look like decimal commas"):
        read(tmp_path / "t.csv", 'id,t,died\nP1,"3,5",1\nP2,"2,25",0\n')


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
@pytest.mark.parametrize("reader", list(READERS))
def test_a_workbook_is_called_one(reader: str, start: bytes, tmp_path: Path) -> None:
    ending, _, read = READERS[reader]
    path = tmp_path / f"x{ending}"
    path.write_bytes(start + bytes(range(256)))
    with pytest.raises(ValueError, match="is a workbook or an archive; save the sheet as CSV"):
        read(path)


@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_options_of_the_command_line(
    encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    text = f"# für alle\nout: {tmp_path / 'modell_ü'}\ndata: {tmp_path / 'keine_ä.h5ad'}\n"
    path.write_bytes(ENCODINGS[encoding](text))
    try:
        code = main(["pretrain", "--config", str(path)])
    except SystemExit as stop:  # as the parser of options ends
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert (
        "keine_ä.h5ad"
        if encoding.startswith("utf-8")
        else "run.yaml is not text in UTF-8; save it as UTF-8."
    ) in said
