"""The network: against performer-pytorch from the same weights, and its own promises."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from scbert_cll.nn import Config, Performer, context
from tests.nn._naive import naive_features

GOLDEN = Path(__file__).parents[1] / "data" / "performer_pytorch_1.1.4.npz"


def from_performer_pytorch(
    state: dict[str, torch.Tensor], n_layers: int
) -> dict[str, torch.Tensor]:
    """performer-pytorch's names to ours."""
    ours = {
        "token_embedding.weight": state["token_emb.weight"],
        "gene_embedding.weight": state["pos_emb.emb.weight"],
    }
    pairs = {"norm": "norm", "to_bins": "to_out"}
    for i in range(n_layers):
        attention, feedforward = f"performer.net.layers.{i}.0", f"performer.net.layers.{i}.1"
        ours[f"blocks.{i}.attention.qkv.weight"] = torch.cat(
            [state[f"{attention}.fn.to_{x}.weight"] for x in "qkv"]
        )
        ours[f"blocks.{i}.attention.out.weight"] = state[f"{attention}.fn.to_out.weight"]
        ours[f"blocks.{i}.attention.projection"] = state[
            f"{attention}.fn.fast_attention.projection_matrix"
        ]
        pairs |= {
            f"blocks.{i}.attention_norm": f"{attention}.norm",
            f"blocks.{i}.feedforward_norm": f"{feedforward}.norm",
            f"blocks.{i}.feedforward.0": f"{feedforward}.fn.fn.w1",
            f"blocks.{i}.feedforward.2": f"{feedforward}.fn.fn.w2",
        }
    return ours | {
        f"{a}.{part}": state[f"{b}.{part}"] for a, b in pairs.items() for part in ("weight", "bias")
    }


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
        num_tokens=7,
        max_seq_len=24,
        dim=16,
        depth=2,
        heads=2,
        dim_head=8,
        rotary_position_emb=False,
    ).eval()
    torch.nn.init.normal_(model.pos_emb.emb.weight)
    return model


def test_network_equals_performer_pytorch_gradients_included(peer):
    peer.zero_grad()
    network = Performer(CONFIG).eval()
    network.load_state_dict(from_performer_pytorch(dict(peer.state_dict()), 2))
    tokens = torch.randint(0, 7, (3, 24), generator=torch.Generator().manual_seed(1))
    ours, theirs = network(tokens), peer(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        network.encode(tokens), peer(tokens, return_encodings=True), atol=1e-5, rtol=0
    )
    for logits in (ours, theirs):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    found = network.blocks[0].attention.qkv.weight.grad
    expected = torch.cat(
        [peer.get_parameter(f"performer.net.layers.0.0.fn.to_{x}.weight").grad for x in "qkv"]
    )
    assert (found - expected).norm() < 2e-5 * expected.norm()


