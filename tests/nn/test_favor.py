"""FAVOR+ beside its plain O(n²) twin, and beside what it approximates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll.nn import favor

STABILIZERS = ["cell", "head", "batch"]


def tensors(seed: int, *, b: int = 3, h: int = 2, n: int = 17, d: int = 8, r: int = 20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, h, n, d, generator=generator, dtype=dtype) for _ in range(3))
    keep = torch.rand(b, n, generator=generator) < 0.7
    keep[:, 0] = True
    return q, k, v, favor.orthogonal_features(r, d, generator), keep


@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_its_naive_twin_gradients_included(stabilizer, padded):
    q, k, v, projection, keep = tensors(0)
    keep = keep if padded else None
    probe = torch.randn(v.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for matrix in (False, True):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        if matrix:
            dense = favor.naive_attention_matrix(*inputs[:2], projection, keep, stabilizer)
            out = dense @ inputs[2].float()
        else:
            out = favor.attention(*inputs, projection, keep, stabilizer).float()
        (out * probe).sum().backward()
        results.append([out.detach(), *(x.grad for x in inputs)])
    for fast, naive in zip(*results, strict=True):
        torch.testing.assert_close(fast, naive, rtol=1e-4, atol=2e-6, check_dtype=False)


@pytest.mark.parametrize("stabilizer", STABILIZERS)
@pytest.mark.parametrize("padded", [False, True])
def test_received_attention_is_the_column_mean_of_the_matrix(stabilizer, padded):
    q, k, _, projection, keep = tensors(2)
    keep = keep if padded else torch.ones_like(keep)
    dense = favor.naive_attention_matrix(q, k, projection, keep, stabilizer)
    weight = keep / keep.sum(-1, keepdim=True)
    expected = torch.einsum("bi,bhij->bhj", weight.to(dense.dtype), dense)
    found = favor.received_attention(q, k, projection, keep if padded else None, stabilizer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:2]))
    assert (found[~keep[:, None].expand_as(found)] == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), padding=st.integers(1, 9))
def test_padding_changes_nothing(seed, padding):
    q, k, v, projection, _ = tensors(seed, b=2, n=11)
    keep = torch.ones(2, 11 + padding, dtype=torch.bool)
    keep[:, 11:] = False
    loud = 50 * torch.ones(2, 2, padding, 8, dtype=q.dtype)  # would win every maximum
    padded = [torch.cat([x, loud], dim=2) for x in (q, k, v)]
    alone = favor.attention(q, k, v, projection)
    torch.testing.assert_close(favor.attention(*padded, projection, keep)[:, :, :11], alone, rtol=1e-4, atol=1e-6)


def test_cell_stabilizer_makes_cells_independent_and_batch_stabilizer_does_not():
    q, k, v, projection, _ = tensors(3)
    k[0] *= 4  # a companion with large keys
    for stabilizer, independent in (("cell", True), ("head", True), ("batch", False)):
        together = favor.attention(q, k, v, projection, None, stabilizer)[1]
        alone = favor.attention(q[1:2], k[1:2], v[1:2], projection, None, stabilizer)[0]
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-7) == independent


def test_features_approximate_softmax_attention_better_the_more_there_are():
    q, k, *_ = tensors(4, n=30)
    q, k = q / 2, k / 2  # keys far out drown in EPSILON however many features there are
    exact = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1).float()
    errors = []
    for r in (16, 256, 4096):
        projection = favor.orthogonal_features(r, 8, torch.Generator().manual_seed(5))
        errors.append(float((favor.naive_attention_matrix(q, k, projection) - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_orthogonal_features_are_orthogonal_within_a_block():
    projection = favor.orthogonal_features(20, 8, torch.Generator().manual_seed(6))
    assert projection.shape == (20, 8)
    for block in projection.split(8):
        gram = block @ block.T
        torch.testing.assert_close(gram - torch.diag(gram.diag()), torch.zeros_like(gram), atol=1e-5, rtol=0)


def test_attention_floor_is_the_share_of_epsilon():
    _, k, _, projection, keep = tensors(7)
    features = favor.key_features(k, projection, keep)
    n_features = keep.sum(-1) * k.shape[1] * len(projection)
    expected = favor.EPSILON * n_features / features.sum((1, 2, 3))
    torch.testing.assert_close(favor.attention_floor(k, projection, keep), expected)
    assert favor.attention_floor(40 * k, projection, keep).min() > favor.attention_floor(k, projection, keep).max()
