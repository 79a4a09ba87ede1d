"""Families that hear and do not see."""
