from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from data_prep.check import problems
from data_prep.manifest import (
    Sample,
    file_name,
    inside,
    read_facts,
    read_manifest,
    rebased,
    write_manifest,
)
from hooked_omni.errors import FileError, ManifestError

FULL = Sample(
    id="a+b",
    kind="counterfactual",
    video="clips/a.mp4",
    audio="clips/b c.mp4",
    audio_captions=('He says "no", twice', "two\nlines\u2028and\x85more"),
    video_captions=("\u97f3 and \U0001f415",),
    video_id="a",
    audio_id="b",
    similarity=-0.25,
    seconds=9.9,
    twin="a",
    extra={"output_text": "x", "nested": {"z": [1, None, True]}, "a": 0.1},
)
HEADER = '{"schema": 1}\n'


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_manifest_reads_back_as_written(tmp_path):
    samples = [FULL, Sample("plain"), replace(FULL, id="zero", similarity=0.0)]
    path = write_manifest(tmp_path / "m.jsonl", samples, {"by": "test", "a": 1})
    assert read_manifest(path) == samples
    assert read_facts(path) == {"a": 1, "by": "test"}
    assert path.read_text().split("\n")[2] == '{"id": "plain", "kind": "factual"}'


@pytest.mark.parametrize(
    "samples",
    [
        [Sample("a", twin="a")],
        [Sample("a", twin="b"), Sample("b", twin="a")],
        [Sample("a", "silence", twin="a")],
        [Sample("c", "counterfactual", twin="d"), Sample("d", "counterfactual", twin="a")],
        [Sample("c", "noise", twin="d"), Sample("d", "counterfactual")],
    ],
)
def test_a_twin_is_a_factual_sample_of_one_that_is_not(tmp_path, samples):
    place = rf"as twin of '{samples[0].id}' \({samples[0].kind}\) in sample 1"
    with pytest.raises(ManifestError, match=f"expected a factual sample as twin.*{place}"):
        write_manifest(tmp_path / "m.jsonl", samples)
    lines = [f'{{"id": "{s.id}", "kind": "{s.kind}", "twin": "{s.twin}"}}' for s in samples]
    with pytest.raises(ManifestError, match=r"line 2\. Correct the field 'twin'"):
        read_manifest(written(tmp_path, HEADER + "\n".join(lines).replace('"None"', "null")))


def test_a_part_of_a_manifest_may_lack_a_twin_and_check_says_so(tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", [FULL, Sample("b", "noise", twin="c")])
    assert read_manifest(path)[1].twin == "c"
    found = [problem for _, problem in problems(path) if "twin" in problem]
    assert found == ["no twin 'a' in the manifest", "no twin 'c' in the manifest"]


def test_equal_samples_give_equal_bytes(tmp_path):
    shuffled = replace(FULL, extra=dict(reversed(FULL.extra.items())))
    one = write_manifest(tmp_path / "one.jsonl", [FULL], {"a": 1, "b": 2}).read_bytes()
    two = write_manifest(tmp_path / "two.jsonl", [shuffled], {"b": 2, "a": 1}).read_bytes()
    assert one == two
    again = write_manifest(tmp_path / "3.jsonl", read_manifest(tmp_path / "one.jsonl"))
    assert again.read_bytes().split(b"\n")[1:] == one.split(b"\n")[1:]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_tolerated(tmp_path):
    path = written(tmp_path, b'\xef\xbb\xbf\r\n{"schema": 1}\r\n\r\n{"id": "a"}\r\n  \r\n')
    assert read_manifest(path) == [Sample("a")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got an empty file"),
        ('{"id": "a"}\n', "line 1, field 'schema', got none"),
        ('{"schema": 2}\n', "expected schema 1 in .*line 1, field 'schema', got 2"),
        ('{"schema": true}\n', "got True"),
        ('{"schema": 1, "made": 3}\n', "line 1, field 'made'"),
        (HEADER + "[1]", "expected an object in .*line 2, got list"),
        (HEADER + '{"kind": "factual"}', "expected a field 'id' in .*line 2"),
        (HEADER + '{"id": 7}', "line 2, field 'id', got 7"),
        (HEADER + '{"id": " "}', "line 2, field 'id'"),
        (HEADER + '{"id": "a"}\n{"id": "a"}', "'a' in .*line 2 and in .*line 3"),
        (HEADER + '{"id": "a", "kind": null}', "field 'kind', got None"),
        (HEADER + '{"id": "a", "video": 3}', "field 'video', got 3"),
        (HEADER + '{"id": "a", "audio_captions": "x"}', "a list of texts in .*'audio_captions'"),
        (HEADER + '{"id": "a", "video_captions": [1]}', "field 'video_captions'"),
        (HEADER + '{"id": "a", "similarity": "0.5"}', "field 'similarity', got '0.5'"),
        (HEADER + '{"id": "a", "similarity": true}', "field 'similarity', got True"),
        (HEADER + '{"id": "a", "similarity": 1.7e308}', "a number from -1.01 to 1.01 in .*'simil"),
        (HEADER + '{"id": "a", "similarity": -2}', "field 'similarity', got -2"),
        (HEADER + '{"id": "a", "seconds": -1e308}', "a number from 0 to 1e[+]09 in .*'seconds'"),
        (HEADER + '{"id": "a", "seconds": 1e999}', "line 2, got: inf, which is no finite number"),
        (HEADER + '{"id": "a", "video": "../b.mp4"}', "line 2, field 'video', got '../b.mp4'"),
        (HEADER + '{"id": "a", "video": "x/../../b.mp4"}', "expected a path below"),
        (HEADER + '{"id": "a", "audio": "/etc/passwd"}', "field 'audio', got '/etc/passwd'"),
        (HEADER + '{"id": "a", "audio": "."}', "expected a path below"),
        (HEADER + '{"id": "a", "audio": "a\\u0000b"}', "null byte"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path, text, words):
    with pytest.raises((ManifestError, FileError), match=words) as caught:
        read_manifest(written(tmp_path, text))
    assert "m.jsonl" in str(caught.value) or str(tmp_path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + '\n{"id": "a"', "m.jsonl, line 3"),
        (b'{"schema": 1}\n{"id": "\xff"}', "line 2, got byte 0xff"),
    ],
)
def test_what_is_no_json_is_an_error_of_the_file(tmp_path, text, words):
    with pytest.raises(FileError, match=words):
        read_manifest(written(tmp_path, text))
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(FileError, match=str(path)):
            read_manifest(path)


