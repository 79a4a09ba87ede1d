"""Families that see and do not hear."""
