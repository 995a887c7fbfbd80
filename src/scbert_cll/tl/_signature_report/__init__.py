"""The verb ``tl.signature_report``."""