def test_a_symbolic_link_must_not_lead_out_of_the_data_folder(tmp_path):
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "data" / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (tmp_path / "data" / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "data" / "in").symlink_to("clips")
    path = tmp_path / "data" / "m.jsonl"
    path.write_text(HEADER + '{"id": "a", "video": "out.mp4"}')
    with pytest.raises(ManifestError, match=r"line 2, field 'video', got 'out\.mp4'"):
        read_manifest(path)
    with pytest.raises(ManifestError, match=r"out\.mp4"):
        write_manifest(path, [Sample("a", video="out.mp4")])
    assert inside(tmp_path / "data", "in/a.mp4").parent == (tmp_path / "data" / "in")
    path.write_text(HEADER + '{"id": "a", "video": "in/a.mp4"}')
    assert read_manifest(path)[0].video == "in/a.mp4"


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([Sample("a"), Sample("a")], "'a' in sample 1 .* and in sample 2"),
        ([Sample("a", extra={"video": "b"})], r"other keys than \['video'\] in extra"),
        ([Sample("a", similarity=float("nan"))], "sample 1"),
        ([Sample("a", extra={"x": object()})], "sample 1"),
        ([Sample("a", audio_captions=("\ud800",))], "sample 1"),
        ([Sample("a", video="../x.mp4")], "sample 1 .*field 'video'"),
        ([Sample("")], "field 'id'"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(tmp_path, samples, words):
    path = write_manifest(tmp_path / "m.jsonl", [FULL])
    before = path.read_bytes()
    with pytest.raises((ManifestError, FileError), match=words):
        write_manifest(path, samples)
    assert path.read_bytes() == before


def test_rebased_paths_name_the_same_files(tmp_path):
    (tmp_path / "sub" / "clips").mkdir(parents=True)
    sample = Sample("a", video="clips/a.mp4", audio="b.wav")
    moved = rebased(sample, tmp_path / "sub", tmp_path)
    assert (moved.video, moved.audio) == ("sub/clips/a.mp4", "sub/b.wav")
    assert rebased(moved, tmp_path, tmp_path) == moved
    with pytest.raises(ManifestError, match="expected a path below"):
        rebased(moved, tmp_path, tmp_path / "sub" / "clips")


def test_file_names_are_safe_and_differ_for_all_ids():
    ids = ["../../x", "a/b", "a-b", "A-b", "a b", "", "\u97f3", "x" * 300, "x" * 301, "-_", ".."]
    names = [file_name(name) for name in ids]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(name == Path(name).name and 32 <= len(name) < 120 for name in names)
    assert not any(name.startswith((".", "-")) for name in names)
    assert file_name("dog+rain/2") == "dog-rain-2-" + file_name("dog+rain/2")[-32:]


LISTED = Sample("o", items=(("image", "i/a.png"), ("audio", "s/b.wav"), ("text", "What is it?")))


def test_items_of_a_sample_are_read_in_order_and_rebased(tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", [LISTED])
    assert read_manifest(path) == [LISTED]
    assert LISTED.files == (("image", "i/a.png"), ("audio", "s/b.wav"))
    (tmp_path / "sub").mkdir()
    moved = rebased(LISTED, tmp_path, tmp_path.parent)
    assert moved.items[0] == ("image", f"{tmp_path.name}/i/a.png")
    assert moved.items[2] == LISTED.items[2]
    PIL.Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    here = replace(LISTED, items=(("image", "a.png"), ("text", "What?"), ("audio", "b.wav")))
    found = dict(problems(write_manifest(tmp_path / "m.jsonl", [here])))
    assert found.keys() == {"o"} and "b.wav" in found["o"]


@pytest.mark.parametrize(
    "items",
    ['"a.png"', '[["image"]]', '[["image", ""]]', '[["film", "a.mp4"]]', '["image", "a.png"]',
     '[["image", "a.png"], 3]', '[["image", "../a.png"]]', '[["audio", "/a.wav"]]', "{}", "[[]]",
     '[["image", "a.png"]], "video": "v.mp4"'],
)  # fmt: skip
def test_items_that_are_none_are_refused(tmp_path, items):
    with pytest.raises(ManifestError, match=r"expected .* line 2"):
        read_manifest(written(tmp_path, f'{HEADER}{{"id": "a", "items": {items}}}\n'))
