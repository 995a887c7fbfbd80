"""The network: tensors in, tensors out."""

from scbert_cll.nn.config import Config, mask_tokens
from scbert_cll.nn.performer import Performer

__all__ = ["Config", "Performer", "mask_tokens"]
