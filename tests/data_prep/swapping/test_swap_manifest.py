"""Every sample gets a clip with its sound, or a reason; a second run changes nothing."""

import shutil
from pathlib import Path

import pytest

from data_prep import clips
from data_prep.check import problems
from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from data_prep.swapping import swap_manifest
from hooked_omni.errors import FileError, ManifestError
from hooked_omni.files import exclusive
from hooked_omni.inputs.audio import read_audio
from tests.support.clips import write_clip


def manifest_of(pair: tuple[Path, Path]) -> Path:
    folder = pair[0].parent
    samples = [
        Sample("f", video="low.mp4", audio_captions=("low",)),
        Sample("c/1", "counterfactual", video="low.mp4", audio="high.mp4", similarity=0.1),
        Sample("gone", "counterfactual", video="low.mp4", audio="none.mp4"),
    ]
    return write_manifest(folder / "pairs.jsonl", samples, {"by": "pairs"})


def test_all_samples_of_a_manifest_are_swapped(tmp_path, pair):
    out = tmp_path / "swapped.jsonl"
    left_out = swap_manifest.run(manifest_of(pair), out, ["silence", "self"], seed=3)
    assert left_out.keys() == {"gone"} and "no file at none.mp4" in left_out["gone"]
    facts = read_facts(out)
    assert facts["left_out"] == left_out and facts["from"] == {"by": "pairs"}
    factual, swapped, silence, own = read_manifest(out)
    assert factual == Sample("f", video="low.mp4", audio_captions=("low",))
    assert (swapped.id, swapped.kind, swapped.audio) == ("c/1", "counterfactual", None)
    assert swapped.video is not None and swapped.video.startswith("swapped.clips/c-1-")
    made = {"video": "low.mp4", "audio": "high.mp4", "control": None}
    assert swapped.extra["swapped_from"] == made
    assert (silence.id, silence.kind, silence.audio_captions) == ("f+silence", "silence", ())
    assert (own.kind, own.audio_captions) == ("self", ("low",))
    assert silence.twin == own.twin == "f"
    assert not read_audio(tmp_path / str(silence.video)).samples.any()
    assert list(problems(out)) == []


def test_swapping_again_changes_nothing(tmp_path, pair):
    manifest, out = manifest_of(pair), tmp_path / "swapped.jsonl"
    swap_manifest.run(manifest, out, ["reversed"])
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in clips_of(tmp_path)}
    before = out.read_bytes()
    swap_manifest.run(manifest, out, ["reversed"])
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in clips_of(tmp_path)} == files
    assert out.read_bytes() == before
    # What has been swapped is not swapped, or reversed, a second time.
    swap_manifest.run(out, tmp_path / "twice.jsonl")
    assert read_manifest(tmp_path / "twice.jsonl") == read_manifest(out)


def test_a_clip_that_cannot_be_read_is_left_out(tmp_path, pair, monkeypatch):
    def no_permission(path: Path) -> str:
        raise FileError(f"expected a file that can be read at {path}, got: no permission.")

    monkeypatch.setattr(clips, "file_hash", no_permission)
    left_out = swap_manifest.run(manifest_of(pair), tmp_path / "o.jsonl", ["self"])
    assert left_out.keys() == {"c/1", "gone", "f+self"} and "no permission" in left_out["c/1"]


def clips_of(folder: Path) -> list[Path]:
    return sorted((folder / "swapped.clips").iterdir())


def test_a_manifest_can_be_written_to_a_folder_above(tmp_path):
    (tmp_path / "sub").mkdir()
    clips = (write_clip(tmp_path / "sub" / f"{name}.mp4") for name in ("low", "high"))
    manifest = manifest_of((next(clips), next(clips)))
    swap_manifest.run(manifest, tmp_path / "all.jsonl")
    assert read_manifest(tmp_path / "all.jsonl")[0].video == "sub/low.mp4"
    with pytest.raises(ManifestError, match="expected a path below"):
        swap_manifest.run(manifest, tmp_path / "other" / "all.jsonl")


def test_requests_that_cannot_work_are_refused_before_the_work(tmp_path, pair):
    manifest = manifest_of(pair)
    with pytest.raises(ManifestError, match="expected controls of"):
        swap_manifest.run(manifest, tmp_path / "o.jsonl", ["quiet"])
    with pytest.raises(ManifestError, match="another file than the manifest"):
        swap_manifest.run(manifest, manifest)
    write_manifest(manifest, [Sample("f", video="low.mp4"), Sample("f+self", video="low.mp4")])
    with pytest.raises(ManifestError, match=r"'f\+self' in .*added controls"):
        swap_manifest.run(manifest, tmp_path / "o.jsonl", ["self"])
    write_manifest(manifest, [Sample("c", "counterfactual", audio="low.mp4")])
    with pytest.raises(ManifestError, match=r"got none: expected a video to swap"):
        swap_manifest.run(manifest, tmp_path / "o.jsonl")


def test_new_clips_are_not_written_through_a_link_that_leads_out(tmp_path, pair):
    (tmp_path / "data").mkdir()
    (tmp_path / "away").mkdir()
    for clip in pair:
        shutil.move(clip, tmp_path / "data")
    (tmp_path / "data" / "o.clips").symlink_to(tmp_path / "away")
    manifest = manifest_of((tmp_path / "data" / "low.mp4", tmp_path / "data" / "high.mp4"))
    with pytest.raises(ManifestError, match="expected a path below"):
        swap_manifest.run(manifest, tmp_path / "data" / "o.jsonl")
    assert not any((tmp_path / "away").iterdir())


def test_two_runs_do_not_write_to_one_folder(tmp_path, pair):
    manifest, refused = manifest_of(pair), pytest.raises(FileError, match="no other run")
    with exclusive(tmp_path / "o.clips"), refused:
        swap_manifest.run(manifest, tmp_path / "o.jsonl")
    swap_manifest.run(manifest, tmp_path / "o.jsonl")


def test_check_names_what_is_broken(tmp_path, pair):
    (tmp_path / "cut.mp4").write_bytes(pair[0].read_bytes()[:-3000])
    write_clip(tmp_path / "silent.mp4", audio_hz=None)
    samples = [
        Sample("good", video="low.mp4"),
        Sample("cut", video="cut.mp4"),
        Sample("silent", video="silent.mp4"),
        Sample("gone", video="none.mp4", audio="low.mp4"),
        Sample("long", video="low.mp4", audio="high.mp4"),
        Sample("bare"),
    ]
    manifest = write_manifest(tmp_path / "m.jsonl", samples)
    found = list(problems(manifest))
    assert [name for name, _ in found] == ["cut", "cut", "silent", "gone", "long", "bare", "bare"]
    reasons = dict(found)
    assert "expected audio in" in reasons["silent"] and "no file at" in reasons["gone"]
    assert reasons["long"] == "picture and sound differ in length: video 2.00 s, audio 3.01 s"
    assert reasons["bare"] == "no audio: the manifest names no file"
