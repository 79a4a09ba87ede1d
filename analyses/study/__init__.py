"""The whole study from one file: its stages, claims and report."""
