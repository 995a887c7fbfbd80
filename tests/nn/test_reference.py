"""The network against numbers of the original scBERT, from the same weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from scbert_cll.model.exchange.scbert_file import Checkpoint
from scbert_cll.nn import Config, Performer

pytestmark = pytest.mark.realdata

NAMES = ["small_nog2v", "small_g2v", "small_finetune_head", "true_arch_l129"]
TOLERANCE = 5e-6
GRADIENTS = 2e-5  # relative


@pytest.fixture(scope="module", params=NAMES)
def reference(request, shared_file):
    """A network with the original's weights, its inputs, and what the original made of them."""
    checkpoint = Checkpoint(shared_file(f"reference/scbert/{request.param}.pth"))
    n_genes = checkpoint.sizes.get("positions", 1) - 1
    network = Performer(checkpoint.config(n_genes)).eval()
    weights = checkpoint.weights(pd.RangeIndex(n_genes), None)
    missing = network.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {
        "to_bins.weight",
        "to_bins.bias",
    }  # a fine-tuned checkpoint has no bins
    expected = np.load(shared_file(f"reference/scbert/{request.param}.npz"))
    return network, torch.from_numpy(expected["tokens"]), expected


@pytest.fixture
def in_batches(reference):
    """The key maximum over the whole batch, as the original has it when several cells go in
    together.
    """
    network = reference[0]
    for block in network.blocks:
        block.attention.stabilizer = "batch"
    yield reference
    for block in network.blocks:
        block.attention.stabilizer = "cell"


@pytest.fixture(params=["streamed", "with gradients", "recomputed"])
def _way(request, reference):
    """The ways through a block: without gradients, with them, and with all of the block computed
    twice.
    """
    reference[0].set_recompute(request.param == "recomputed")
    with torch.set_grad_enabled(request.param != "streamed"):
        yield
    reference[0].set_recompute(False)


def close(found: torch.Tensor, expected: np.ndarray, **tolerance: float) -> None:
    np.testing.assert_allclose(
        found.detach(), expected, **{"atol": TOLERANCE, "rtol": 0} | tolerance
    )


@pytest.mark.usefixtures("_way")
def test_logits_and_encodings_are_the_originals(reference):
    network, tokens, expected = reference
    close(network(tokens), expected["logits_single"])
    close(network.encode(tokens), expected["encodings_single"])


@pytest.mark.usefixtures("_way")
def test_batch_stabilizer_is_the_originals_training_forward(in_batches):
    network, tokens, expected = in_batches
    close(network(tokens), expected["logits_batch"])
    close(network.encode(tokens), expected["encodings_batch"])


def test_residual_stream_is_the_originals_layer_by_layer(reference):
    network, tokens, expected = reference
    if network.gene_embedding is None:  # the same numbers, by levels
        network = Performer(replace(network.config, n_genes=64, gene_embedding="learned")).eval()
        state = reference[0].state_dict() | {"gene_embedding.weight": torch.zeros(65, 32)}
        network.load_state_dict(state)
    inputs, middles = [], []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        block.feedforward_norm.register_forward_pre_hook(lambda _, args: middles.append(args[0]))
    with torch.enable_grad():
        network.encode(tokens[:1])
    close(torch.cat(inputs), expected["layer_inputs_cell0"])
    close(torch.stack(middles), expected["layer_mid_cell0"])
    for block in network.blocks:
        block._forward_pre_hooks.clear()
        block.feedforward_norm._forward_pre_hooks.clear()


@pytest.mark.parametrize(
    ("original", "field"), [(False, "attn_col_used_f32"), (True, "attn_col_returned_f32")]
)
def test_gene_attention_is_the_originals(reference, original, field):
    network, tokens, expected = reference
    with torch.inference_mode():
        found = network.gene_attention(tokens, original=original).transpose(
            0, 1
        )  # (b, layers, h, n)
    close(found, expected[field], rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_the_originals(in_batches, recompute):
    network, tokens, expected = in_batches
    network.set_recompute(recompute)
    network.requires_grad_(True)
    network.zero_grad()
    targets = torch.from_numpy(expected["grad_targets"])
    loss = F.cross_entropy(network(tokens).flatten(0, -2), targets.flatten())
    loss.backward()
    network.set_recompute(False)
    np.testing.assert_allclose(loss.item(), expected["grad_loss"], rtol=1e-6)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    found = as_scbert(gradients, network.config)
    if "grad_norms" in expected:
        norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norms"], strict=True))
        compared = [
            (float(found[name].norm()), norm) for name, norm in norms.items() if name in found
        ]
        np.testing.assert_allclose(*zip(*compared, strict=True), rtol=GRADIENTS)
        assert len(compared) >= 80
    else:
        names = [name.removeprefix("grad/") for name in expected if name.startswith("grad/")]
        missing = [name for name in names if name not in found]
        assert set(missing) <= {"pos_emb.emb.weight"}  # gene vectors stay as they are
        for name in set(names) - set(missing):
            gradient = expected[f"grad/{name}"]
            error = np.linalg.norm(found[name].numpy() - gradient) / max(
                np.linalg.norm(gradient), 1e-12
            )
            assert error < GRADIENTS, name


def as_scbert(gradients: dict[str, torch.Tensor], config: Config) -> dict[str, torch.Tensor]:
    """Gradients under scBERT's names: the fused matrix of queries, keys and values in three, and so
    on.
    """
    pairs = {"token_embedding": "token_emb", "norm": "norm", "to_bins": "to_out"}
    pairs |= {
        "head.layers.0": "to_out.fc1",
        "head.layers.3": "to_out.fc2",
        "head.layers.6": "to_out.fc3",
    }
    pairs |= {"head.collapse": "to_out.conv1"}
    found = {}
    for i in range(config.n_layers):
        attention, feedforward = f"performer.net.layers.{i}.0", f"performer.net.layers.{i}.1"
        parts = gradients[f"blocks.{i}.attention.qkv.weight"].chunk(3)
        found |= {
            f"{attention}.fn.to_{x}.weight": part for x, part in zip("qkv", parts, strict=True)
        }
        pairs |= {
            f"blocks.{i}.attention_norm": f"{attention}.norm",
            f"blocks.{i}.attention.out": f"{attention}.fn.to_out",
            f"blocks.{i}.feedforward_norm": f"{feedforward}.norm",
            f"blocks.{i}.feedforward.0": f"{feedforward}.fn.fn.w1",
            f"blocks.{i}.feedforward.2": f"{feedforward}.fn.fn.w2",
        }
    for ours, theirs in pairs.items():
        found |= {
            f"{theirs}.{part}": gradients[f"{ours}.{part}"]
            for part in ("weight", "bias")
            if f"{ours}.{part}" in gradients
        }
    if "to_out.conv1.weight" in found:
        found["to_out.conv1.weight"] = found["to_out.conv1.weight"].view(1, 1, 1, -1)
    return found
