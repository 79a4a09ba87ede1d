"""Where does each part of a prompt sit?

A span is a named set of positions, not a slice: omni models interleave audio and video tokens.

| name | positions |
|---|---|
| `audio`, `video` | tokens that came out of a tower |
| `question` | the user's words |
| `system` | the words of the system prompt |
| `markup` | everything else of the chat template: role names, brackets, newlines |
| `text` | neither audio nor video: the paper's "query_text" |
| `last` | the last prompt position, the one that predicts the first generated token |
| `generated` | every position after the prompt |
| `prompt` | every position of the prompt |
| `audio@3.0-4.0s`, `video@3-4s` | tokens that start in that time of the clip |
| `frame 7`, `video.frame7` | tokens of the eighth temporal step of the video grid |
| `generated+last` | a union of any of these |
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_omni.errors import SpanError

_TIMED = re.compile(r"(audio|video)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)s")
_FRAME = re.compile(r"(?:video\.)?frame ?(\d+)")
_GENERATED = "generated"


@dataclass(frozen=True, eq=False)
class Spans(Mapping[str, Tensor]):
    """Named sets of positions of one prompt.

    ```python
    spans["audio"]                    # tensor([41, 42, ..., 97])
    spans["audio@3.0-4.0s"]           # the fourth second of sound
    spans.mask("generated", range(100, 101))
    ```

    Attributes:
        positions: Sorted positions of each basic span.
        n_prompt: Number of prompt positions, padding included; later ones are `generated`.
        seconds: Start time of each `audio` and each `video` position, in the order of
            `positions`, in seconds of the clip.
        frames: Temporal grid step of each `video` position, counted from 0.
    """

    positions: dict[str, Int[Tensor, " _"]]
    n_prompt: int
    seconds: dict[str, Float[Tensor, " _"]] = field(default_factory=dict)
    frames: Int[Tensor, " _"] | None = None

    def __getitem__(self, name: str) -> Int[Tensor, " n"]:
        """Sorted positions of `name` in the prompt; `SpanError` for an unknown or empty span."""
        return self.mask(name, range(self.n_prompt)).nonzero()[:, 0]

    def __iter__(self) -> Iterator[str]:
        return (name for name, positions in self.positions.items() if len(positions))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            self.mask(str(name), range(self.n_prompt))
        except SpanError:
            return False
        return True

    def mask(self, name: str, window: range) -> Bool[Tensor, " pos"]:
        """Which positions of `window` belong to `name`; `generated` has no end.

        Raises:
            SpanError: For an unknown or empty span, and for `generated` inside the prompt.
        """
        index = torch.arange(window.start, window.stop)
        mask = torch.zeros(len(window), dtype=torch.bool)
        for part in name.split("+"):
            part = part.strip()
            if part == _GENERATED:
                if window.stop <= self.n_prompt and "+" not in name:
                    raise SpanError(
                        f"expected a run that goes beyond the {self.n_prompt} prompt positions, "
                        f"got one without any {_GENERATED!r} position. Use `generate` or "
                        "`score`."
                    )
                mask |= index >= self.n_prompt
            else:
                mask |= torch.isin(index, self._basic(part))
        return mask

    def _basic(self, name: str) -> Int[Tensor, " n"]:
        if match := _TIMED.fullmatch(name):
            kind, start, stop = match[1], float(match[2]), float(match[3])
            positions, times = self._span(kind), self._require_times(name, self.seconds.get(kind))
            found = positions[(times >= start) & (times < stop)]
            extent = f"{kind} tokens start at {times.min():.2f} to {times.max():.2f} s"
            return self._require_some(name, found, extent)
        if match := _FRAME.fullmatch(name):
            positions, frames = self._span("video"), self._require_times(name, self.frames)
            extent = f"the video has {int(frames.max()) + 1} grid steps, counted from 0"
            return self._require_some(name, positions[frames == int(match[1])], extent)
        return self._span(name)

    def _require_times(self, name: str, times: Tensor | None) -> Tensor:
        if times is None:
            raise SpanError(
                f"expected a prompt whose tokens have times, got {name!r} for one "
                "without. Make it with `embed`, or with `embed_inputs` and the sampling rates."
            )
        return times

    def _span(self, name: str) -> Int[Tensor, " n"]:
        if name not in self.positions:
            raise SpanError(
                f"expected one of {sorted([*self, _GENERATED])}, a time such as "
                f"'audio@3.0-4.0s', a frame such as 'frame 7', or a union with '+', got {name!r}."
            )
        return self._require_some(name, self.positions[name], f"it has {sorted(self)}")

    def _require_some(self, name: str, found: Tensor, have: str) -> Tensor:
        if not len(found):
            raise SpanError(
                f"expected a prompt with {name!r} tokens, got one without: {have}. "
                "Leave this span out, or embed the prompt with it."
            )
        return found
