"""The synthetic audio-visual world of the model organisms."""
