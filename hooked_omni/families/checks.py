"""Which inputs would a model silently misread, and where and when are its media tokens?

Source: `modeling_*.py` of the Qwen families in transformers.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families.family import ItemTimes, Masks, Received, Times

_LONGEST_STAMP = 24  # tokens, even at one a byte


def n_audio_tokens(mel: Int[Tensor, " clip"], pool: int = 2) -> Int[Tensor, " clip"]:
    """Audio tokens for so many mel frames: a convolution of stride 2, and a pooling."""
    return ((mel - 1) // 2 + 1 - pool) // pool + 1


Count = Callable[[Any, Int[Tensor, " clip"]], Int[Tensor, " clip"]]
"""From a model and the mel frames of each sound to its tokens."""


def _one_pooling(hf_model: Any, mel: Int[Tensor, " clip"]) -> Int[Tensor, " clip"]:
    return n_audio_tokens(mel)


def check_audio(hf_model: Any, inputs: Mapping[str, Any], n_tokens: Count = _one_pooling) -> None:
    """Refuse audio tokens without their sound, and sound without its tokens."""
    mask, features = inputs.get("feature_attention_mask"), inputs.get("input_features")
    came = int((inputs["input_ids"] == hf_model.config.audio_token_id).sum())
    if (mask is None) != (features is None) or (mask is None and came):
        raise PromptError(
            f"expected input_features with feature_attention_mask for {came} audio tokens, got "
            "one without the other. Pass the processor's whole output."
        )
    if mask is not None:
        mel = mask.sum(-1)
        expected = int(n_tokens(hf_model, mel).sum())
        if came != expected:
            raise PromptError(
                f"expected {expected} audio tokens for {mel.tolist()} mel frames, got {came}. Pass "
                "the processor's whole output, of one call."
            )


def check_vl(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    """As `check_pictures`, and the kinds of tokens, which transformers 4 finds by itself."""
    sees = any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
    finds = transformers.__version__.startswith("4.")
    if sees and not finds and inputs.get("mm_token_type_ids") is None:
        raise PromptError(
            "expected mm_token_type_ids among the inputs, got none: the model would silently count "
            "positions in one dimension. Pass the processor's whole output."
        )
    check_pictures(hf_model, inputs)


def check_pictures(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse tokens of videos or images without their pixels, and pixels without their tokens."""
    for kind, name in (("video", "pixel_values_videos"), ("image", "pixel_values")):
        config, grid = hf_model.config, inputs.get(f"{kind}_grid_thw")
        pixels = inputs.get(name)
        n_pixels = 0 if pixels is None else len(pixels)
        patches = 0 if grid is None else int(grid.prod(-1).sum())
        expected = patches // config.vision_config.spatial_merge_size**2
        came = int((inputs["input_ids"] == getattr(config, f"{kind}_token_id")).sum())
        if came != expected or n_pixels != patches:
            raise PromptError(
                f"expected {expected} {kind} tokens and {patches} patches for this grid, got "
                f"{came} tokens and {n_pixels} patches. Pass the processor's whole output, of one "
                "call."
            )


def check_omni(hf_model: Any, inputs: Mapping[str, Any], n_tokens: Count = _one_pooling) -> None:
    """Refuse inputs that a model which sees and hears would silently misread; see `check_audio`."""
    if inputs.get("attention_mask") is None:
        raise PromptError(
            "expected attention_mask among the inputs, got none: the model would silently count "
            "positions in one dimension. Pass the processor's whole output."
        )
    tokens, config = inputs["input_ids"], hf_model.config
    pairs = (tokens[:, :-1] == config.vision_start_token_id) & (
        tokens[:, 1:] == config.audio_start_token_id
    )
    if bool(pairs.any()) and inputs.get("use_audio_in_video") is None:
        raise PromptError(
            "expected use_audio_in_video among the inputs for sound inside a video, got none: the "
            "processor does not return it, and without it the model silently gives this block 1-D "
            "positions. Pass use_audio_in_video=True, or False to repeat the paper's scripts."
        )
    if inputs.get("video_grid_thw") is not None and inputs.get("video_second_per_grid") is None:
        raise PromptError(
            "expected video_second_per_grid beside video_grid_thw, got none: the model cannot "
            "place the video in time without it. Pass the processor's whole output."
        )
    check_pictures(hf_model, inputs)
    check_audio(hf_model, inputs, n_tokens)