def test_network_equals_performer_pytorch_as_the_seed_prints_it(peer):
    """Sinusoids for gene vectors, and random features that are drawn anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch.performer_pytorch import FixedPositionalEmbedding
    peer = copy.deepcopy(peer)
    peer.pos_emb = FixedPositionalEmbedding(16, 24)
    network = Performer(replace(CONFIG, gene_embedding="sinusoidal")).eval()
    state = from_performer_pytorch(
        dict(peer.state_dict()) | {"pos_emb.emb.weight": network.gene_embedding.weight}, 2
    )
    network.load_state_dict(state)
    network.redraw_features(torch.Generator().manual_seed(5))
    for i, block in enumerate(network.blocks):
        assert not torch.equal(
            block.attention.projection, state[f"blocks.{i}.attention.projection"]
        )
        peer.get_buffer(f"performer.net.layers.{i}.0.fn.fast_attention.projection_matrix").copy_(
            block.attention.projection
        )
    tokens = torch.randint(0, 7, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(network(tokens), peer(tokens), atol=1e-5, rtol=0)


def test_network_equals_recorded_values_of_performer_pytorch():
    with np.load(GOLDEN) as golden:
        state = {
            name.removeprefix("state/"): torch.from_numpy(golden[name])
            for name in golden
            if name.startswith("state/")
        }
        tokens, logits, encodings = (
            torch.from_numpy(golden[name]) for name in ("tokens", "logits", "encodings")
        )
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
    torch.testing.assert_close(
        network.gene_embedding.weight, expected, atol=1e-5, rtol=0, check_stride=False
    )
    assert not network.gene_embedding.weight.requires_grad


@pytest.fixture(scope="module")
def small() -> Performer:
    torch.manual_seed(2)
    return Performer(Config(n_genes=50, gene_embedding="learned", n_classes=3)).eval()


def cell(generator: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(1, 6, (n,), generator=generator), torch.randperm(50, generator=generator)[
        :n
    ]


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
    vectors = torch.randn(50, 200, generator=torch.Generator().manual_seed(5)) @ torch.diag(
        torch.linspace(5, 0.1, 200)
    )
    wide = Performer(
        Config(n_genes=50, n_hidden=200, n_heads=2, gene_embedding="gene2vec", end_token=True),
        vectors,
    )
    narrow = Performer(Config(n_genes=50, n_hidden=32, gene_embedding="gene2vec"), vectors)
    torch.testing.assert_close(wide.gene_embedding.weight[:50], vectors)
    assert (wide.gene_embedding.weight[50] == 0).all()
    # distances between genes in 32 of 200 directions are as the principal components of
    # scikit-learn give them
    scores = PCA(32, svd_solver="full").fit_transform(vectors.numpy())
    expected = torch.pdist(torch.from_numpy(scores))
    found = torch.pdist(narrow.gene_embedding.weight.detach())
    torch.testing.assert_close(found * (expected / found).median(), expected, rtol=1e-3, atol=0)


def test_published_head_refuses_tokens_that_it_cannot_read():
    for tokens in ("expressed", "background"):
        with pytest.raises(
            ValueError, match=f'reads every gene and needs tokens="all"; with tokens="{tokens}" use'
        ):
            Performer(Config(n_genes=5, head="scbert", n_classes=2, tokens=tokens))


def test_random_features_and_weights_come_from_the_seed():
    def weights(seed):
        torch.manual_seed(seed)
        return Performer(Config(n_genes=5, gene_embedding="learned")).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["blocks.0.attention.projection"], other["blocks.0.attention.projection"]
    )


# ---- fast paths beside slow ones


def network(**choices) -> Performer:
    """Two blocks over 50 genes, with dropout off."""
    torch.manual_seed(6)
    defaults = {
        "n_genes": 50,
        "n_layers": 2,
        "gene_embedding": "learned",
        "tokens": "all",
        "dropout": 0.0,
    }
    return Performer(Config(**defaults | choices)).eval()


def sparse_tokens(b: int = 4, *, share: float = 0.2, seed: int = 7) -> torch.Tensor:
    """Tokens of cells in which few genes are expressed."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 6, (b, 50), generator=generator) * (
        torch.rand(b, 50, generator=generator) < share
    )
    tokens[:, 0] = 1
    return tokens.long()


