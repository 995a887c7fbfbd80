"""Names that users gave become keys that files hold, and come back."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scbert_cll import _names

ODD = [
    *(
        "T/NK",
        "CD4+/CD25 T Reg",
        "a|b",
        "a.b",
        'a"b',
        "a'b",
        " a",
        "a ",
        " ",
        "",
        "123",
        ".",
        "..",
        "é–μ",
        "x" * 200,
        "ü" * 200,
    ),
    *(
        "zarr.json",
        ".zgroup",
        "a\x00b",
        "a\\b",
        "a\nb",
        "%2F",
        "%",
        "30%",
        "%~",
        "_index",
        "__x",
        "\ud800",
        "😀",
        "x" * 300,
    ),
]

anything = st.text(st.characters(codec=None, categories=None), max_size=12) | st.text(
    "%/|~.2F_\\", max_size=6
)
names = anything | anything.map(lambda name: name * 40)


@given(names)
def test_a_name_comes_back(name: str) -> None:
    assert _names.own(_names.key(name), {_names.LONG: _names.long_ones([name])}) == name


@given(st.lists(names, min_size=2, max_size=4).map(tuple))
def test_names_that_go_together_come_back(together: tuple[str, ...]) -> None:
    uns = {_names.LONG: _names.long_ones([together])}
    assert _names.parts(_names.key(together), uns) == together


@given(names, names)
def test_two_names_have_two_keys(a: str, b: str) -> None:
    assert (_names.key(a) == _names.key(b)) == (a == b)


@given(names)
def test_a_key_is_its_own_key_and_short(name: str) -> None:
    key = _names.key(name)
    assert len(key.encode()) <= 255
    assert not {"/", "\\", "\x00"} & set(key)


@pytest.mark.parametrize(
    "name",
    ["CD49d+", "CLL 1", "P1|x", "30%", "90 % CD5", "α/β".replace("/", "-"), "1", "a.b", 'a"b'],
)
def test_a_usual_name_stays(name: str) -> None:
    assert _names.key(name) == name
    assert _names.is_key(name)


def test_names_that_are_one_as_text_are_named() -> None:
    with pytest.raises(ValueError, match=r"Donors are the same as text: 1, '1'"):
        _names.keys([1, "1", "2"], "Donors")


@pytest.mark.parametrize("end", ["h5ad", "zarr"])
def test_files_hold_every_key(end: str, tmp_path: Path) -> None:
    keys = _names.keys([*ODD, *((name, "x|y", name) for name in ODD)])
    adata = ad.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    adata.obsm["table"] = pd.DataFrame({key: [1.0, 2.0] for key in keys}, adata.obs_names)
    adata.uns["of"] = dict.fromkeys(keys, 1)
    path = tmp_path / f"a.{end}"
    getattr(adata, f"write_{end}")(path)
    back = getattr(ad, f"read_{end}")(path)
    assert list(back.obsm["table"].columns) == keys
    assert set(back.uns["of"]) == set(keys)
