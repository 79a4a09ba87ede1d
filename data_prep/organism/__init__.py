"""A synthetic audio-visual world, and small models of the real classes trained on it."""
