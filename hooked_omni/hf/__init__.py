"""Hugging Face models: loading, checkpoints, towers, and the capture of what they hand on."""
