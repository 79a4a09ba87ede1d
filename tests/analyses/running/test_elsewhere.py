"""Prompts that were embedded elsewhere: the same tables without towers, none of another."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from analyses.asking import without_sound
from analyses.cases import read_cases
from analyses.running import results
from data_prep.manifest import Sample, file_name, write_manifest
from examples import embed_prompts
from hooked_omni import EmbeddedPrompt, HookedOmni, load, names
from hooked_omni.errors import MediaError, PromptError, ResultsError
from tests.support.clips import write_clip
from tests.support.models import config_alone
from tests.support.running import command
from tests.support.standins import STANDINS, write


@pytest.fixture(scope="module")
def elsewhere(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of every clip that can be read, the base's beside them."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, where in (("random-omni", folder), ("random-vl", folder / "base")):
        omni, of_base = load(name), where.name == "base"
        where.mkdir(exist_ok=True)
        for case in read_cases(data):
            prompt: Any = without_sound(case.prompt) if of_base else case.prompt  # pyright: ignore
            try:
                omni.embed(prompt).save(where / f"{file_name(case.id)}.safetensors")
            except MediaError:
                continue
    return folder


def analyze(out: Path, data: Path, *more: Any) -> int:
    words = ["--model", "random-omni", "--base", "random-vl", "--data", data, "--out", out]
    config = '{"max_new_tokens": 3}'
    return command("distribution_shift", *words, "--config", config, *more)


def test_decoders_alone_give_the_same_table(data: Path, elsewhere: Path, tmp_path: Path) -> None:
    assert analyze(tmp_path / "here", data) == 0
    assert analyze(tmp_path / "there", data, "--decoder-only", "--embedded", elsewhere) == 0
    here, there = (results.load(tmp_path / name) for name in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
    assert here.attrs["skipped"].keys() == there.attrs["skipped"].keys() != set()


def other_words(path: Path) -> None:
    bundle = EmbeddedPrompt.load(path)
    said = {**bundle.facts["prompt"], "text": "What is this?"}
    replace(bundle, facts={**bundle.facts, "prompt": said}).save(path)


def other_items(path: Path) -> None:
    bundle = EmbeddedPrompt.load(path)
    said = {**bundle.facts["prompt"], "turns": [["user", [["text", "Hello.", None]]]]}
    replace(bundle, facts={**bundle.facts, "prompt": said}).save(path)


def other_family(path: Path) -> None:
    bundle = EmbeddedPrompt.load(path)
    replace(bundle, facts={**bundle.facts, "family": "internomni"}).save(path)


def without_facts(path: Path) -> None:
    replace(EmbeddedPrompt.load(path), facts={}).save(path)


def edited_in_a_tower(path: Path) -> None:
    bundle = EmbeddedPrompt.load(path)
    edits = [names.in_tower("vision")]
    replace(bundle, facts={**bundle.facts, "tower_edits": edits}).save(path)


def of_the_next_clip(path: Path) -> None:
    shutil.copy(path.with_name(f"{file_name('clip 1/hear')}.safetensors"), path)


def names_that_are_none(path: Path) -> None:
    bundle = EmbeddedPrompt.load(path)
    said = {**bundle.facts["prompt"], "video": 3, "audio": ["a.wav"]}
    replace(bundle, facts={**bundle.facts, "prompt": said}).save(path)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("where", [".", "base"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_words, "got {'text': 'What is this?'}"),
        (other_items, "got {'turns': [('user', [('text', 'Hello.', None)])]}"),
        (other_family, "got {'family': 'internomni'}"),
        (edited_in_a_tower, "got {'tower_edits': ['towers.vision.hook_out']}"),
        (without_facts, "got {'family': None, 'text': None"),
        (of_the_next_clip, "got {'video': '1.mp4'}"),
        (names_that_are_none, "got {'video': '3', 'audio': \"['a.wav']\"}"),
        (damaged, "expected a whole safetensors file"),
    ],
)
def test_a_bundle_of_something_else_is_refused(
    data: Path,
    elsewhere: Path,
    tmp_path: Path,
    capsys: Any,
    where: str,
    change: Callable[[Path], None],
    message: str,
) -> None:
    copy = Path(shutil.copytree(elsewhere, tmp_path / "copy"))
    change(copy / where / f"{file_name('clip 0/hear')}.safetensors")
    assert analyze(tmp_path / "out", data, "--decoder-only", "--embedded", copy) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of images, sounds and videos in any order, with words of their own or without."""
    folder = tmp_path_factory.mktemp("items")
    write_clip(folder / "a.mp4", seconds=1.0, fps=4, width=56, height=56, audio_hz=300.0)
    Image.new("RGB", (60, 40), "red").save(folder / "b.png")
    heard, seen, film = ("audio", "a.mp4"), ("image", "b.png"), ("video", "a.mp4")
    words = ("text", "What\ud7a3 is \u201cthis\u201d?\nA. A dog.")
    said: Any = dict(audio_captions=("A dog barks",))
    own = [(seen, heard, words), (words, heard), (film, seen, words)]
    plain = [(seen, heard), (heard,), (film, heard, seen)]
    for name, of in (("own", own), ("plain", plain)):
        samples = [Sample(f"{name}/{i}", items=each, **said) for i, each in enumerate(of)]
        write_manifest(folder / f"{name}.jsonl", samples)
    return folder


