"""Families whose code is not in transformers: their layouts, their calls, their decoders.

The towers here are stand-ins: see `tests/support/standins`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, ablate, knockout, load, names, prove
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import family_of
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.inputs.video import Video
from tests.support.models import sound
from tests.support.runs import unstopped
from tests.support.standins import STANDINS, write
from tests.support.standins.minicpm_o import N_QUERIES
from tests.support.standins.parts import D_MODEL, HEADS, KV_HEADS, LAYERS
from tests.support.standins.released import command
from tests.support.standins.videollama2 import BANDS, N_SEEN

pytestmark = pytest.mark.usefixtures("numbers_alone")
MINICPM = ("minicpm-o-2.6", "minicpm-o-4.5")
QWEN_BASED = (*MINICPM, "videollama2.1-av")
HEARS = (*QWEN_BASED, "internomni")
REFERENCE = {
    "minicpm-o-2.6": "Qwen2ForCausalLM",
    "minicpm-o-4.5": "Qwen3ForCausalLM",
    "videollama2.1-av": "Qwen2ForCausalLM",
    "internvl2": "LlamaForCausalLM",
    "internomni": "LlamaForCausalLM",
}
every = pytest.mark.parametrize("name", list(STANDINS))
hearing = pytest.mark.parametrize("name", HEARS)


@pytest.fixture(autouse=True)
def _ffmpeg(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which VideoLLaMA 2 reads the sound of a video."""
    monkeypatch.setenv("PATH", str(command(tmp_path_factory.getbasetemp() / "bin", "ffmpeg")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family, in three files."""
    base, made = tmp_path_factory.mktemp("remote"), {}
    for name, build in STANDINS.items():
        hf, processor = build()
        made[name] = write(hf, hf.config.to_dict(), base / name)
        tokenizer = processor[0] if isinstance(processor, tuple) else processor
        getattr(tokenizer, "tokenizer", tokenizer).save_pretrained(base / name)
        ends = {"eos_token_id": 265}
        (base / name / "generation_config.json").write_text(json.dumps(ends))
    return made


@pytest.fixture(scope="module")
def adopted() -> dict[str, HookedOmni]:
    return {name: HookedOmni.from_hf(*build()) for name, build in STANDINS.items()}


def prompt_of(omni: HookedOmni, name: str, kind: str) -> EmbeddedPrompt:
    """A clip of three seconds."""
    n_frames = 16 if name == "videollama2.1-av" else 3
    pixels = np.random.default_rng(1).integers(0, 256, (n_frames, 3, 28, 56))
    times = tuple(3 * i / n_frames for i in range(n_frames))
    video = Video(torch.tensor(pixels).float(), n_frames / 3, 3.0, times, ())
    prompt = Prompt(
        "What now?",
        video="clip" if "video" in kind else None,
        audio="sound" if kind == "audio" else None,
        use_audio_in_video=kind == "audio in video",
    )
    heard = sound() if "audio" in kind else None
    seen = video if "video" in kind else None
    return omni.embed_media(prompt, tuple(one for one in (seen, heard) if one is not None))


def kinds_of(name: str) -> tuple[str, ...]:
    return ("text", "video", "audio", "audio in video") if name in HEARS else ("text", "video")


EVERY_KIND = [(name, kind) for name in STANDINS for kind in kinds_of(name)]
every_kind = pytest.mark.parametrize(("name", "kind"), EVERY_KIND)
every_clip = pytest.mark.parametrize(("name", "kind"), [(n, kinds_of(n)[-1]) for n in STANDINS])


@every
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_decoder_alone_is_transformers_own(folders, adopted, name, attention):
    """At prefill and 16 decode steps, for a clip that the whole model embedded."""
    alone = load(folders[name], attn_implementation=attention, decoder_only=True)
    assert type(alone.hf) is getattr(transformers, REFERENCE[name])
    prompt = prompt_of(adopted[name], name, kinds_of(name)[-1])
    report = prove(alone, prompt, decode_steps=16 if attention == "sdpa" else 4)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    # The wrappers of OpenGVLab are adopted with their own kernel, which is eager.
    if attention == adopted[name].hf.config._attn_implementation:
        assert torch.equal(alone.model(prompt), adopted[name].model(prompt))
    assert alone.family.name == name


@every
def test_the_decoder_alone_in_half_precision(folders, adopted, name):
    alone = load(folders[name], "cpu", "bfloat16", "eager", decoder_only=True)
    prompt = prompt_of(adopted[name], name, kinds_of(name)[-1])
    text = alone.model.embed(prompt.tokens.clamp(min=0))
    words = torch.isin(torch.arange(prompt.n_pos), prompt.spans["text"])[None, :, None]
    halved = replace(prompt, embeds=torch.where(words, text, prompt.embeds.bfloat16()))
    report = prove(alone, halved, decode_steps=4)
    assert report.prefill_opened == report.decode_opened == 0
    assert alone.model.cfg.dtype == torch.bfloat16
    # Rotary frequencies are never rounded.
    assert find_decoder(alone.hf).rotary_emb.inv_freq.dtype == torch.float32  # pyright: ignore


@pytest.mark.parametrize("name", QWEN_BASED)
def test_the_numbers_are_those_of_the_model_that_was_wrapped(adopted, name):
    """The stand-in's own Qwen, not the one that was built on its tensors."""
    hf, omni = adopted[name].towers.hf, adopted[name]
    own = hf.llm if name in MINICPM else hf
    prompt = prompt_of(omni, name, "audio in video")
    theirs = own(inputs_embeds=prompt.embeds, attention_mask=torch.ones_like(prompt.tokens)).logits
    assert torch.equal(omni.model(prompt), theirs)
    ours = {p.data_ptr() for p in omni.model.parameters()}
    assert ours <= {p.data_ptr() for p in hf.parameters()}  # shared, not copied


@pytest.mark.parametrize("name", ["internvl2", "internomni"])
def test_internlm2_is_llama_under_other_names(adopted, name):
    """Against a plain InternLM2 that reads `wqkv` as it is stored."""
    omni = adopted[name]
    prompt, own = prompt_of(omni, name, "video"), omni.towers.hf.language_model
    theirs = own.output(own.model(inputs_embeds=prompt.embeds))
    torch.testing.assert_close(omni.model(prompt), theirs, rtol=0, atol=2e-5)


def test_heads_come_out_of_the_fused_tensor_in_order(folders):
    """Row by row, without the family's own code."""
    stored: dict[str, Tensor] = {}
    for file in folders["internvl2"].glob("*.safetensors"):
        stored |= load_file(file)
    fused = stored["language_model.model.layers.1.attention.wqkv.weight"]
    d_head, groups = D_MODEL // HEADS, HEADS // KV_HEADS
    heads = [fused[i : i + d_head] for i in range(0, len(fused), d_head)]
    blocks: Any = load(folders["internvl2"], decoder_only=True).model.blocks
    attn = blocks[1].attn
    for kv in range(KV_HEADS):
        *queries, key, value = heads[kv * (groups + 2) : (kv + 1) * (groups + 2)]
        for i, query in enumerate(queries):
            assert torch.equal(attn.W_Q[kv * groups + i], query.T)
        assert torch.equal(attn.W_K[kv], key.T) and torch.equal(attn.W_V[kv], value.T)


@every_kind
def test_every_prompt_is_proved(adopted, name, kind):
    report = prove(adopted[name], prompt_of(adopted[name], name, kind), decode_steps=4)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0


@every_kind
def test_words_and_clip_are_kept_apart(adopted, name, kind):
    omni = adopted[name]
    prompt = prompt_of(omni, name, kind)
    decode = omni.model.tokenizer.decode
    assert decode(prompt.tokens[0, prompt.spans["question"]]) == "What now?"
    assert ("video" in prompt.spans) == ("video" in kind)
    assert ("audio" in prompt.spans) == ("audio" in kind)
    parts = ("question", "system", "markup", "audio", "video")
    places = torch.cat([prompt.spans[part] for part in parts if part in prompt.spans])
    assert places.sort().values.tolist() == list(range(prompt.n_pos))
    words = omni.model.embed(prompt.tokens[0, prompt.spans["text"]])
    assert torch.equal(prompt.embeds[0, prompt.spans["text"]], words)
    # The model's own method is only ever stopped while a prompt is made.
    assert "generate" not in vars(omni.towers.hf)


@pytest.mark.parametrize(("name", "n"), [(MINICPM[0], 25), (MINICPM[1], 10)])
def test_modality_is_read_from_bounds(adopted, name, n):
    """One placeholder for both: a frame and a second of sound take turns."""
    prompt = prompt_of(adopted[name], name, "audio in video")
    video, audio = prompt.spans["video"], prompt.spans["audio"]
    assert len(video) == 3 * N_QUERIES and len(audio) == 3 * n
    assert len(prompt.tokens[0, torch.cat([video, audio])].unique()) == 1
    order = torch.cat([audio, video]).sort().values.tolist()
    kinds = "".join("A" if p in set(audio.tolist()) else "V" for p in order)
    assert kinds == ("V" * N_QUERIES + "A" * n) * 3
    assert torch.equal(prompt.spans["audio@1.0-2.0s"], audio[n : 2 * n])
    assert torch.equal(prompt.spans["frame 1"], video[N_QUERIES : 2 * N_QUERIES])
    assert torch.equal(prompt.spans["video@1-2s"], prompt.spans["frame 1"])
    decode = adopted[name].model.tokenizer.decode
    if name == "minicpm-o-2.6":
        assert decode(prompt.tokens[0, prompt.spans["system"]]) == "Help with clips."


def test_one_placeholder_stands_for_the_whole_clip(adopted, monkeypatch):
    omni, clips = adopted["videollama2.1-av"], []
    own = omni.towers.hf.seen_and_heard
    monkeypatch.setattr(
        omni.towers.hf, "seen_and_heard", lambda images: clips.append(own(images)) or clips[-1]
    )
    prompt = prompt_of(omni, "videollama2.1-av", "audio in video")
    video, audio = prompt.spans["video"], prompt.spans["audio"]
    assert len(video) == N_SEEN and len(audio) == (2998 // 16) * (BANDS // 16)
    assert audio[0] == video[-1] + 1 and torch.equal(video.diff(), torch.ones_like(video.diff()))
    assert set(prompt.tokens[0, video].tolist()) == {-201}
    assert set(prompt.tokens[0, audio].tolist()) == {-202}
    assert len(prompt.spans["frame 7"]) == N_SEEN // 8
    torch.testing.assert_close(prompt.embeds[0, torch.cat([video, audio])], clips[0])


def test_tiles_and_sound_have_their_own_tokens(adopted):
    omni = adopted["internomni"]
    prompt = prompt_of(omni, "internomni", "audio in video")
    per_tile = omni.towers.hf.num_image_token
    assert len(prompt.spans["video"]) == 3 * per_tile and len(prompt.spans["audio"]) == 75
    decode = omni.model.tokenizer.decode
    written = decode(prompt.tokens[0, prompt.spans["markup"]])
    assert "Frame1: " in written and "Frame3: " in written
    assert decode(prompt.tokens[0, prompt.spans["system"]]) == "Be helpful."
    assert torch.equal(prompt.spans["frame 2"], prompt.spans["video"][2 * per_tile :])


@every_clip
def test_a_bundle_needs_the_decoder_alone(folders, adopted, tmp_path, name, kind):
    """Embedded there, analyzed here."""
    prompt = prompt_of(adopted[name], name, kind)
    bundle = EmbeddedPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    alone = load(folders[name], decoder_only=True)
    theirs = adopted[name].model.generate(prompt, unstopped(8)).tokens
    assert torch.equal(alone.model.generate(bundle, unstopped(8)).tokens, theirs)


@every_clip
def test_interventions_and_sweeps_run_unchanged(adopted, name, kind):
    model, prompt = adopted[name].model, prompt_of(adopted[name], name, kind)
    sweep = [
        [],
        [knockout(query="generated", key="video", layers=range(LAYERS))],
        [ablate(names.resid_pre(1), span="video")],
    ]
    together = model.generate_many(prompt, sweep, max_new_tokens=6, stop_at_eos=False)
    for condition, caption in zip(sweep, together, strict=True):
        alone = model.generate(prompt, max_new_tokens=6, fwd_hooks=condition, stop_at_eos=False)
        assert torch.equal(caption.tokens, alone.tokens)


@every
def test_foreign_code_runs_only_if_it_is_trusted(folders, name):
    """Nothing here has the code: the error names what it needs."""
    with pytest.raises(CheckpointError, match=r"trust_remote_code=True.*decoder_only=True"):
        load(folders[name])
    with pytest.raises(CheckpointError, match=r"(?s)code of .* to run|got no \['videollama2'"):
        load(folders[name], trust_remote_code=True)


def test_prompts_beyond_the_rotary_limit_are_refused(folders):
    """Dynamic NTK: from there on every angle would be another one."""
    model = load(folders["internvl2"], decoder_only=True).model
    model(torch.arange(512)[None] % 200)
    for attempt in (
        lambda: model(torch.arange(513)[None] % 200),
        lambda: model.generate(torch.arange(511)[None] % 200, max_new_tokens=4, stop_at_eos=False),
    ):
        with pytest.raises(PromptError, match=r"expected at most 512 positions, got 51[34]"):
            attempt()


VARIANTS: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
    "another version": ("minicpm-o-2.6", lambda c: c.update(version="4.5"), "version 2.6, got"),
    "a later one": ("minicpm-o-4.5", lambda c: c.update(version="5"), "version 4.5 without"),
    "biases of Qwen3": ("minicpm-o-4.5", lambda c: c.update(attention_bias=True), "got 4.5 and T"),
    "another rope": (
        "videollama2.1-av",
        lambda c: c.update(rope_scaling={"type": "linear", "factor": 2}),
        "default rotary positions",
    ),
    "another decoder": (
        "internvl2",
        lambda c: c["llm_config"].update(architectures=["Phi3ForCausalLM"]),
        "expected an InternLM2",
    ),
    "biases": ("internvl2", lambda c: c["llm_config"].update(bias=True), "without biases"),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_variant_that_this_decoder_does_not_compute(folders, tmp_path, variant):
    name, change, message = VARIANTS[variant]
    config = json.loads((folders[name] / "config.json").read_text())
    change(config)
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, decoder_only=True)


def test_internomni_is_not_its_base():
    config = {"model_type": "internvl_chat"}
    assert family_of(config).name == "internvl2"
    assert family_of({**config, "audio_config": {}}).name == "internomni"


def test_inputs_of_another_call_are_refused(adopted):
    omni = adopted["minicpm-o-2.6"]
    messages = [{"role": "user", "content": [sound().samples, "What now?"]}]
    inputs = omni.towers.processor(messages)
    omni.embed_inputs(**inputs)
    shorter = {**inputs, "audio_feature_lens": [torch.tensor([200])]}
    with pytest.raises(PromptError, match=r"expected 50 audio tokens for \[200\] mel frames"):
        omni.embed_inputs(**shorter)
    with pytest.raises(PromptError, match="only the bounds tell them apart"):
        omni.embed_inputs(**{**inputs, "audio_bounds": None})
    twice = {**inputs, "input_ids": inputs["input_ids"].repeat(2, 1)}
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        omni.embed_inputs(**twice)


@hearing
@pytest.mark.parametrize("word", ["<image>", "<audio>", "<|im_end|>"])
def test_placeholders_among_the_words(adopted, name, word):
    if name in MINICPM:
        word = word.replace("<audio>", "<audio>./</audio>")
    with pytest.raises(PromptError, match="expected plain words in 'text', got the special token"):
        adopted[name].embed(Prompt(f"Look {word} there"))


@pytest.mark.parametrize("name", ["minicpm-o-2.6", "videollama2.1-av", "internomni"])
def test_a_family_of_one_clip_takes_no_other_items(adopted, name):
    """It says so before it looks for the files."""
    omni = adopted[name]
    for items in (
        [("image", "i.png"), ("text", "What?")],
        [("text", "What?"), ("video", "v.mp4")],  # its code puts the clip first
        [("audio", "a.wav"), ("audio", "b.wav"), ("text", "What?")],
        [("video", "v.mp4"), ("audio", "b.wav"), ("text", "What?")],  # with the video's own sound
    ):
        with pytest.raises(PromptError, match=f"at most one clip before it for {name}"):
            omni.embed(Prompt(items=items))
    with pytest.raises(PromptError, match="after 1 turns"):
        omni.embed(Prompt("What?", turns=[("user", "Hello.")]))
    plain = omni.embed_media(Prompt("What?", audio="a"), (sound(),))
    listed = omni.embed_media(Prompt(items=[("audio", "a"), ("text", "What?")]), (sound(),))
    assert torch.equal(plain.embeds, listed.embeds)
