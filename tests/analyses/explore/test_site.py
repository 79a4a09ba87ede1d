"""A site says what the study's files say, whatever the texts in them are, or is refused."""

import base64
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest

from analyses import fidelity
from analyses.attention_map.packing import levels, unpacked
from analyses.explore.media import clip_record
from analyses.explore.notebook import show
from analyses.explore.opened import open_study
from analyses.explore.serving import site_server
from analyses.explore.site import BUILT, distinct, script, write_site
from analyses.running import results
from analyses.study.config import Study
from analyses.study.judging import UNTOUCHED, conditions, scores_path
from analyses.study.run import run_study
from data_prep.clips import write_clip
from data_prep.manifest import Sample, file_name, read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from hooked_omni import Prompt, load
from hooked_omni.errors import ResultsError
from hooked_omni.inputs.media import MediaSettings
from tests.support.figures import no_figures
from tests.support.running import command

pytestmark = pytest.mark.xdist_group("explore")
HOSTILE = "</script><script>alert(1)</script> <!-- \u2028\u2029 \u202eRTL 😀 \"' \\ ]]> &lt; \x7f"
LONG = "é😀x" * 3334


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A clip with its own sound and one with another's, under names that nobody should give."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 1, 0, "test")
    every = read_manifest(folder / "pairs.jsonl")
    swapped = next(s for s in every if s.kind == "counterfactual")
    own = next(s for s in every if s.id == swapped.twin)
    captions = (*own.audio_captions, HOSTILE, LONG)
    samples = [
        replace(own, id=HOSTILE, audio_captions=captions),
        replace(swapped, id=f"2 {HOSTILE}", twin=HOSTILE),
    ]
    data = write_manifest(folder / f"few {HOSTILE[:9].replace('/', '_')}.jsonl", samples)
    stages = ("captions", "attention_share", "attention_map", "logit_lens", "knockout")
    more: Any = dict(judge={"name": "lexical"}, configs={"knockout": {"windows": ((4, 7),)}})
    more |= dict(
        analyses=(*stages, "distribution_shift"),
        questions={"knockout": ("hear",), "captions": ("hear",)},
    )
    return Study("organism-biased", data, "organism-base", max_new_tokens=8, **more)


