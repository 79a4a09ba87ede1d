"""Clips of one's own become samples: from a folder alone, or with a table of file and caption."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from analyses.__main__ import app as analyses
from data_prep.__main__ import app as data_prep
from data_prep.importers.clip_folder import find_clips
from data_prep.importers.own_clips import names_files, read_csv, read_folder
from data_prep.manifest import Sample, read_manifest
from hooked_omni import EXAMPLE_CLIP
from hooked_omni.__main__ import app as library
from hooked_omni.errors import ManifestError
from tests.data_prep.test_cli import run
from tests.support.clips import write_clip


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    for name in ("a.mp4", "b c.mp4", "more/a.mp4", "d.v2.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE_CLIP, folder / name)
    write_clip(folder / "e.m4a", fps=0)
    (folder / "broken.mp4").write_text("no clip")
    return folder


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_of_files_and_captions(tmp_path, clips, mark):
    rows = ["caption,file,video_caption,note", "a siren,a.mp4,a dog,x", "it wails,a.mp4,,x"]
    rows += [
        "rain,b c,,x",
        "a bell,more/a.mp4,,x",
        "a drum,d.v2.mp4,,x",
        "a tone,e.m4a,,x",
        "on,a,,x",
    ]
    rows += ["rain,none.mp4,,x", ",f.mp4,,x", "rain,broken.mp4,,x"]
    csv = table(tmp_path, "\n".join(row.replace(",", mark) for row in rows))
    found = find_clips(read_csv(csv, clips=clips), clips, tmp_path)
    known = {sample.id: sample for sample in found.samples}
    assert known.keys() == {"a", "b c", "more/a", "d.v2", "e.m4a"}
    assert found.missing.keys() == {"none", "f", "broken"}
    assert found.missing["none"] == f"expected none.mp4 in {clips}, got no such clip."
    assert found.missing["f"] == "the caption is empty"
    assert known["b c"] == Sample("b c", video="clips/b c.mp4", audio_captions=("rain",), seconds=1)
    assert known["e.m4a"].video is None and known["e.m4a"].audio == "clips/e.m4a"
    assert known["more/a"].video == "clips/more/a.mp4"
    first = known["a"]
    assert first.video == "clips/a.mp4"
    assert first.audio_captions == ("a siren", "it wails", "on") and first.video_captions == (
        "a dog",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,text\na.mp4,x\n", r"columns \['file', 'caption'\] once each"),
        ("file,caption\n,x\n", "line 2, field 'file', got none"),
        ("file,caption\na.mp4\n", "expected 2 cells in .* line 2, got 1"),
        ("", "columns"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, text, words):
    with pytest.raises(ManifestError, match=words):
        read_csv(table(tmp_path, text))


def test_a_folder_alone(tmp_path, clips):
    assert run("import", "folder", clips, tmp_path / "m.jsonl") == 0
    samples = read_manifest(tmp_path / "m.jsonl")
    assert [s.id for s in samples] == ["a", "b c", "d.v2", "more/a"]
    assert {s.audio_captions for s in samples} == {()}
    found = find_clips(read_folder(clips, tmp_path), clips, tmp_path)
    assert found.missing.keys() == {"broken"}


def test_build_takes_either_table(tmp_path, clips, capsys):
    own, theirs = (
        "file,caption\nx.mp4,rain\n",
        "audiocap_id,youtube_id,start_time,caption\n1,x,0,r\n",
    )
    for text, named, stem in ((own, True, "x.mp4"), (theirs, False, "x_000000.mp4")):
        csv = table(tmp_path, text)
        assert names_files(csv) is named
        assert run("build", csv, clips, tmp_path) == 1
        assert f"missing: x: expected {stem} in" in capsys.readouterr().err


def test_one_thing_has_one_name_in_all_commands():
    def options(app, *path):
        command: Any = get_command(app)
        for name in path:
            command = command.commands[name]
        return {option for parameter in command.params for option in parameter.opts}

    for app, path in ((library, ["prove"]), (library, ["embed"]), (analyses, ["captions"])):
        assert {"--ask", "--question", "--clip", "--audio"} <= options(app, *path)
    for name in ("build", "captions"):
        assert {"--captions", "--file", "--captioner"} <= options(data_prep, name)
    for name in ("build", "pairs"):
        assert {"--k", "-k", "--embedder"} <= options(data_prep, name)
