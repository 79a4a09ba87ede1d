"""What is particular to families of a Qwen-like decoder after other towers."""

import base64
import io
from dataclasses import replace
from typing import Any

import decord
import numpy as np
import pytest
import soundfile
import torch
import transformers
from torch import Tensor

from data_prep.clips import write_clip
from hooked_omni import HookedOmni, Prompt, load, prove
from hooked_omni.errors import CheckpointError, MediaError, PromptError
from hooked_omni.families import checks
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.organisms.random_towers import random_internvl
from tests.support.checkpoints import copied, edited, in_one_file, with_config
from tests.support.models import frames, processed, sound, uneven_gains
from tests.support.places import ROOT
from tests.support.runs import bits_equal

ASK = "What now?"
SEES = ("qwen2-vl", "vl3-moe", "internvl", "video-llama3", "llava-onevision")
HEARS = ("audio-flamingo3", "qwen3-asr")
STAMPS = {"internvl": "Frame2: ", "video-llama3": "Time 0.5s:", "vl3-moe": "<1.2 seconds>"}
new = pytest.mark.parametrize("name", [*SEES, *HEARS])


LOOK = Prompt(ASK, video="clip")
LISTEN = Prompt(ASK, audio="sound")


def words(omni: HookedOmni, prompt: Any, span: str) -> str:
    return omni.processor.tokenizer.decode(prompt.tokens[0, prompt.spans[span]])


@new
@pytest.mark.parametrize(
    "text", [ASK, "Time 1.0s: what?", "Frame1: what?\nWhy, 2.0s?", "¿Qué? 何?"]
)
def test_the_question_is_the_users_words_alone(models, name, text):
    omni = models[name]
    clip = frames(side=omni.media.size_factor) if name in SEES else sound()
    video, audio = ("clip", None) if name in SEES else (None, "clip")
    prompt = omni.embed_media(Prompt(text, video=video, audio=audio), (clip,))
    assert words(omni, prompt, "question") == text
    assert STAMPS.get(name, "") in words(omni, prompt, "markup")


@pytest.mark.parametrize("first", ["Look here,", "Look here\n", "Frame1: ", ",Time 1.0s:"])
@pytest.mark.parametrize("name", ["internvl", "video-llama3", "vl3"])
def test_words_beside_the_clip_are_the_users(models, name, first):
    """Commas and line breaks are stamps' own only where the processor writes them."""
    omni = models[name]
    items = [("text", first), ("video", "clip")]
    items += [("video", "clip"), ("text", "\nWhy?")] if name == "vl3" else []
    clips = tuple(frames(side=omni.media.size_factor) for kind, _ in items if kind == "video")
    prompt = omni.embed_media(Prompt(items=items), clips)
    assert words(omni, prompt, "question") == "".join(w for kind, w in items if kind == "text")


@pytest.mark.parametrize("name", SEES)
def test_steps_have_their_frames_and_times(models, name):
    omni = models[name]
    prompt = omni.embed_media(LOOK, (frames(8, side=omni.media.size_factor),))
    n_steps = 8 // omni.family.frames_per_step
    steps = [len(prompt.spans[f"frame {i}"]) for i in range(n_steps)]
    assert sum(steps) == len(prompt.spans["video"])
    assert set(steps[:-1]) == {steps[0]} and steps[-1] - steps[0] == (name == "llava-onevision")
    # Two frames a second.
    assert prompt.spans.seconds["video"].unique().tolist() == [
        i * omni.family.frames_per_step / 2 for i in range(n_steps)
    ]


@pytest.mark.parametrize("name", HEARS)
@pytest.mark.parametrize("seconds", [0.6, 3.0, 29.9, 30.0, 47.3])
def test_tokens_of_a_sound_lie_where_its_seconds_are(models, name, seconds):
    prompt = models[name].embed_media(LISTEN, (sound(seconds),))
    starts = prompt.spans.seconds["audio"]
    assert bool((starts.diff() > 0).all()) and seconds - 0.1 < float(starts[-1]) < seconds
    assert len(starts) == len(prompt.spans["audio"])


def test_a_window_is_heard_by_itself(models):
    """What comes after 30 s changes no token before."""
    omni = models["audio-flamingo3"]
    long = sound(40.0)
    first = replace(long, samples=long.samples[:480_000], seconds=30.0)
    both, alone = (omni.embed_media(LISTEN, (one,)) for one in (long, first))
    heard = [one.embeds[0, one.spans["audio"]] for one in (both, alone)]
    assert len(heard[0]) == 1000 and len(heard[1]) == 750
    torch.testing.assert_close(heard[0][:750], heard[1], rtol=0, atol=1e-5)


