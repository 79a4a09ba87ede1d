"""How long until the page of a study can be used? Opened from disk, in headless Chromium.

    python -m benchmarks.explore --out runs/big        # a large study's site
    python -m benchmarks.explore_page runs/big

A new browser context for each visit, so nothing is cached by it; files may be by the system.
"""

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

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
        print(f"Chromium {browser.version}, {VISITS} visits of {site}")
    print("| | median, ms | slowest, ms |\n|---|---|---|")
    for name in visits[0]:
        times = [one[name] for one in visits]
        print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |")
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(f"\n{size / 1e6:.0f} MB in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
