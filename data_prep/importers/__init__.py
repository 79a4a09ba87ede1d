"""From what others publish to samples: one file per layout, one function per file."""
