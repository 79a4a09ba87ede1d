"""`python -m hooked_omni`: proof as a table, and a clip as a file."""

from pathlib import Path

import pytest
import torch

from hooked_omni import EmbeddedPrompt, Prompt, load
from hooked_omni.__main__ import main
from hooked_omni.organisms.random_weights import random_omni
from tests.support.adapters import saved
from tests.support.clips import write_clip
from tests.support.models import config_alone, save_checkpoint

QUESTION, PROVE = "What now?", ["prove", "random-omni"]
UNKNOWN = "UnknownModelError: expected a hub name"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(*random_omni(n_layers=2), tmp_path_factory.mktemp("model"))


def run(*arguments: str | Path) -> None:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert end.code in (0, None), end.code


def test_a_clip_becomes_a_file_that_the_decoder_reads(folder, clip, tmp_path, capsys):
    out = tmp_path / "prompt.safetensors"
    run("embed", folder, "--clip", clip, "--question", QUESTION, "--out", out)
    printed = capsys.readouterr().out
    assert "26 audio" in printed and "positions" in printed  # AAC rounds the second up
    prompt = EmbeddedPrompt.load(out)
    direct = load(folder).embed(Prompt(QUESTION, video=clip))
    assert torch.equal(prompt.embeds, direct.embeds)
    assert torch.equal(prompt.position_ids, direct.position_ids)
    assert prompt.facts["transformers"] and prompt.facts["prompt"]["text"] == QUESTION
    run("prove", folder, "--decoder-only", "--prompt", out)
    printed = " ".join(capsys.readouterr().out.split())
    assert "equal to the bit" in printed and "not guaranteed" in printed
    assert "26 audio" in printed and "the towers" in printed


def test_a_prompt_of_a_fine_tune_names_it(clip, tmp_path):
    out, mine = tmp_path / "prompt.safetensors", saved(tmp_path / "mine")
    run("embed", "random-omni", "--clip", clip, "--adapter", mine, "--out", out)
    assert EmbeddedPrompt.load(out).facts["adapter"]["name"] == "mine"


REFUSED = [
    ("random-audio", ["--clip", "clip.mp4", "--audio", "clip.mp4"], "This family does not see"),
    ("random-voxtral", ["--clip", "clip.mp4", "--audio", "clip.mp4"], "This family does not see"),
    ("random-vl", ["--audio", "clip.mp4"], "This family does not hear"),
    ("random-omni", ["--clip", "none.mp4"], "got no file at"),
    ("random-omni", ["--question", " "], "expected a question"),
]


@pytest.mark.parametrize("verb", ["embed", "prove"])
@pytest.mark.parametrize(("name", "words", "message"), REFUSED)
def test_what_a_family_does_not_take_is_refused_before_weights(
    verb, name, words, message, clip, tmp_path, capsys
):
    model, out = config_alone(name, tmp_path / "model"), ["--out", "x"] if verb == "embed" else []
    given = [str(clip.with_name(word)) if ".mp4" in word else word for word in words]
    with pytest.raises(SystemExit) as end:
        main([verb, str(model), *out, *given])
    printed = " ".join(capsys.readouterr().err.split())
    assert end.value.code == 1 and message in printed and "weights" not in printed


def test_words_alone_are_proved(folder, capsys):
    run("prove", folder, "--dtype", "bfloat16", "--attention", "eager")
    printed = " ".join(capsys.readouterr().out.split())
    assert "bfloat16 on cpu" in printed and "hook points" in printed
    assert "words alone were compared" in printed
    assert "equal tokens in sweeps" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prove", "no/such/folder"], UNKNOWN),
        (["embed", "./none", "--out", "x"], UNKNOWN),
        ([*PROVE, "--attention", "flash"], "expected --attention sdpa or eager, got 'flash'"),
        ([*PROVE, "--adapter", "nowhere"], "expected a file at nowhere/adapter_config.json"),
        ([*PROVE, "--decoder-only", "--clip", "clip.mp4"], "which would not be read"),
        ([*PROVE, "--prompt", "p.safetensors", "--clip", "clip.mp4"], "which would not be read"),
    ],
)
def test_what_is_refused_is_one_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr().err
    assert end.value.code == 1 and message in printed and "Traceback" not in printed