def test_more_sound_than_windows(models):
    with pytest.raises(MediaError, match=r"whole sound, of 601\.0 s, .*got 600\.0 s"):
        models["audio-flamingo3"].embed_media(LISTEN, (sound(601.0),))


def test_less_sound_than_is_filled_up_with_silence(models):
    with pytest.raises(MediaError, match=r"whole sound, of 0\.3 s, .*got 0\.5 s"):
        models["qwen3-asr"].embed_media(LISTEN, (sound(0.3),))


def test_a_system_prompt_where_the_question_stands(models):
    with pytest.raises(PromptError, match="expected no system prompt for Qwen3-ASR, got 'Be"):
        models["qwen3-asr"].embed_media(replace(LISTEN, system="Be brief."), (sound(),))


@pytest.mark.parametrize("part", ["text", "system"])
@pytest.mark.parametrize("name", ["qwen2-vl", "internvl", "audio", "omni"])
def test_a_template_that_drops_words(models, monkeypatch, name, part):
    omni = models[name]
    role = {"text": "user", "system": "system"}[part]
    kept = "{% if message.role != '" + role + "' %}{{ part.text }}{% endif %}"
    template = omni.processor.chat_template.replace("{{ part.text }}", kept)
    monkeypatch.setattr(omni.processor, "chat_template", template)
    with pytest.raises(PromptError, match=rf"expected a chat template .* drops '{part}'"):
        omni.embed_media(Prompt(ASK, system="Be brief."), ())


def test_tokens_that_repeat_the_frame_before_are_left_out(models):
    """Four frames of which the third is as the second: one token stays of it."""
    omni = models["video-llama3"]
    video = frames(4)
    pixels = video.frames.clone()
    pixels[2] = pixels[1]
    pixels[3, :, :28, :28] = pixels[2, :, :28, :28]  # one token's patches
    prompt = omni.embed_media(LOOK, (replace(video, frames=pixels),))
    assert [len(prompt.spans[f"frame {i}"]) for i in range(4)] == [6, 6, 1, 5]
    assert prompt.spans.seconds["video"].tolist() == [0.0] * 6 + [0.5] * 6 + [1.0] + [1.5] * 5


@pytest.mark.parametrize("name", [*SEES, *HEARS])
@pytest.mark.parametrize("change", ["a token more", "a token less", "no media"])
def test_inputs_that_do_not_belong_together(models, clips, name, change):
    omni, kind = models[name], "video" if name in SEES else "audio"
    inputs = dict(clips[name, kind])
    at = int((inputs["input_ids"][0] == omni.family.media_tokens(omni.hf)[kind]).nonzero()[0])
    if change == "no media":
        for key in [key for key in inputs if "pixel" in key or "features" in key or "grid" in key]:
            del inputs[key]
    else:
        copies = [0, 2][change == "a token more"]
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if key in inputs:
                row = inputs[key]
                same = [row[:, at : at + 1]] * copies
                inputs[key] = torch.cat([row[:, :at], *same, row[:, at + 1 :]], dim=1)
    with pytest.raises(PromptError, match="expected"):
        omni.embed_inputs(**inputs)


@pytest.mark.parametrize("name", ["internvl", "llava-onevision"])
def test_the_processor_resizes_whole_numbers(models, name):
    """As frames come from a file; resized fractions would be other numbers."""
    omni = models[name]
    video = frames(3)
    own = omni.family.prepare(omni.processor, LOOK, (video,))
    shifted = replace(video, frames=video.frames + 0.3)
    theirs = omni.family.prepare(omni.processor, LOOK, (shifted,))
    key = next(key for key in own if key.startswith("pixel"))
    assert torch.equal(own[key], theirs[key])
    assert omni.embed_media(LOOK, (video,)).facts["own_reading"].startswith("every frame")