def gradients(model: Performer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


KINDS = [{}, {"stabilizer": "head"}, {"attention": "exact"}, {"gene_embedding": "none"}]


@pytest.mark.parametrize("choices", KINDS, ids=str)
def test_wanted_tokens_are_those_of_all(choices):
    """The last block works for the wanted tokens alone, and gradients do not notice."""
    model, tokens = network(**choices), sparse_tokens()
    at = (tokens > 1) & (torch.arange(50) % 2 == 0)
    at[2] = False  # a cell of which nothing is wanted
    few, every = model.encode(tokens, at=at), model.encode(tokens)[at]
    torch.testing.assert_close(few, every, atol=2e-6, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(model.encode(tokens, at=at), every, atol=2e-6, rtol=0)
    probe = torch.linspace(-1, 1, few.shape[1])
    found, expected = (gradients(model, (x * probe).sum()) for x in (few, every))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5, name


@pytest.mark.parametrize("choices", KINDS, ids=str)
def test_recomputed_gradients_are_the_same(choices):
    """Also through dropout: what was dropped is dropped again."""
    model, tokens = network(**choices | {"dropout": 0.3}).train(), sparse_tokens()
    results = []
    for recompute in (False, True):
        model.set_recompute(recompute)
        torch.manual_seed(8)
        results.append(gradients(model, model(tokens).square().mean()))
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, atol=1e-6, rtol=1e-4)


def kept_bytes(model: Performer, tokens: torch.Tensor) -> int:
    """What autograd keeps of a forward pass, each piece of memory once."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.encode(tokens)
    return sum(kept.values())


@pytest.mark.parametrize("_size", ["spans"], indirect=True)
def test_training_keeps_no_features_and_no_hidden_layer(monkeypatch):
    monkeypatch.setattr("scbert_cll.nn.block._UNITS_AT_A_TIME", 2**12)
    model, tokens = (
        network(n_hidden=32, n_heads=8, dim_head=16, n_random_features=64),
        sparse_tokens(2),
    )
    stream = 2 * 50 * 32 * 4  # bytes of the residual stream
    # per block: some residual streams, the output of the heads of four times their width, and small
    # change; the hidden layer would be twice four streams more
    assert kept_bytes(model, tokens) < 2 * (8 + 4) * stream + 40_000
    plain = 2 * 50 * 8 * 64 * 4  # bytes of one tensor of features
    assert kept_bytes(model, tokens) < 2 * 2 * plain


def test_cells_that_share_their_zeros_are_those_that_do_not(monkeypatch):
    for choices in ({}, {"stabilizer": "head"}, {"end_token": True}):
        model, tokens = network(**choices), sparse_tokens(5)
        tokens = torch.nn.functional.pad(tokens, (0, int(model.config.end_token)))
        with torch.inference_mode():
            block, x = model.blocks[0], model.embed(tokens)
            shared = model._first_block(tokens, x)
            torch.testing.assert_close(shared, block(x), atol=2e-6, rtol=0)
            together = model.encode(tokens)
            alone = torch.cat(
                [model.encode(cell[None]) for cell in tokens]
            )  # one cell does not share
        torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


def test_zeros_are_not_shared_where_the_subtraction_would_lose_precision():
    """A gene whose zero has by far the largest key, and which is expressed."""
    model, tokens = network(), sparse_tokens(5)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[32:64] *= 8
        model.blocks[0].attention_norm.weight[:] = torch.linspace(0, 3, 32)
    with torch.inference_mode():
        x = model.embed(tokens)
        keys = model.blocks[0].attention.keys(
            model.blocks[0].attention_norm(model.embed(torch.zeros_like(tokens[:1])))
        )
        tokens[:, keys.square().sum((2, 3)).argmax()] = 3
        x = model.embed(tokens)
        shared = model._first_block(tokens, x)
        assert shared is None or torch.allclose(shared, model.blocks[0](x), atol=2e-6)
        torch.testing.assert_close(
            model.encode(tokens),
            torch.cat([model.encode(cell[None]) for cell in tokens]),
            atol=5e-6,
            rtol=0,
        )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("choices", [{}, {"attention": "exact"}], ids=str)
def test_levels_stand_for_genes_without_gene_vectors(choices, recompute):
    model, tokens = network(gene_embedding="none", **choices), sparse_tokens()
    model.set_recompute(recompute)
    weight = torch.ones(4, 50)
    weight[1, 30:] = 0
    x = model.embed(tokens)
    for block in model.blocks:
        x = block(x, weight)
    expected = model.norm(x)
    found = model.encode(tokens, None, weight)
    torch.testing.assert_close(found[weight > 0], expected[weight > 0], atol=2e-6, rtol=0)
    probe = torch.linspace(-1, 1, 32)
    results = [gradients(model, ((y * probe).sum(-1) * weight).sum()) for y in (found, expected)]
    for name, gradient in results[1].items():
        assert (results[0][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5, name


def test_levels_do_not_stand_for_genes_under_dropout():
    model = network(gene_embedding="none", dropout=0.5).train()
    torch.manual_seed(9)
    encodings = model.encode(torch.ones(1, 50, dtype=torch.long))
    assert encodings[0].unique(dim=0).shape[0] > 40


def test_batches_in_several_tensors_are_classified_as_one():
    model = network(n_classes=3, tokens="expressed")
    tokens = sparse_tokens(6)
    together = model(tokens)
    parts = [{"tokens": tokens[:4]}, {"tokens": tokens[4:], "weight": torch.ones(2, 50)}]
    torch.testing.assert_close(model.logits(model.penultimate(parts)), together, atol=1e-6, rtol=0)


def test_background_approaches_all_genes():
    """A sample that stands for all zeros: the error falls with its size, and vanishes when it is
    all of them.
    """
    model = network(n_genes=50)
    tokens = sparse_tokens(1)
    expressed, zeros = tokens[0].nonzero()[:, 0], (tokens[0] == 0).nonzero()[:, 0]
    with torch.inference_mode():
        expected = model.encode(tokens)[0, expressed]
        errors = []
        for n in (0, len(zeros) // 2, len(zeros)):
            genes = torch.cat([expressed, zeros[:n]])[None]
            weight = torch.ones(1, genes.shape[1])
            weight[0, len(expressed) :] = len(zeros) / max(n, 1)
            found = model.encode(tokens[:, genes[0]], genes, weight)[0, : len(expressed)]
            errors.append(float((found - expected).square().mean().sqrt()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_bfloat16_keeps_gene_attention_in_float32():
    model, tokens = network(), sparse_tokens()
    with torch.inference_mode():
        expected, plain = model.gene_attention(tokens), model.encode(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            found, lowered = model.gene_attention(tokens), model.encode(tokens)
    assert torch.equal(found, expected)
    error = (lowered.float() - plain).square().mean().sqrt()
    assert 1e-5 < error < 0.05


def test_gradients_accumulate():
    model, tokens = network(n_classes=2).train(), sparse_tokens(8)
    whole = gradients(model, model.to_bins(model.encode(tokens)).square().sum())
    model.zero_grad()
    for half in tokens.split(4):
        model.to_bins(model.encode(half)).square().sum().backward()
    for name, gradient in whole.items():
        found = model.get_parameter(name).grad
        assert (found - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name


def test_redrawing_leaves_all_but_the_features():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.redraw_features(torch.Generator().manual_seed(1))
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"blocks.0.attention.projection", "blocks.1.attention.projection"}


def test_nothing_is_compiled_into_the_names_of_the_weights():
    assert not [name for name in network().state_dict() if name.startswith("_orig_mod")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("lowered", [False, True])
def test_a_gpu_says_what_a_cpu_says(lowered):
    model, tokens = network(n_classes=2), sparse_tokens()
    expected = model(tokens)
    wanted = gradients(model, expected.square().sum())
    model.cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=lowered):
        found = model(tokens.cuda())
    got = gradients(model, found.float().square().sum())
    torch.testing.assert_close(
        found.float().cpu(), expected, atol=0.05 if lowered else 1e-4, rtol=0
    )
    for name, gradient in wanted.items():
        assert (got[name].cpu() - gradient).norm() <= (
            0.1 if lowered else 1e-3
        ) * gradient.norm() + 1e-4, name


# --- read off step by step, by hand
# -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_attention_floor_is_that_of_the_keys_of_each_layer(weighted: bool) -> None:
    torch.manual_seed(0)
    network = Performer(CONFIG).eval()
    tokens, genes = (
        torch.randint(0, 7, (3, 12)),
        torch.stack([torch.randperm(24)[:12] for _ in range(3)]),
    )
    weight = torch.rand(3, 12) + 0.5 if weighted else None
    with torch.no_grad():
        found = network.attention_floor(tokens, genes, weight)
        x = network.token_embedding(tokens) + network.gene_embedding(genes)
        for layer, block in zip(found, network.blocks, strict=True):
            keys = (
                block.attention.qkv(block.attention_norm(x)).chunk(3, -1)[1].unflatten(-1, (2, 8))
            )  # (b, n, h, d)
            features = naive_features(keys, block.attention.kernel, weight)  # (b, h, n, r)
            each = torch.ones(3, 12) if weight is None else weight
            total = (features * each[:, None, :, None]).sum((1, 2, 3))
            floor = context.EPSILON * features.shape[-1] * features.shape[1] * each.sum(1)
            torch.testing.assert_close(layer, floor / total, rtol=1e-4, atol=0)
            x = block(x, weight)


def test_a_network_without_classes_summarises_by_its_mean_token() -> None:
    torch.manual_seed(0)
    network = Performer(CONFIG).eval()
    tokens = torch.randint(0, 7, (3, 24))
    weight = torch.rand(3, 24) + 0.5
    with torch.no_grad():
        torch.testing.assert_close(network.summarize(tokens), network.encode(tokens).mean(1))
        encodings = network.encode(tokens, weight=weight)
        expected = torch.stack(
            [(e * w[:, None]).sum(0) / w.sum() for e, w in zip(encodings, weight, strict=True)]
        )
        torch.testing.assert_close(network.summarize(tokens, weight=weight), expected)


def test_the_published_head_by_hand() -> None:
    """One number of each token, then 512 and 128 units and the classes."""
    torch.manual_seed(0)
    network = Performer(replace(CONFIG, n_classes=3, head="scbert", end_token=True)).eval()
    tokens = torch.randint(0, 7, (3, 25))
    state = {name: tensor.numpy() for name, tensor in network.head.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state.items()} == {
        "collapse.weight": (1, 16),
        "collapse.bias": (1,),
        "layers.0.weight": (512, 25),
        "layers.0.bias": (512,),
        "layers.3.weight": (128, 512),
        "layers.3.bias": (128,),
        "layers.6.weight": (3, 128),
        "layers.6.bias": (3,),
    }
    with torch.no_grad():
        found = network(tokens).numpy()
        x = np.maximum(
            (network.encode(tokens).numpy() @ state["collapse.weight"].T)[..., 0]
            + state["collapse.bias"],
            0,
        )
    for i in (0, 3):
        x = np.maximum(x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"], 0)
    np.testing.assert_allclose(
        found, x @ state["layers.6.weight"].T + state["layers.6.bias"], rtol=1e-4, atol=1e-6
    )
