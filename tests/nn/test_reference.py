"""The network against numbers of the original scBERT, from the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scbert_cll.model._io import read_scbert_checkpoint
from scbert_cll.nn import Performer

pytestmark = pytest.mark.realdata

NAMES = ["small_nog2v", "small_g2v", "small_finetune_head", "true_arch_l129"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=NAMES)
def reference(request, shared_file):
    config, state = read_scbert_checkpoint(shared_file(f"reference/scbert/{request.param}.pth"))
    network = Performer(config).eval()
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"to_bins.weight", "to_bins.bias"}  # a fine-tuned checkpoint has no bins
    return network, np.load(shared_file(f"reference/scbert/{request.param}.npz"))


def test_logits_and_encodings_are_the_originals(reference):
    network, expected = reference
    tokens = torch.from_numpy(expected["tokens"])
    with torch.inference_mode():
        np.testing.assert_allclose(network(tokens), expected["logits_single"], atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(network.encode(tokens), expected["encodings_single"], atol=TOLERANCE, rtol=0)


def test_gene_attention_is_the_originals(reference):
    network, expected = reference
    with torch.inference_mode():
        found = network.gene_attention(torch.from_numpy(expected["tokens"])).transpose(0, 1)  # (b, layers, h, n)
    np.testing.assert_allclose(found, expected["attn_col_used_f32"], rtol=TOLERANCE, atol=0)


def test_batch_stabilizer_is_the_originals_training_forward(reference):
    network, expected = reference
    for block in network.blocks:
        block.attention.stabilizer = "batch"
    with torch.inference_mode():
        found = network(torch.from_numpy(expected["tokens"]))
    for block in network.blocks:
        block.attention.stabilizer = "cell"
    np.testing.assert_allclose(found, expected["logits_batch"], atol=TOLERANCE, rtol=0)
