"""From what others publish to samples: one file per layout, one function per file.

Each returns an `Imported`: the samples whose media are there, and why the others are not.
"""
