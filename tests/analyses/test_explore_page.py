"""The page of a study in a real browser: what it holds, and how it is used."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from analyses.explore.notebook import show
from hooked_omni import Prompt
from tests.support import explore_site as planted
from tests.support.clips import write_clip

pytestmark = pytest.mark.xdist_group("browser")

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
SWITCHES += [f"--disable-{name}" for name in ("background-networking", "component-update", "sync")]
SAMPLE = "#/sample/clip-1?question=hear&token=2"
PAGES = ["#/", SAMPLE, "#/compare?sample=clip-1"]
NONE = "\u2013"
"""How a missing number is shown."""
SHOTS = [(width, scheme) for width in (390, 1440) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("expected the browser chromium, got none. Do: apt-get install chromium")
    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=found, args=SWITCHES)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_site(tmp_path_factory.mktemp("page") / "a site", ("biased", "base"), n=6)


class Visit:
    """A page of the site, and what the browser complained of and asked for."""

    def __init__(self, browser: Browser, site: Path, **options) -> None:
        self.page: Page = browser.new_page(accept_downloads=True, **options)
        self.site, self.complaints, self.requests = site, [], []
        self.page.on(
            "console",
            lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, address: str) -> Page:
        self.page.goto("about:blank")
        self.page.goto((self.site / "index.html").as_uri() + address)
        self.page.wait_for_selector("main h1, main .absent")
        return self.page

    def saved(self, button: str) -> bytes:
        self.page.evaluate(SETTLED)
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=button, exact=True).click()
        return Path(download.value.path()).read_bytes()

    def table(self, button: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.saved(button).decode("utf-8-sig"))))


@pytest.fixture
def visit(browser: Browser, site: Path) -> Iterator[Visit]:
    one = Visit(browser, site, viewport={"width": 1440, "height": 900})
    yield one
    assert one.complaints == []
    inside = site.as_uri() + "/"
    assert not [
        url for url in one.requests if not url.startswith((inside, "data:", "about:blank", "blob:"))
    ]
    one.page.close()


def until(page: Page, condition: str) -> None:
    """As `wait_for_function`, which evaluates strings; the page's policy forbids it to."""
    for _ in range(1200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"expected {condition} within a minute, got {page.url}")


SETTLED = (
    "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done))))"
)
"""A change of the address has been drawn."""


def ids(page: Page) -> list[str]:
    page.evaluate(SETTLED)
    return page.locator(".samples tbody th").all_inner_texts()


def read(value: float | None) -> str:
    return NONE if value is None else f"{float(f'{value:.3g}'):g}"


def test_the_overview_has_the_tables_numbers(visit):
    page = visit.open("#/")
    rows = planted.rows(6)
    names = [*rows[0]["fidelity"], "drop", "shift", "disagreement"]
    shown = page.locator(".samples tbody tr")
    for i, row in enumerate(rows):
        cells = shown.nth(i).locator("th, td").all_inner_texts()
        values = {**row["fidelity"], **{name: row[name] for name in names[-3:]}}
        assert cells[:2] == [row["id"], row["kind"]]
        assert cells[2:7] == [read(values[name]) for name in names]
    saved = visit.table("Save the table of samples as CSV")
    assert [float(row["shift"]) for row in saved] == [row["shift"] for row in rows]
    texts = (
        "Audio fidelity falls by half.",
        "58 % to 21 %",
        "One clip is missing.",
        "no judge was",
    )
    assert all(page.get_by_text(text).count() for text in texts)


def test_figures_have_the_points_bands_n_and_the_published(visit):
    page = visit.open("#/")
    figure = planted.figures()[0]
    rows = visit.table("Save the table of attention-share as CSV")
    assert len(rows) == 12
    for row in rows:
        panel = next(p for p in figure["panels"] if p["title"] == row["panel"])
        series = next(s for s in panel["series"] if s["name"] == row["series"])
        point = next(p for p in series["points"] if p["x"] == int(row["x"]))
        assert [float(row[k]) for k in ("y", "low", "high", "n")] == [
            point[k] for k in ("y", "low", "high", "n")
        ]
        assert row["published"] == ("0.42" if point["x"] == 1 else "")
    chart = page.locator("section", has_text="Where the answer looks").locator("svg")
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] / 6, "y": 120})
    readout = page.locator(".readout").inner_text()
    assert "audio: 0.1 [0.05, 0.15], n = 41; published 0.42" in readout
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "layer 2" in page.locator(".readout").inner_text()
    svg = ElementTree.fromstring(visit.saved("Save attention-share as SVG"))
    assert "layer" in "".join(svg.itertext())
    assert not [node for node in svg.iter() if "var(" in " ".join(node.attrib.values())]
    png = visit.saved("Save attention-share as PNG")
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20]) == 2 * round(box["width"])


