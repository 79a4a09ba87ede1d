"""Families that see and hear."""
