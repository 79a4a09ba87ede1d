import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import datasets
import datasets.config
import PIL.Image
import pytest

from analyses.cases import read_cases
from data_prep.importers.audiocaps import read_audiocaps
from data_prep.importers.authors import read_authors, write_authors
from data_prep.importers.avhbench import read_avhbench
from data_prep.importers.clip_folder import find_clips, measured
from data_prep.importers.huggingface import read_huggingface
from data_prep.importers.omnibench import read_omnibench
from data_prep.importers.own_clips import match_sounds
from data_prep.importers.vggsound import read_vggsound
from data_prep.manifest import Sample, read_manifest, write_manifest
from data_prep.questions import questions_of
from hooked_omni.errors import FileError, ManifestError
from hooked_omni.inputs.video import read_video
from tests.support.clips import write_clip
from tests.support.places import SHARED

CAPTIONS = SHARED / "audiocaps" / "test.csv"
HEAD = "audiocap_id,youtube_id,start_time,caption\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "silent.mp4", audio_hz=None)


def place(clip: Path, *targets: Path) -> None:
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.skipif(not CAPTIONS.parent.is_dir(), reason=f"no {CAPTIONS}; see shared/README")
def test_real_audiocaps_is_975_clips_of_5_captions(tmp_path):
    found = find_clips(read_audiocaps(CAPTIONS), None, tmp_path)
    assert len(found.samples) == 975 and found.missing == {}
    assert {len(sample.audio_captions) for sample in found.samples} == {5}
    first = found.samples[0]
    assert (first.id, first.extra) == ("7fmOlUlwoNg", {"start_time": 20})
    assert first.audio_captions[0] == "Constant rattling noise and sharp vibrations"
    path = write_manifest(tmp_path / "m.jsonl", found.samples)
    assert read_manifest(path) == found.samples


def test_audiocaps_clips_are_found_by_either_name_and_the_missing_listed(tmp_path, clip, silent):
    clips = tmp_path / "clips"
    place(clip, clips / "a_000030.mp4", clips / "deep" / "-b.mp4", clips / "c" / "x_000010.mp4")
    place(clip, clips / "two.mp4", clips / "sub" / "two.mp4", tmp_path / "elsewhere.mp4")
    place(silent, clips / "mute.mp4")
    (clips / "text.mp4").write_text("no clip")
    (clips / ".hidden.mp4").write_text("no clip")
    (clips / "link.mp4").symlink_to("/etc/passwd")
    starts = "a,30 -b,0 a,30 gone,7 mute,0 text,0 link,0 x,10 x,20 two,0"
    rows = "".join(f'{n},{clip},"caption {n}"\n' for n, clip in enumerate(starts.split()))
    found = find_clips(read_audiocaps(table(tmp_path, HEAD + rows)), clips, tmp_path)
    assert [(s.id, s.video, len(s.audio_captions), s.seconds) for s in found.samples] == [
        ("a", "clips/a_000030.mp4", 2, 2.0),
        ("-b", "clips/deep/-b.mp4", 1, 2.0),
        ("x_000010", "clips/c/x_000010.mp4", 1, 2.0),
    ]
    assert found.samples[2].video_id == "x"
    assert found.missing.keys() == {"gone", "mute", "text", "link", "x_000020", "two"}
    assert "expected gone_000007.mp4" in found.missing["gone"]
    assert "expected audio" in found.missing["mute"]
    assert "FFmpeg cannot read" in found.missing["text"]
    assert "sub/two.mp4" in found.missing["two"]
    write_manifest(tmp_path / "m.jsonl", found.samples)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_captions_survive_quotes_commas_newlines_and_encodings(tmp_path, encoding):
    caption = 'He says ""no"", twice;\nthen \u97f3 and caf\u00e9'
    head = HEAD.replace("caption\n", "caption,source\n")
    text = head + f'1,a,30.0,"{caption}",v2\r\n\r\n2,a,30,b,v2\r\n'
    (draft,) = read_audiocaps(table(tmp_path, text.encode(encoding))).drafts
    assert draft.sample.audio_captions == (caption.replace('""', '"'), "b")


