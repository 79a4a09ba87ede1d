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
        options: For a question that comes without answers, as `--ask` does: the one that goes with
            the sound, and the one that goes with the picture.
    """

    spans: tuple[str, ...] = ("audio", "video", "image", "question", "system", "markup", "answer")
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.options) not in (0, 2) or not all(one.strip() for one in self.options):
            raise ResultsError(
                f"expected two answers, for the sound and for the picture, got {self.options!r}."
            )
        if not self.spans or len(set(self.spans)) < len(self.spans) or "other" in self.spans:
            raise ResultsError(
                f"expected spans, each once and none named 'other', got {self.spans!r}."
            )
