"""Whatever a matrix is stored as, counts are read; what is none is refused by name."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from scbert_cll import _checks
from tests._make import counted


@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.coo_matrix,
        sparse.csr_array,
        sparse.csc_array,
        np.asarray,
    ],
)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "?"])
def test_matrix_takes_every_form(form: object, dtype: str) -> None:
    values = np.array([[0, 1, 2], [3, 0, 0]]).astype(dtype)
    adata = counted(2, 3)
    adata.layers["it"] = form(values) if form is not sparse.coo_matrix else form(values).tocsr()
    csr = _checks.counts.counts(adata, "it")
    assert isinstance(csr, sparse.csr_matrix)
    assert csr.has_canonical_format
    np.testing.assert_array_equal(csr.toarray(), values)


def test_matrix_leaves_an_untidy_matrix_as_it_is() -> None:
    untidy = sparse.csr_matrix(
        (np.array([1.0, 2, 4]), np.array([2, 0, 2]), np.array([0, 3, 3])), shape=(2, 3)
    )
    adata = counted(2, 3)
    adata.X = untidy
    before = adata.X.data.copy(), adata.X.indices.copy()
    assert _checks.counts.matrix(adata, None).toarray().tolist() == [[2, 0, 5], [0, 0, 0]]
    np.testing.assert_array_equal(adata.X.data, before[0])
    np.testing.assert_array_equal(adata.X.indices, before[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-2.0, r"adata.X holds negative values, first -2 \(cell 'c1', gene 'g2'\)"),
        (np.nan, r"adata.X holds NaN or infinite values, first nan \(cell 'c1', gene 'g2'\)"),
        (np.inf, r"adata.X holds NaN or infinite values, first inf"),
        (-np.inf, r"adata.X holds NaN or infinite values, first -inf"),
        (
            0.5,
            (
                r"adata.X must hold raw counts \(whole numbers\); first other value: 0.5 \(cell "
                r"'c1', gene 'g2'\)"
            ),
        ),
    ],
)
def test_bad_values_are_named(value: float, message: str) -> None:
    adata = counted()
    adata.X.data[adata.X.data == 5] = value
    with pytest.raises(ValueError, match=message):
        _checks.counts.counts(adata, None)
    adata.layers["it"], adata.X = adata.X, np.ones((4, 3))
    with pytest.raises(ValueError, match=r"adata.layers\['it'\]"):
        _checks.counts.counts(adata, "it")


def test_counts_recognises_logarithms_and_names_the_layers() -> None:
    adata = counted()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(ValueError, match=r"looks log-transformed.*this object has layers 'counts'"):
        _checks.counts.counts(adata, None)
    adata.X = adata.X * 1000
    with pytest.raises(ValueError, match="raw counts") as error:
        _checks.counts.counts(adata, None)
    assert "log-transformed" not in str(error.value)
    adata.uns["log1p"] = {}
    with pytest.raises(ValueError, match="looks log-transformed"):
        _checks.counts.counts(adata, None)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (np.array([["many", 1], [2, 3]], dtype=object), "holds objects that are not numbers"),
        (np.array([["1", "2"], ["3", "4"]]), "expected numbers: raw counts"),
    ],
)
def test_words_are_no_counts(layer: np.ndarray, match: str) -> None:
    adata = counted(2, 2)
    adata.layers["it"] = layer
    with pytest.raises(ValueError, match=rf"adata\.layers\['it'\] .*{match}"):
        _checks.counts.counts(adata, "it")


def test_numbers_that_are_objects_or_half_precision_are_counts() -> None:
    adata, values = counted(2, 2), np.array([[0, 1], [2, 3]])
    for form in (values.astype(object), values.astype("f2")):
        adata.layers["it"] = form
        np.testing.assert_array_equal(_checks.counts.counts(adata, "it").toarray(), values)


@pytest.mark.filterwarnings("ignore:.*ames are not unique")
def test_counts_of_raw_are_matched_by_name() -> None:
    adata = counted(4, 3)
    whole = adata.copy()
    whole.X = whole.X + whole.X
    adata.raw = whole[:, ::-1].copy()
    found = _checks.counts.counts(adata, "raw").toarray()
    np.testing.assert_array_equal(found, whole.X.toarray())
    fewer = adata.copy()
    fewer.raw = whole[:, :2].copy()
    last = adata.var_names[2]
    with pytest.raises(ValueError, match=f"no gene '{last}'.*adata = adata.raw.to_adata"):
        _checks.counts.counts(fewer, "raw")
    adata.raw = whole[:, [0, 1, 2, 2]].copy()
    with pytest.raises(ValueError, match=rf"more than one gene '{last}'.*then pp\.align_genes"):
        _checks.counts.counts(adata, "raw")


def test_are_whole_sees_the_last_value_of_many() -> None:
    values = np.ones(2**16 + 3)
    assert _checks.counts.are_whole(values)
    values[-1] = 1.5
    assert not _checks.counts.are_whole(values)
    assert _checks.counts.are_whole(np.arange(3))


def test_matrix_without_x() -> None:
    adata = ad.AnnData(obs=counted().obs, var=counted().var)
    with pytest.raises(ValueError, match=r"adata.X is empty \(None\)"):
        _checks.counts.matrix(adata, None)


def test_slots_are_named_as_python_writes_them() -> None:
    assert _checks.counts.slot_name(None) == "adata.X"
    assert _checks.counts.slot_name("raw counts") == "adata.layers['raw counts']"
