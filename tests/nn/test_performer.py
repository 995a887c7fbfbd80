"""The network: against performer-pytorch from the same weights, and its own promises."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from scbert_cll.nn import Config, Performer

GOLDEN = Path(__file__).parents[1] / "data" / "performer_pytorch_1.1.4.npz"


def from_performer_pytorch(state: dict[str, torch.Tensor], n_layers: int) -> dict[str, torch.Tensor]:
    """performer-pytorch's names to ours."""
    ours = {"token_embedding.weight": state["token_emb.weight"], "gene_embedding.weight": state["pos_emb.emb.weight"]}
    pairs = {"norm": "norm", "to_bins": "to_out"}
    for i in range(n_layers):
        attention, feedforward = f"performer.net.layers.{i}.0", f"performer.net.layers.{i}.1"
        ours[f"blocks.{i}.attention.qkv.weight"] = torch.cat([state[f"{attention}.fn.to_{x}.weight"] for x in "qkv"])
        ours[f"blocks.{i}.attention.out.weight"] = state[f"{attention}.fn.to_out.weight"]
        ours[f"blocks.{i}.attention.projection"] = state[f"{attention}.fn.fast_attention.projection_matrix"]
        pairs |= {
            f"blocks.{i}.attention_norm": f"{attention}.norm",
            f"blocks.{i}.feedforward_norm": f"{feedforward}.norm",
            f"blocks.{i}.feedforward.0": f"{feedforward}.fn.fn.w1",
            f"blocks.{i}.feedforward.2": f"{feedforward}.fn.fn.w2",
        }
    return ours | {f"{a}.{part}": state[f"{b}.{part}"] for a, b in pairs.items() for part in ("weight", "bias")}


CONFIG = Config(
    n_genes=24,
    n_hidden=16,
    n_layers=2,
    n_heads=2,
    dim_head=8,
    dropout=0.0,
    gene_embedding="learned",
    tokens="all",
    out_bias=False,
    stabilizer="head",
)


@pytest.fixture(scope="module")
def peer():
    """performer-pytorch's language model with 7 tokens, alive."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch import PerformerLM
    torch.manual_seed(0)
    model = PerformerLM(
        num_tokens=7, max_seq_len=24, dim=16, depth=2, heads=2, dim_head=8, rotary_position_emb=False
    ).eval()
    torch.nn.init.normal_(model.pos_emb.emb.weight)
    return model


def test_network_equals_performer_pytorch_gradients_included(peer):
    network = Performer(CONFIG).eval()
    network.load_state_dict(from_performer_pytorch(dict(peer.state_dict()), 2))
    tokens = torch.randint(0, 7, (3, 24), generator=torch.Generator().manual_seed(1))
    ours, theirs = network(tokens), peer(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(network.encode(tokens), peer(tokens, return_encodings=True), atol=1e-5, rtol=0)
    for logits in (ours, theirs):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    found = network.blocks[0].attention.qkv.weight.grad
    expected = torch.cat([peer.get_parameter(f"performer.net.layers.0.0.fn.to_{x}.weight").grad for x in "qkv"])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


def test_network_equals_recorded_values_of_performer_pytorch():
    with np.load(GOLDEN) as golden:
        state = {
            name.removeprefix("state/"): torch.from_numpy(golden[name]) for name in golden if name.startswith("state/")
        }
        tokens, logits, encodings = (torch.from_numpy(golden[name]) for name in ("tokens", "logits", "encodings"))
    network = Performer(CONFIG).eval()
    network.load_state_dict(from_performer_pytorch(state, 2))
    with torch.inference_mode():
        torch.testing.assert_close(network(tokens), logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(network.encode(tokens), encodings, atol=1e-5, rtol=0)


def test_sinusoids_are_performer_pytorchs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch.performer_pytorch import FixedPositionalEmbedding
    network = Performer(Config(n_genes=30, n_hidden=16, gene_embedding="sinusoidal"))
    expected = FixedPositionalEmbedding(16, 30)(torch.zeros(1, 30, 16))[0]
    torch.testing.assert_close(network.gene_embedding.weight, expected, atol=1e-5, rtol=0, check_stride=False)
    assert not network.gene_embedding.weight.requires_grad


@pytest.fixture(scope="module")
def small() -> Performer:
    torch.manual_seed(2)
    return Performer(Config(n_genes=50, gene_embedding="learned", n_classes=3)).eval()


def cell(generator: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(1, 6, (n,), generator=generator), torch.randperm(50, generator=generator)[:n]


def test_a_cell_does_not_depend_on_padding_companions_or_the_order_of_its_genes(small):
    generator = torch.Generator().manual_seed(3)
    cells = [cell(generator, n) for n in (7, 30, 19)]
    tokens, genes = torch.zeros(2, 3, 30, dtype=torch.long)
    weight = torch.zeros(3, 30)
    for i, (t, g) in enumerate(cells):
        tokens[i, : len(t)], genes[i, : len(t)], weight[i, : len(t)] = t, g, 1
    with torch.inference_mode():
        together = small(tokens, genes, weight)
        for i, (t, g) in enumerate(cells):
            order = torch.randperm(len(t), generator=generator)
            alone = small(t[None], g[None])
            shuffled = small(t[order][None], g[order][None])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
            torch.testing.assert_close(shuffled, alone, atol=1e-6, rtol=0)


def test_gene_attention_sums_to_one_and_follows_the_tokens(small):
    t, g = cell(torch.Generator().manual_seed(4), 20)
    with torch.inference_mode():
        received = small.gene_attention(t[None], g[None])
    assert received.shape == (1, 1, 4, 20)  # layers, cells, heads, tokens
    torch.testing.assert_close(received.sum(-1), torch.ones(1, 1, 4))


def test_gene_vectors_start_the_embedding_by_their_principal_directions():
    vectors = torch.randn(50, 200, generator=torch.Generator().manual_seed(5)) @ torch.diag(torch.linspace(5, 0.1, 200))
    wide = Performer(Config(n_genes=50, n_hidden=200, n_heads=2, gene_embedding="gene2vec", end_token=True), vectors)
    narrow = Performer(Config(n_genes=50, n_hidden=32, gene_embedding="gene2vec"), vectors)
    torch.testing.assert_close(wide.gene_embedding.weight[:50], vectors)
    assert (wide.gene_embedding.weight[50] == 0).all()
    # distances between genes in 32 of 200 directions are as the principal components of scikit-learn give them
    scores = PCA(32, svd_solver="full").fit_transform(vectors.numpy())
    expected = torch.pdist(torch.from_numpy(scores))
    found = torch.pdist(narrow.gene_embedding.weight.detach())
    torch.testing.assert_close(found * (expected / found).median(), expected, rtol=1e-3, atol=0)


def test_published_head_refuses_tokens_that_it_cannot_read():
    with pytest.raises(ValueError, match='head="scbert" reads every gene and needs tokens="all"'):
        Performer(Config(n_genes=5, head="scbert", n_classes=2))


def test_random_features_and_weights_come_from_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return Performer(Config(n_genes=5, gene_embedding="learned")).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.attention.projection"], other["blocks.0.attention.projection"])
