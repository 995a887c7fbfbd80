"""FAVOR+ beside its plain O(n²) twin, and beside what it approximates."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll.nn import context, favor, softmax
from scbert_cll.nn.context import Kernel
from tests.nn._naive import naive_attention_matrix, naive_features

STABILIZERS = ["cell", "head", "batch"]
WEIGHTS = ["none", "padding", "background"]
HEADS, DIM, WIDTH = 2, 8, 12


def tensors(seed: int, *, b=3, n=37, r=20, weights="none", stabilizer="cell"):
    """Tokens, the matrix of queries, keys and values, random features, and how many genes a token
    stands for.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, WIDTH, generator=generator)
    qkv = torch.randn(3 * HEADS * DIM, WIDTH, generator=generator) / 4
    weight = {
        "none": None,
        "padding": (torch.rand(b, n, generator=generator) < 0.7).float(),
        "background": 30
        * torch.rand(b, n, generator=generator)
        * (torch.rand(b, n, generator=generator) < 0.8),
    }[weights]
    if weight is not None:
        weight[:, 0] = 1
    return x, qkv, Kernel(favor.orthogonal_features(r, DIM, generator), stabilizer), weight


def split(x: torch.Tensor, qkv: torch.Tensor) -> list[torch.Tensor]:
    return [context.heads(x, matrix, DIM) for matrix in qkv.chunk(3)]


@pytest.fixture(params=[None, 500, 5_000], ids=["whole", "spans of tokens", "groups of cells"])
def _at_a_time(request, monkeypatch):
    """Few features at a time, so that small tensors are cut as large ones are."""
    if request.param is not None:
        monkeypatch.setattr(context, "_AT_A_TIME", dict.fromkeys(("cpu", "cuda"), request.param))


def naive_attention(x, qkv, kernel, weight, asking):
    (q, _, _), (_, k, v) = split(x if asking is None else asking, qkv), split(x, qkv)
    matrix = naive_attention_matrix(q, k, kernel, weight)
    return (matrix @ v.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("some_ask", [False, True])
@pytest.mark.usefixtures("_at_a_time")
def test_attention_equals_its_naive_twin_gradients_included(stabilizer, weights, some_ask):
    x, qkv, kernel, weight = tensors(0, weights=weights, stabilizer=stabilizer)
    asking = x[:, 3:8] * 1.5 if some_ask else None
    results = []
    for function in (favor.attention, naive_attention):
        inputs = [None if t is None else t.clone().requires_grad_() for t in (x, qkv, asking)]
        out = function(inputs[0], inputs[1], kernel, weight, inputs[2])
        probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * probe).sum().backward()
        results.append([out.detach(), *(t.grad for t in inputs if t is not None)])
    for fast, naive in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.usefixtures("_at_a_time")
def test_gradients_reach_the_weights(stabilizer, small, monkeypatch):
    """How an output changes when a token counts a little less."""
    monkeypatch.setattr(favor, "_SMALL", 10**6 if small else 0)
    x, qkv, kernel, weight = tensors(2, weights="background", stabilizer=stabilizer)
    results = []
    for function in (favor.attention, naive_attention):
        counts = weight.clone().requires_grad_()
        out = function(x, qkv, kernel, counts, None)
        probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * probe).sum().backward()
        results.append(counts.grad[weight > 0])  # a token of no weight is padding
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.usefixtures("_at_a_time")
def test_received_attention_is_the_column_mean_of_the_matrix(stabilizer, weights):
    x, qkv, kernel, weight = tensors(2, weights=weights, stabilizer=stabilizer)
    q, k, _ = split(x, qkv)
    share = favor.mean_weight(x[..., 0], weight)
    dense = naive_attention_matrix(q, k, kernel, weight)
    expected = torch.einsum(
        "bi,bhij->bhj", share, dense
    )  # what all genes behind a token receive together
    found = favor.received_attention(q.__getitem__, k.__getitem__, kernel, share, weight)
    together = found if weight is None else found * weight[:, None]
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(together.sum(-1), torch.ones(found.shape[:2]))
    if weight is not None:
        assert (found[(weight == 0)[:, None].expand_as(found)] == 0).all()


def test_received_attention_of_chosen_queries():
    x, qkv, kernel, _ = tensors(9)
    q, k, _ = split(x, qkv)
    share = torch.zeros(3, 37)
    share[:, [4, 7]] = 0.5
    expected = naive_attention_matrix(q, k, kernel)[:, :, [4, 7]].mean(2)
    torch.testing.assert_close(
        favor.received_attention(q.__getitem__, k.__getitem__, kernel, share, None),
        expected,
        rtol=1e-5,
        atol=1e-8,
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), padding=st.integers(1, 40))
def test_padding_changes_nothing(seed, padding):
    x, qkv, kernel, _ = tensors(seed, b=2, n=11)
    weight = torch.ones(2, 11 + padding)
    weight[:, 11:] = 0
    loud = torch.cat([x, 50 * torch.ones(2, padding, WIDTH)], dim=1)  # would win every maximum
    alone = favor.attention(x, qkv, kernel)
    torch.testing.assert_close(
        favor.attention(loud, qkv, kernel, weight)[:, :11], alone, rtol=1e-4, atol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 5))
