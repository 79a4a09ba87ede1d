"""What can the analyses of single parts of the decoder be set to? See `configs.py`."""

from dataclasses import dataclass

from hooked_omni.errors import ResultsError


@dataclass(frozen=True)
class HeadsConfig:
    """By what a head reads, its share is split.

    Attributes:
        spans: Of the prompt, none within another; those that a prompt lacks are left out of its
            rows, and what no span has is "other". Any span, such as "audio@3.0-4.0s"; "answer" is
            what both answers begin with.
    """

    spans: tuple[str, ...] = ("audio", "video", "image", "question", "system", "markup", "answer")

    def __post_init__(self) -> None:
        if not self.spans or len(set(self.spans)) < len(self.spans) or "other" in self.spans:
            raise ResultsError(
                f"expected spans, each once and none named 'other', got {self.spans!r}."
            )
