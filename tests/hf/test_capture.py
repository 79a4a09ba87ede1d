"""A clip and a question become what the Hugging Face model itself hands to its decoder."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, names, prove
from hooked_omni.errors import MediaError, PromptError
from hooked_omni.families.skeleton import find_decoder, tower_points
from hooked_omni.inputs.audio import read_audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.video import read_video
from tests.support.clips import write_clip
from tests.support.models import processed
from tests.support.places import SHARED

pytestmark = pytest.mark.usefixtures("numbers_alone")
MEDIA = SHARED / "media"
PAPER_CLIP = MEDIA / "02321.mp4"
SMALL = MediaSettings(min_pixels=4 * 28 * 28, max_pixels=16 * 28 * 28)
needs_shared = pytest.mark.skipif(not MEDIA.is_dir(), reason="real clips are not on this machine")


@pytest.fixture(scope="module")
def own(omni: HookedOmni, clip: Path) -> EmbeddedPrompt:
    return omni.embed(Prompt("What now?", video=clip, system="Be brief.", media=SMALL))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=3.0)


@needs_shared
def test_the_papers_clip_has_the_papers_tokens(omni):
    prompt = omni.embed(Prompt("Describe what you hear.", video=PAPER_CLIP))
    assert len(prompt.spans["video"]) == 2990
    assert len(prompt.spans["audio"]) == 248
    assert "frame 9" in prompt.spans and "frame 10" not in prompt.spans
    size = {"frames": 20, "height": 364, "width": 644}
    assert prompt.facts["video"] == {**size, "fps": 2.0, "seconds": 10.0, "notes": []}
    assert prompt.facts["audio"]["samples"] == 158_639
    assert int(prompt.position_ids.max()) < prompt.n_pos


def test_logits_are_those_of_the_processor_and_model_called_by_hand(omni, own, clip):
    question = Prompt("What now?", video=clip, system="Be brief.", media=SMALL)
    media = read_video(clip, SMALL), read_audio(clip, SMALL)
    inputs = omni.family.prepare(omni.processor, question, media)
    assert inputs["use_audio_in_video"] is True
    assert torch.equal(omni.model(own), omni.hf(**inputs).logits)


def test_words_and_template_are_kept_apart(omni, own):
    decode = omni.processor.tokenizer.decode
    assert decode(own.tokens[0, own.spans["question"]]) == "What now?"
    assert decode(own.tokens[0, own.spans["system"]]) == "Be brief."
    assert decode(own.tokens[0, own.spans["markup"]]).count("<|im_start|>") == 3
    parts = [own.spans[name] for name in ("question", "system", "markup", "audio", "video")]
    assert torch.cat(parts).sort().values.tolist() == list(range(own.n_pos))
    assert torch.equal(torch.cat(parts[:3]).sort().values, own.spans["text"])
    assert own.spans["last"].tolist() == [own.n_pos - 1]


def test_times_of_tokens_are_those_of_the_clip(own):
    second = own.spans["audio@1.0-2.0s"]
    assert len(second) == 25 and torch.equal(second, own.spans["audio"][25:50])
    # Two frames a second and two frames a step: one step a second.
    assert torch.equal(own.spans["video@1-2s"], own.spans["frame 1"])


def test_another_clips_sound(omni, own, clip, tmp_path):
    other = write_clip(tmp_path / "other.mp4", seconds=3.0, audio_hz=1100.0)
    question = Prompt("What now?", video=clip, audio=other, system="Be brief.", media=SMALL)
    swapped = omni.embed(question)
    video, audio = own.spans["video"], own.spans["audio"]
    assert torch.equal(own.tokens, swapped.tokens)
    assert torch.equal(own.embeds[0, video], swapped.embeds[0, video])
    assert not torch.equal(own.embeds[0, audio], swapped.embeds[0, audio])
    assert swapped.facts["prompt"]["audio"] == str(other)


def test_the_papers_scripts_have_flat_positions(omni, own, clip):
    question = Prompt("What now?", clip, system="Be brief.", media=SMALL, rope="paper-scripts")
    theirs = omni.embed(question)
    assert torch.equal(own.tokens, theirs.tokens)
    assert torch.equal(theirs.position_ids[0, 0], torch.arange(theirs.n_pos))
    assert int(own.position_ids.max()) < own.n_pos - 1
    assert theirs.facts["prompt"]["rope"] == "paper-scripts"
    prove(omni, theirs, decode_steps=2)


def test_a_clip_without_sound(omni, tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", seconds=3.0, audio_hz=None)
    with pytest.raises(MediaError, match="pass use_audio_in_video=False"):
        omni.embed(Prompt("What now?", video=silent, media=SMALL))
    prompt = omni.embed(Prompt("What now?", video=silent, media=SMALL, use_audio_in_video=False))
    assert "audio" not in prompt.spans


def test_a_model_that_does_not_hear(vl, clip):
    assert "audio" not in vl.embed(Prompt("What now?", video=clip, media=SMALL)).spans
    with pytest.raises(PromptError, match="expected rope='model'"):
        vl.embed(Prompt("What now?", video=clip, media=SMALL, rope="paper-scripts"))


@pytest.mark.parametrize("sounds", [False, True])
def test_words_alone_and_sound_alone(omni, clip, sounds):
    prompt = omni.embed(Prompt("What now?", audio=clip if sounds else None))
    assert ("audio" in prompt.spans) == sounds
    prove(omni, prompt, decode_steps=2)


def test_frames_are_sampled_at_the_given_rate(omni, clip):
    fast = MediaSettings(min_pixels=4 * 28 * 28, max_pixels=16 * 28 * 28, fps=4.0)
    prompt = omni.embed(Prompt("What now?", video=clip, media=fast))
    assert prompt.facts["video"]["frames"] == 12
    assert prompt.facts["prompt"]["media"]["fps"] == 4.0
    np.testing.assert_allclose(prompt.spans.seconds["video"].unique(), np.arange(6) / 2)


@pytest.mark.parametrize("name", ["omni", "audio", "phi4"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_hook_may_run_the_model_while_a_clip_is_embedded(name, fails, models, clips):
    """Its own call ends with logits, and of the clip is captured what is captured without it."""
    omni, (inputs, other) = models[name], (clips[name, kind] for kind in ("audio", "text"))
    plain, expected = omni.embed_inputs(**inputs), omni.hf(**other).logits
    found: list[Any] = []

    def run(*_: Any, hook: Any = None) -> None:
        if fails:
            with pytest.raises((TypeError, ValueError, AttributeError)):
                omni.hf()
        found.append(omni.hf(**other).logits)
        found.append(omni.embed_inputs(**other).n_pos)

    block = next(iter(tower_points(omni.towers.hf, omni.family).values()))[0][0]
    handle = block.register_forward_hook(run)
    own = omni.embed_inputs(**inputs)
    handle.remove()
    point = names.in_tower("audio", names.resid_post(0))
    hooked, _ = omni.embed_with_cache(inputs, (), [(point, run)])
    assert torch.equal(own.embeds, plain.embeds) and torch.equal(hooked.embeds, plain.embeds)
    assert len(found) == 4 and all(torch.equal(logits, expected) for logits in found[::2])
    assert found[1] == found[3] == expected.shape[1]
    assert not omni.hf._forward_hooks and not omni.hf._forward_pre_hooks


def test_a_clip_is_embedded_while_another_thread_runs_the_model(omni, clips):
    """The end at the decoder's call is for the thread that embeds alone."""
    text, clip = processed(omni, "text"), clips["omni", "audio in video"]
    entered, embedded = threading.Event(), threading.Event()
    decoder: Any = find_decoder(omni.hf)

    def wait(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            entered.set()  # within the call that embeds, whose hook stands now
            assert embedded.wait(30)

    def run() -> None:
        assert entered.wait(30)
        try:
            logits.append(omni.hf(**text).logits)
        finally:
            embedded.set()

    logits: list[torch.Tensor] = []
    alone, expected = omni.embed_inputs(**clip), omni.hf(**text).logits
    handle, thread = decoder.register_forward_pre_hook(wait), threading.Thread(target=run)
    thread.start()
    assert torch.equal(omni.embed_inputs(**clip).embeds, alone.embeds)
    thread.join(30)
    handle.remove()
    assert len(logits) == 1 and torch.equal(logits[0], expected)
