"""Runs over a manifest: their cases, folders, results and identity."""