def test_a_token_of_weight_two_is_two_tokens(seed, copies):
    x, qkv, kernel, _ = tensors(seed, b=1, n=9)
    weight = torch.ones(1, 9)
    weight[0, 4] = copies
    repeated = torch.cat([x, x[:, 4:5].expand(-1, copies - 1, -1)], dim=1)
    expected = favor.attention(repeated, qkv, kernel)[:, :9]
    torch.testing.assert_close(
        favor.attention(x, qkv, kernel, weight), expected, rtol=1e-4, atol=1e-5
    )


def test_cell_stabilizer_makes_cells_independent_and_batch_stabilizer_does_not():
    x, qkv, kernel, _ = tensors(3)
    x[0] *= 4  # a companion with large keys
    for stabilizer, independent in (("cell", True), ("head", True), ("batch", False)):
        together = favor.attention(x, qkv, kernel._replace(stabilizer=stabilizer))[1]
        alone = favor.attention(x[1:2], qkv, kernel._replace(stabilizer=stabilizer))[0]
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6) == independent


def test_features_approximate_softmax_attention_better_the_more_there_are():
    x, qkv, *_ = tensors(4, n=30)
    q, k, _ = split(
        x / 2, qkv
    )  # keys far out would drown in EPSILON however many features there are
    exact = softmax.attention_matrix(q, k)
    errors = []
    for r in (16, 256, 4096):
        projection = favor.orthogonal_features(r, DIM, torch.Generator().manual_seed(5))
        errors.append(
            float((naive_attention_matrix(q, k, Kernel(projection)) - exact).norm() / exact.norm())
        )
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_orthogonal_features_are_orthogonal_within_a_block():
    projection = favor.orthogonal_features(20, 8, torch.Generator().manual_seed(6))
    assert projection.shape == (20, 8)
    for block in projection.split(8):
        gram = block @ block.T
        torch.testing.assert_close(
            gram - torch.diag(gram.diag()), torch.zeros_like(gram), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_attention_floor_is_the_share_of_epsilon(weights):
    x, qkv, kernel, weight = tensors(7, weights=weights)
    _, k, _ = split(x, qkv)
    features = naive_features(k, kernel, weight)
    counts = torch.ones(3, 37) if weight is None else weight
    features = features * counts[:, None, :, None]
    expected = (
        context.EPSILON * counts.sum(1) * HEADS * len(kernel.projection) / features.sum((1, 2, 3))
    )
    torch.testing.assert_close(
        favor.attention_floor(k, kernel, weight), expected, rtol=1e-4, atol=0
    )
    assert favor.attention_floor(40 * k, kernel, weight).min() > expected.max()


@pytest.mark.parametrize("_size", ["spans"], indirect=True)
def test_nothing_of_tokens_by_features_is_kept_for_the_gradients():
    x, qkv, kernel, _ = tensors(10, n=400)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        favor.attention(x.requires_grad_(), qkv.requires_grad_(), kernel)
    assert (
        max(kept) <= x.shape[0] * x.shape[1] * HEADS * DIM
    )  # the output; features would be 2.5 times that


def test_bfloat16_is_float32_within_its_precision():
    x, qkv, kernel, weight = tensors(11, weights="padding")
    results = []
    for lowered in (False, True):
        inputs = [t.clone().requires_grad_() for t in (x, qkv)]
        with torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            out = favor.attention(*inputs, kernel, weight)
        assert out.dtype == (torch.bfloat16 if lowered else torch.float32)
        (out.float() * torch.linspace(-1, 1, out.shape[1])[:, None, None]).sum().backward()
        results.append([out.detach().float(), *(t.grad for t in inputs)])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_softmax_equals_its_matrix(weights):
    x, qkv, _, weight = tensors(12, weights=weights)
    q, k, v = split(x, qkv)
    matrix = softmax.attention_matrix(q, k, weight)
    counts = torch.ones(3, 37) if weight is None else weight
    scores = (
        torch.exp(q.transpose(1, 2) @ k.transpose(1, 2).transpose(-1, -2) / DIM**0.5)
        * counts[:, None, None]
    )
    torch.testing.assert_close(matrix, scores / scores.sum(-1, keepdim=True))
    torch.testing.assert_close(
        softmax.attention(q, k, v, weight), (matrix @ v.transpose(1, 2)).transpose(1, 2)
    )
    share = favor.mean_weight(x[..., 0], weight)
    received = softmax.received_attention(q, k, share, weight) * counts[:, None]
    torch.testing.assert_close(
        received, torch.einsum("bi,bhij->bhj", share, matrix), rtol=1e-5, atol=1e-7
    )


def test_features_are_kept_where_they_are_few(monkeypatch):
    x, qkv, kernel, _ = tensors(14)  # 40 features per token, 111 tokens
    for most, in_all, small in ((40, 4440, True), (39, 4440, False), (40, 4439, False)):
        monkeypatch.setattr(favor, "_SMALL", most)
        monkeypatch.setattr(favor, "_SMALL_IN_ALL", in_all)
        assert favor.is_small(x, qkv, kernel) == small


def test_heads_are_a_linear_map_cut_in_pieces():
    x, qkv, *_ = tensors(13)
    expected = F.linear(x, qkv).view(3, 37, 3, HEADS, DIM)
    for i, part in enumerate(split(x, qkv)):
        torch.testing.assert_close(part, expected[:, :, i])
