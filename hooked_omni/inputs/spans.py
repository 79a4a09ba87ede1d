"""Where does each part of a prompt sit?

A span is a named set of positions, not a slice: omni models interleave audio and video tokens.

| name | positions |
|---|---|
| `audio`, `video`, `image` | tokens that came out of a tower |
| `video.2`, `audio.1`, `image.1` | those of the second video, the first sound, the first image |
| `question` | the user's words, in the last turn |
| `system` | the words of the system prompt |
| `markup` | everything else of the chat template: role names, brackets, newlines |
| `turn.1`, `turn` | what was said and given in the first earlier turn, in all of them |
| `text` | no tower's: the paper's "query_text" |
| `last` | the last prompt position, the one that predicts the first generated token |
| `generated` | every position after the prompt |
| `prompt` | every position of the prompt |
| `audio@3.0-4.0s`, `video@3-4s` | tokens that start in that time of the only sound or video |
| `audio.2@3-4s` | those of the second sound, in its own time |
| `frame 7`, `video.frame7` | tokens of the eighth temporal step of the only video's grid |
| `video.2.frame7` | those of the second video |
| `generated+last` | a union of any of these |
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_omni.errors import SpanError, closest

_TIMED = re.compile(r"((?:audio|video)(?:\.\d+)?)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)s")
_FRAME = re.compile(r"(?:(video(?:\.\d+)?)\.)?frame ?(\d+)")
_GENERATED = "generated"
_SEEN = ("video", "image")
_MEDIA = ("audio", "video", "image", "padding")
_WORDS = ("question", "system", "markup")
_APART = ((*_MEDIA, "text"), (*_MEDIA, *_WORDS), ("turn", *_WORDS))
_KINDS = ("audio", "video", "image", "turn")
_NUMBERED = re.compile(rf"({'|'.join(_KINDS)})\.([1-9]\d*)")
_INT64, _LONGEST = (torch.int64,), 10**7  # seconds of a clip
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def faults(
    name: str,
    value: Any,
    shape: tuple[int, ...] | None,
    dtypes: tuple[torch.dtype, ...],
    limits: tuple[int, ...] = (),
    device: torch.device | None = None,
) -> Iterator[str]:
    """What is wrong with a tensor of finite numbers, in words.

    A `shape` of None is any with one axis. `limits` are the least number, the first that is too
    large, and by how much each must exceed the one before. No `device` is the host's.
    """
    kind, at, own = (getattr(value, n, None) for n in ("dtype", "device", "shape"))
    fits = kind in dtypes and at == (device or torch.device("cpu"))
    if not own or not fits or own != (own[:1] if shape is None else shape):
        yield f"{name} as {type(value).__name__}, {kind}, {own}, {at}, not {shape or 'one row'}"
    elif not bool(value.isfinite().all()):
        yield f"NaN or infinity in {name}"
    elif limits and value.numel() and not limits[0] <= value.min() <= value.max() < limits[1]:
        yield f"{name} of {value.min()} to {value.max()}, not from {limits[0]} to below {limits[1]}"
    elif bool((value.diff() < limits[2]).any()) if limits[2:] else False:
        yield f"{name} out of order or twice"


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
        seconds: Start time of each position of a sound or video, in the order of `positions`, in
            seconds of the clip, by span: of `audio` for one sound, else of `audio.1`, ...
        frames: Temporal grid step of each position of a video, counted from 0, in the same way.
        grid: Frame, row and column of each position of a video or image, counted from 0, in the
            same way; -1 for row and column of a token that is in no cell, such as a new line's. Not
            there for a family that does not know them.

    Raises:
        SpanError: When made of names that cannot be looked up; of positions that are not sorted,
            unique and of the prompt; of times or steps that run backwards or belong to none; of a
            grid with a cell twice, or with other steps; of numbered spans that are not the parts of
            the plain one, in order.
    """

    positions: dict[str, Int[Tensor, " _"]]
    n_prompt: int
    seconds: dict[str, Float[Tensor, " _"]] = field(default_factory=dict)
    frames: dict[str, Int[Tensor, " _"]] = field(default_factory=dict)
    grid: dict[str, Int[Tensor, "_ 3"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := next(self._faults(), None):
            raise SpanError(f"expected spans of one prompt, got {wrong}. Take those of `embed`.")

    def _faults(self) -> Iterator[str]:
        for name, at in self.positions.items():
            text = name if isinstance(name, str) else ""
            special = text == _GENERATED or _TIMED.fullmatch(text) or _FRAME.fullmatch(text)
            if special or "+" in text or not text or text != text.strip():
                yield f"a span named {name!r}"
            yield from faults(f"span {name!r}", at, None, _INT64, (0, self.n_prompt, 1))
        for name, row in self.seconds.items():
            size = (len(self.positions.get(name, ())),)
            yield from faults(f"seconds of {name!r}", row, size, FLOATS, (0, _LONGEST, 0))
        for name, row in self.frames.items():
            n = len(self.positions.get(name, ()))
            yield from faults(f"frames of {name!r}", row, (n,), _INT64, (0, n, 0))
        for name, cells in self.grid.items():
            yield from self._grid_faults(name, cells)
        for kind in _KINDS:
            names, whole = self.numbered(kind), self.positions.get(kind)
            parts = [self.positions.get(f"{kind}.{i}") for i in range(1, len(names) + 1)]
            known = [part for part in parts if part is not None]
            same = whole is not None and torch.equal(torch.cat([*known, whole[:0]]), whole)
            if names and not (same and len(known) == len(names)):
                yield f"parts of {kind!r} that are not all of it in order"
        for names in _APART:
            places = [self.positions[name] for name in names if name in self.positions]
            if places and len(torch.cat(places).unique()) < sum(map(len, places)):
                yield f"positions of two of {names}"

    def _grid_faults(self, name: str, cells: Tensor) -> Iterator[str]:
        n, where = len(self.positions.get(name, ())), f"grid of {name!r}"
        yield from faults(where, cells, (n, 3), _INT64, (-1, max(n, 1)))
        frames = self.frames.get(name, torch.zeros_like(cells[:, 0]))
        outside = (cells[:, 1:] < 0).all(1)
        if not name.startswith(_SEEN) or not torch.equal(cells[:, 0], frames):
            yield f"{where} with other steps than its own"
        if len(cells[~outside].unique(dim=0)) < n - int(outside.sum()):
            yield f"{where} with a cell twice"
        if bool((cells[~outside] < 0).any()):
            yield f"{where} with half of a cell"

    def __repr__(self) -> str:
        held = (f"{name} {_extent(self.positions[name])}" for name in self)
        return f"Spans({self.n_prompt} positions: {', '.join(held)})"

    def numbered(self, kind: str) -> list[str]:
        """Names of the parts of "audio", "video", "image" or "turn", in order; none for only one.

        Example:
            >>> spans.numbered("video")
            ['video.1', 'video.2']
        """
        known = [match for name in self.positions if (match := _NUMBERED.fullmatch(name))]
        return [m[0] for m in sorted(known, key=lambda m: int(m[2])) if m[1] == kind]

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
            start, stop = float(match[2]), float(match[3])
            kind, positions, times = self._timed(name, match[1], self.seconds)
            found = positions[(times >= start) & (times < stop)]
            extent = f"{kind} tokens start at {times.min():.2f} to {times.max():.2f} s"
            return self._require_some(name, found, extent)
        if match := _FRAME.fullmatch(name):
            kind, positions, frames = self._timed(name, match[1] or "video", self.frames)
            extent = f"the {kind} has {int(frames.max()) + 1} grid steps, counted from 0"
            return self._require_some(name, positions[frames == int(match[2])], extent)
        return self._span(name)

    def _timed(self, name: str, kind: str, of: Mapping[str, Tensor]) -> tuple[str, Tensor, Tensor]:
        """The medium that is meant, its positions and their times or steps."""
        kind, positions = self._only(kind), self._span(kind)
        if parts := self.numbered(kind):
            one = name.replace(kind, parts[0]) if kind in name else f"{parts[0]}.{name}"
            raise SpanError(
                f"expected a time or frame of one of {parts}, got {name!r}, of any of them. Name "
                f"the one, as in {one!r}."
            )
        if kind not in of:
            raise SpanError(
                f"expected a prompt whose tokens have times, got {name!r} for one "
                "without. Make it with `embed`, or with `embed_inputs` and the sampling rates."
            )
        return kind, positions, of[kind]

    def _only(self, name: str) -> str:
        """`video` for `video.1` if there is no other."""
        match = _NUMBERED.fullmatch(name)
        alone = match is not None and match[2] == "1" and not self.numbered(match[1])
        return match[1] if match and alone else name

    def _span(self, name: str) -> Int[Tensor, " n"]:
        name = self._only(name)
        if name not in self.positions:
            raise SpanError(
                f"expected one of {sorted([*self, _GENERATED])}, a time such as "
                f"'audio@3.0-4.0s', a frame such as 'frame 7', or a union with '+', got {name!r}."
                + closest(name, [*self, _GENERATED])
            )
        return self._require_some(name, self.positions[name], f"it has {sorted(self)}")

    def _require_some(self, name: str, found: Tensor, have: str) -> Tensor:
        if not len(found):
            raise SpanError(
                f"expected a prompt with {name!r} tokens, got one without: {have}. "
                "Leave this span out, or embed the prompt with it."
            )
        return found


def _extent(at: Int[Tensor, " n"]) -> str:
    """Positions in a few letters."""
    first, last, n = int(at[0]), int(at[-1]), len(at)
    ends = f"{first}-{last}" if n > 1 else f"{first}"
    return ends if last - first == n - 1 else f"{n} of {ends}"


class NoSpans(Spans):
    """Spans of a batch: prompts of a batch sit at different positions, so there are none."""

    def mask(self, name: str, window: range) -> Tensor:
        """Refuse with a `SpanError`."""
        raise SpanError(f"expected one prompt to look up {name!r} in, got a batch. Embed it alone.")
