"""The verb ``tl.prognosis``."""
