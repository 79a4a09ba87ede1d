"""Prompts, spans and media: pure data, without a model."""