def test_samples_are_found_filtered_sorted_and_linked(visit):
    page = visit.open("#/")
    page.keyboard.press("/")
    page.keyboard.type("number 4")  # of an answer
    until(page, "location.hash.includes('find=number')")
    assert ids(page) == ["clip 4"]
    page.get_by_label("Search").fill("")
    page.get_by_role("combobox", name="Kind", exact=True).select_option("counterfactual")
    page.get_by_role("button", name="shift").click()
    assert ids(page) == ["clip 5", "clip 3", "clip 1"]
    page.get_by_role("combobox", name="Where", exact=True).select_option("drop")
    page.get_by_label("Bound").fill("0.02")
    assert ids(page) == ["clip 5", "clip 3"]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("shift")
    address = page.evaluate("location.hash")
    page.get_by_role("link", name="clip 3").click()
    page.wait_for_selector("h1:has-text('clip 3')")
    page.keyboard.press("ArrowLeft")  # the one before in the order chosen
    page.wait_for_selector("h1:has-text('clip 5')")
    page.go_back()
    page.go_back()
    assert ids(page) == ["clip 5", "clip 3"]
    assert ids(visit.open(address)) == ["clip 5", "clip 3"]
    page.get_by_role("link", name="clip 5").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.innerText") == "clip 3"


def test_missing_values_come_last_in_either_order(visit):
    page = visit.open("#/?sort=see%2Fvideo")
    assert ids(page)[-1] == "clip 1"
    page = visit.open("#/?sort=-see%2Fvideo")
    assert ids(page)[-1] == "clip 1"


def test_the_clip_plays_and_the_playhead_goes_along(visit):
    page = visit.open(SAMPLE)
    until(page, "document.querySelector('video').readyState >= 2")
    # Slowly: it must not come to its end before it is stopped.
    page.evaluate("document.querySelector('video').muted = true")
    page.evaluate("document.querySelector('video').playbackRate = 0.25")
    drawn = "document.querySelector('.playhead').getAttribute('d')"
    before = page.evaluate(drawn)
    page.keyboard.press(" ")
    until(page, "document.querySelector('video').currentTime > 0.1")
    page.keyboard.press(" ")
    assert page.evaluate("document.querySelector('video').paused")
    until(page, f"{drawn} !== {json.dumps(before)}")
    timeline = page.locator(".timeline svg").first
    box = timeline.bounding_box()
    timeline.click(position={"x": box["width"] / 2, "y": 20})
    until(page, "Math.abs(document.querySelector('video').currentTime - 1) < 0.05")
    until(page, f"Math.abs(parseFloat({drawn}.match(/M([\\d.]+)/)[1]) - {box['width'] / 2}) < 12")
    assert b"data:image/png" in visit.saved("Save the sound as SVG")
    assert len(visit.saved("Save the sound as PNG")) > 1000
    assert len(visit.table("Save the table of the sound as CSV")) == 200


def test_tokens_say_how_far_they_moved(visit):
    page = visit.open("#/sample/clip-1?question=hear")
    tokens = page.locator(".answer .token")
    assert "".join(tokens.all_inner_texts()) == "".join(planted.PIECES).replace("\n", "↵")
    classes = [tokens.nth(i).get_attribute("class").split()[1] for i in range(3)]
    assert classes == ["unshifted", "marginal", "shifted"]
    tokens.nth(5).hover()
    details = page.locator(".details").first.inner_text()
    for text in ("shifted: not among", "50 %", "25 %", "7", "0.625 nats", "<b>bold</b>", "鳥"):
        assert text in details
    tokens.nth(1).click()
    until(page, "location.hash.includes('token=1')")
    page.keyboard.press("Shift+ArrowRight")
    until(page, "location.hash.includes('token=1-2')")
    tokens.nth(2).hover()
    page.mouse.down()
    tokens.nth(4).hover()
    page.evaluate(SETTLED)
    assert page.locator(".token[aria-pressed=true]").count() == 3
    page.mouse.up()
    until(page, "location.hash.includes('token=2-4')")
    page.evaluate(SETTLED)
    assert page.locator(".token[aria-pressed=true]").count() == 3
    tokens.nth(2).dblclick()
    until(page, "location.hash.includes('token=2-3')")
    svg = ElementTree.fromstring(visit.saved("Save tokens of the answer as SVG"))
    texts = [node.text for node in svg.findall(".//{*}text") if node.text]
    assert "".join(texts[:-3]) == "".join("".join(planted.PIECES).split()[:-1]) + "↵🐕"
    assert texts[-3:] == ["unshifted", "marginal", "shifted"]
    fills = {node.get("class"): node.get("fill") for node in svg.findall(".//{*}rect")}
    assert fills["token shifted"] == "rgb(248, 213, 143)"
    assert visit.saved("Save tokens of the answer as PNG").startswith(b"\x89PNG")


