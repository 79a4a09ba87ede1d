"""What the command line accepts, refuses before anything is loaded, and prints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analyses import attention_share, knockout, modality_reliance
from analyses.__main__ import ANALYSES
from analyses.running import results
from analyses.running.options import CaseSelection
from analyses.running.request import cases_of
from analyses.running.summary import sentences
from analyses.running.type_check import make_config, mismatch
from data_prep.manifest import Sample, write_manifest
from hooked_omni.errors import PromptError, ResultsError
from hooked_omni.files import write_whole
from tests.support.adapters import saved
from tests.support.models import config_alone
from tests.support.places import ROOT
from tests.support.running import CONFIG, command
from tests.support.running import run_attention_share as run


def test_without_a_command_the_questions_are_listed_fast() -> None:
    start = os.times()
    words = [sys.executable, "-X", "importtime", "-m", "analyses"]
    kept: Any = dict(cwd=ROOT, capture_output=True, text=True, check=True)
    made = subprocess.run(words, **kept, env={"COLUMNS": "150"})
    seconds = os.times().children_user - start.children_user  # of work: others may be busy, too
    assert 0 < seconds < 5  # 1 s on an idle machine
    heavy = ("torch", "pandas", "transformers", "matplotlib", "numpy")
    assert not [name for name in heavy if f" {name}\n" in made.stderr]
    for text in (*ANALYSES, "Where do the words of an answer look?", "--base"):
        assert text in made.stdout


def test_each_question_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--model", "random-omni", "--out", "x"]
    assert command("attention_share", *start) == 2
    assert "expected --data, a manifest, or --clip" in capsys.readouterr().err.replace("\n", " ")
    clip = ["--clip", "x.mp4"]
    assert command("attention_share", *start, *clip, "--base", "random-vl") == 2
    assert command("distribution_shift", *start, *clip) == 2


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--kinds", "imaginary"), "expected a sample of kind ('imaginary',)"),
        (("--questions", "smell"), "'forced'], got ['smell']"),
        (("--shard", "7/7"), "at most 6 shards"),
        (("--shard", "first"), "expected a shard as i/n, such as 1/4, got 'first'"),
        (("--config", '{"tokens": 3}'), "expected tokens like False in the config, got 3"),
        (("--config", '{"token": true}'), "in the config, got ['token']"),
        (("--config", "{"), "expected JSON in the config"),
        (("--config", "none.json"), "expected a file at none.json"),
        (("--ask", "What?"), "expected --clip with --audio and --ask, got --data"),
        (("--rope", "none"), "expected rope 'model' or 'paper-scripts', got 'none'"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any, message: str
) -> None:
    out = tmp_path / "out"
    assert run(out, data, *more) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def _items(data: Path, *kinds: str, folder: Path) -> Path:
    """A manifest of one sample with such items, of files beside it."""
    files = {"audio": "0.mp4", "video": "1.mp4", "image": "a.png"}
    for name in files.values():
        shutil.copy(data.parent / "0.mp4", folder / name)
    said: Any = dict(audio_captions=("A dog",), video_captions=("A dog",))
    items = tuple((kind, files[kind]) for kind in kinds)
    return write_manifest(folder / "items.jsonl", [Sample("one", **said, items=items)])


TAKES_NOT = [
    ("random-audio", ("image",), "This family does not see"),
    ("random-audio", ("video",), "This family does not see"),
    ("random-voxtral", ("audio", "audio"), "at most one clip"),
    ("random-internvl", ("image",), "at most one clip"),
    ("random-phi4", ("image", "audio"), "at most one clip"),
    ("random-vl3", ("audio",), "This family does not hear"),
]


@pytest.mark.parametrize(("name", "kinds", "message"), TAKES_NOT)
@pytest.mark.parametrize("study", [False, True])
def test_items_that_a_family_does_not_take_are_refused_before_weights(
    name: str, kinds: Any, message: str, study: bool, data: Path, tmp_path: Path, capsys: Any
) -> None:
    model, out = config_alone(name, tmp_path / "model"), tmp_path / "out"
    manifest = _items(data, *kinds, folder=tmp_path)
    words: list[Any] = ["captions", "--model", model, "--data", manifest, "--out", out]
    if study:
        config = write_whole(tmp_path / "s.toml", _STUDY.format(model, manifest.name).encode())
        words = ["study", "--config", config, "--out", out]
    assert command(*words) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed and "case 'one/" in printed and not (out / "captions").exists()


_STUDY = """model = "{}"
data = "{}"
analyses = ["captions"]
judge.name = "lexical"
"""


def test_a_base_that_takes_none_is_refused_before_weights(data: Path, tmp_path: Path, capsys: Any):
    model, base = (config_alone(f"random-{n}", tmp_path / n) for n in ("omni", "audio"))
    words = ["distribution_shift", "--data", data, "--out", tmp_path / "out", "--model", model]
    assert command(*words, "--base", base) == 1
    assert "This family does not see" in capsys.readouterr().err


def test_an_empty_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "out", write_manifest(tmp_path / "empty.jsonl", [])) == 1
    assert "expected a sample of kind any" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "deep/down"])
def test_a_file_is_no_folder(
    tmp_path: Path, data: Path, inside: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    load = "analyses.running.request.load"
    monkeypatch.setattr(load, lambda *_a, **_k: pytest.fail("was loaded"))
    assert run(file / inside, data) == 1
    assert "expected a folder, got the file" in capsys.readouterr().err
    with pytest.raises(ResultsError, match="expected a folder, got the file"):
        results.require_same(file / inside, {})
    assert file.read_text() == "mine"


def test_kinds_and_questions(data: Path, tmp_path: Path) -> None:
    assert run(tmp_path, data, "--kinds", "counterfactual", "--questions", "see,hear") == 0
    table = results.load(tmp_path)
    assert set(table["kind"]) == {"counterfactual"}
    asked = table[["sample", "question"]].drop_duplicates()["question"]
    assert asked.tolist() == ["see", "hear"] * 3


def test_a_fine_tune_is_another_model(data: Path, tmp_path: Path, capsys: Any) -> None:
    out, mine = tmp_path / "out", saved(tmp_path / "mine")
    assert run(out, data, "--limit", 1, "--adapter", mine) == 0
    model = json.loads((out / "run.json").read_text())["facts"]["model"]
    assert model["name"] == "random-omni + mine" and len(model["adapter"]["hash"]) == 32
    capsys.readouterr()
    assert run(out, data, "--limit", 1) == 1
    assert "adapter" in capsys.readouterr().err


def test_a_quick_look_at_clips(data: Path, tmp_path: Path) -> None:
    words = ["attention_share", "--model", "random-omni", "--out", tmp_path, "--config", CONFIG]
    clips = ["--clip", data.parent / "0.mp4", "--clip", data.parent / "1.mp4"]
    assert command(*words, *clips, "--ask", "What now?", "--audio", data.parent / "2.mp4") == 0
    table = results.load(tmp_path)
    names = [f"{data.parent / f'{i}.mp4'}+{data.parent / '2.mp4'}" for i in (0, 1)]
    assert table["sample"].unique().tolist() == names
    assert set(table["question"]) == {"own"} and set(table["kind"]) == {"counterfactual"}
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["facts"]["questions"] == ["What now?"]
    assert [file["file"] for file in made["facts"]["data"]] == ["0.mp4", "1.mp4", "2.mp4"]
    assert command(*words, "--clip", tmp_path / "none.mp4") == 1


def test_a_summary_has_the_headlines(finished: Path, capsys: Any, tmp_path: Path) -> None:
    ((title, lines),) = sentences([finished]).items()
    assert "attention_share, random-omni, 6 cases, 2 skipped" in title
    assert lines == attention_share.headline(results.load(finished))
    assert command("summary", finished) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in (*lines, "n = 3", "n = 1"))
    assert command("summary", tmp_path) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": "three"}, r"expected width as int \| None in the config, got 'three'"),
        ({"width": True}, "expected width as int"),
        ({"windows": [4, 5]}, r"expected windows as tuple\[tuple\[int, int\], ...\]"),
        ({"own": "abc"}, r"expected own as Mapping\[str, Sequence\[str\]\]"),
        ({"own": {"dog": "woof"}}, "expected own as"),
        ({"keys": ["video", 3]}, r"expected keys like \('video', 'audio'\)"),
        ({"query": "all"}, r"expected query as Literal\['generated', 'generated\+last'\]"),
        ({"max_new_tokens": 2.0}, "expected max_new_tokens like 50 in the config, got 2.0"),
    ],
)
def test_values_of_another_type(values: Any, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        make_config(knockout.Config, values)


def test_values_that_fit() -> None:
    made = make_config(knockout.Config, {"windows": [[0, 2]], "own": {"dog": ["woof"]}})
    assert made.windows == ((0, 2),) and made.own == {"dog": ["woof"]}
    assert mismatch(modality_reliance.Config, {"shift_seconds": 1}, "it") is None  # an int fits


def test_no_words_are_no_question(data: Path) -> None:
    """They are not as if `--ask` was left out."""
    with pytest.raises(PromptError, match="expected a question, got ''"):
        cases_of(CaseSelection(clips=(data.parent / "0.mp4",), text=""))
    unused: Any
    for unused in (dict(wording={"hear": "What sounds?"}), dict(questions=("see", "hear"))):
        with pytest.raises(ResultsError, match="expected --ask alone"):
            CaseSelection(clips=(data.parent / "0.mp4",), text="What now?", **unused)