def test_latin_1_has_to_be_named(tmp_path):
    path = table(tmp_path, (HEAD + "1,a,30,caf\u00e9\n").encode("latin-1"))
    with pytest.raises(FileError, match=r"t.csv, line 2, got byte 0xe9"):
        read_audiocaps(path)
    (draft,) = read_audiocaps(path, "latin-1").drafts
    assert draft.sample.audio_captions == ("caf\u00e9",)
    with pytest.raises(FileError, match="no-such"):
        read_audiocaps(path, "no-such")


def test_empty_captions_are_listed(tmp_path):
    wanted = read_audiocaps(table(tmp_path, HEAD + '1,a,0,\n2,a,0,x\n3,b,0," "\n'))
    assert [draft.sample.audio_captions for draft in wanted.drafts] == [("x",)]
    assert wanted.missing == {
        "a, caption 1": "the caption is empty",
        "b, caption 3": "the caption is empty",
        "b": "no caption",
    }


# A caption cut by a line break, as in the second version's train.csv, in all its forms.
CUT = {
    "one cell": "1,a,30,A man talks while\nthe dog is whimpering\n",
    "padded": "1,a,30,A man talks while\nthe dog is whimpering,,,\n",
    "commas": "1,a,30,A man talks while\nthe dog, the cat, and the mouse, are whimpering\n",
    "comma first": "1,a,30,A man talks\n, and then, a dog, barks\n",
    "number first": "1,a,30,A man talks to\n2 dogs\n",
    "numbers": "1,a,30,A man counts 1,\n2, 3, 4, and 5\n".replace("1,\n", "1\n"),
    "number alone": "1,a,30,A man counts to\n10,,,\n",
    "three lines": "1,a,30,A man\ntalks while,,,\na dog whimpers\n",
    "blank line": "1,a,30,A man talks while\n\nthe dog is whimpering\n",
    "before the caption": "1,a,30\nA man talks while the dog is whimpering\n",
    "nothing before": "1,a,30,\nA man talks while the dog is whimpering\n",
    "return": "1,a,30,A man talks while\rthe dog is whimpering\n",
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("place", range(3))
def test_a_caption_cut_by_a_line_break_is_missing_alone(tmp_path, cut, place):
    whole = ["2,b,10,Rain falls\n", "3,a,30,A woman speaks\n"]
    wanted = read_audiocaps(table(tmp_path, HEAD + "".join([*whole[:place], cut, *whole[place:]])))
    assert {draft.sample.id: draft.sample.audio_captions for draft in wanted.drafts} == {
        "b": ("Rain falls",),
        "a": ("A woman speaks",),
    }
    assert wanted.missing.keys() == {"a, caption 1"}
    assert "cut by a line break" in wanted.missing["a, caption 1"]


def test_cut_captions_beside_each_other_and_other_columns(tmp_path):
    head = HEAD.replace("caption\n", "caption,source\n")
    rows = "1,a,30,A man\ntalks,v2\n2,b,0,Rain\nfalls,v2\n3,c,0,Wind,v2\n4,d,0,Birds\nsing,v2\n"
    wanted = read_audiocaps(table(tmp_path, head + rows))
    assert [draft.sample.audio_captions for draft in wanted.drafts] == [("Wind",)]
    cut = {"a, caption 1", "b, caption 2", "d, caption 4"}
    assert wanted.missing.keys() == cut | {"a", "b", "d"}
    wanted = read_audiocaps(table(tmp_path, HEAD + "the dog\n1,a,30,x\n"))
    assert wanted.missing.keys() == {"line 2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the columns"),
        (HEAD + '1,a,30,"x\n2,b,0,y"\n3,c,0,z\n', "a quote over 2 lines, one of them like a row"),
        (HEAD + "1,a,30,x\n2,b,0\0,y\n", "line 3, got a zero byte"),
        (HEAD.replace("\n", ",caption\n") + "1,a,30,x,y\n", r"\['caption'\] missing or doubled"),
        (HEAD.replace("\n", ",note,note\n"), r"\['note'\] missing or doubled"),
        ("youtube_id,caption\na,x\n", r"\['audiocap_id', 'start_time'\] missing or doubled"),
        ("audiocap_id;youtube_id;start_time;caption\n", "separated by commas"),
        (HEAD + "1,a,30,wind, rain\n", r"expected 4 cells in .*t.csv, line 2, got 5"),
        (HEAD + '1,a,30,"x\n2,b,0,y\n', "comma-separated values in .*t.csv, line 3"),
        (HEAD + "1,a,half,x\n", "whole seconds in .*line 2, field 'start_time', got 'half'"),
        (HEAD + "1,a,-3,x\n", "field 'start_time', got '-3'"),
        (HEAD + "1,a,nan,x\n", "field 'start_time', got 'nan'"),
        (HEAD + "1,a,inf,x\n", "field 'start_time', got 'inf'"),
        (HEAD + "1,,30,x\n", "line 2, field 'youtube_id'"),
        (HEAD + ",a,30,x\n", "line 2, field 'audiocap_id'"),
        (HEAD + "1,a,30,x\n1,a,30,y\n", "got '1' in .*line 3, and in .*line 2"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises((ManifestError, FileError), match=words):
        read_audiocaps(table(tmp_path, text))


def test_clips_have_to_lie_below_the_manifest(tmp_path, clip):
    place(clip, tmp_path / "clips" / "a.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clips").symlink_to(tmp_path / "clips")
    wanted = read_audiocaps(table(tmp_path, HEAD + "1,a,0,x\n"))
    for folder in (tmp_path / "clips", tmp_path / "data" / "clips"):
        with pytest.raises(ManifestError, match="expected clips below the manifest's folder"):
            find_clips(wanted, folder, tmp_path / "data")
    with pytest.raises(ManifestError, match="got no folder at"):
        find_clips(wanted, tmp_path / "none", tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path)
    (sample,) = find_clips(wanted, tmp_path / "alias" / "clips", tmp_path).samples
    assert sample.video == "clips/a.mp4"


def test_the_authors_json_is_read_with_its_clips_and_written(tmp_path, clip):
    place(clip, tmp_path / "clips" / "02321.mp4")
    items = [
        {"id": "02321", "video_captions": ["v"], "audio_captions": ["a"], "output_text": "o"},
        {"id": "3", "video_captions": [], "audio_captions": ["a", "b"]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(items))
    wanted = read_authors(tmp_path / "a.json")
    found = find_clips(wanted, tmp_path / "clips", tmp_path)
    extra = {"output_text": "o"}
    sample = Sample("02321", audio_captions=("a",), video_captions=("v",), extra=extra)
    assert found.samples == [replace(sample, video="clips/02321.mp4", seconds=2.0)]
    assert found.missing.keys() == {"3"}
    samples = [draft.sample for draft in wanted.drafts]
    assert json.loads(write_authors(tmp_path / "back.json", samples).read_text()) == items
    # The manifest's keys are a superset: nothing is lost on the way through one.
    assert read_manifest(write_manifest(tmp_path / "m.jsonl", samples)) == samples


def test_avhbench_questions_go_with_their_clips(tmp_path, clip):
    place(clip, tmp_path / "video" / "00191.mp4", tmp_path / "video" / "00191_swap.mp4")
    ask = {"task": "AV Matching", "text": "Match?", "label": "Yes"}
    record = {**ask, "options": ["Yes", "No"]}
    (tmp_path / "json").mkdir()
    heard = {"text": "Barks?", "label": "No"}
    one = [{"video_id": "00191", **ask}, {"video_id": "00191", **ask, **heard}]
    (tmp_path / "json" / "00191.json").write_text(json.dumps(one))
    two = [{"video_id": "00191_swap.mp4", **ask}, {"video_id": "7", **ask}]
    (tmp_path / "json" / "00192.json").write_text(json.dumps(two))
    wanted = read_avhbench(tmp_path / "json")
    found = find_clips(wanted, tmp_path / "video", tmp_path)
    real, swapped = found.samples
    assert (real.id, real.kind) == ("00191", "factual")
    assert real.extra["questions"] == [record, {**record, **heard}]
    assert (swapped.id, swapped.kind, swapped.video_id) == ("00191_swap", "counterfactual", "00191")
    assert found.missing.keys() == {"7"}
    assert len(read_avhbench(tmp_path / "json" / "00191.json").drafts) == 1


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_authors, '{"id": "a"}', "a list of .*got dict"),
        (read_authors, '[{"id": "a"}, 3]', "item 1, got int"),
        (read_authors, '[{"video_captions": []}]', "a field 'id' in .*item 0"),
        (read_authors, '[{"id": "a"}, {"id": "a"}]', "'a' in .*item 0 and in .*item 1"),
        (read_authors, '[{"id": "a", "audio_captions": "x"}]', "item 0, field 'audio_captions'"),
        (read_avhbench, "{}", "a list of questions in .*got dict"),
        (read_avhbench, "[3]", "item 0, got none in"),
        (read_avhbench, '[{"video_id": "a", "task": "t", "text": "x"}]', r"in \['label'\]"),
        (read_avhbench, '[{"video_id": 3, "task": "t", "text": "x", "label": "l"}]', "video_id"),
        (read_avhbench, "[]", "expected questions to ask in .*got none of 0"),
    ],
)
def test_other_json_is_refused_with_its_item(tmp_path, read, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read(tmp_path / "x.json")


def test_vggsound_in_both_layouts(tmp_path, clip):
    place(clip, tmp_path / "clips" / "-0x_000030.mp4")
    text = '-0x,30,"race car, auto racing",train\nb,5,playing harp,test\nc,1,,test\n'
    found = find_clips(read_vggsound(table(tmp_path, text)), tmp_path / "clips", tmp_path)
    assert [(s.id, s.audio_captions, s.extra) for s in found.samples] == [
        ("-0x_000030", ("race car, auto racing",), {"split": "train"})
    ]
    assert found.missing.keys() == {"b_000005", "c_000001"}
    short = table(tmp_path, '-0x_000030.mp4,"race car, auto racing"\n')
    (draft,) = read_vggsound(short).drafts
    assert draft.sample.audio_captions == ("race car, auto racing",)
    for wrong, words in [
        ("a,1,x,test\na,1,y,test\n", "each clip once, got 'a_000001' again in .*line 2"),
        ("a,1,race car, auto racing,test\n", "line 1, got 5 cells"),
        ("ytid,start,label,split\n", "whole seconds in .*line 1, field 'start'"),
        ("a\n", "got 1 cells"),
    ]:
        with pytest.raises(ManifestError, match=words):
            read_vggsound(table(tmp_path, wrong))


def test_sound_files_are_matched_to_videos_by_name(tmp_path, clip, silent):
    place(silent, tmp_path / "v" / "a.mp4", tmp_path / "v" / "b.mp4", tmp_path / "v" / "d.mp4")
    write_clip(tmp_path / "a.m4a", fps=0)
    place(tmp_path / "a.m4a", tmp_path / "s" / "a.m4a", tmp_path / "s" / "c.m4a")
    (tmp_path / "s" / "d.wav").write_text("no sound")
    found = match_sounds(tmp_path / "v", tmp_path / "s", tmp_path)
    assert found.samples == [Sample("a", video="v/a.mp4", audio="s/a.m4a", seconds=2.0)]
    assert found.missing.keys() == {"b", "c", "d"}
    assert found.missing["b"] == "expected one sound named b, got none."


def saved(tmp_path: Path, **columns: list) -> str:
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "hf")
    return str(tmp_path / "hf")