def attention(visit: Visit) -> dict[tuple, float]:
    rows = visit.table("Save the table of attention on the frames as CSV")
    keys = ("tower", "second", "row", "column")
    return {tuple(row[k] for k in keys): float(row["share"]) for row in rows if float(row["share"])}


def test_attention_stands_on_the_patches_and_on_the_sound(visit):
    page = visit.open(SAMPLE)
    page.wait_for_selector(".frames")
    looked, sink = ("video", "0.5", "1", "3"), ("video", "0", "0", "0")
    code = (round(255 * 3**-0.5) / 255) ** 2
    heard = {("audio", second, "", ""): pytest.approx(1 / 6, abs=1e-5) for second in ("0", "1")}
    mean = {"0": 0.75 * planted.SUMS["video", 0, False], "0.5": 1 / 12}
    mean["1"] = 0.75 * planted.SUMS["video", 2, False]  # the most, though no weight of it is kept
    seen = {("video", s, "", ""): pytest.approx(one, abs=1e-5) for s, one in mean.items()}
    assert attention(visit) == {looked: pytest.approx(code / 4), **heard, **seen}
    texts = page.locator(".frames .time").all_text_contents()
    assert [one.split("   ")[1] for one in texts] == ["3.75 %", "8.33 %", "19 %"]
    assert page.locator(".timeline .heat-bar title").all_text_contents()[0] == "0 s: 16.7 %"
    first = page.get_by_label("First layer")
    first.focus()
    page.keyboard.press("End")
    seen = {("video", "0.5", "", ""): pytest.approx(1 / 3, abs=1e-5)}
    assert attention(visit) == {looked: pytest.approx(code), **heard, **seen}
    page.get_by_label("Show 1 sinks").check()
    seen["video", "0", "", ""] = pytest.approx(1 / 3, abs=1e-5)
    assert attention(visit) == {
        looked: pytest.approx(code),
        sink: pytest.approx(code),
        **heard,
        **seen,
    }
    page.get_by_label("One head").check()
    page.get_by_role("slider", name="Head").fill("1")
    page.evaluate(SETTLED)
    assert "head 1, layers 3" in page.locator(".attention .note").first.inner_text()
    assert page.evaluate("location.hash").count("layers=3")
    cell = page.locator(".frames .heat").nth(1)
    cell.hover(force=True)
    assert "0.5 s, row 2, column 4: 33.2 %" in page.locator(".scale output").inner_text()
    box, frame = cell.bounding_box(), page.locator(".frames .dim").nth(1).bounding_box()
    assert box["x"] + box["width"] == pytest.approx(frame["x"] + frame["width"], abs=1)
    assert box["width"] == pytest.approx(frame["width"] / planted.COLUMNS, abs=1)
    assert page.locator(".shares b").all_inner_texts() == ["0 %", "66.7 %", "33.3 %"]
    assert b"data:image/jpeg" in visit.saved("Save attention on the frames as SVG")
    assert len(visit.saved("Save attention on the frames as PNG")) > 1000
    page.locator(".answer .token").nth(1).click()
    patches = [key for key in attention(visit) if key[0] == "video" and key[2]]
    assert patches == [sink]
    page.locator(".answer .token").nth(0).click()
    page.evaluate(SETTLED)
    assert page.get_by_text("Nothing is kept").count()


