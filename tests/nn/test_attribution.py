"""Attributions against what they stand for: finite differences, sums, captum's numbers, and the
whole attention matrices.
"""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients, Saliency

from scbert_cll.nn import Config, Performer, attribution, favor
from tests.nn._naive import naive_attention_matrix

B, N, GENES = 3, 7, 12


def network(**kwargs) -> Performer:
    torch.manual_seed(0)
    config = Config(
        **{"n_genes": GENES, "n_layers": 2, "n_classes": 3, "gene_embedding": "learned"} | kwargs
    )
    module = Performer(config)
    module.head.norm.running_mean.normal_(std=0.1)
    return module.eval()


def some_cells(weights: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    genes = torch.stack([torch.randperm(GENES, generator=generator)[:N] for _ in range(B)])
    cells = {"tokens": torch.randint(1, 6, (B, N), generator=generator), "genes": genes}
    if weights:
        cells["weight"] = torch.ones(B, N)
        cells["weight"][0, -2:] = 0
        cells["weight"][1, -1] = 3.0
    return cells


CONTRAST = attribution.contrast_of(3, 1)


def logit(module, cells) -> torch.Tensor:
    with torch.no_grad():
        return module(**cells) @ CONTRAST


@pytest.mark.parametrize("attention", ["favor", "exact"])
def test_gate_gradient_is_the_slope_of_the_logit_over_a_tokens_weight(attention):
    module, cells = network(attention=attention), some_cells()
    found = attribution.gate_gradient(module, cells, CONTRAST)
    h = 1e-2
    for j in range(N):
        ends = []
        for step in (h, -h):
            weight = cells["weight"].clone()
            weight[:, j] += step * (weight[:, j] > 0)
            ends.append(logit(module, cells | {"weight": weight}))
        torch.testing.assert_close(found[:, j], (ends[0] - ends[1]) / (2 * h), rtol=0.02, atol=2e-4)
    assert (found[0, -2:] == 0).all()


def test_gate_gradient_without_weights_is_that_of_ones():
    module, cells = network(), some_cells(weights=False)
    ones = cells | {"weight": torch.ones(B, N)}
    torch.testing.assert_close(
        attribution.gate_gradient(module, cells, CONTRAST),
        attribution.gate_gradient(module, ones, CONTRAST),
    )


def test_integrated_gradients_are_complete():
    module, cells = network(), some_cells()
    found, change, error = attribution.integrated_gradients(module, cells, CONTRAST, n_steps=64)
    nothing = cells | {"tokens": torch.zeros_like(cells["tokens"])}
    torch.testing.assert_close(change, logit(module, cells) - logit(module, nothing))
    assert error.abs().max() < 0.02 * change.abs().max()
    torch.testing.assert_close(found.sum(1), change, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("n_steps", [1, 8])
def test_integrated_gradients_are_captums(n_steps):
    """The same path, quadrature and layer; float32, so within 1e-5 of the largest value."""
    module, cells = network(), some_cells()
    found, _, _ = attribution.integrated_gradients(module, cells, CONTRAST, n_steps=n_steps)
    method = LayerIntegratedGradients(
        lambda *cell: module(*cell) @ CONTRAST, module.token_embedding
    )
    expected = method.attribute(
        cells["tokens"],
        baselines=torch.zeros_like(cells["tokens"]),
        additional_forward_args=(cells["genes"], cells["weight"]),
        n_steps=n_steps,
        method="gausslegendre",
    ).sum(-1)
    torch.testing.assert_close(
        found, expected.float(), rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )


def test_gradient_input_is_captums():
    """Captum multiplies by the vector itself, which is its distance from no expression where that
    has the vector zero.
    """
    module, cells = network(), some_cells()
    with torch.no_grad():
        module.token_embedding.weight[0] = 0
    method = LayerGradientXActivation(
        lambda *cell: module(*cell) @ CONTRAST, module.token_embedding
    )
    expected = method.attribute(
        cells["tokens"], additional_forward_args=(cells["genes"], cells["weight"])
    )
    expected = expected.sum(-1).detach()
    found = attribution.gradient_input(module, cells, CONTRAST)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_gate_gradient_is_captums_by_the_weight():
    module, cells = network(), some_cells()
    method = Saliency(lambda weight, *cell: module(*cell, weight) @ CONTRAST)
    expected = method.attribute(
        cells["weight"].clone().requires_grad_(),
        additional_forward_args=(cells["tokens"], cells["genes"]),
        abs=False,
    )
    found = attribution.gate_gradient(module, cells, CONTRAST)
    there = cells["weight"] > 0
    torch.testing.assert_close(found[there], expected[there], rtol=1e-4, atol=1e-6)


def test_gradient_input_is_the_first_order_of_a_small_step():
    module, cells = network(), some_cells()
    with torch.no_grad():  # tokens close to that of no expression: the first order is all there is
        module.token_embedding.weight.mul_(1e-3)
    found, change, _ = attribution.integrated_gradients(module, cells, CONTRAST, n_steps=8)
    torch.testing.assert_close(
        attribution.gradient_input(module, cells, CONTRAST), found, rtol=0.02, atol=1e-5
    )
    assert change.abs().max() > 1e-5


@pytest.mark.parametrize("weights", [False, True])
def test_rollout_is_the_product_of_the_matrices(weights):
    module, cells = network(), some_cells(weights)
    tokens, genes, weight = cells["tokens"], cells["genes"], cells.get("weight")
    with torch.no_grad():
        x, product = module.embed(tokens, genes), torch.eye(N).expand(B, N, N)
        for block in module.blocks:
            attention = block.attention
            normed = block.attention_norm(x)
            q, k = attention.queries(normed), attention.keys(normed)
            matrix = naive_attention_matrix(q, k, attention.kernel, weight).mean(1)
            product = (0.5 * matrix + 0.5 * torch.eye(N)) @ product
            x = block(x, weight)
        expected = (favor.mean_weight(tokens, weight).unsqueeze(1) @ product).squeeze(1)
    found = attribution.rollout(module, cells)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(B))


def test_cells_do_not_touch_each_other():
    module, cells = network(), some_cells()
    for method in (attribution.gate_gradient, attribution.gradient_input):
        alone = torch.cat(
            [
                method(module, {k: v[i : i + 1] for k, v in cells.items()}, CONTRAST)
                for i in range(B)
            ]
        )
        torch.testing.assert_close(method(module, cells, CONTRAST), alone, rtol=1e-4, atol=1e-6)
