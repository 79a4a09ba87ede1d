"""A saved prompt is whole, or refused: whatever its bytes, its parts and its facts are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.errors import BundleError, FileError, PromptError, SpanError
from hooked_omni.inputs.bundle import read_bundle, write_bundle
from hooked_omni.inputs.spans import Spans
from tests.support.models import left_padded, twice

Parts = dict[str, Any]


@pytest.fixture(scope="module")
def whole(models: dict, clips: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompt with everything there is: deepstack, times, steps, float positions, facts."""
    prompt = models["omni3"].embed_inputs(**clips["omni3", "audio in video"])
    facts = {**prompt.facts, "prompt": {"rope": "model"}}
    path = tmp_path_factory.mktemp("bundle") / "whole.safetensors"
    return replace(prompt, facts=facts).save(path)


@pytest.fixture(scope="module")
def original(whole: Path) -> EmbeddedPrompt:
    return EmbeddedPrompt.load(whole)


@pytest.fixture(scope="module")
def padded(omni: HookedOmni, clips: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompt = omni.embed_inputs(**left_padded(omni, clips["omni", "text"], 4))
    return prompt.save(tmp_path_factory.mktemp("bundle") / "padded.safetensors")


def same(first: EmbeddedPrompt, second: EmbeddedPrompt) -> bool:
    """Whether all parts are there in both and equal."""

    def parts(prompt: EmbeddedPrompt) -> dict[str, Tensor]:
        names = ("embeds", "position_ids", "tokens", "mask", "deepstack")
        own = {name: getattr(prompt, name) for name in names}
        own |= {f"frames.{name}": row for name, row in prompt.spans.frames.items()}
        own |= prompt.spans.positions
        own |= {f"seconds.{name}": row for name, row in prompt.spans.seconds.items()}
        return {name: tensor for name, tensor in own.items() if tensor is not None}

    ours, theirs = parts(first), parts(second)
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    return equal and first.facts == second.facts


def refused_or_same(data: bytes, path: Path, original: EmbeddedPrompt) -> bool:
    """Whether these bytes are refused; else they must load as the original."""
    path.write_bytes(data)
    try:
        loaded = EmbeddedPrompt.load(path)
    except (BundleError, FileError):
        return True
    assert same(loaded, original)
    return False


def test_a_prompt_comes_back_as_it_was_saved(whole, padded, tmp_path):
    for path in (whole, padded):
        first = EmbeddedPrompt.load(path)
        assert same(EmbeddedPrompt.load(first.save(tmp_path / path.name)), first)


def test_text_alone_is_saved(omni, tmp_path):
    """Its spans are the same positions, which share memory."""
    prompt = omni.model.as_prompt(torch.tensor([[5, 9, 7]]))
    assert same(EmbeddedPrompt.load(prompt.save(tmp_path / "text")), prompt)


def test_every_single_bit_counts(whole, original, tmp_path):
    """Of the length, of the header, and of the numbers."""
    data = whole.read_bytes()
    rng, header = np.random.default_rng(0), 8 + int.from_bytes(data[:8], "little")
    bits = [*range(64), *rng.integers(64, 8 * header, 200), *rng.integers(0, 8 * len(data), 200)]
    held = [refused_or_same(flipped(data, bit), tmp_path / "flipped", original) for bit in bits]
    assert sum(held) >= len(bits) - 4  # a bit that means nothing may be let through


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


place = st.floats(0, 1, exclude_max=True)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(st.tuples(place, st.integers(0, 40), st.binary(max_size=40)), max_size=4),
    front=st.booleans(),
)
def test_any_change_of_its_bytes(whole, original, tmp_path, changes, front):
    """Bytes taken out, put in or overwritten, in the header or anywhere; never another error."""
    data = bytearray(whole.read_bytes())
    for at, taken, put in changes:
        start = int(at * (4000 if front else len(data)))
        data[start : start + taken] = put
    refused_or_same(bytes(data), tmp_path / "changed", original)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BF16", "BOOL", "F4", "F8_E8M0", "C64", "X", ""]),
        "shape": st.lists(st.sampled_from([0, 1, 3, 2**40, 2**63, -1]), max_size=4),
        "data_offsets": st.lists(st.sampled_from([0, 4, 12, 2**40, 2**64]), min_size=1, max_size=3),
    }
)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.dictionaries(
        st.sampled_from(["embeds", "tokens", "span.audio", "__metadata__"]), entries | json_values
    ),
    length=st.none() | st.integers(0, 2**64 - 1),
    body=st.binary(max_size=16),
)
def test_any_header(tmp_path, names, length, body):
    """Sizes that are not there, types that no tensor has, lengths that lie: nothing is made."""
    header = json.dumps(names).encode()
    size = (len(header) if length is None else length).to_bytes(8, "little")
    (tmp_path / "any").write_bytes(size + header + body)
    with pytest.raises(BundleError):
        EmbeddedPrompt.load(tmp_path / "any")