def test_the_lens_is_searched_in_every_script(visit):
    page = visit.open(SAMPLE)
    lens = page.locator(".lens")
    cells = lens.locator("td")
    assert cells.nth(0).inner_text() == "नमस्ते"
    lens.get_by_label("Search the lens").fill("犬")
    assert lens.locator("td.found").all_inner_texts() == ["犬"]
    lens.get_by_label("Search the lens").fill("BIRD")  # among the tokens after the first
    assert "8 of 8 cells" in lens.inner_text()
    assert lens.locator("td.hit").inner_text() == "● ␣dog"
    lens.locator("td.hit").hover()
    assert "Layer 2, 0 s: ␣dog 60.7 %" in lens.locator(".details").inner_text()
    saved = visit.table("Save the table of logit lens norm as CSV")
    assert [row["token"] for row in saved if row["layer"] == "2"] == [" dog", "犬"]


def test_answers_stand_beside_those_with_layers_cut(visit):
    page = visit.open(SAMPLE)
    cards = page.get_by_role("region", name="Answers with attention cut").locator(".card")
    assert [card.split("\n")[0] for card in cards.all_inner_texts()] == [
        "no intervention", "no audio, layers 0\u20132", "no audio, layers 1\u20133",
        "no video, layers 0\u20132", "no video, layers 1\u20133",
    ]  # fmt: skip
    assert "because of video" in cards.nth(4).inner_text()
    page.get_by_role("combobox", name="Cut", exact=True).select_option("video")
    page.evaluate(SETTLED)
    assert cards.count() == 3
    rows = visit.table("Save the table of knockout of this sample as CSV")
    assert {(r["series"], r["x"]): float(r["y"]) for r in rows} == {
        **{(key, str(c)): c / 10 for key in ("audio", "video") for c in (1, 2)},
        **{("no intervention", str(c)): 0.25 for c in (1, 2)},
    }


def test_two_studies_are_compared(visit):
    page = visit.open("#/compare")
    rows = page.locator(".samples tbody tr")
    for i, row in enumerate(planted.rows(6)):
        left, right = row["fidelity"]["hear/audio"], round(row["fidelity"]["hear/audio"] + 0.1, 3)
        assert rows.nth(i).locator("td").all_inner_texts()[1:] == [read(left), read(right), "0.1"]
    means = visit.table("Save the table of comparison as CSV")
    got = next(
        r for r in means if (r["panel"], r["series"], r["x"]) == ("hear/audio", "base", "factual")
    )
    assert float(got["y"]) == pytest.approx(sum(i / 6 + 0.1 for i in (0, 2, 4)) / 3, abs=1e-3)
    assert got["n"] == "3"
    page.get_by_role("combobox", name="Measure", exact=True).select_option("see/video")
    page.evaluate(SETTLED)
    assert rows.nth(1).locator("td").all_inner_texts()[1:] == [NONE, NONE, NONE]
    page.get_by_role("link", name="clip 1").click()
    page.get_by_role("heading", name="hear, base").wait_for()
    page.get_by_role("link", name="Its page in base").click()
    page.wait_for_selector("h1:has-text('clip 1')")
    assert "study=1" in page.evaluate("location.hash")


def test_what_is_missing_says_why(visit):
    page = visit.open("#/sample/clip-5?question=see")
    assert page.get_by_text("The file clips/gone.mp4 is not there.").count()
    assert page.locator(".frame").count() == 3
    assert page.get_by_text("The logit lens is not in this site").count()
    for wrong in ("..%2F..%2Fevil", "none", "%E0%A4%A", "../study"):
        address = f"#/sample/{wrong}"
        assert page.get_by_text("Expected a sample of this study").count() or visit.open(address)
        assert "got another in the address" in visit.open(address).locator(".absent").inner_text()
    assert visit.open("#/nonsense?token=9e9&study=77&sort=x&where=y&value=z").locator("h1").count()


def test_a_file_left_behind_or_unplayable_is_named(browser, site, tmp_path):
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    (copy / "data/0/attention/clip-1.hear.js").unlink()
    (copy / "media/clip.mp4").write_bytes(b"not a film")
    planted.put(copy, "0/attention/clip-2.hear", "AAAA")
    visit = Visit(browser, copy)
    page = visit.open(SAMPLE)
    page.get_by_text("Copy the whole folder of the site").wait_for()
    page.get_by_text("This browser cannot play").wait_for()
    assert page.locator(".frame").count() == 3
    visit.open("#/sample/clip-2?question=hear&token=2")
    page.locator(".attention [role=alert]").wait_for()
    (copy / "data/0/study.js").unlink()
    assert "expected data/0/study.js" in visit.open("#/").locator(".absent").inner_text()


