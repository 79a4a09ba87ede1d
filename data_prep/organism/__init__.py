"""A synthetic audio-visual world, and small models of the real classes that grow up in it."""