def received(hf_model: Any, inputs: Mapping[str, Any]) -> Received:
    """What the towers of a Qwen family get."""
    mask, found = inputs.get("feature_attention_mask"), Received()
    if mask is not None:
        found["audio"] = [(int(mel) / 100,) for mel in mask.sum(-1)]  # mel frames of 10 ms
    for kind in ("video", "image"):
        if (grid := inputs.get(f"{kind}_grid_thw")) is not None:
            config = hf_model.config.vision_config
            sizes = (config.temporal_patch_size, config.patch_size, config.patch_size)
            own = slice(kind == "image", None)  # an image is one step of equal frames
            each = [[n * size for n, size in zip(row, sizes, strict=True)] for row in grid.tolist()]
            found[kind] = [tuple(one[own]) for one in each]
    return found


def times(
    hf_model: Any,
    inputs: Mapping[str, Any],
    n_tokens: dict[str, int],
    audio_seconds: Callable[[Any, Int[Tensor, " token"]], Float[Tensor, " token"]] | None = None,
    count: Count = _one_pooling,
) -> Times:
    """Start second of each media token, and the grid step of each video token, by item.

    `audio_seconds` makes start seconds from the model and the numbers of a sound's tokens, and
    `count` the number of these from the sound's mel frames.
    """
    mask, found = inputs.get("feature_attention_mask"), Times()
    if audio_seconds is not None and mask is not None:
        counts = [int(n) for n in count(hf_model, mask.sum(-1))]
        found["audio"] = [ItemTimes(n, audio_seconds(hf_model, torch.arange(n))) for n in counts]
    for kind in ("video", "image"):
        if (grid := inputs.get(f"{kind}_grid_thw")) is not None:
            found[kind] = [_grid_times(hf_model, inputs, kind, i) for i in range(len(grid))]
    return found


def _grid_times(hf_model: Any, inputs: Mapping[str, Any], kind: str, i: int) -> ItemTimes:
    steps, height, width = (int(n) for n in inputs[f"{kind}_grid_thw"][i])
    merged = hf_model.config.vision_config.spatial_merge_size
    grid = cells(steps, height // merged, width // merged)
    if kind == "image":
        return ItemTimes(len(grid), grid=grid)
    frames, seconds = grid[:, 0], None
    for key in ("video_second_per_grid", "second_per_grid_ts"):
        if inputs.get(key) is not None:
            seconds = frames * float(inputs[key][i])
    return ItemTimes(len(frames), seconds, frames, grid)


def cells(frames: int, rows: int, columns: int) -> Int[Tensor, "token 3"]:
    """Frame, row and column of tokens that come row by row, frame after frame."""
    axes = (torch.arange(n) for n in (frames, rows, columns))
    return torch.cartesian_prod(*axes)


def square_cells(n_tokens: int, per_frame: int) -> Int[Tensor, "token 3"] | Int[Tensor, " token"]:
    """Those of square frames; the frame alone where its tokens make no square."""
    frames, side = n_tokens // per_frame, math.isqrt(per_frame)
    squares = cells(frames, side, side)
    return squares if side**2 == per_frame else torch.arange(frames).repeat_interleave(per_frame)


SecondsAndSteps = tuple[dict[str, Tensor], Tensor | None]
"""Of one clip: start seconds of the tokens of each modality; of its video tokens the step of the
grid, or step, row and column, as in `Spans.grid`."""
HeardAndSeen = tuple[float, tuple[int, ...]]
"""Of one clip: seconds of sound, and number, or number, height and width, of frames."""


def of_one_clip(
    times: Callable[[Any, Mapping[str, Any], dict[str, int]], SecondsAndSteps],
) -> Callable[[Any, Mapping[str, Any], dict[str, int]], Times]:
    """`Family.times` of a family that takes one clip."""

    def adapted(hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]) -> Times:
        seconds, places = times(hf_model, inputs, n_tokens)
        found = {kind: [ItemTimes(n_tokens[kind], own)] for kind, own in seconds.items()}
        if places is not None:
            steps, grid = (places[:, 0], places) if places.ndim == 2 else (places, None)
            found["video"] = [ItemTimes(len(steps), seconds.get("video"), steps, grid)]
        return found

    return adapted


