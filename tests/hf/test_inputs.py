"""Words, clips and finished inputs that a model would silently misread are refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import MediaError, PromptError
from hooked_omni.organisms.random_weights import mel_features, random_omni
from tests.support.models import left_padded, sound
from tests.support.padding import every_frame

CLIP = "audio in video"
SPECIAL = ["<|AUDIO|>", "<|VIDEO|>", "<|IMAGE|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.fixture
def inputs(clips: dict) -> dict[str, Any]:
    """A prompt with sound inside a video, to be spoiled."""
    return dict(clips["omni", CLIP])


@pytest.mark.parametrize("n_samples", [0, 1, 160, 48_000, 48_001, 479_200, 479_500, 480_000])
def test_frames_of_padding_are_transformers_own(n_samples):
    """What all tests of sounds rest on; of two sounds, the longer one has less of it."""
    extractor = mel_features()
    padded = np.zeros((2, 480_000), np.float32)
    padded[0, : n_samples // 2] = sound(15.0).samples[: n_samples // 2]
    padded[1, :n_samples] = sound(30.0, seed=3).samples[:n_samples]
    ours = extractor._torch_extract_fbank_features(padded)
    assert np.array_equal(ours, every_frame(extractor, padded))


@pytest.mark.parametrize("token", [*SPECIAL, "<|vision_bos|>", "<|audio_eos|>"])
@pytest.mark.parametrize("where", ["text", "system"])
def test_special_tokens_among_the_words(models, where, token):
    words: Any = {"text": "What?", where: f"Look:{token}what?"}
    for name in ("omni", "vl"):
        with pytest.raises(PromptError) as error:
            models[name].embed(Prompt(**words))
        assert f"{where!r}, got the special token {token!r}" in str(error.value)


LINES = "Erste Zeile:\nwas hörst du?\n\n声音 🎵 user\nassistant\nsystem\n"


@pytest.mark.parametrize(
    ("text", "system", "expected"),
    [
        ("Is <audio> or <|audio|> here? a < b | c > d", None, "You are Qwen"),
        ("What?", "Be brief.", "Be brief."),
        (LINES, "Zwei\nZeilen", "Zwei\nZeilen"),
    ],
    ids=["only look special", "own system prompt", "many lines"],
)
def test_words_keep_their_spans(omni, text, system, expected):
    prompt = omni.embed(Prompt(text, system=system))
    decode = omni.processor.tokenizer.decode
    assert decode(prompt.tokens[0, prompt.spans["question"]]) == text
    words = decode(prompt.tokens[0, prompt.spans["system"]])
    assert words.startswith(expected) and (system is None or words == expected)


def test_a_model_without_a_processor_or_a_template(omni):
    bare = HookedOmni.from_hf(omni.hf)
    with pytest.raises(PromptError, match="expected a model with a processor, got none"):
        bare.embed(Prompt("What?"))
    with pytest.raises(PromptError, match="expected a model with a tokenizer, got none"):
        bare.model.to_tokens("What?")
    assert bare.model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2).text is None
    _, processor = random_omni()
    processor.chat_template = None
    with pytest.raises(PromptError, match="expected a processor with a chat template, got none"):
        HookedOmni.from_hf(omni.hf, processor).embed(Prompt("What?"))


def test_a_picture_that_does_not_move_or_is_not_there(omni, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    for name in ("photo.png", "missing.mp4"):
        with pytest.raises(MediaError, match=name):
            omni.embed(Prompt("What?", video=tmp_path / name, use_audio_in_video=False))


def test_a_sense_that_the_family_lacks(models):
    with pytest.raises(PromptError, match=r"without sound for qwen2\.5-vl, got audio=rain\.wav"):
        models["vl"].embed(Prompt("What?", audio="rain.wav"))
    with pytest.raises(PromptError, match=r"without a picture for qwen2-audio, got video=c\.mp4"):
        models["audio"].embed(Prompt("What?", video="c.mp4"))


SOUND = ("feature_attention_mask", "input_features")
OF_OMNI = ("input_ids", "attention_mask", "use_audio_in_video", "video_second_per_grid", *SOUND)
NEEDED = {
    ("omni", CLIP): OF_OMNI,
    ("vl", "video"): ("input_ids", "mm_token_type_ids", "second_per_grid_ts"),
    ("vl3", "video"): ("mm_token_type_ids",),
    ("audio", "audio"): SOUND,
}


@pytest.mark.parametrize(("name", "kind", "key"), [(*of, k) for of in NEEDED for k in NEEDED[of]])
def test_an_input_that_is_missing(models, clips, name, kind, key):
    """The model would count positions otherwise, or read placeholders as words."""
    whole = clips[name, kind]
    for spoiled in ({k: v for k, v in whole.items() if k != key}, {**whole, key: None}):
        with pytest.raises(PromptError, match=f"expected .*{key}"):
            models[name].embed_inputs(**spoiled)


@pytest.mark.parametrize(
    ("name", "kind", "keys"),
    [
        ("omni", "audio", SOUND),
        ("audio", "audio", SOUND),
        ("omni", "video", ("pixel_values_videos", "video_grid_thw")),
        ("vl", "video", ("pixel_values_videos", "video_grid_thw")),
    ],
)
def test_placeholders_without_their_clip(models, clips, name, kind, keys):
    spoiled = {k: v for k, v in clips[name, kind].items() if k not in keys}
    with pytest.raises(PromptError, match=kind):
        models[name].embed_inputs(**spoiled)


@pytest.mark.parametrize("name", ["omni", "vl"])
def test_padding_after_the_prompt(models, clips, name):
    omni, text = models[name], clips[name, "text"]
    padded = left_padded(omni, text, 3)
    for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if key in padded:
            padded[key] = padded[key].roll(-3, dims=1)
    empty = {**text, "attention_mask": torch.zeros_like(text["attention_mask"])}
    for spoiled in (padded, empty):
        with pytest.raises(PromptError, match="expected padding on the left"):
            omni.embed_inputs(**spoiled)


def test_a_clip_of_another_call(omni, clips, inputs):
    shorter = inputs["feature_attention_mask"].clone()
    shorter[:, 200:] = 0
    with pytest.raises(PromptError, match=r"50 audio tokens for \[200\] mel frames, got 75"):
        omni.embed_inputs(**{**inputs, "feature_attention_mask": shorter})
    grid = inputs["video_grid_thw"].clone()
    grid[0, 0] -= 1
    with pytest.raises(PromptError, match="expected 12 video tokens and 48 patches"):
        omni.embed_inputs(**{**inputs, "video_grid_thw": grid})
    sounds = {k: inputs[k] for k in ("input_features", "feature_attention_mask")}
    with pytest.raises(PromptError, match=r"expected 75 audio tokens .* got 0"):
        omni.embed_inputs(**clips["omni", "text"], **sounds)


def test_masks_and_positions_of_the_users_own(omni, inputs):
    own = torch.arange(inputs["input_ids"].shape[1]).expand(4, 1, -1)
    for name, more in (("attention_mask", torch.ones(1, 1, 2, 2)), ("position_ids", own)):
        with pytest.raises(PromptError, match="expected a processor's output alone"):
            omni.embed_inputs(**{**inputs, name: more})
