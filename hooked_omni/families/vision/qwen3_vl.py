"""Qwen3-VL: sees and answers, and does not hear. Base model of Qwen3-Omni.

Every step of the video is a block of its own after its time in words, "<1.5 seconds>".
"""

from functools import partial
from typing import Any

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.video import Video

_CLOCK = 1000  # ticks per second of the frame times that the processor gets


def frame_times(video: Video) -> dict[str, Any]:
    """The time of every frame, which becomes the words in front of its step."""
    ticks = [round(_CLOCK * second) for second in video.frame_seconds]
    return {"total_num_frames": len(ticks), "fps": _CLOCK, "frames_indices": ticks}


QWEN3_VL = Family(
    name="qwen3-vl",
    checkpoints="Qwen3-VL",
    decoder="qk-norm, interleaved M-RoPE, DeepStack",
    model_types=("qwen3_vl",),
    hf_class="Qwen3VLForConditionalGeneration",
    decoder_config=qwen.qwen3_config,
    on_disk=qwen.ON_DISK,
    times=checks.times,
    check_inputs=checks.check_vl,
    received=checks.received,
    prepare=partial(processing.prepare_video, system="", metadata=frame_times),
    hears=False,
    media=qwen.PATCHES_OF_16,
    correct_words=checks.stamps_as_markup(r"<[\d.]+ seconds>", line_after=False),
    towers=qwen.EYES,
)