def test_a_dataset_with_clips_inside(tmp_path, clip, silent):
    media = [
        {"path": "a.mp4", "bytes": clip.read_bytes()},
        {"path": "b.mp4", "bytes": silent.read_bytes()},
        {"path": None, "bytes": b"no clip"},
    ]
    name = saved(
        tmp_path,
        id=["a/1", "b", "c"],
        video=media,
        captions=[["x", "y"], ["z"], []],
        video_captions=["one", "two", ""],
        kind=["counterfactual", None, None],
        score=[0.5, None, 1.0],
    )
    root = tmp_path / "out"
    found = read_huggingface(name, root, {"audio_captions": "captions"})
    (sample,) = found.samples
    assert sample.video is not None and (root / sample.video).read_bytes() == clip.read_bytes()
    assert (sample.id, sample.kind) == ("a/1", "counterfactual")
    assert (sample.audio_captions, sample.video_captions) == (("x", "y"), ("one",))
    assert (sample.extra, sample.seconds) == ({"score": 0.5}, 2.0)
    assert "expected audio" in found.missing["b"] and "FFmpeg" in found.missing["c"]
    assert read_manifest(write_manifest(root / "m.jsonl", found.samples)) == found.samples


def test_a_dataset_of_video_features_needs_no_decoder(tmp_path, clip):
    table = datasets.Dataset.from_dict({"id": [7], "clip": [str(clip)]})
    table = table.cast_column("clip", datasets.Video())
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk(tmp_path / "hf")
    columns = {"video": "clip"}
    found = read_huggingface(str(tmp_path / "hf"), tmp_path / "out", columns, split="test")
    assert found.missing == {}
    assert found.samples[0].id == "7" and found.samples[0].video is not None
    assert (tmp_path / "out" / found.samples[0].video).read_bytes() == clip.read_bytes()
    with pytest.raises(ManifestError, match=r"expected a split of \['test', 'train'\] .* got None"):
        read_huggingface(str(tmp_path / "hf"), tmp_path / "out", columns)


