"""From what others publish to samples: one file per layout, one function per file.

Each returns the samples that are wanted, or those whose media were found, and why others are not.
"""
