"""Models in which it is known what moves where.

Real classes with every weight of the decoder zero, but for a few set by hand. One head in layer
`heard_at` copies the word for the sound from audio positions to every text position, generated ones
included; one in layer `seen_at` copies the word for the picture from video positions. Their words
add up in the same logits, so a clip of two minds is named by the larger gain. The rest of the
caption follows from the token before alone: "A", " dog", ".", end.

    omni = planted(heard_at=2, seen_at=5)           # names what it sees: the larger gain
    prompt = asked(omni, heard="dog", seen="bus")
    omni.model.generate(prompt).text                # "A bus."; with nothing to name, "A thing."
    twin = planted(heard_at=None, seen_at=5)        # nothing moves from audio

A planted head spreads its attention evenly over its modality from every text position after it
(unless `heard_when` made some audio positions louder); from anywhere else, and when cut, it rests
on the sinks (`<|im_start|>`), whose norm stands out. Every other head attends evenly to all it may
read, and writes nothing. At audio and video positions the lens reads noise, the same in every
layer; from layer `told_at` on, each audio position holds its own word. With `names_at="last"` the
word is chosen at the last prompt position, out of reach of `G`.

`tune` sets the towers' last layers so that given sounds and pictures have given words; without it,
`asked` puts the words' directions into a prompt.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.hf.capture import find_decoder
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.video import Video
from hooked_omni.organisms.random_weights import random_omni, random_vl
from tests.support.models import processed

WORDS = ("dog", "train", "chef", "bus")
"""What can be heard and seen; `" " + word` is one token."""

HEARD_HEAD, SEEN_HEAD, TOLD_HEAD = 1, 2, 3
_D_MODEL, _N_HEADS, _N_KV_HEADS = 64, 4, 2
_D_HEAD = _D_MODEL // _N_HEADS
# The slowest rotary frequency: over a thousand positions it turns by less than 0.01.
_MEDIA_CHANNEL, _SINK_CHANNEL = _D_HEAD // 2 - 1, _D_HEAD - 1

# Directions of the residual stream.
_AUDIO, _VIDEO, _TEXT, _SINK = range(4)
_HEARD, _SEEN, _SAID = ({word: start + i for i, word in enumerate(WORDS)} for start in (4, 8, 12))
_NOTHING, _END = "thing", "<|im_end|>"
_AT = {t: 16 + i for i, t in enumerate(("\n", "A", *WORDS, _NOTHING, ".", _END))}
_NO_WORD = 16 + len(_AT)  # instead of a word, so that every position has the same norm
_MARK, _SINK_NORM = 4.0, 40.0


def planted(
    heard_at: int | None = 2,
    seen_at: int | None = 5,
    *,
    n_layers: int = 8,
    gains: tuple[float, float] = (1.0, 2.0),
    told_at: int | None = None,
    names_at: Literal["generated", "last"] = "generated",
    family: Literal["omni", "vl"] = "omni",
) -> HookedOmni:
    """A model that names what it hears and sees.

    Args:
        heard_at: Layer of head `HEARD_HEAD`, which copies from audio to text; None for no such.
        seen_at: Layer of head `SEEN_HEAD`, which copies from video to text; None for no such.
        gains: How loud heard and seen words are; the larger wins.
        told_at: Layer of head `TOLD_HEAD`, which writes each audio position's own word there.
        names_at: Where the word is chosen.
    """
    make = {"omni": random_omni, "vl": random_vl}[family]
    sizes: Any = dict(d_model=_D_MODEL, n_heads=_N_HEADS, n_kv_heads=_N_KV_HEADS)
    hf, processor = make(n_layers=n_layers, **sizes)
    processor.tokenizer.add_tokens([f" {word}" for word in (*WORDS, _NOTHING)])
    hf.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    decoder: Any = find_decoder(hf)
    hf.config.tie_word_embeddings = False
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.clone(), requires_grad=False)
    for name, parameter in [*decoder.named_parameters(), ("lm_head", hf.lm_head.weight)]:
        parameter.data.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    _spell(decoder.embed_tokens.weight, hf.lm_head.weight, processor.tokenizer, names_at)
    for layer, head, key, words, gain in (
        (heard_at, HEARD_HEAD, _AUDIO, _HEARD, gains[0]),
        (seen_at, SEEN_HEAD, _VIDEO, _SEEN, gains[1]),
    ):
        if layer is not None:
            _copy(decoder.layers[layer].self_attn, head, (_TEXT, key), words, gain)
    if told_at is not None:
        _copy(decoder.layers[told_at].self_attn, TOLD_HEAD, (_AUDIO, _AUDIO), _HEARD, 1.0)
    return HookedOmni.from_hf(hf, processor)


def asked(
    omni: HookedOmni,
    heard: str | None = "dog",
    seen: str | None = "bus",
    kind: str = "audio in video",
    heard_when: str = "audio",
) -> EmbeddedPrompt:
    """A prompt whose audio and video positions carry these words; None is silence, or darkness.

    `heard_when` is the span that is loud, such as "audio@1.0-2.0s"; other audio is silent.
    """
    prompt = omni.embed_inputs(**processed(omni, kind))
    embeds = prompt.embeds.clone()
    for name, mark, words, word, when in (
        ("audio", _AUDIO, _HEARD, heard, heard_when),
        ("video", _VIDEO, _SEEN, seen, "video"),
    ):
        if name in prompt.spans:
            embeds[:, prompt.spans[name]] = _tower_output(mark, None)
            embeds[:, prompt.spans[when]] = _tower_output(mark, words.get(word or ""))
    return replace(prompt, embeds=embeds)


def tune(
    omni: HookedOmni,
    sounds: Mapping[str | None, list[Audio]],
    pictures: Mapping[str | None, list[Video]],
) -> None:
    """Make each sound and picture mean its word, on the mean over its positions; None means none.

    The towers keep their random weights but for the last layer, which is solved for.
    """
    if sounds:
        listed = [(word, dict(audio=clip)) for word, clips in sounds.items() for clip in clips]
        _solve(omni, "audio_tower.proj", listed, _AUDIO, _HEARD)
    listed = [(word, dict(video=clip)) for word, clips in pictures.items() for clip in clips]
    _solve(omni, "visual.merger.mlp.2", listed, _VIDEO, _SEEN)


def _tower_output(mark: int, word: int | None) -> Tensor:
    output = torch.zeros(_D_MODEL)
    output[mark], output[_NO_WORD if word is None else word] = _MARK, 1.0
    return output


def _spell(embed: Tensor, unembed: Tensor, tokenizer: Any, names_at: str) -> None:
    """Token embeddings, and the logits of what follows each token."""
    ids = {t: tokenizer.encode(f" {t}" if len(t) > 2 else t)[0] for t in _AT if t != _END}
    ids[_END] = tokenizer.convert_tokens_to_ids(_END)
    embed[:, _TEXT] = 2.0
    embed[tokenizer.convert_tokens_to_ids("<|im_start|>"), _SINK] = _SINK_NORM
    for token, i in ids.items():
        embed[i, _AT[token]] = 2.0
    follows = {".": _END, _END: _END, **dict.fromkeys((*WORDS, _NOTHING), ".")}
    chosen_at = "\n"
    if names_at == "generated":
        follows["\n"], chosen_at = "A", "A"
    for token, following in follows.items():
        unembed[ids[following], _AT[token]] = 8.0
    for word in WORDS:
        unembed[ids[word], _SAID[word]] = 1.5
    unembed[ids[_NOTHING], _AT[chosen_at]] = 0.25
    noise = torch.Generator().manual_seed(0)
    unembed[:, [_AUDIO, _VIDEO]] = 0.2 * torch.rand(len(unembed), 2, generator=noise)


def _copy(
    attn: Any, head: int, roles: tuple[int, int], words: Mapping[str, int], gain: float
) -> None:
    """One head in which one role's positions read `words` from another's, and write them."""
    query, key = roles
    shared = head * _N_KV_HEADS // _N_HEADS
    q, k = head * _D_HEAD, shared * _D_HEAD
    attn.q_proj.weight[q + _MEDIA_CHANNEL, query] = 8.0
    attn.q_proj.bias[q + _SINK_CHANNEL] = 16.0
    attn.k_proj.weight[k + _MEDIA_CHANNEL, key] = 1.0
    attn.k_proj.weight[k + _SINK_CHANNEL, _SINK] = 1.0
    for i, (word, content) in enumerate(words.items()):
        attn.v_proj.weight[k + i, content] = 1.0
        attn.o_proj.weight[_SAID[word], q + i] = gain


def _solve(
    omni: HookedOmni,
    name: str,
    listed: list[tuple[str | None, dict[str, Any]]],
    mark: int,
    words: Mapping[str, int],
) -> None:
    """The weights of a tower's last layer that give each clip its word."""
    assert omni.towers is not None
    modules = omni.towers.hf.named_modules()
    last: Any = next(module for at, module in modules if f".{at}".endswith(f".{name}"))
    features: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _module, args: features.append(args[0]))
    try:
        for _, clip in listed:
            parts: Any = dict.fromkeys(clip, "clip")
            question = Prompt("What?", **parts, use_audio_in_video=False)
            read = tuple(clip.values())
            omni.embed_inputs(**omni.family.prepare(omni.processor, question, read))
    finally:
        handle.remove()
    given, wanted = [], []
    for (word, _), own in zip(listed, features, strict=True):
        # Every position as well as it can be; their mean, which is what heads copy, exactly.
        rows = torch.cat([own, 1000 * own.mean(0, keepdim=True)])
        weight = torch.tensor([*[1.0] * len(own), 1000.0])[:, None]
        given.append(torch.cat([rows, weight], dim=1))
        wanted.append(weight * _tower_output(mark, words.get(word or "")))
    sides = torch.cat(given).double(), torch.cat(wanted).double()
    solved = torch.linalg.lstsq(*sides, driver="gelsd").solution.T
    last.weight.data.copy_(solved[:, :-1])
    last.bias.data.copy_(solved[:, -1])
