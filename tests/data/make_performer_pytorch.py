"""Makes performer_pytorch_1.1.4.npz: weights, tokens and outputs of performer-pytorch (MIT), for
tests/nn/test_performer.py.

Run once with performer-pytorch 1.1.4 and PyTorch 2.15 on a CPU: ``python
tests/data/make_performer_pytorch.py``. The numbers are a language model of 7 tokens over 24
positions with random weights (seed 20), evaluated without dropout.
"""

from pathlib import Path

import numpy as np
import torch
from performer_pytorch import PerformerLM

torch.manual_seed(20)
model = PerformerLM(
    num_tokens=7, max_seq_len=24, dim=16, depth=2, heads=2, dim_head=8, rotary_position_emb=False
).eval()
torch.nn.init.normal_(model.pos_emb.emb.weight)
tokens = torch.randint(0, 7, (2, 24))
with torch.inference_mode():
    results = {
        "tokens": tokens,
        "logits": model(tokens),
        "encodings": model(tokens, return_encodings=True),
    }
state = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
np.savez_compressed(
    Path(__file__).with_name("performer_pytorch_1.1.4.npz"),
    **state,
    **{name: value.numpy() for name, value in results.items()},
)
