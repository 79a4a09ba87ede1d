"""Captions, sweeps, scores and lenses over the decoder."""
