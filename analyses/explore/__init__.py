"""The page one looks at: a static site of finished or unfinished studies.

`python -m analyses explore runs/x --out site/` writes it from the studies' files; it opens from
disk. What it shows is in `page/src/data.ts`, the contract with the page; its source is in `page/`,
and what is shipped in `built/`.
"""
