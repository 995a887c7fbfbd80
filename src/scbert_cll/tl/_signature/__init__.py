"""The verb ``tl.signature``."""
