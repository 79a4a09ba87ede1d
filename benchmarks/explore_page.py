"""How long until the page of a study can be used? Opened from disk, in headless Chromium.

    python -m benchmarks.explore_page            # 500 samples, random numbers of a full size
    python -m benchmarks.explore_page site       # one that `analyses explore` wrote

Full size is 36 layers of 16 heads, 64 tokens, 24 kept weights of 3 238 positions, 28 knockouts and
two lenses over ten seconds; random attention compresses worse than a model's. Each visit has a page
of its own, so the browser keeps nothing; the system may keep files.
"""

import base64
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from analyses.attention_map.packing import levels, packed
from tests.support import explore_site as small

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
VISITS = 7
DRAWN = """(wanted) => new Promise((done) => {
    const look = () => document.querySelector(wanted)
        ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
        : setTimeout(look, 2);
    look();
})"""
"""Milliseconds since the page was opened, once something is there and drawn."""
ROW, LAST = ".samples tbody tr", ".looks"


QUERIES, LAYERS, HEADS, KEPT = 64, 36, 16, 24
PATCHES = (10, 13, 23)
PARTS = [*((of, i, False) for of in ("audio", "video") for i in range(10)), ("text", -1, False)]


def full_site(root: Path, n: int = 500) -> Path:
    """A site of `n` samples, of which those that are visited have a full size."""
    small.write_site(root, n=n)
    rng = np.random.default_rng(0)
    shape = (LAYERS, HEADS, QUERIES, KEPT)
    positions = np.sort(rng.integers(0, 3238, shape), -1).astype(np.uint16)
    sums = rng.dirichlet(np.ones(len(PARTS)), shape[:3])
    data = base64.b64encode(packed(positions, rng.uniform(0.004, 0.1, shape), sums)[0]).decode()
    for row in small.rows(n)[: VISITS + 1]:
        record, _ = small.sample(row, "media/clip.mp4", n)
        enlarge(record)
        small.put(root, f"0/samples/{row['file']}", record)
        small.put(root, f"0/attention/{row['file']}.hear", data)
    return root


def enlarge(record: dict) -> None:
    """Tokens, attention, lens and knockouts of a sample as large as a 36-layer model's."""
    token = record["tokens"]["hear"][1]
    record["tokens"]["hear"] = [token] * (QUERIES + 1)
    frame, row, column = (one.ravel().tolist() for one in np.indices(PATCHES))
    video = dict(zip(("frames", "rows", "columns"), PATCHES, strict=True), times=[*range(10)])
    video |= {"position": [*range(len(frame))], "frame": frame, "row": row, "column": column}
    sizes = {"queries": QUERIES, "layers": LAYERS, "heads": HEADS, "kept": KEPT, "parts": PARTS}
    sizes["levels"] = levels(LAYERS * HEADS * QUERIES * len(PARTS))
    record["attention"]["hear"] |= {**sizes, "predicts": [*range(1, QUERIES + 1)], "grid": video}
    for lens in record["lens"]:
        cells = [[lens["cells"][0][0]] * 10 for _ in range(LAYERS)]
        lens |= {"layers": [*range(LAYERS)], "seconds": [*range(10)], "cells": cells}
    windows = [(key, center) for key in ("audio", "video") for center in range(4, 32, 2)]
    cut = [small.answer("hear", *window, "a word and another " * 10, 0.5) for window in windows]
    record["answers"] = [*record["answers"][:2], *cut]
    point = record["knockout"][0]
    record["knockout"] = [{**point, "key": key, "center": center} for key, center in windows]


def visit(browser: Browser, site: Path, nth: int) -> dict[str, float]:
    """Milliseconds to the overview, a search in it, a sample, and its attention."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((site / "index.html").resolve().as_uri(), wait_until="commit")
    times = {"overview": page.evaluate(DRAWN, ROW)}
    link = page.locator(f"{ROW} a").nth(nth).get_attribute("href")
    times["search and sort"] = _until(page, "#/?find=a&sort=-shift", "th[aria-sort=descending]")
    times["sample"] = _until(page, f"{link}?token=2", "nav.steps")
    times["its attention"] = times["sample"] + _until(page, f"{link}?token=2", LAST)
    page.close()
    return times


def _until(page: Page, address: str, wanted: str) -> float:
    change = "(to) => { const now = performance.now(); location.hash = to; return now }"
    start = page.evaluate(change, address)
    return page.evaluate(DRAWN, wanted) - start


def main(site: Path) -> None:
    """Print medians and the slowest of some visits, and the size of the site."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=SWITCHES)
        visits = [visit(browser, site, nth) for nth in range(VISITS)]
        print(f"Chromium {browser.version}, {VISITS} visits")
    print("| | median, ms | slowest, ms |\n|---|---|---|")
    for name in visits[0]:
        times = [one[name] for one in visits]
        print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |")
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(f"\n{size / 1e6:.0f} MB in all")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]) if sys.argv[1:] else full_site(Path(folder) / "site"))
