"""Families whose code is not in transformers: it comes with the checkpoint, or in a package."""
