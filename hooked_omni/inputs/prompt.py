"""A question about a clip, before and after the model's towers.

An `EmbeddedPrompt` is what the decoder gets for a `Prompt`: embeddings, rotary position ids and
spans, in one file that needs no towers and no clip.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from hooked_omni.errors import BundleError, PromptError, SpanError
from hooked_omni.inputs.bundle import read_bundle, write_bundle
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.spans import Spans

_TENSORS = ("embeds", "position_ids", "mask", "tokens", "deepstack")


@dataclass(frozen=True)
class Prompt:
    """A question about a clip.

    ```python
    Prompt("Describe what you hear.", video="clip.mp4")                    # with its own sound
    Prompt("Describe what you hear.", video="clip.mp4", audio="rain.wav")  # with another sound
    Prompt("Describe what you see.", video="clip.mp4", use_audio_in_video=False)
    Prompt("What is this sound?", audio="rain.wav")
    ```

    Attributes:
        text: The user's words.
        video: A file with a video track.
        audio: A sound file, or a container whose sound is used in place of the clip's own.
        use_audio_in_video: Interleave sound and picture by time, as one clip. Without it, the
            clip's own sound is not read, and `audio` follows the picture as a second item.
        system: System prompt; None means the family's default.
        rope: "model" gives audio inside video its time-aligned positions (TMRoPE).
            "paper-scripts" repeats the paper's released scripts, which pass the flag to the
            processor but not to the model, so that these positions are 1-D.
        media: How frames and sound are sampled; None means as the model was made for, which for
            released checkpoints is the paper's pipeline (`MediaSettings()`).

    Raises:
        PromptError: For no words, several clips, or an unknown `rope`.
    """

    text: str
    video: str | Path | None = None
    audio: str | Path | None = None
    use_audio_in_video: bool = True
    system: str | None = None
    rope: Literal["model", "paper-scripts"] = "model"
    media: MediaSettings | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise PromptError(f"expected a question, got {self.text!r}. Say what to describe.")
        for name, source in (("video", self.video), ("audio", self.audio)):
            if source is not None and not isinstance(source, str | Path):
                raise PromptError(
                    f"expected one file as {name!r}, got {source!r}. Make a prompt for each clip."
                )
        if self.rope not in ("model", "paper-scripts"):
            raise PromptError(f"expected rope 'model' or 'paper-scripts', got {self.rope!r}.")

    @property
    def interleaved(self) -> bool:
        """Whether sound and picture become one time-aligned block."""
        return self.video is not None and self.use_audio_in_video


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
    """

    embeds: Float[Tensor, "batch pos d_model"]
    position_ids: Num[Tensor, "rope batch pos"]
    mask: Int[Tensor, "batch pos"] | None
    tokens: Int[Tensor, "batch pos"]
    spans: Spans
    facts: dict[str, Any]
    deepstack: Float[Tensor, "layer batch pos d_model"] | None = None

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
        """Write one prompt, not a batch (`BundleError`), to a file, or nothing (`FileError`)."""
        if self.embeds.shape[0] != 1:
            raise BundleError(
                f"expected one prompt, got a batch of {self.embeds.shape[0]}. Save each alone."
            )
        tensors = {
            **{name: getattr(self, name) for name in _TENSORS},
            "frames": self.spans.frames,
            **{f"span.{name}": value for name, value in self.spans.positions.items()},
            **{f"seconds.{name}": value for name, value in self.spans.seconds.items()},
        }
        present = {name: value for name, value in tensors.items() if value is not None}
        return write_bundle(Path(path), present, self.facts)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "EmbeddedPrompt":
        """Read a file written by `save`; `BundleError` for any other."""
        tensors, facts = read_bundle(Path(path), device)
        spans: dict[str, dict[str, Tensor]] = {"span": {}, "seconds": {}}
        for name, tensor in tensors.items():
            kind, _, span = name.partition(".")
            if kind in spans:
                spans[kind][span] = tensor.cpu()
        frames = tensors["frames"].cpu() if "frames" in tensors else None
        n_pos = tensors["tokens"].shape[-1]
        return cls(
            **{name: tensors.get(name) for name in _TENSORS},  # pyright: ignore[reportArgumentType]
            spans=Spans(spans["span"], n_pos, spans["seconds"], frames),
            facts=facts,
        )


class NoSpans(Spans):
    """Spans of a batch: prompts of a batch sit at different positions, so there are none."""

    def mask(self, name: str, window: range) -> Tensor:
        """Refuse with a `SpanError`."""
        raise SpanError(f"expected one prompt to look up {name!r} in, got a batch. Embed it alone.")
