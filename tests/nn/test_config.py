"""Everything that shapes the network, and tokens of whole batches against a cell at a time."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll.nn import Config, mask_tokens
from scbert_cll.nn.config import cut, tokens

OLD: dict[str, Any] = {"n_features": 12}
MASK = 6


def test_random_features_by_default_are_those_of_the_paper():
    assert Config(n_genes=5, dim_head=8).features == 16  # int(8 ln 8)
    assert Config(n_genes=5, n_random_features=12).features == 12


def test_the_old_name_of_the_random_features_is_taken_with_a_warning():
    with pytest.warns(
        FutureWarning, match="^Config: n_features= is now n_random_features="
    ) as caught:
        config = Config(n_genes=5, **OLD)
    assert caught[0].filename == __file__
    assert config == Config(n_genes=5, n_random_features=12)
    with pytest.warns(FutureWarning, match="n_random_features"):
        assert config.n_features == 12


def test_the_old_name_is_nowhere_but_where_it_is_asked_for():
    config = Config(n_genes=5, n_random_features=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "n_features" not in asdict(config)
        assert replace(config, n_genes=6) == Config(n_genes=6, n_random_features=12)
        assert "n_features" not in repr(config).replace("n_random_features", "")


def test_both_names_at_once_are_refused():
    with pytest.raises(TypeError, match="n_features= is the former name of n_random_features="):
        Config(n_genes=5, n_random_features=12, **OLD)


@st.composite
def batches(draw):
    """A configuration, a table of bins, and the genes in some order."""
    n_genes = draw(st.integers(1, 40))
    config = Config(
        n_genes=n_genes,
        tokens=draw(st.sampled_from(["expressed", "background", "all"])),
        n_background=draw(st.integers(1, 45)),
        end_token=draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    share = draw(
        st.sampled_from([0, 0.1, 0.5, 1])
    )  # nothing, little, much and everything is expressed
    table = rng.integers(1, 6, (draw(st.integers(1, 6)), n_genes)) * (rng.random(n_genes) < share)
    if draw(st.booleans()):
        table *= rng.random(table.shape) < 0.7
    return config, table, rng.permutation(n_genes)


def compact(table: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    rows, genes = np.nonzero(table)
    values = torch.from_numpy(table[rows, genes].astype(np.uint8))
    return values, torch.from_numpy(genes.astype(np.int32)), (table > 0).sum(1).tolist()


def one_cell(row: np.ndarray, config: Config, order: np.ndarray) -> list[tuple[int, int, float]]:
    """Token, gene and weight of each place of one cell."""
    found = [(int(row[gene]), int(gene), 1.0) for gene in np.flatnonzero(row)]
    if config.tokens == "background":
        zeros = [int(gene) for gene in order if row[gene] == 0]
        sample = zeros[: config.n_background]
        found += [(0, gene, len(zeros) / len(sample)) for gene in sample]
        found += [(0, config.n_genes, 1.0)] * config.end_token
    return found


def cell_by_cell(table: np.ndarray, config: Config, order: np.ndarray) -> dict[str, torch.Tensor]:
    if config.tokens == "all":
        return {"tokens": torch.from_numpy(np.pad(table, ((0, 0), (0, int(config.end_token)))))}
    cells = [one_cell(row, config, order) for row in table]
    padded = np.zeros((3, len(cells), max(map(len, cells))))
    for i, cell in enumerate(cells):
        padded[:, i, : len(cell)] = np.array(cell).reshape(-1, 3).T
    found = {
        "tokens": torch.from_numpy(padded[0]).long(),
        "genes": torch.from_numpy(padded[1]).long(),
    }
    return (
        found if (padded[2] == 1).all() else found | {"weight": torch.from_numpy(padded[2]).float()}
    )


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To the last bit."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


@settings(max_examples=300, deadline=None)
@given(batches())
def test_a_batch_is_its_cells_one_by_one(batch):
    config, table, order = batch
    values, genes, lengths = compact(table)
    expected = cell_by_cell(table, config, order)
    assert_same(tokens(values, genes, lengths, config, torch.from_numpy(order)), expected)
    assert_same(
        tokens(values, genes, torch.tensor(lengths), config, torch.from_numpy(order)), expected
    )


@settings(max_examples=100, deadline=None)
@given(batch=batches(), data=st.data())
def test_parts_of_a_batch_are_as_if_alone(batch, data):
    config, table, order = batch
    table = table[np.argsort(-(table > 0).sum(1))]
    bounds = sorted({0, len(table), *data.draw(st.lists(st.integers(0, len(table)), max_size=3))})
    parts = [table[start:stop] for start, stop in pairwise(bounds)]
    lengths = [compact(part)[2] for part in parts]
    whole = tokens(*compact(table)[:2], list(chain(*lengths)), config, torch.from_numpy(order))
    found = cut(whole, lengths, config)
    assert len(found) == len(parts)
    for cells, part in zip(found, parts, strict=True):
        assert_same(cells, cell_by_cell(part, config, order))


def test_the_end_token_stays_without_a_background():
    config = Config(n_genes=3, tokens="background", n_background=0, end_token=True)
    table = np.array([[0, 4, 0], [1, 0, 2]])
    cells = tokens(*compact(table), config, torch.arange(3))
    assert cells["genes"].tolist() == [[1, 3, 0], [0, 2, 3]]
    assert cells["weight"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_background_needs_an_order():
    config = Config(n_genes=3, tokens="background")
    with pytest.raises(ValueError, match="order="):
        tokens(*compact(np.array([[0, 1, 2]])), config)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@settings(max_examples=50, deadline=None)
@given(batches())
def test_a_gpu_makes_the_same_tokens(batch):
    config, table, order = batch
    values, genes, lengths = compact(table)
    found = tokens(values.cuda(), genes.cuda(), lengths, config, torch.from_numpy(order))
    assert all(tensor.is_cuda for tensor in found.values())
    assert_same(
        {name: tensor.cpu() for name, tensor in found.items()}, cell_by_cell(table, config, order)
    )


@st.composite
def token_rows(draw):
    b, n = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    values = draw(st.lists(st.integers(0, 5), min_size=b * n, max_size=b * n))
    return torch.tensor(values).view(b, n)


@settings(max_examples=60, deadline=None)
@given(tokens=token_rows(), seed=st.integers(0, 2**31), fraction=st.floats(0.01, 0.99))
def test_only_expressed_genes_are_hidden_and_as_many_as_asked(tokens, seed, fraction):
    seen, chosen = mask_tokens(
        tokens, MASK, fraction=fraction, generator=torch.Generator().manual_seed(seed)
    )
    assert not chosen[tokens == 0].any()
    assert torch.equal(seen[~chosen], tokens[~chosen])
    assert ((seen == MASK) | (seen == tokens)).all()
    expressed = (tokens > 0).sum(-1)
    wanted = (fraction * expressed).round().clamp(min=1).minimum(expressed)
    assert torch.equal(chosen.sum(-1).float(), wanted.float())


def test_nine_in_ten_of_the_chosen_become_the_mask_and_the_draw_repeats():
    tokens = torch.randint(1, 6, (200, 100), generator=torch.Generator().manual_seed(0))
    seen, chosen = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(1))
    again = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(1))
    other = mask_tokens(tokens, MASK, generator=torch.Generator().manual_seed(2))
    assert abs((seen[chosen] == MASK).float().mean() - 0.9) < 0.02
    assert torch.equal(seen, again[0])
    assert not torch.equal(seen, other[0])
    # every gene has the same chance
    assert chosen.float().mean(0).std() < 2 * (0.15 * 0.85 / 200) ** 0.5