def test_a_models_answer_is_seen_in_a_notebook(browser, omni, tmp_path):
    """The frame holds script, data and clip; its attention is that of the model's own grid."""
    clip = write_clip(tmp_path / "clip.mp4", seconds=1)
    shown = show(omni, Prompt("Describe what you hear.", video=clip))
    (tmp_path / "index.html").write_text(f"<!doctype html><body>{shown._repr_html_()}", "utf-8")
    visit = Visit(browser, tmp_path)
    visit.page.goto((tmp_path / "index.html").as_uri())
    frame = visit.page.frame_locator("iframe")
    tokens = frame.locator(".answer .token")
    tokens.nth(1).click()
    frame.locator(".frames").wait_for()
    spoken = omni.model.generate(omni.embed(Prompt("Describe what you hear.", video=clip)))
    text = frame.locator(".card .words").first.inner_text()
    assert text[:20] == spoken.text[:20]
    rows = [
        float(one.split(" %")[0]) for one in frame.locator(".shares span").all_inner_texts()[:-1]
    ]
    assert sum(rows) == pytest.approx(100, abs=0.5)
    assert frame.locator("video").evaluate("(video) => video.error") is None
    assert visit.complaints == []
    visit.page.close()


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 1">',
    "javascript:window.hacked = 1",
    '"><svg onload="window.hacked = 1">',
    "\u202eright to left \u2067 مرحبا",
    "🐕‍🦺" * 50,
    "wide" * 2500,
    "line\u2028para\u2029\x00\ud800 __proto__",
    "{{7*7}} ${7*7} %s",
]


def test_hostile_text_is_only_text(browser, site, tmp_path):
    copy = Path(shutil.copytree(site, tmp_path / "site"))
    for address, width in (
        ("#/", 390),
        ("#/sample/clip-{}?question=hear", 390),
        ("#/sample/clip-{}", 1440),
    ):
        visit = Visit(browser, copy, viewport={"width": width, "height": 800})
        for i, text in enumerate(HOSTILE if "{}" in address else HOSTILE[:1]):
            table = planted.rows(len(HOSTILE))
            for row, words in zip(table, HOSTILE, strict=True):
                row.update(id=words, kind=words[:300], heard=[words], seen=[words])
                row["answers"] = {"hear": words, "see": words}
            study = planted.study(text, table, [{"name": text, "samples": []}] * 2)
            study["figures"][0]["title"] = study["figures"][0]["panels"][0]["title"] = text
            study["figures"][0]["panels"][0]["series"][0]["name"] = text
            study.update(summary=[text], warnings=[text], settings=[[text, text]])
            study["missing"] = [{"stage": text, "reason": text}]
            planted.put(copy, "0/study", study)
            value, packed = planted.sample(table[i], text, 1)
            for answer in value["answers"]:
                answer["scores"][0].update(reason=text, judge=text, status=text)
            value["clip"].update(problem=text, mel={"src": text, "bands": 1})
            value["clip"]["frames"]["src"] = text
            value["tokens"]["hear"] = [{**token, "text": text} for token in value["tokens"]["hear"]]
            value["lens"][0]["cells"][0][0] = {
                "text": text,
                "logprob": None,
                "others": [text],
                "hit": True,
            }
            planted.put(copy, f"0/samples/clip-{i}", value)
            planted.put(copy, f"0/attention/clip-{i}.hear", packed)
            page = visit.open(address.format(i))
            page.wait_for_selector(".lens" if "{}" in address and "hear" in address else "section")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), text[:40]
            assert page.evaluate("window.hacked") is None
            assert text[:20].split("\x00")[0].strip() in (page.locator("body").text_content() or "")
        assert visit.complaints == []
        assert not [
            u for u in visit.requests if not u.startswith((copy.as_uri(), "data:", "about:"))
        ]
        visit.page.close()


def test_no_script_but_the_sites_own_may_run(browser, site):
    visit = Visit(browser, site)
    page = visit.open("#/")
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        " document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        ' \'<img src=x onerror="window.hacked = 1"><img src="https://example.invalid/x.png">\'); }'
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in text for text in visit.complaints)
    page.close()


@pytest.mark.parametrize(("width", "scheme"), SHOTS)
def test_everyone_can_use_it_at_any_width(browser, site, width, scheme):
    visit = Visit(browser, site, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for address in PAGES:
        page = visit.open(address)
        page.wait_for_selector("section")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page, options={"preload": False}).response["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        assert not grave, json.dumps(grave, indent=1)[:3000]
    assert visit.complaints == []
    visit.page.close()
