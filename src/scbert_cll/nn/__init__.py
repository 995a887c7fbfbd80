"""The network: tensors in, tensors out."""

from scbert_cll.nn.config import Config
from scbert_cll.nn.masking import mask_tokens
from scbert_cll.nn.performer import Performer

__all__ = ["Config", "Performer", "mask_tokens"]