def test_a_dataset_beside_its_clips_and_paths_that_leave_it(tmp_path, clip):
    place(clip, tmp_path / "clips" / "a.mp4")
    videos = ["clips/a.mp4", "/etc/passwd", "../secret.mp4"]
    name = saved(tmp_path, id=["a", "b", "c"], video=videos)
    found = read_huggingface(name, tmp_path)
    assert [(sample.id, sample.video) for sample in found.samples] == [("a", "clips/a.mp4")]
    assert "no file at '/etc/passwd'" in found.missing["b"] and "c" in found.missing
    by_id = read_huggingface(name, tmp_path, clips=tmp_path / "clips")
    assert by_id.samples[0].video == "clips/a.mp4" and by_id.missing.keys() == {"b", "c"}


def test_a_dataset_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    # Without this a name that is nowhere is looked up five times before it is given up.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    name = saved(tmp_path, name=["a", "a"], audio_captions=[1, 2])
    for columns, words in [
        (None, r"expected columns \['id'\], got \['name', 'audio_captions'\]"),
        ({"id": "nam"}, r"expected columns \['nam'\]"),
        ({"who": "name"}, r"got \['who'\]"),
        ({"id": "name"}, "row 0, column 'audio_captions', got 1"),
    ]:
        with pytest.raises(ManifestError, match=words):
            read_huggingface(name, tmp_path, columns)
    with pytest.raises(ManifestError, match="'a' in row 0 and in row 1"):
        read_huggingface(saved(tmp_path / "twice", id=["a", "a"]), tmp_path)
    with pytest.raises(ManifestError, match="a folder or a name, got 'no/such'"):
        read_huggingface("no/such", tmp_path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm.mkv", ".mp4", ".mov", ".avi"])
@pytest.mark.parametrize(("picture", "sound"), [(2.0, 5.0), (5.0, 2.0), (2.0, 0.0)])
def test_seconds_are_those_of_the_picture(tmp_path, suffix, picture, sound):
    path = tmp_path / f"clip{suffix}"
    times = [index / 10 for index in range(round(10 * picture))]
    options = {"live": "1"} if suffix == ".webm.mkv" else {}  # a header without any length
    hertz = 440.0 if sound else None
    write_clip(path, times=times, seconds=sound, audio_hz=hertz, options=options)
    assert measured(path, tmp_path)[1] == pytest.approx(picture, abs=0.01)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_seconds_of_a_picture_that_starts_late(tmp_path, suffix):
    times = [0.5 + index / 10 for index in range(20)]
    path = write_clip(tmp_path / f"late{suffix}", times=times, seconds=3.0)
    assert measured(path, tmp_path)[1] == pytest.approx(read_video(path).seconds, abs=0.01) == 2.0


def test_frames_that_an_edit_list_hides_do_not_count(tmp_path):
    whole, cut = write_clip(tmp_path / "whole.mp4", seconds=3.0), tmp_path / "cut.mp4"
    with av.open(str(whole)) as read, av.open(str(cut), "w") as written:
        track = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                second = int(1 / packet.time_base)
                packet.pts, packet.dts = packet.pts - second, packet.dts - second
                packet.stream = track
                written.mux(packet)
    assert measured(cut, tmp_path)[1] == pytest.approx(2.0, abs=0.01)


def test_a_short_picture_in_matroska_has_its_own_length(tmp_path):
    """FFmpeg gives so short a track the length of the longest one."""
    for n in (2, 3):
        path = tmp_path / f"{n}.mkv"
        write_clip(path, times=[index / 10 for index in range(n)], seconds=5.0)
        assert measured(path, tmp_path)[1] == pytest.approx(n / 10, abs=0.01)
        assert read_video(path).seconds == pytest.approx(n / 10, abs=0.01)


def test_omnibench_asks_about_an_image_and_a_sound(tmp_path, clip):
    media = tmp_path / "mm_data"
    for kind in ("image", "audio"):
        (media / kind).mkdir(parents=True)
    PIL.Image.new("RGB", (40, 40)).save(media / "image" / "a.png")
    (media / "audio" / "b.mp4").write_bytes(clip.read_bytes())
    one = {"index": 7, "question": "Why?", "options": ["Yes", "No"], "answer": "No"}
    one |= {"audio_path": "b.mp4", "image_path": "a.png", "task type": "cause"}
    lines = [one, {**one, "index": 8, "image_path": "gone.png"}, {**one, "index": 9}]
    lines[2]["audio_path"] = "../../../b.mp4"
    lines.append({**one, "index": 10, "answer": "Maybe"})
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = read_omnibench(path, media, tmp_path)
    paths = [("image", "mm_data/image/a.png"), ("audio", "mm_data/audio/b.mp4")]
    assert [sample.id for sample in found.samples] == ["7", "10"]
    assert found.samples[0].items == (*paths, ("text", "Why?\nYes\nNo"))
    assert found.samples[0].extra["task type"] == "cause"
    (given,) = questions_of(found.samples[0])
    assert (given.text, given.label, given.task) == ("Why?\nA. Yes\nB. No", "B", "cause")
    assert (
        found.missing.keys() == {"8", "9", "10, its letters"} and "gone.png" in found.missing["8"]
    )
    assert questions_of(found.samples[1]) == [] and "'Maybe'" in found.missing["10, its letters"]
    manifest = write_manifest(tmp_path / "m.jsonl", found.samples)
    case, _ = read_cases(manifest, ["own"])
    prompt: Any = case.prompt
    assert [item.kind for item in prompt.content] == ["image", "audio", "text"]
    for wrong in ('{"index": 1}', "[]", json.dumps({**one, "options": "Yes"})):
        path.write_text(wrong)
        with pytest.raises(ManifestError, match="question 1, got"):
            read_omnibench(path, media, tmp_path)
