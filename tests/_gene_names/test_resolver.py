from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbert_cll._gene_names import table
from scbert_cll._gene_names.resolver import are_ensembl, resolve, without_version

APPROVED = table.shipped().approved
SYMBOLS = sorted(name for name, symbol in APPROVED.items() if name == symbol)
ALL = sorted(APPROVED)
IDS = [name for name in ALL if are_ensembl([name]).all()]
IDS_OF_ONE = [name for name in IDS if "|" not in APPROVED[name]]
some = st.lists(st.sampled_from(ALL), min_size=1, max_size=25, unique=True)


def answers(names: list[str], vocabulary: list[str], **given: object) -> list[tuple[str, str]]:
    found = resolve(names, pd.Index(vocabulary, dtype=object), **given)
    return list(zip(found["how"], found["gene"], strict=True))


@given(st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=25, unique=True), some)
def test_an_approved_name_resolves_to_itself(names: list[str], others: list[str]) -> None:
    vocabulary = list(dict.fromkeys([*names, *others]))
    assert answers(names, vocabulary) == [("exact", name) for name in names]


@given(some, some)
def test_never_two_answers_and_none_but_by_the_table(names: list[str], wanted: list[str]) -> None:
    """A name stands for one gene of the vocabulary or none, whichever other names are there."""
    found = resolve(names, pd.Index(wanted, dtype=object))
    assert found["name"].tolist() == names
    for name, gene, how in found[["name", "gene", "how"]].itertuples(index=False):
        if how == "exact":
            assert gene == name
        elif gene:
            assert how in ("ensembl", "alias")
            assert APPROVED[name] == APPROVED[gene]
            assert "|" not in APPROVED[name]
        else:
            assert how in ("ambiguous", "unmatched")
            assert name not in wanted


@given(st.lists(st.sampled_from(IDS_OF_ONE), min_size=1, max_size=25, unique=True), st.data())
def test_from_ids_to_symbols_and_back(ids: list[str], data: st.DataObject) -> None:
    ids = list({APPROVED[one]: one for one in ids}.values())  # one of each gene
    symbols = [APPROVED[one] for one in ids]
    assert answers(ids, symbols) == [("ensembl", symbol) for symbol in symbols]
    assert answers(symbols, ids) == [("ensembl", one) for one in ids]
    version = data.draw(st.integers(1, 30))
    assert answers([f"{one}.{version}" for one in ids], symbols) == answers(ids, symbols)


def test_names_from_everywhere_are_found() -> None:
    vocabulary = ["ITGA4", "SEPT7", "MS4A1", "MATR3", "GPR34"]
    expected = {
        "CD49D": ("alias", "ITGA4"),
        "SEPTIN7": ("alias", "SEPT7"),
        "ENSG00000156738.20": ("ensembl", "MS4A1"),
        "MATR3_ENSG00000015479": ("ensembl", "MATR3"),
        "GRCh38_ENSG00000171659": ("ensembl", "GPR34"),
        "Itga4": ("unmatched", ""),
    }
    assert dict(zip(expected, answers(list(expected), vocabulary), strict=True)) == expected


def test_what_a_table_knows_stands_behind_what_is_there() -> None:
    # the data have the gene itself, so its alias is another gene
    assert answers(["CD49D", "ITGA4"], ["ITGA4"]) == [("unmatched", ""), ("exact", "ITGA4")]
    there = [("unmatched", ""), ("ensembl", "ENSG00000115232")]
    assert answers(["CD49D", "ITGA4"], ["ENSG00000115232"]) == there
    # a vocabulary's own name is never another gene
    assert answers(["CD49D"], ["CD49D", "ITGA4"]) == [("exact", "CD49D")]
    assert answers(["ITGA4"], ["CD49D"]) == [("alias", "CD49D")]


def test_ambiguous_names_are_left() -> None:
    name = next(n for n, s in APPROVED.items() if s.count("|") == 1 and n not in s)
    first, second = APPROVED[name].split("|")
    assert answers([name], [first, second]) == [("ambiguous", "")]
    assert answers([name], [second]) == [("ambiguous", "")]
    assert answers([name], ["ITGA4"]) == [("unmatched", "")]
    # two names of one gene in the vocabulary
    assert answers(["SEPTIN7"], ["SEPT7", "CDC10"]) == [("ambiguous", "")]


def test_the_users_table_goes_first() -> None:
    own = {"CD49D": frozenset({"MINE"}), "MINE": frozenset({"MINE"})}
    assert answers(["CD49D"], ["ITGA4"], aliases=own) == [("unmatched", "")]
    assert answers(["CD49D"], ["MINE"], aliases=own) == [("alias", "MINE")]
    newer = {"ITGA4": frozenset({"ITGA4NEW"}), "ITGA4NEW": frozenset({"ITGA4NEW"})}
    assert answers(["CD49D"], ["ITGA4NEW"], aliases=newer) == [("alias", "ITGA4NEW")]
    assert answers(["ENSG00000115232"], ["ITGA4NEW"], aliases=newer) == [("ensembl", "ITGA4NEW")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ENSG00000115232.14", "ENSG00000115232"),
        ("ENSG00000182162.11_PAR_Y", "ENSG00000182162_PAR_Y"),
        ("ENSMUSG00000027009.3", "ENSMUSG00000027009"),
        ("AC245407.2", "AC245407.2"),
        ("ENSG00000115232.x", "ENSG00000115232.x"),
    ],
)
def test_versions(name: str, expected: str) -> None:
    assert without_version(name) == expected


def test_which_are_ids() -> None:
    names = ["ENSG00000115232", "ENSG00000115232.1", "ENSMUSG00000027009", "ENSA", "ITGA4", "1"]
    assert are_ensembl(names).tolist() == [True, True, True, False, False, False]
    assert are_ensembl([]).dtype == np.bool_
