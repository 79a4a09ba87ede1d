"""One question per file: `run(...)` gives a tidy table, `plot(table)` a figure."""