@pytest.mark.parametrize("name", ["internvl", "llava-onevision"])
def test_a_clips_frames_are_resized_once(models, name, tmp_path):
    """As on the model card: by the processor alone, from the size that they have in the file."""
    omni = models[name]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 50, 90, 3)).repeat(4, 1).repeat(4, 2)
    clip = write_clip(tmp_path / "clip.mp4", pixels.astype(np.uint8), fps=1)
    raw = decord.VideoReader(str(clip)).get_batch(range(4)).asnumpy()
    (video,) = read = omni.read_media(prompt := Prompt(ASK, video=clip))
    assert torch.equal(video.frames, torch.from_numpy(raw).permute(0, 3, 1, 2).float())
    own = omni.family.prepare(omni.processor, prompt, read)
    given = [torch.from_numpy(raw).permute(0, 3, 1, 2)]
    card = omni.processor.video_processor(given, do_sample_frames=False, return_tensors="pt")
    (theirs,) = card.values()
    ours = next(value for key, value in own.items() if key.startswith("pixel"))
    bits_equal(ours, theirs.reshape(ours.shape))
    twice = omni.read_media(replace(prompt, media=MediaSettings(fps=1.0, frame_factor=1)))
    assert not torch.equal(omni.embed_media(prompt, twice).embeds, omni.embed(prompt).embeds)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MediaError, match="memory to read"):
        patch.setenv("HOOKED_OMNI_MEDIA_GB", "0.007")  # 0.0045 where frames are resized
        omni.embed(prompt)


@pytest.mark.parametrize("text", ["llama", "qwen3", "qwen3_moe"])
def test_towers_with_another_text_model(text):
    omni = HookedOmni.from_hf(*random_internvl(text=text))
    uneven_gains(omni.hf)
    if text == "qwen3_moe":
        omni.hf.set_experts_implementation("eager")
    inputs = processed(omni, "video")
    prompt = omni.embed_inputs(**inputs)
    bits_equal(omni.model(prompt), omni.hf(**inputs).logits)
    cfg = omni.model.cfg
    assert (cfg.qkv_bias, cfg.qk_norm) == (False, text != "llama")
    assert (cfg.experts is not None) == (text == "qwen3_moe")


@pytest.mark.parametrize("decoder_only", [False, True])
def test_dynamic_positions_are_the_default_ones_up_to_their_limit(folders, tmp_path, decoder_only):
    rope = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    changes = {"rope_parameters": rope, "max_position_embeddings": 40}
    folder = with_config(copied(folders["internvl"], tmp_path / "dynamic"), **changes)
    omni = load(folder, decoder_only=decoder_only)
    assert omni.model.cfg.rope_limit == 40
    tokens = torch.arange(3, 43)[None]
    bits_equal(omni.model(tokens), omni.hf(input_ids=tokens).logits)
    with pytest.raises(PromptError, match="expected at most 40 positions, got 41"):
        omni.model(torch.arange(3, 44)[None])