@pytest.mark.parametrize(("name", "question"), [("own", "own"), ("plain", "hear")])
def test_samples_of_items_are_embedded_by_the_example_and_found(
    name: str, question: str, items: Path, tmp_path: Path, capsys: Any
) -> None:
    data, folder = items / f"{name}.jsonl", tmp_path / "prompts"
    given = ["--questions", question] if name == "plain" else []  # else known
    for model, more in (("random-omni", []), ("random-vl", ["--base"])):
        embed_prompts.main([model, str(data), str(folder), *given, *more], "embed_prompts")
    assert len([*folder.glob("*.safetensors")]) == len([*folder.glob("base/*.safetensors")]) == 3
    asked = ["--questions", question]
    there = ["--decoder-only", "--embedded", folder]
    assert analyze(tmp_path / "here", data, *asked) == 0, capsys.readouterr().err
    assert analyze(tmp_path / "there", data, *asked, *there) == 0
    here, found = (results.load(tmp_path / out) for out in ("here", "there"))
    pd.testing.assert_frame_equal(here, found)
    # An image is picture enough; a sound without any is skipped, with that reason.
    ((case, reason),) = here.attrs["skipped"].items()
    assert case == f"{name}/1/{question}" and "got no video or image, but ['audio']" in reason
    assert set(here["sample"]) == {f"{name}/0", f"{name}/2"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "does not see"),
        (["--questions", "hear"], "words of their own"),
        (["--order", "clip-first"], "expected no order"),
        (["--wording", "smell=What?"], "expected words for questions among"),
    ],
)
def test_what_the_example_cannot_embed_is_refused_before_weights(
    more: list[str], message: str, items: Path, tmp_path: Path
) -> None:
    words = [config_alone("random-audio", tmp_path), items / "own.jsonl", tmp_path / "out", *more]
    with pytest.raises((PromptError, ResultsError), match=message):
        embed_prompts.main([str(word) for word in words], "embed_prompts")


def test_what_is_not_there_is_refused_before_a_model_is_loaded(
    data: Path, elsewhere: Path, tmp_path: Path, capsys: Any
) -> None:
    named = ["--model", "no/such-model"]  # the last one counts
    for more, message in [
        (["--decoder-only"], "expected prompts embedded elsewhere (embedded) with decoder_only"),
        (["--embedded", elsewhere], "expected prompts embedded elsewhere (embedded)"),
        (
            ["--decoder-only", "--embedded", elsewhere, "--prompts", tmp_path / "x"],
            "expected prompts embedded elsewhere (embedded)",
        ),
        (["--decoder-only", "--embedded", elsewhere, "--questions", "hear,see"], "question 'see'"),
        (["--decoder-only", "--embedded", elsewhere / "base"], "base, named by their cases as"),
    ]:
        assert analyze(tmp_path / "out", data, *more, *named) == 1
        assert message in " ".join(capsys.readouterr().err.split())


def test_other_bundles_are_another_run(
    data: Path, elsewhere: Path, tmp_path: Path, capsys: Any
) -> None:
    copy = Path(shutil.copytree(elsewhere, tmp_path / "copy"))
    more = ["--decoder-only", "--embedded", copy, "--limit", 1]
    assert analyze(tmp_path / "out", data, *more) == 0
    shutil.rmtree(tmp_path / "out" / "parts")
    of_the_next_clip(copy / "base" / f"{file_name('clip 0/hear')}.safetensors")
    capsys.readouterr()
    assert analyze(tmp_path / "out", data, *more) == 1
    assert "facts.embedded" in " ".join(capsys.readouterr().err.split())


def test_a_model_with_its_own_code_against_its_base(
    data: Path, tmp_path: Path, capsys: Any
) -> None:
    """Stand-ins for InternOmni and InternVL2: only their decoders are loaded, from their files."""
    names, bundles = ("internomni", "internvl2"), tmp_path / "bundles"
    for name, where in zip(names, (bundles, bundles / "base"), strict=True):
        hf, processor = STANDINS[name]()
        own = processor[0] if isinstance(processor, tuple) else processor
        own.save_pretrained(write(hf, hf.config.to_dict(), tmp_path / name))
        where.mkdir()
        omni = HookedOmni.from_hf(hf, processor)
        for case in read_cases(data)[:1]:
            prompt: Any = case.prompt
            omni.embed(prompt if where is bundles else without_sound(prompt)).save(
                where / f"{file_name(case.id)}.safetensors"
            )
    models = ["--model", tmp_path / names[0], "--base", tmp_path / names[1], "--limit", 1]
    more = ["--decoder-only", "--embedded", bundles]
    assert analyze(tmp_path / "out", data, *models, *more) == 0, capsys.readouterr().err
    table = results.load(tmp_path / "out")
    assert len(table) and table.attrs["base"].endswith("internvl2")
    for more, message in (([], "trust_remote_code=True"), (["--trust-remote-code"], "to run, got")):
        assert analyze(tmp_path / "x", data, *models, *more) == 1
        assert message in " ".join(capsys.readouterr().err.split())
