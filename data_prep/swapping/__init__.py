"""Clips with another sound."""
