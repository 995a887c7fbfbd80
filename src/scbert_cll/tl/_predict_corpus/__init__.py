"""The verb ``tl.predict_corpus``."""
