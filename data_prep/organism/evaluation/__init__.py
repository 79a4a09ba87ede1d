"""Evaluation of the model organisms."""
