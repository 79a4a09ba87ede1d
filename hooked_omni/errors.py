"""Which errors can a caller catch?

Every message has three parts: what was expected, what came, and what to do. Each class keeps the
builtin parent that fits it, so `except ValueError` works without knowing this package.
"""

import difflib
from collections.abc import Iterable

from hooked_omni.redaction import redacted


def closest(given: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: " Did you mean 'hear'?", or nothing."""
    near = difflib.get_close_matches(str(given), sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class HookedOmniError(Exception):
    """Base of every error this project raises on purpose; its message holds no secret."""

    def __str__(self) -> str:
        return redacted(super().__str__())


class MediaError(HookedOmniError, ValueError):
    """A clip or sound that cannot be read exactly."""


class ManifestError(HookedOmniError, ValueError):
    """A manifest, or another list of samples, with wrong or missing content."""


class FileError(HookedOmniError, ValueError):
    """A file that cannot be read, or written whole."""


class PromptError(HookedOmniError, ValueError):
    """A prompt that a model would misread."""


class BundleError(HookedOmniError, ValueError):
    """A saved `EmbeddedPrompt` that is damaged, incomplete, or made for another model."""


class SpanError(HookedOmniError, ValueError):
    """A span that does not exist, or has no position in this prompt."""


class HookError(HookedOmniError, ValueError):
    """A hook that would do nothing, or something other than requested."""


class NotFiniteError(HookedOmniError, ArithmeticError):
    """NaN or infinity in what a model computes."""


class ClusterError(HookedOmniError, RuntimeError):
    """A cluster that is not there, has no room, or whose workers would compute something else."""


class WorkerLostError(HookedOmniError, RuntimeError):
    """A task that lost all the workers that it was given to; the last one's end is the reason."""


class OutOfRoomError(HookedOmniError, MemoryError):
    """More memory than a device has free, noticed in the middle of the work."""


class UnknownModelError(HookedOmniError, ValueError):
    """A model whose family is not known here."""


class CheckpointError(HookedOmniError, ValueError):
    """Weights or a config that do not add up to the decoder they claim to be."""


class ParityError(HookedOmniError, ArithmeticError):
    """Logits that differ from Hugging Face's, or a hook point without effect."""


class ResultsError(HookedOmniError, ValueError):
    """A results folder that is unfinished, damaged, or of another run."""