@pytest.mark.parametrize("decoder_only", [False, True])
def test_experts_as_the_hub_has_them(folders, models, tmp_path, decoder_only):
    """Every matrix transposed against transformers' own."""
    folder = in_one_file(folders["vl3-moe"], tmp_path / "hub")

    def turn(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()

    omni = load(edited(folder, turn), decoder_only=decoder_only)
    omni.hf.set_experts_implementation("eager")
    tokens = torch.arange(3, 40)[None]
    bits_equal(omni.model(tokens), models["vl3-moe"].model(tokens))


def test_a_forced_aligner_is_no_decoder(folders, tmp_path):
    """Its config is Qwen3-ASR's, and its head has no words."""
    folder = in_one_file(folders["qwen3-asr"], tmp_path / "aligner")
    edited(folder, lambda tensors: tensors.update({"score.weight": torch.ones(5, 64)}))
    with pytest.raises(CheckpointError, match=r"unexpected_keys \['score\.weight'\]"):
        load(folder)


def test_a_stamp_is_found_where_a_token_holds_more_of_it():
    """One token may hold the end of the words and the beginning of a stamp."""

    class Pieces:
        pieces = ("<s>", "now", "?<", "1.5", " seconds", ">", "[", "V", "]", "\n", "</s>")

        def decode(self, tokens: Tensor) -> str:
            return "".join(self.pieces[int(token)] for token in tokens)

    tokens = torch.arange(11)
    masks = {
        "video": tokens == 7,
        "markup": (tokens == 0) | (tokens == 6) | (tokens == 8) | (tokens == 10),
        "question": (tokens > 0) & (tokens < 6) | (tokens == 9),
    }
    corrected = checks.stamps_as_markup(r"<[\d.]+ seconds>")(Pieces(), tokens, masks)
    assert corrected["question"].nonzero()[:, 0].tolist() == [1]
    assert corrected["markup"].nonzero()[:, 0].tolist() == [0, 2, 3, 4, 5, 6, 8, 9, 10]


class MistralChat:
    """What `VoxtralProcessor` makes of a chat by mistral-common, whose tokenizer is not here."""

    extractor = transformers.WhisperFeatureExtractor(feature_size=128)

    class tokenizer:
        all_special_tokens, all_special_ids = ("<s>", "[INST]", "[AUDIO]"), (1, 3, 4, 24, 25)

        @staticmethod
        def added_tokens_decoder() -> None:
            raise NotImplementedError

        @staticmethod
        def convert_tokens_to_ids(token: str) -> int:
            return 0

        @staticmethod
        def decode(tokens: Any) -> str:
            return "".join(chr(int(token) - 40) for token in tokens if token >= 40)

    def apply_chat_template(self, chat: list[dict[str, Any]]) -> dict[str, Any]:
        *sounds, words = chat[0]["content"]
        letters, made = [40 + ord(letter) for letter in words["text"]], {}
        if sounds:
            wave, rate = soundfile.read(
                io.BytesIO(base64.b64decode(sounds[0]["base64"])), dtype="float32"
            )
            # Windows are cut from the mel frames of all of it, which are scaled together.
            wave = np.pad(wave, (0, -len(wave) % 480_000))
            given: Any = dict(sampling_rate=rate, truncation=False, return_tensors="pt")
            mel = self.extractor(wave, **given).input_features
            made = {"input_features": mel.reshape(128, -1, 3000).transpose(0, 1)}
        heard = [25, *[24] * 375 * len(made["input_features"])] if made else []
        ids = torch.tensor([[1, 3, *heard, *letters, 4]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **made}


@pytest.fixture
def voxtral() -> HookedOmni:
    omni = load("random-voxtral")
    return HookedOmni.from_hf(uneven_gains(omni.hf), MistralChat())


@pytest.mark.parametrize("seconds", [None, 3.0, 31.0])
def test_voxtral_hears_whole_windows(voxtral, seconds):
    audio = None if seconds is None else sound(seconds)
    prompt = voxtral.embed_media(
        Prompt(ASK, audio=seconds and "sound"), () if audio is None else (audio,)
    )
    if seconds == 3.0:
        report = prove(voxtral, prompt)
        assert report.prefill == report.decode == report.prefill_opened == 0
        assert report.decode_opened == 0 and report.live_hooks == 107
    assert words(voxtral, prompt, "question") == ASK
    if audio is not None:
        windows = 1 if audio.seconds <= 30 else 2
        assert prompt.spans.seconds["audio"][[0, 1, -1]].tolist() == pytest.approx(
            [0, 0.08, 30 * windows - 0.08]
        )
        own = voxtral.family.prepare(MistralChat(), LISTEN, (audio,))["input_features"]
        samples = np.pad(audio.samples, (0, -len(audio.samples) % 480_000))
        whole = MistralChat.extractor(samples, sampling_rate=16_000, truncation=False)
        assert torch.equal(torch.cat([*own], 1), torch.tensor(whole.input_features[0]))


def test_voxtral_with_less_than_it_was_given(voxtral, monkeypatch):
    whole = MistralChat.apply_chat_template

    def half(self: Any, chat: Any) -> dict[str, Any]:
        made = whole(self, chat)
        return made | {"input_features": made["input_features"][:1]}

    monkeypatch.setattr(MistralChat, "apply_chat_template", half)
    with pytest.raises(MediaError, match=r"hear the whole sound, of 31\.0 s, got 1 windows"):
        voxtral.embed_media(LISTEN, (sound(31.0),))
    with pytest.raises(PromptError, match="expected no system prompt for Voxtral"):
        voxtral.embed_media(replace(LISTEN, system="Be brief."), (sound(),))
    with pytest.raises(PromptError, match=r"expected 375 audio tokens .*got 374"):
        ids = torch.tensor([[1, 3, 25, *[24] * 374, 4]])
        voxtral.embed_inputs(input_ids=ids, input_features=torch.zeros(1, 128, 3000))


def test_every_new_family_is_one_short_file():
    for room in ("vision", "sound"):
        for path in (ROOT / "hooked_omni" / "families" / room).glob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) < 120, path.name