@pytest.fixture(scope="module")
def done(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a study"
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        run_study(study, out)
    return out


@pytest.fixture(scope="module")
def site(done: Path) -> Path:
    return write_site([done], done.parent / "site").parent


def read(site: Path, name: str) -> Any:
    """The value that a script puts, as the browser would read it."""
    text = (site / "data" / f"{name}.js").read_text("ascii")
    found = re.fullmatch(r"hookedOmni\.put\((.*)\);\n", text)
    assert found is not None
    put, value = json.loads(f"[{found[1]}]")
    assert put == name
    return value


def sample_of(site: Path, name: str) -> Any:
    return read(site, f"0/samples/{file_name(name)}")


def test_nothing_in_a_script_ends_it_or_begins_markup(site: Path) -> None:
    files = sorted((site / "data").rglob("*.js"))
    assert len(files) == 1 + 2 + 2
    for file in files:
        data = file.read_bytes()
        assert not re.search(rb"[<>\x80-\xff\x00-\x09\x0b-\x1f]", data) and data.count(b"\n") == 1
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", file.name)
    sample = sample_of(site, HOSTILE)
    assert sample["id"] == HOSTILE and sample["references"]["audio"][-2:] == [HOSTILE, LONG]


@pytest.mark.parametrize(
    "text", ["</script>", "\u2028", "\ud800", "\0", "__proto__", "'\"\\", "👩‍👩‍👧"]
)
def test_any_text_comes_back(text: str) -> None:
    made = script(text, {text: [text]}).decode("ascii")
    assert json.loads(f"[{made[len('hookedOmni.put(') : -3]}]") == [text, {text: [text]}]


def test_the_site_is_the_built_page_and_asks_for_nothing_else(site: Path) -> None:
    for file in BUILT.iterdir():
        assert (site / file.name).read_bytes() == file.read_bytes()
    assert {one.name for one in site.iterdir()} == {
        "data",
        "media",
        *(f.name for f in BUILT.iterdir()),
    }


def test_numbers_are_those_of_the_tables(done: Path, site: Path) -> None:
    captions: Any = results.load(done / "captions")
    scores = open_study(done).scores
    row, (first, second) = read(site, "0/study"), read(site, "0/study")["samples"]
    assert first["id"] == HOSTILE and second["twin"] == HOSTILE and row["missing"] == []
    plain: Any = fidelity.plain(scores)
    for sample in (first, second):
        own = captions[captions["sample"] == sample["id"]].set_index("question")["caption"]
        assert sample["answers"] == own.to_dict()
        for key, value in sample["fidelity"].items():
            of = plain[plain["question"] + "/" + plain["what"] == key]
            known = of[of["sample"] == sample["id"]]["score"].iloc[0]
            assert value == known or (value is None and np.isnan(known))
    drop = second["drop"]
    heard = [one["fidelity"]["hear/audio"] for one in (first, second)]
    assert drop == (None if None in heard else heard[0] - heard[1])


def test_a_samples_answers_tokens_and_lens_are_the_tables_rows(done: Path, site: Path) -> None:
    sample, name = sample_of(site, f"2 {HOSTILE}"), f"2 {HOSTILE}"
    shift, cut = (results.load(done / n) for n in ("distribution_shift", "knockout"))
    own: Any = shift[shift["sample"] == name]
    own = own.to_dict("records")
    for token, row in zip(sample["tokens"]["hear"], own, strict=True):
        assert (token["text"], token["shift"]) == (row["token_text"], row["shift"])
        assert (token["rank"], token["kl"]) == (row["base_rank"], row["kl_base_model"])
        texts, logprobs = zip(*token["base_top"], strict=True)
        assert texts == row["base_top"] and logprobs == pytest.approx(
            row["base_top_logprob"], abs=1e-4
        )
        place = 1 if row["base_rank"] > 5 else row["base_rank"] - 1
        assert row["base_rank"] > 5 or texts[place] == row["token_text"].strip()
    words = [word["text"] for word in sample["words"]["hear"]]
    assert " ".join(words) == " ".join(own[0]["answer"].split())
    windows = cut[(cut["sample"] == name) & (cut["key"] != "none")]
    changed = [one for one in sample["answers"] if one["condition"]]
    assert [one["text"] for one in changed] == windows["caption"].tolist()
    assert [one["condition"] for one in changed] == ["video @ 4-7", "audio @ 4-7"]
    assert UNTOUCHED in set(conditions(cut)) and [p["center"] for p in sample["knockout"]] == [5, 5]
    lens = results.load(done / "logit_lens").query("measure == 'top' and lens == 'raw'")
    lens = lens[lens["sample"] == name]
    (grid,) = [one for one in sample["lens"] if one["lens"] == "raw"]
    for layer, line in zip(grid["layers"], grid["cells"], strict=True):
        for second, cell in zip(grid["seconds"], line, strict=True):
            rows = lens[(lens["layer"] == layer) & (lens["second"].astype(int) == second)]
            assert {cell["text"], *cell["others"]} == set(rows["token_text"])
            hits = rows[
                [
                    not set(e).isdisjoint(h)
                    for e, h in zip(rows["events"], rows["heard"], strict=True)
                ]
            ]
            assert cell["hit"] == (len(hits) > 0)
            best = (hits if len(hits) else rows)["logprob"].max()
            assert cell["logprob"] == pytest.approx(best, abs=1e-4)


def test_attention_is_the_tables_bytes(done: Path, site: Path) -> None:
    for row in results.load(done / "attention_map").to_dict("records"):
        meta = sample_of(site, row["sample"])["attention"]["hear"]
        data = base64.b64decode(read(site, f"0/{meta['file']}"))
        shape = meta["layers"], meta["heads"], meta["queries"], meta["kept"]
        own = unpacked(data, shape, len(meta["parts"]))
        assert data == row["packed"] and np.allclose(own.sums.sum(-1), 1, atol=1e-4)
        video, parts = meta["grid"], meta["parts"]
        assert video["frames"] * video["rows"] * video["columns"] == len(video["position"])
        assert {at for of, at, _ in parts if of == "video"} == set(range(video["frames"]))
        assert {at for of, at, _ in parts if of == "audio"} == {0, 1}
        assert meta["why"] == "" and meta["levels"] == levels(own.sums.size)
        assert meta["predicts"] == [*range(1, meta["queries"] + 1)]


def test_a_clip_has_the_sound_that_was_heard(study: Study, site: Path) -> None:
    samples = {one.id: one for one in read_manifest(study.data)}
    for name, own in samples.items():
        clip = sample_of(site, name)["clip"]
        assert clip["problem"] is None and len(clip["frames"]["times"]) >= 2
        assert 0 < len(clip["peaks"]) <= 1000 and clip["mel"]["src"].startswith("data:image/png;")
        with av.open(str(site / clip["src"])) as made:
            codecs = {stream.codec_context.name for stream in made.streams}
        assert codecs == {"h264", "aac"}
        if own.audio is None:
            whole = (study.data.parent / str(own.video)).read_bytes()
            assert (site / clip["src"]).read_bytes() == whole
    first, second = (sample_of(site, name)["clip"] for name in samples)
    assert first["src"] != second["src"] and first["peaks"] != second["peaks"]


def test_figures_are_the_numbers_that_are_drawn(done: Path, site: Path) -> None:
    figures = {one["id"]: one for one in read(site, "0/study")["figures"]}
    table: Any = results.load(done / "attention_map")
    (panel,) = [p for p in figures["attention_map"]["panels"] if p["title"].startswith("factual")]
    (series,) = panel["series"]
    own = table[table["kind"] == "factual"]["kept_share"].iloc[0]
    assert [p["y"] for p in series["points"]] == pytest.approx(own) and panel["x"] == "layer"
    cut = figures["knockout"]["panels"]
    assert all(
        p["title"] and p["x"] and p["y"]
        for one in figures.values()
        for p in one["panels"]
        if one["form"] == "line"
    )
    names = {s["name"] for p in cut for s in p["series"]}
    assert names == {"untouched", "G !-> V", "G !-> A"} and figures["captions"]["form"] == "bar"
    assert {p["x"] for p in figures["captions"]["panels"][0]["series"][0]["points"]} <= {
        "factual",
        "counterfactual",
        "all",
    }


def edited(done: Path, tmp_path: Path, *gone: str) -> Path:
    """A copy of the study, without some files, whose clips are where they were."""
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    sources = json.loads((done / "sources.json").read_text())
    sources["data"] = os.path.relpath(done / sources["data"], copy)
    (copy / "sources.json").write_text(json.dumps(sources))
    for name in gone:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copy


def test_what_is_missing_is_said_and_the_rest_shown(done: Path, tmp_path: Path) -> None:
    copy = edited(
        done,
        tmp_path,
        "knockout/run.json",
        "attention_map",
        "scores",
        "report.md",
        "distribution_shift",
    )
    page = write_site([copy], tmp_path / "site").parent
    missing = {one["stage"]: one["reason"] for one in read(page, "0/study")["missing"]}
    assert set(missing) == {"knockout", "attention", "distribution_shift", "judge"}
    assert "2 cases done" in missing["knockout"] and "add it there" in missing["attention"]
    sample = sample_of(page, HOSTILE)
    assert sample["answers"][0]["text"] and sample["answers"][0]["scores"] == []
    assert sample["knockout"] == [] and sample["attention"] == {} and sample["clip"]["src"]


def test_a_study_that_was_moved_asks_for_its_manifest(
    done: Path, study: Study, tmp_path: Path
) -> None:
    copy = edited(done, tmp_path, "sources.json")
    assert "does not say" in open_study(copy).missing["clips"]
    assert open_study(copy, data=study.data).missing == {}
    other = write_manifest(tmp_path / "other.jsonl", [Sample("a", video="a.mp4")])
    with pytest.raises(ResultsError, match="got another at"):
        open_study(copy, data=other)
    sources = json.loads((done / "sources.json").read_text())
    (copy / "sources.json").write_text(json.dumps({**sources, "data": "gone.jsonl"}))
    assert "not where the study found it" in open_study(copy).missing["clips"]


def _second_judge(folder: Path) -> None:
    (first,) = (folder / "scores").glob("*.parquet")
    shutil.copy(first, first.with_name("b.parquet"))


REFUSED: dict[str, tuple[Any, str]] = {
    "no folder": (shutil.rmtree, "without recipe.json"),
    "a stage": (lambda f: shutil.copy(f / "captions/recipe.json", f), "got one of captions"),
    "nothing finished": (lambda f: [p.unlink() for p in f.glob("*/run.json")], "a finished stage"),
    "a damaged table": (lambda f: (f / "captions/captions.parquet").write_bytes(b"x"), "whole"),
    "an old schema": (lambda f: (f / "captions/run.json").write_text('{"schema": 1}'), "of schema"),
    "damaged sources": (lambda f: (f / "sources.json").write_text("{"), "as a study wrote it"),
    "other sources": (lambda f: (f / "sources.json").write_text('{"data": 1}'), "as a study wrote"),
    "two judges": (_second_judge, "Name one with --judge"),
}


@pytest.mark.parametrize("wrong", list(REFUSED))
def test_a_folder_that_is_refused(done: Path, tmp_path: Path, wrong: str) -> None:
    change, value = REFUSED[wrong]
    copy = edited(done, tmp_path)
    change(copy)
    with pytest.raises(ResultsError, match=value):
        write_site([copy], tmp_path / "site")
    assert not (tmp_path / "site").exists() and not [*tmp_path.glob(".part*")]


def test_nothing_is_overwritten(done: Path, site: Path, tmp_path: Path, capsys: Any) -> None:
    before = (site / "index.html").stat().st_mtime_ns
    assert command("explore", done, "--out", site) == 1
    assert "not empty" in capsys.readouterr().err
    assert (site / "index.html").stat().st_mtime_ns == before
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(ResultsError, match="expected a folder"):
            write_site([done], out)
    with pytest.raises(ResultsError, match="each once"):
        write_site([done, done.parent / "." / "a study"], tmp_path / "site")
    with pytest.raises(ResultsError, match="each once"):
        write_site([], tmp_path / "site")
    with pytest.raises(ResultsError, match="scores of 'truth'"):
        open_study(done, "truth")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_studies_share_a_site(done: Path, tmp_path: Path) -> None:
    gone = ("knockout", "logit_lens", "attention_share", "attention_map", "distribution_shift")
    copy = edited(done, tmp_path, *gone)
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    (tmp_path / "site").mkdir()  # an empty one is no one's
    page = write_site([copy, other], tmp_path / "site").parent
    for n, name in enumerate(("copy", "other")):
        record = read(page, f"{n}/study")
        assert record["name"] == name
        assert [one["name"] for one in record["others"]] == ["copy", "other"]
    assert len([*(page / "media").iterdir()]) == 2  # one file for both


def test_studies_of_one_name_or_two_judges_are_told_apart(done: Path, tmp_path: Path) -> None:
    copy = edited(done, tmp_path, "knockout", "logit_lens", "attention_map", "sources.json")
    folders = [Path(shutil.copytree(copy, tmp_path / way)) for way in ("a/run", "b/run", "b/c")]
    assert [one.name for one in named(folders)] == ["a/run", "b/run", "c"]
    (path,) = (folders[1] / "scores").glob("*.parquet")
    scores = results.read_table(path)
    scores.attrs["judge"] = {**scores.attrs["judge"], "name": "other"}
    path.unlink()
    results.write_table(scores_path(folders[1], "other"), scores, "scores")
    (first,) = {one["judge"] for one in open_study(folders[0]).scores.to_dict("records")}
    made = named(folders)
    assert [one.name for one in made] == [
        f"a/run, judged by {first}", "b/run, judged by other", f"c, judged by {first}",
    ]  # fmt: skip
    assert made[0].folder == folders[0]


def named(folders: list[Path]) -> list[Any]:
    return distinct([open_study(folder) for folder in folders])


PICTURE = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)


