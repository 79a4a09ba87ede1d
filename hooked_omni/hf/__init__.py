"""Hugging Face models: loading, checkpoints, towers, and the decoder's inputs."""