def received_of_one_clip(
    received: Callable[[Any, Mapping[str, Any]], HeardAndSeen],
) -> Callable[[Any, Mapping[str, Any]], Received]:
    """`Family.received` of a family that takes one clip."""

    def adapted(hf_model: Any, inputs: Mapping[str, Any]) -> Received:
        heard, seen = received(hf_model, inputs)
        return {"audio": [(heard,)] if heard else [], "video": [seen] if seen else []}

    return adapted


def of_input_features_mask(check: Callable[..., Any]) -> Callable[..., Any]:
    """`check` for models that call the mask of the mel frames `input_features_mask`."""

    def checked(hf_model: Any, inputs: Mapping[str, Any], *more: Any) -> Any:
        mask = inputs.get("input_features_mask")
        return check(hf_model, {**inputs, "feature_attention_mask": mask}, *more)

    return checked


def times_of_sound(
    seconds: Callable[[Any, Int[Tensor, " token"]], Float[Tensor, " token"]],
) -> Callable[[Any, Mapping[str, Any], dict[str, int]], Times]:
    """Times of one sound, in however many windows; `seconds` as `audio_seconds` of `times`."""

    def times(hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]) -> Times:
        n = n_tokens["audio"]
        return {"audio": [ItemTimes(n, seconds(hf_model, torch.arange(n)))]} if n else {}

    return times


def require_tokens(inputs: Mapping[str, Any], token: int, expected: int, what: str) -> None:
    """Refuse more or fewer tokens of `what` than the towers make; `PromptError`."""
    came = int((inputs["input_ids"] == token).sum())
    if came != expected:
        raise PromptError(
            f"expected {expected} {what} tokens for these inputs, got {came}. Pass the "
            "processor's whole output, of one call."
        )


def stamps_as_markup(
    stamp: str, between: str = "", line_after: bool = True
) -> Callable[[Any, Int[Tensor, " pos"], Masks], Masks]:
    """Corrects words where the processor writes a stamp, such as a time, before every step.

    `stamp` is a pattern, `between` of what stands before all stamps but the first. With
    `line_after`, the chat template writes a line break after the clip, which is markup too.
    """
    first_stamp, later_stamp = (re.compile(f"{before}{stamp}$") for before in ("", between))

    def correct(tokenizer: Any, tokens: Int[Tensor, " pos"], masks: Masks) -> Masks:
        video, found = masks["video"], torch.zeros_like(tokens, dtype=torch.bool)
        for start in (video & ~video.roll(1)).nonzero()[:, 0].tolist():
            pattern = later_stamp if bool(video[:start].any()) else first_stamp
            end = start
            while end and masks["markup"][end - 1]:  # a bracket
                end -= 1
            for first in range(end - 1, max(end - _LONGEST_STAMP, 0) - 1, -1):
                match = pattern.search(tokenizer.decode(tokens[first:end]))
                if match and match.start() < len(tokenizer.decode(tokens[first : first + 1])):
                    found[first:end] = True
        if line_after and bool(video.any()):
            after = int(video.nonzero()[-1]) + 1
            while after < len(tokens) and masks["markup"][after]:
                after += 1
            found[after : after + 1] = tokenizer.decode(tokens[after : after + 1]) == "\n"
        found &= masks["question"]
        return {"question": masks["question"] & ~found, "markup": masks["markup"] | found}

    return correct