def recoded(path: Path, codec: str, pixels: str = "yuv420p", sound: str = "") -> Path:
    """A second of noise in another codec or container."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=12)
        video.width, video.height, video.pix_fmt = 64, 64, pixels
        audio: Any = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        for frame in PICTURE:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            wave = np.random.default_rng(1).normal(0, 3000, (1, 48000)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate = 48000
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


CLIPS = {
    "plain.mp4": (("libx264", "yuv420p", "aac"), ".mp4", None),
    "silent.mp4": (("libx264",), ".mp4", None),
    "raw sound.mov": (("libx264", "yuv420p", "pcm_s16le"), ".mp4", None),
    "another container.mkv": (("libx264", "yuv420p", "aac"), None, "Re"),
    "web.webm": (("libvpx-vp9", "yuv420p", "libopus"), ".webm", None),
    "old codec.avi": (("mpeg4", "yuv420p"), None, "do not play its picture"),
    "fine colors.mp4": (("libx264", "yuv444p"), None, "yuv444p"),
}


@pytest.mark.parametrize("name", list(CLIPS))
def test_what_browsers_do_not_play_is_said_and_its_frames_shown(tmp_path: Path, name: str) -> None:
    codecs, ending, problem = CLIPS[name]
    recoded(tmp_path / name, *codecs)
    clip = clip_record(Sample("a", video=name), tmp_path, MediaSettings(), tmp_path / "media")
    assert clip["frames"] is not None and clip["seconds"] == pytest.approx(1, abs=0.2)
    assert (clip["src"] or "").endswith(ending or "") and bool(clip["src"]) == bool(ending)
    assert (clip["problem"] is None) if problem is None else (problem in clip["problem"])
    assert bool(clip["peaks"]) == (len(codecs) == 3) and str(tmp_path) not in str(clip)


def test_clips_that_are_gone_or_none(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for sample in (
        Sample("a", video="gone.mp4"),
        Sample("a", video="text.mp4"),
        Sample("a", video="empty.mp4"),
        Sample("a", audio="gone.wav"),
        None,
        Sample("a"),
    ):
        clip = clip_record(sample, tmp_path, MediaSettings(), tmp_path / "media")
        assert clip["src"] is None and clip["frames"] is None and clip["peaks"] == []
        assert clip["problem"] or sample == Sample("a")
    write_clip(tmp_path / "a.mp4", PICTURE, 12)
    items = (("video", "a.mp4"), ("video", "a.mp4"), ("text", "What?"))
    clip = clip_record(Sample("a", items=items), tmp_path, MediaSettings(), tmp_path / "media")
    assert "first alone" in clip["problem"] and clip["src"]


@pytest.mark.parametrize("why", ["this model does not hear", "leaves the sound out"])
def test_a_sound_that_was_not_heard_is_neither_played_nor_drawn(tmp_path: Path, why: str) -> None:
    path = recoded(tmp_path / "a.mp4", *CLIPS["plain.mp4"][0])
    how = MediaSettings(), tmp_path / "media"
    heard = clip_record(Sample("a", video="a.mp4"), tmp_path, *how)
    deaf = why.startswith("this")
    sample = Sample("a", video="a.mp4", extra={} if deaf else {"modality": "visual"})
    clip = clip_record(sample, tmp_path, *how, hears=not deaf)
    assert clip["peaks"] == [] and clip["mel"] is None and clip["frames"] == heard["frames"]
    assert why in clip["problem"] and heard["peaks"] and heard["src"] != clip["src"]
    with av.open(str(tmp_path / clip["src"])) as made:
        loudest = max(np.abs(one.to_ndarray()).max() for one in made.decode(audio=0))
    assert loudest < 1e-4 and path.read_bytes() == (tmp_path / heard["src"]).read_bytes()
    apart = replace(sample, audio="a.mp4", extra={"modality": "visual"})  # a sound beside it
    assert clip_record(apart, tmp_path, *how)["peaks"]


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    with site_server(site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_site_is_served_to_this_machine_alone_with_parts_of_clips(
    site: Path, address: str
) -> None:
    (clip,) = [*(site / "media").iterdir()][:1]
    data, url = clip.read_bytes(), f"{address}/media/{clip.name}"
    assert urlopen(url).read() == data
    for range_, part in (
        ("bytes=0-", data),
        ("bytes=5-9", data[5:10]),
        (f"bytes=9-{10**9}", data[9:]),
    ):
        with urlopen(Request(url, headers={"Range": range_})) as reply:
            assert (reply.status, reply.read()) == (206, part)
    for headers, code in (({"Host": "evil.example"}, 403), ({"Range": f"bytes={len(data)}-"}, 416)):
        with pytest.raises(HTTPError, match=str(code)):
            urlopen(Request(url, headers=headers))
    for path in ("/../../../etc/passwd", "/%2e%2e/recipe.json", "/data/none.js"):
        with pytest.raises(HTTPError, match="404"):
            urlopen(address + path)


def test_a_notebook_shows_a_sample_in_a_frame_that_holds_all_of_it(
    done: Path, study: Study
) -> None:
    made = show(done, HOSTILE)._repr_html_()
    assert (
        made.count("<") == 2 and "sandbox=" in made
    )  # the frame's own, and nothing of the study's
    assert "allow-same-origin" not in made and "data:video/mp4;base64," in made
    with pytest.raises(ResultsError, match="expected one of 2 samples"):
        show(done, "none of them")
    names = ("attention_map", "distribution_shift", "logit_lens")
    tables: Any = [results.load(done / name) for name in names]
    shown = [show(tables, HOSTILE, data=study.data).html, *(show(t, HOSTILE).html for t in tables)]
    for html, parts in zip(shown, ("data:video", "queries", "base_top", "cells"), strict=True):
        assert parts in html and file_name(HOSTILE) in html
    assert "not shown here" in shown[1] and "data:video" not in shown[1]
    for wrong in ([], tables[:1] * 2, results.load(done / "knockout"), tables[0][["sample"]]):
        with pytest.raises(ResultsError, match=r"expected (a table|tables)"):
            show(wrong, HOSTILE)
    omni = load("organism-biased")
    clip = study.data.parent / str(read_manifest(study.data)[0].video)
    made = show(omni, Prompt("describe what you hear.", video=clip))
    assert '"own"' in made.html and "data:video/mp4" in made.html and "not heard" not in made.html
    made = show(omni, Prompt("describe what you see.", video=clip, use_audio_in_video=False))
    assert "its prompt leaves the sound out" in made.html and '"peaks":[]' in made.html
    with pytest.raises(ResultsError, match="expected a Prompt"):
        show(omni, "describe what you hear.")