Change = Callable[[Parts, Parts], Any]


def _set(name: str, make: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, facts: tensors.update({name: make(tensors[name])})


def _at(*index: Any, value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return change


def _short(tensor: Tensor) -> Tensor:
    return tensor[..., :-1].contiguous()


def _deep(facts: Parts) -> None:
    inner = facts["deep"] = {}
    for _ in range(100_000):
        inner["deep"] = inner = {}


TENSORS = ("embeds", "position_ids", "tokens", "deepstack")
SPANS = ("span.audio", "span.video", "span.question", "span.last", "span.prompt")
DAMAGED: dict[str, tuple[Change, str]] = {
    **{f"no {n}": (lambda t, f, n=n: t.pop(n), n) for n in ("embeds", "position_ids", "tokens")},
    **{f"short {n}": (_set(n, _short), "") for n in (*TENSORS, "frames", "seconds.audio")},
    **{f"{n} of one axis": (_set(n, torch.flatten), "") for n in TENSORS},
    **{f"{n} of no axis": (_set(n, lambda t: t.flatten()[0].clone()), "")
       for n in (*TENSORS, *SPANS, "frames", "seconds.video")},
    **{f"{n} of another axis": (_set(n, lambda t: t[None].clone()), "")
       for n in (*TENSORS, *SPANS, "frames", "seconds.video")},
    **{f"{n} of nothing": (_set(n, lambda t: t.reshape(-1)[:0].clone()), "")
       for n in ("embeds", "position_ids", "tokens")},
    **{f"{n} twice": (_set(n, lambda t: torch.cat([t, t])), "") for n in TENSORS[:3]},
    **{f"{n} with {v}": (_set(n, _at(..., 0, value=v)), n)
       for n in ("embeds", "deepstack", "position_ids", "seconds.audio")
       for v in (torch.nan, torch.inf, -torch.inf)},
    **{f"{n} as floats": (_set(n, lambda t: t.float()), n) for n in ("tokens", *SPANS, "frames")},
    **{f"{n} as bools": (_set(n, lambda t: t != 0), n)
       for n in (*TENSORS, *SPANS, "frames", "seconds.audio")},
    **{f"{n} as int32": (_set(n, lambda t: t.int()), n) for n in (*SPANS, "frames", "embeds")},
    **{f"{n} backwards": (_set(n, lambda t: t.flip(0).contiguous()), n.partition(".")[2])
       for n in (*SPANS[:3], "seconds.audio")},
    **{f"{n} below 0": (_set(n, lambda t: t - t.max() - 1), n)
       for n in ("position_ids", *SPANS, "frames", "seconds.audio")},
    **{f"{n} too large": (_set(n, lambda t: t + 2**60), n)
       for n in ("position_ids", "tokens", *SPANS, "frames", "seconds.audio")},
    **{f"{n} of equal positions": (_set(n, lambda t: t[:1].expand_as(t).contiguous()), n)
       for n in SPANS[:3]},
    "frames backwards": (_set("frames", lambda t: t.flip(0).contiguous()), "frames"),
    "a mask of zeros": (lambda t, f: t.update(mask=torch.zeros_like(t["tokens"])), "mask"),
    "a mask with a hole": (
        lambda t, f: t.update(mask=_at(0, 5, value=0)(torch.ones_like(t["tokens"]))), "mask"),
    "a mask of twos": (lambda t, f: t.update(mask=2 * torch.ones_like(t["tokens"])), "mask"),
    "a mask below 0": (lambda t, f: t.update(mask=-torch.ones_like(t["tokens"])), "mask"),
    "a mask of floats": (lambda t, f: t.update(mask=torch.ones(t["tokens"].shape)), "mask"),
    "a short mask": (lambda t, f: t.update(mask=torch.ones(1, 3, dtype=torch.long)), "mask"),
    "a mask that spans do not know": (
        lambda t, f: t.update(mask=_at(0, 0, value=0)(torch.ones_like(t["tokens"]))), "mask"),
    "a prompt that leaves out its end": (_set("span.prompt", _short), "prompt"),
    "padding that is none": (lambda t, f: t.update({"span.padding": t["span.text"][:1]}), "two"),
    "another last": (_set("span.last", lambda t: t - 1), "last"),
    "sound that is seen": (lambda t, f: t.update({"span.audio": t["span.video"]}), ""),
    "words that are heard": (lambda t, f: t.update({"span.question": t["span.audio"]}), "two"),
    "seconds of no span": (lambda t, f: t.pop("span.audio"), "audio"),
    "frames of no video": (lambda t, f: [t.pop("span.video"), t.pop("seconds.video")], "frames"),
    **{f"a span named {name!r}": (
        lambda t, f, name=name: t.update({f"span.{name}": t["span.last"]}), "named")
       for name in ("", " audio", "generated", "a+b", "audio@1-2s", "frame 3", "video.frame3")},
    "a part that no prompt has": (lambda t, f: t.update(extra=t["tokens"]), "extra"),
    "a part of a part": (lambda t, f: t.update({"embeds.more": t["tokens"]}), "embeds"),
    "another rope": (lambda t, f: f["prompt"].update(rope="flat"), "rope"),
    "a prompt in a list": (lambda t, f: f.update(prompt=[1]), "facts"),
}  # fmt: skip


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """The bundle as if it had been written so, its checksum included."""
    tensors, facts = read_bundle(source)
    change(tensors, facts)
    return write_bundle(target, tensors, facts)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("damage", list(DAMAGED))
def test_a_bundle_whose_parts_are_wrong(whole, tmp_path, damage):
    change, value = DAMAGED[damage]
    path = rewritten(whole, tmp_path / "wrong.safetensors", change)
    with pytest.raises(BundleError, match=value.rpartition(".")[2]) as error:
        EmbeddedPrompt.load(path)
    assert str(path) in str(error.value)


IN_MEMORY: dict[str, Parts] = {
    "embeds of one axis": {"embeds": torch.zeros(3)},
    "embeds of no tensor": {"embeds": [[1.0]]},
    "no tokens": {"tokens": None},
    "NaN": {"embeds": torch.full((1, 4, 8), torch.nan)},
    "positions that count down": {"position_ids": -torch.arange(4).expand(3, 1, 4)},
    "a batch of two": {"tokens": torch.zeros(2, 4, dtype=torch.long)},
    "a mask with a hole": {"mask": torch.tensor([[1, 0, 1, 1]])},
    "a mask of bools": {"mask": torch.tensor([[True] * 4])},
    "spans of a longer prompt": {"spans": Spans({}, 5)},
    "no spans": {"spans": {"audio": torch.tensor([1])}},
    "facts with numbers for names": {"facts": {1: "one"}},
    "facts with NaN": {"facts": {"seconds": float("nan")}},
    "facts with pairs": {"facts": {"size": (1, 2)}},
    "facts in a list": {"facts": [1]},
    "facts without an end": {"facts": {"deep": None}},
    "half a character": {"facts": {"text": "\ud800"}},
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("wrong", list(IN_MEMORY))
def test_a_prompt_made_by_hand(wrong):
    """The same checks, before anything is computed with it."""
    parts = dict(IN_MEMORY[wrong])
    if wrong == "facts without an end":
        _deep(parts["facts"])
    own = dict(embeds=torch.ones(1, 4, 8), position_ids=torch.arange(4).expand(3, 1, 4), mask=None)
    own |= dict(tokens=torch.arange(4)[None], spans=Spans({}, 4), facts={})
    EmbeddedPrompt(**own)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PromptError, match="expected one whole prompt, got"):
        EmbeddedPrompt(**{**own, **parts})  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", [3, None, "", "generated", "a+b", "frame 1"])
def test_a_span_that_could_never_be_looked_up(name):
    with pytest.raises(SpanError, match="expected spans of one prompt, got a span named"):
        Spans({name: torch.tensor([1])}, 4)


@pytest.mark.usefixtures("as_installed")
def test_spans_of_one_prompt_for_a_batch(omni, clips):
    batch = omni.embed_inputs(**twice(clips["omni", "text"]))
    with pytest.raises(PromptError, match="or of a batch"):
        replace(batch, spans=Spans({"audio": torch.tensor([1])}, batch.n_pos))


def test_what_was_edited_in_place_is_not_saved(prompt, tmp_path):
    own = replace(prompt, embeds=prompt.embeds.clone())
    own.embeds[0, 3] = torch.nan
    with pytest.raises(PromptError, match="NaN or infinity in embeds"):
        own.save(tmp_path / "wrong.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["facts", "embeds", "span.audio", "checksum"])
def test_a_bundle_that_another_program_changed(whole, tmp_path, name):
    """Whole parts, but not those that were written."""
    with safe_open(whole, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(whole)
    if name in tensors:
        tensors[name] = torch.cat([tensors[name][:-1], tensors[name][-1:] + 1])
    else:
        metadata[name] = {"facts": "{}", "checksum": "0" * 32}[name]
    save_file(tensors, tmp_path / "changed", metadata=metadata)
    with pytest.raises(BundleError, match="with its checksum, got another"):
        EmbeddedPrompt.load(tmp_path / "changed")


@pytest.mark.parametrize("path", ["x" * 300, "nul\0", "no/such/folder"])
def test_a_path_that_cannot_be(tmp_path, path):
    with pytest.raises(BundleError):
        EmbeddedPrompt.load(tmp_path / path)
