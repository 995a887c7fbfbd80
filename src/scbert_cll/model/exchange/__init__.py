"""Models in folders, from and to scBERT, and on Hugging Face."""
