"""Sounds, words and tokens of texts."""
