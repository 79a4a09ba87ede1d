"""A question about a clip, before and after the model's towers.

An `EmbeddedPrompt` is what the decoder gets for a `Prompt`: embeddings, rotary position ids and
spans, in one file that needs no towers and no clip.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from hooked_omni.errors import BundleError, FileError, PromptError, SpanError
from hooked_omni.files import parse_json, to_json
from hooked_omni.inputs.bundle import read_bundle, write_bundle
from hooked_omni.inputs.items import ROPES as _ROPES
from hooked_omni.inputs.items import Prompt as Prompt  # both are found here
from hooked_omni.inputs.spans import FLOATS, NoSpans, Spans, faults

_TENSORS = ("embeds", "position_ids", "mask", "tokens", "deepstack")
_INTS = (torch.int32, torch.int64)
_EXACT = 2**24  # rotary angles are computed in fp32, in which larger ids are rounded


@dataclass(frozen=True, eq=False)
class EmbeddedPrompt:
    """What the decoder gets for a prompt, captured from the Hugging Face model.

    Attributes:
        embeds: Token and tower embeddings that enter the decoder.
        position_ids: Rotary position ids, one row for each of time, height and width.
        mask: 1 for a real position, 0 for padding; None if nothing is padded.
        tokens: Input ids, with placeholders where a tower's output sits.
        spans: Where each part sits. A batch of prompts has none.
        facts: How this was made: model, family, prompt, media settings, versions.
        deepstack: What the model adds to the residual stream after its first blocks, zero where it
            adds nothing; None for a model that adds nothing anywhere.

    Raises:
        PromptError: When made of parts of different prompts, of numbers that are NaN, infinite or
            out of range, of a mask with holes, or of facts that JSON does not keep as they are.
    """

    embeds: Float[Tensor, "batch pos d_model"]
    position_ids: Num[Tensor, "rope batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    tokens: Int[Tensor, "batch pos"]
    spans: Spans
    facts: dict[str, Any]
    deepstack: Float[Tensor, "layer batch pos d_model"] | None = None

    def __post_init__(self) -> None:
        if wrong := next(self._faults(), None):
            raise PromptError(f"expected one whole prompt, got {wrong}. Take what `embed` gives.")

    def _faults(self) -> Iterator[str]:
        shape: Any = getattr(self.embeds, "shape", ())
        device: Any = getattr(self.embeds, "device", None)
        if len(shape) != 3 or 0 in shape:
            yield f"embeds of shape {tuple(shape)}"
        rows, layers = shape[:2], getattr(self.deepstack, "shape", ())[:1]
        parts = {
            "embeds": (shape, FLOATS),
            "position_ids": ((3, *rows), (*_INTS, *FLOATS), (0, _EXACT)),
            "tokens": (rows, _INTS, (-_EXACT, _EXACT)),
            "mask": (rows, _INTS, (0, 2, 0)),
            "deepstack": ((*layers, *shape), FLOATS),
        }
        for name, (size, dtypes, *limits) in parts.items():
            value = getattr(self, name)
            if value is not None or name not in ("mask", "deepstack"):
                yield from faults(name, value, size, dtypes, *limits, device=device)
        if self.mask is not None and not bool(self.mask[:, -1].all()):
            yield "a mask that ends in padding"
        spans = self.spans
        if not isinstance(spans, Spans) or spans.n_prompt != rows[1] or (rows[0] > 1 and [*spans]):
            yield f"spans of other than these {rows[1]} positions, or of a batch"
        elif [int(at) for at in spans.positions.get("last", ())] not in ([], [rows[1] - 1]):
            yield f"a last position other than {rows[1] - 1}"
        try:
            same = parse_json(to_json(self.facts, "facts"), "facts") == self.facts
        except (FileError, RecursionError):
            same = False
        prompt = self.facts.get("prompt", {}) if same and isinstance(self.facts, dict) else None
        if not isinstance(prompt, dict) or prompt.get("rope", "model") not in _ROPES:
            yield f"facts that JSON does not keep as they are, or a rope that is not in {_ROPES}"

    def __repr__(self) -> str:
        rows, n_pos, width = self.embeds.shape
        held = repr(self.spans) if rows == 1 else f"a batch of {rows} x {n_pos} positions"
        name, kind = Path(str(self.facts.get("model", ""))).name, str(self.embeds.dtype)[6:]
        return (
            f"{type(self).__name__}({held}, embeddings [{rows}, {n_pos}, {width}] {kind}, {name})"
        )

    @property
    def n_pos(self) -> int:
        """Number of positions, padding included."""
        return self.embeds.shape[1]

    @property
    def shape(self) -> torch.Size:
        """`[batch, pos]`, as that of the tokens, for TransformerLens's helpers."""
        return self.tokens.shape

    @property
    def ndim(self) -> int:
        return self.tokens.ndim

    @property
    def device(self) -> torch.device:
        return self.embeds.device

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Int[Tensor, " n"]) -> "EmbeddedPrompt":
        """Rows of a batch, such as `prompt[0:1]`, without spans; `PromptError` for one number."""
        if not isinstance(rows, slice | Tensor):
            raise PromptError(f"expected rows of the batch, got {rows!r}. Write prompt[0:1].")
        tokens = self.tokens[rows]
        return replace(
            self,
            embeds=self.embeds[rows],
            tokens=tokens,
            position_ids=self.position_ids[:, rows],
            mask=None if self.mask is None else self.mask[rows],
            spans=self.spans if len(self) == len(tokens) == 1 else NoSpans({}, self.n_pos),
            deepstack=None if self.deepstack is None else self.deepstack[:, rows],
        )

    def cpu(self) -> "EmbeddedPrompt":
        """Copy in the memory of the host."""
        return self.to("cpu")

    def position_ids_at(self, window: range) -> Num[Tensor, "rows batch pos"]:
        """Rotary position ids of `window`.

        After the prompt, every row counts on from its last id, as in `generate` of transformers. A
        clip takes fewer ids in time than it has tokens: these are no indices of the new tokens.
        """
        if window.stop <= self.n_pos:
            return self.position_ids[:, :, window.start : window.stop]
        if window.start < self.n_pos:
            split = (range(window.start, self.n_pos), range(self.n_pos, window.stop))
            return torch.cat([self.position_ids_at(part) for part in split], dim=2)
        step = torch.arange(window.start, window.stop, device=self.position_ids.device) - self.n_pos
        return self.position_ids[:, :, -1:] + 1 + step.to(self.position_ids.dtype)

    def deepstack_at(self, window: range) -> Float[Tensor, "layer batch window d_model"] | None:
        """What is added after the first blocks at `window`; None after the prompt."""
        if self.deepstack is None or window.start >= self.n_pos:
            return None
        inside = self.deepstack[:, :, window.start : window.stop]
        return torch.nn.functional.pad(inside, (0, 0, 0, len(window) - inside.shape[2]))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "EmbeddedPrompt":
        """Copy on another device, or with embeddings of another dtype."""
        moved = {}
        for name in _TENSORS:
            if (value := getattr(self, name)) is not None:
                moved[name] = value.to(device, dtype if name in ("embeds", "deepstack") else None)
        return replace(self, **moved)

    def save(self, path: str | Path) -> Path:
        """Write one prompt, not a batch (`BundleError`), to a file, or nothing (`FileError`).

        `PromptError` for one that was edited in place to what no prompt may be.
        """
        if self.embeds.shape[0] != 1:
            raise BundleError(
                f"expected one prompt, got a batch of {self.embeds.shape[0]}. Save each alone."
            )
        replace(self)  # checks it again
        tensors = {
            **{name: getattr(self, name) for name in _TENSORS},
            **{f"frames.{n}".removesuffix(".video"): v for n, v in self.spans.frames.items()},
            **{f"span.{name}": value for name, value in self.spans.positions.items()},
            **{f"{k}.{n}": v for k in ("seconds", "grid") for n, v in vars(self.spans)[k].items()},
        }
        present = {name: value for name, value in tensors.items() if value is not None}
        return write_bundle(Path(path), present, self.facts)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "EmbeddedPrompt":
        """Read a file written by `save`; `BundleError` for any other."""
        tensors, facts = read_bundle(Path(path))
        own = {n: tensors.pop(n, None) for n in _TENSORS}
        parts: dict[str, dict[str, Tensor]] = {"span": {}, "seconds": {}, "frames": {}, "grid": {}}
        for name, tensor in tensors.items():
            kind, _, span = name.partition(".")
            parts.setdefault(kind, {})[span or ("video" if kind == "frames" else "")] = tensor
        try:
            if len(parts) > 4 or own["tokens"] is None:
                raise PromptError(f"expected spans and tokens, got {sorted(parts)} and no others.")
            n_pos = own["tokens"].shape[-1:].numel()
            spans = Spans(parts.pop("span"), n_pos, **parts)
            prompt = cls(**own, spans=spans, facts=facts)  # pyright: ignore[reportArgumentType]
            every = torch.arange(n_pos)
            real = every >= 0 if prompt.mask is None else prompt.mask[0] > 0
            due = {"padding": every[~real], "prompt": every[real]}
            for name, at in spans.positions.items():
                if not (torch.equal(at, due[name]) if name in due else bool(real[at].all())):
                    raise SpanError(f"expected {name!r} where its mask has it, got {at.tolist()}.")
            return prompt.to(device)
        except (PromptError, SpanError) as error:
            raise BundleError(f"In {path}: {error} Or embed the prompt again.") from error
