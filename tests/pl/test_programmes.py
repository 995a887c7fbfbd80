from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

import scbert_cll as sb
from scbert_cll import pl
from scbert_cll.pl import _style


@pytest.fixture(scope="module")
def done() -> AnnData:
    adata = sb.datasets.planted_donors(n_genes=150, n_donors=6, rng=0)
    sb.tl.programmes(adata, groupby="label", ranks=(4, 6), n_permutations=39)
    return adata


def test_a_panel_per_programme_with_a_line_per_donor(done: AnnData, legible) -> None:
    table, means = (sb.get.programmes(done, name) for name in ("programmes", "means"))
    axes = np.atleast_1d(pl.programmes(done, show=False))
    legible(axes[0].figure)
    assert len(axes) == len(table)
    for ax, row in zip(axes, table.itertuples(), strict=True):
        assert ax.get_title(loc="left").startswith(f"{row.programme}: {row.n_donors} donors")
        assert len(ax.lines) >= 6
        middle = ax.containers[0].lines[0]
        of_row = means[means["programme"] == row.programme]
        np.testing.assert_allclose(middle.get_ydata(), of_row["log2_usage"])
        assert to_hex(middle.get_color()).upper() == (_style.RED if row.tied else _style.BLUE)
        assert [t.get_text() for t in ax.get_xticklabels()] == ["negative", "positive"]


def test_one_programme_in_the_users_axes(done: AnnData) -> None:
    _, ax = plt.subplots()
    assert pl.programmes(done, names="P1", ax=ax, show=False) is ax
    with pytest.raises(ValueError, match=r"ax holds one programme, there are .* names="):
        pl.programmes(done, names=["P1", "P2"], ax=ax, show=False)
    with pytest.raises(KeyError, match="'P99' is not in"):
        pl.programmes(done, names="P99", show=False)
    with pytest.raises(ValueError, match="n_programmes must be at least 1"):
        pl.programmes(done, n_programmes=0, show=False)


def test_without_classes_and_without_programmes(done: AnnData, legible) -> None:
    adata = sb.datasets.planted_donors(n_genes=150, n_donors=6, rng=0)
    sb.tl.programmes(adata, groupby=None, ranks=(4, 6))
    axes = np.atleast_1d(pl.programmes(adata, n_programmes=2, show=False))
    legible(axes[0].figure)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["all cells"]
    sb.tl.programmes(adata, groupby=None, ranks=(2, 3), min_donors=6, n_top=5, n_genes=20)
    adata.uns["programmes"]["programmes"] = adata.uns["programmes"]["programmes"][:0]
    adata.uns["programmes"]["reason"] = "no programme recurs in 6 donors"
    ax = pl.programmes(adata, show=False)
    assert "no programme recurs" in ax.texts[0].get_text().replace("\n", " ")
