"""Pairs of pictures and sounds that are as unlike as can be."""
