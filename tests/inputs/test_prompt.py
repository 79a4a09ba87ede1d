"""Prompts, bundles and spans: what they keep, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, prove
from hooked_omni.errors import BundleError, FileError, PromptError, SpanError
from hooked_omni.organisms.random_weights import random_omni
from tests.support.models import twice

CLIP = "audio in video"
Change = Callable[[dict[str, Tensor], dict[str, str]], Any]


@pytest.fixture
def bundle(omni: HookedOmni, clips: dict, tmp_path: Path) -> Path:
    return omni.embed_inputs(**clips["omni", CLIP]).save(tmp_path / "prompt.safetensors")


def rewritten(path: Path, change: Change) -> Path:
    """The bundle with its tensors and metadata changed."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"text": ""}, "''"),
        ({"text": "\n\t "}, "'\\n\\t '"),
        ({"rope": "paper"}, "'paper'"),
        ({"rope": None}, "None"),
        ({"video": ["one.mp4", "two.mp4"]}, "['one.mp4', 'two.mp4']"),
        ({"audio": ["one.wav", "two.wav"]}, "['one.wav', 'two.wav']"),
    ],
)
def test_a_prompt_that_no_model_takes(arguments, value):
    with pytest.raises(PromptError) as error:
        Prompt(**{"text": "What?", **arguments})
    assert f"got {value}" in str(error.value)


@pytest.mark.parametrize("kept", [0, 4, 100, 20_000, -1])
def test_a_bundle_that_is_cut_off(bundle, kept):
    bundle.write_bytes(bundle.read_bytes()[:kept])
    with pytest.raises(BundleError) as error:
        EmbeddedPrompt.load(bundle)
    assert f"expected a whole safetensors file, got {bundle}" in str(error.value)


def test_a_file_that_is_missing_or_no_bundle(tmp_path):
    path = tmp_path / "prompt.safetensors"
    for missing in (path, tmp_path):
        with pytest.raises(BundleError, match=f"got no file at {missing}"):
            EmbeddedPrompt.load(missing)
    path.write_text("what do you hear?\n" * 100)
    with pytest.raises(BundleError, match="whole safetensors file"):
        EmbeddedPrompt.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(BundleError, match="version 5, got None version None"):
        EmbeddedPrompt.load(path)


@pytest.mark.parametrize(("version", "older"), [("4", True), ("6", False), ("x", False)])
def test_a_bundle_of_another_version(bundle, version, older):
    """In version 2 the question's span was called `query`."""

    def change(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        tensors["span.query"] = tensors.pop("span.question")
        metadata["version"] = version

    rewritten(bundle, change)
    with pytest.raises(BundleError) as error:
        EmbeddedPrompt.load(bundle)
    message = str(error.value)
    assert f"version 5, got 'hooked_omni.EmbeddedPrompt' version '{version}'" in message
    assert ("older hooked_omni" in message) == older and "Embed the prompt again" in message


def test_a_bundle_of_another_models_width_or_dtype(omni, bundle):
    other = HookedOmni.from_hf(*random_omni(d_model=32))
    loaded = EmbeddedPrompt.load(bundle)
    for attempt in (other.model, other.model.generate, lambda p: prove(other, p)):
        with pytest.raises(PromptError, match=r"width 32 and torch.float32, got width 64"):
            attempt(loaded)
    half = loaded.to(dtype=torch.bfloat16)
    with pytest.raises(PromptError, match=r"got width 64 and torch\.bfloat16"):
        omni.model(half)
    assert omni.model(half.to(dtype=torch.float32)).dtype == torch.float32


def test_a_batch_is_not_saved(omni, clips, tmp_path):
    with pytest.raises(BundleError, match="got a batch of 2"):
        omni.embed_inputs(**twice(clips["omni", "text"])).save(tmp_path / "batch.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_cannot_be_written(prompt, tmp_path):
    """A folder of that name, and `/proc`: they also refuse root, whom no permission stops."""
    target = tmp_path / "prompt.safetensors"
    (target / "inside").mkdir(parents=True)
    for path in (target, Path("/proc/prompt.safetensors")):
        with pytest.raises(FileError, match=r"expected to write .*prompt\.safetensors"):
            prompt.save(path)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_facts_that_cannot_be_written_leave_the_old_file(prompt, bundle):
    before = bundle.read_bytes()
    own = replace(prompt, facts={})
    own.facts["clip"] = object()
    with pytest.raises(PromptError, match="facts that JSON does not keep"):
        own.save(bundle)
    assert bundle.read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize(
    ("kind", "span", "message"),
    [
        ("video", "audio", "expected a prompt with 'audio' tokens, got one without"),
        ("audio", "frame 0", "expected a prompt with 'video' tokens"),
        ("audio", "picture", "expected one of .*'audio'.*got 'picture'"),
        (CLIP, "audio@9-10s", "expected a prompt with 'audio@9-10s' tokens.*0.00 to 2.96 s"),
        (CLIP, "frame 3", "the video has 3 grid steps, counted from 0"),
        (CLIP, "generated", "expected a run that goes beyond the 144 prompt positions"),
    ],
)
def test_a_span_that_is_not_there(omni, clips, kind, span, message):
    with pytest.raises(SpanError, match=message):
        omni.embed_inputs(**clips["omni", kind]).spans[span]
