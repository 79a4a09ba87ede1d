"""Prompts of several items and turns: each is read alone, and stands where it was given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, knockout, prove
from hooked_omni.errors import BundleError, MediaError, PromptError, SpanError
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.media import MediaSettings
from tests.support.clips import write_clip
from tests.support.models import frames, sound
from tests.support.runs import bits_equal

LISTED = [
    *[("audio", "a"), ("text", "One."), ("video", "v"), ("image", "i"), ("text", "Two?")],
    *[("video", "w"), ("audio", "b"), ("image", "j")],
]
APART = Prompt(items=LISTED, use_audio_in_video=False, system="Be brief.")
INSIDE = Prompt(items=LISTED, system="Be brief.")
SEEN = Prompt(items=[one for one in LISTED if one[0] != "audio"], system="Be brief.")


def image(side: int, seed: int = 5) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 2 * side, 3 * side))
    return Image(torch.tensor(pixels).float(), ())


def read_of(omni: HookedOmni, prompt: Prompt) -> tuple[Any, ...]:
    """Other media for every item, of other lengths and frame rates."""
    side, first = omni.media.size_factor, []
    for seed, source in enumerate(prompt.sources(omni.family.hears)):
        if source.kind == "audio":
            first.append(sound(1.1 + seed / 5, seed=seed))
        elif source.kind == "image":
            first.append(image(side, seed))
        else:
            video = frames(4 + 2 * (seed % 2), seed=seed, side=side)
            first.append(replace(video, fps=2.0 - seed / 10))
    return tuple(first)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("omni", APART),
        ("omni", INSIDE),
        ("omni3", APART),
        ("omni3", INSIDE),
        ("vl", SEEN),
        ("vl3", SEEN),
    ],
    ids=["omni", "omni inside", "omni3", "omni3 inside", "vl", "vl3"],
)
def test_items_are_hugging_faces_and_stand_in_their_order(models, prompt, name):
    omni = models[name]
    read, tokens = read_of(omni, prompt), omni.family.media_tokens(omni.towers.hf)
    embedded = omni.embed_media(prompt, read)
    inputs = omni.family.prepare(omni.processor, prompt, read)
    bits_equal(omni.model(embedded), omni.towers.hf(**inputs).logits)
    spans, ids = embedded.spans, embedded.tokens[0]
    starts = {}
    for kind in ("audio", "video", "image"):
        if kind not in spans:
            continue
        assert torch.equal(spans[kind], (ids == tokens[kind]).nonzero()[:, 0])
        parts = spans.numbered(kind)
        assert len(parts) == [s.kind for s in prompt.sources(omni.family.hears)].count(kind)
        assert torch.equal(torch.cat([spans[part] for part in parts]), spans[kind])
        starts |= {part: int(spans[part][0]) for part in parts}
    given, counts = [], dict.fromkeys(("audio", "video", "image"), 0)
    for source in prompt.sources(omni.family.hears):
        counts[source.kind] += 1
        given.append(f"{source.kind}.{counts[source.kind]}")
    assert sorted(starts, key=starts.__getitem__) == given
    assert omni.processor.tokenizer.decode(ids[spans["question"]]) == "One.Two?"
    assert given == [name for name in embedded.facts if name in given]


@pytest.mark.parametrize("name", ["omni", "omni3"])
def test_an_item_is_read_as_in_a_prompt_of_its_own(models, name):
    """Neither its frame rate nor its length depends on what stands beside it."""
    omni = models[name]
    read = read_of(omni, APART)
    spans = omni.embed_media(APART, read).spans
    every = omni.embed_media(APART, read)
    for part, kind, one in (("video.2", "video", read[3]), ("audio.2", "audio", read[4])):
        alone = Prompt(items=[("text", "What?"), (kind, "file")], use_audio_in_video=False)
        own = omni.embed_media(alone, (one,))
        torch.testing.assert_close(
            every.embeds[0, spans[part]], own.embeds[0, own.spans[kind]], rtol=0, atol=1e-5
        )
        assert torch.equal(spans.seconds[part], own.spans.seconds[kind])
    step = 2 / read[3].fps
    assert spans.seconds["video.2"].unique().tolist()[1] == pytest.approx(step)


def test_one_call_of_the_processor_says_the_same(omni):
    """Where frame rates are equal, cutting the text between the items changes no number."""
    side = omni.media.size_factor
    read = (sound(1.1, 3), frames(4, side=side), image(side), frames(6, 8, side), sound(2.0, 4))
    prompt = replace(APART, items=LISTED[:-1])
    ours = omni.family.prepare(omni.processor, prompt, read)
    mark = {"audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"}
    mark |= {k: f"<|vision_bos|><|{k.upper()}|><|vision_eos|>" for k in ("video", "image")}
    words = "".join(mark.get(kind, one) for kind, one in LISTED[:-1])
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    whole = omni.processor(
        text=f"{text}{words}<|im_end|>\n<|im_start|>assistant\n",
        images=[read[2].pixels],
        videos=[read[1].frames, read[3].frames],
        audio=[read[0].samples, read[4].samples],
        images_kwargs={"do_resize": False},
        videos_kwargs={"fps": 2.0, "do_resize": False, "do_sample_frames": False},
        return_tensors="pt",
    )
    for name, value in whole.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(ours[name])), name


def test_times_and_frames_of_one_of_several(omni):
    spans = omni.embed_media(APART, read_of(omni, APART)).spans
    for name, one in (
        *[("audio@0-1s", "audio.1@0-1s"), ("video@0-1s", "video.1@0-1s")],
        *[("frame 1", "video.1.frame 1"), ("video.frame1", "video.1.frame1")],
    ):
        with pytest.raises(SpanError, match=f"got '{name}', of any of them. Name the one, as in"):
            spans[name]
        assert set(spans[one].tolist()) < set(spans[one.partition(".")[0]].tolist())
    assert torch.equal(spans["audio.2@0-100s"], spans["audio.2"])
    assert torch.equal(spans["video.2.frame 0+video.2.frame 1"], spans["video.2"][:12])
    assert torch.equal(spans["video.1+video.2"], spans["video"])
    for unknown in (
        "video.3",
        "video.0",
        "image.1@0-1s",
        "turn.1",
        "video.3.frame 0",
        "audio.9@0-1s",
    ):
        with pytest.raises(SpanError):
            spans[unknown]
    only = omni.embed_media(Prompt("What?", audio="a"), (sound(),)).spans
    assert torch.equal(only["audio.1"], only["audio"])
    assert torch.equal(only["audio.1@0-1s"], only["audio@0-1s"])


TALK = Prompt(
    "And now?",
    video="v",
    use_audio_in_video=False,
    system="Be brief.",
    turns=[("user", [("audio", "a"), ("text", "What?")]), ("assistant", "A dog."), ("user", "Hm."),
           ("assistant", [("text", "Or "), ("text", "two.")])],
)  # fmt: skip


@pytest.mark.parametrize("name", ["omni", "omni3"])
def test_earlier_turns_are_no_question(models, name):
    omni = models[name]
    prompt = omni.embed_media(TALK, read_of(omni, TALK))
    spans, decode = prompt.spans, omni.processor.tokenizer.decode
    audio = set(spans["audio"].tolist())
    said = {n: [i for i in spans[n].tolist() if i not in audio] for n in spans.numbered("turn")}
    words = {name: decode(prompt.tokens[0, at]) for name, at in said.items()}
    expected = ["What?", "A dog.", "Hm.", "Or two."]
    assert words == {f"turn.{i}": text for i, text in enumerate(expected, start=1)}
    assert audio < set(spans["turn.1"].tolist()) and decode(prompt.tokens[0, spans["system"]])
    assert decode(prompt.tokens[0, spans["question"]]) == "And now?"
    parts = [spans[n] for n in ("turn", "question", "system", "markup", "video")]
    assert sorted(torch.cat(parts).tolist()) == list(range(prompt.n_pos))
    one = omni.embed_media(replace(TALK, turns=TALK.turns[:1]), read_of(omni, TALK))
    assert torch.equal(one.spans["turn.1"], one.spans["turn"])


@pytest.mark.usefixtures("numbers_alone")
def test_a_prompt_of_items_is_proved_swept_and_kept(omni, tmp_path):
    prompt = omni.embed_media(INSIDE, read_of(omni, INSIDE))
    report = prove(omni, prompt, decode_steps=4)
    assert report.prefill == report.decode == 0
    parts = ["audio.1", "audio.3", "video.2", "image.1"]
    cuts = [knockout(query="generated+last", key=part, layers=range(4)) for part in parts]
    cuts_alone = [[], *[[cut] for cut in cuts]]
    swept = omni.model.generate_many(prompt, cuts_alone, max_new_tokens=4, return_logits=True)
    alone = omni.model.generate(prompt, fwd_hooks=[cuts[2]], max_new_tokens=4)
    assert swept[3].tokens.tolist() == alone.tokens.tolist()
    first = [one.logits[0] for one in swept]
    assert all(not torch.allclose(one, first[0], atol=1e-4) for one in first[1:])
    again = EmbeddedPrompt.load(prompt.save(tmp_path / "one.safetensors"))
    for name in (*prompt.spans, "video.2.frame 1", "audio.4@0-1s"):
        assert torch.equal(again.spans[name], prompt.spans[name])
    assert again.facts == prompt.facts


def _swapped(at: dict[str, Tensor]) -> None:
    at["audio.1"], at["audio.2"] = at["audio.2"], at["audio.1"]


@pytest.mark.parametrize(
    "change",
    [
        _swapped,
        lambda at: at.pop("audio.1"),
        lambda at: at.update({"audio.2": at["audio.2"][1:]}),
        lambda at: at.update({"audio.3": at["video"]}),
        lambda at: at.update({"turn": at["question"]}),
    ],
)
def test_parts_that_are_not_the_whole_are_refused(omni, change):
    spans = omni.embed_media(APART, read_of(omni, APART)).spans
    positions = dict(spans.positions)
    change(positions)
    with pytest.raises(SpanError, match="expected spans of one prompt"):
        replace(spans, positions=positions, seconds={}, frames={})


def refused(models: dict[str, HookedOmni], name: str, prompt: Prompt, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        models[name].embed(prompt)


@pytest.mark.parametrize(
    ("name", "items", "match"),
    [
        ("audio", [("image", "i.png"), ("text", "What?")], "without a picture .* got image=i.png"),
        ("audio", [("video", "v.mp4"), ("text", "What?")], "without a picture .* got video=v.mp4"),
        ("vl", [("audio", "a.wav"), ("text", "What?")], "without sound .* got audio=a.wav"),
        ("vl3", [("video", "v", "a.wav"), ("text", "What?")], "without sound .* got audio=a.wav"),
        ("omni", [("text", "<|AUDIO|>"), ("image", "i")], "special token '<|AUDIO|>'"),
    ],
)
def test_items_that_a_family_does_not_take(models, name, items, match):
    """Before any file is read: there are none."""
    if name == "omni":
        with pytest.raises(PromptError, match=match.replace("|", r"\|")):
            models[name].embed_media(Prompt(items=items), (image(28),))
    else:
        refused(models, name, Prompt(items=items), match)


def test_a_placeholder_in_an_earlier_turn(models):
    turns = [("user", "See <|VIDEO|>"), ("assistant", "No.")]
    refused(models, "omni", Prompt("So?", turns=turns), r"in 'turn 1', got the special token")


def test_media_of_another_prompt(omni):
    for read in ((), (sound(), sound()), (frames(), sound(), sound()), (sound(), frames())):
        with pytest.raises(PromptError, match=r"expected \['video', 'audio'\] as what was read"):
            omni.embed_media(Prompt("What?", video="v"), read)
    shrunk = replace(sound(), samples=sound().samples[:100])
    with pytest.raises(MediaError, match="to hear the whole sound"):
        omni.embed_media(APART, (*read_of(omni, APART)[:4], shrunk, image(28)))
    with pytest.raises(MediaError, match=r"to see the frames as read|that the processor"):
        odd = Image(torch.zeros(3, 60, 84), ())
        omni.embed_media(APART, (*read_of(omni, APART)[:5], odd))


def test_a_template_that_writes_media_in_another_order(omni, monkeypatch):
    template = omni.processor.chat_template
    monkeypatch.setattr(omni.processor, "chat_template", template.replace("<|VIDEO|>", ""))
    with pytest.raises(PromptError, match="expected a chat template that writes"):
        omni.embed_media(APART, read_of(omni, APART))


def test_files_are_read_in_order_and_twice(omni, tmp_path: Path):
    clip = write_clip(tmp_path / "clip.mp4")
    PIL.Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "red.png")
    media = MediaSettings(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 8)
    items = [("video", clip), ("image", tmp_path / "red.png"), ("text", "Same?"), ("video", clip)]
    prompt = omni.embed(Prompt(items=items, media=media))
    assert [*prompt.facts][-5:] == ["video.1", "audio.1", "image", "video.2", "audio.2"]
    for kind in ("video", "audio"):
        first, second = (prompt.spans[f"{kind}.{i}"] for i in (1, 2))
        assert torch.equal(prompt.embeds[0, first], prompt.embeds[0, second])
    ten = omni.embed(Prompt(items=[*[items[1]] * 9, ("text", "How many?")], media=media))
    assert len(ten.spans.numbered("image")) == 9
    saved = ten.save(tmp_path / "ten.safetensors")
    saved.write_bytes(saved.read_bytes()[:-4] + b"0000")
    with pytest.raises(BundleError):
        EmbeddedPrompt.load(saved)
