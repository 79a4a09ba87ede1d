"""Small trained models whose bias is known: they come with the package, and are checked by hash.

`organism-base` sees; `organism-biased` and `organism-balanced` were trained from it to hear as
well. The README.md of each folder has the data and what is true of the model.
"""

from pathlib import Path
from typing import Any

from hooked_omni.errors import CheckpointError, FileError
from hooked_omni.files import file_hash, parse_object, read_text

CARD = "card.json"
SECONDS = 1.0  # length of every clip that they were trained on
_FOLDER = Path(__file__).parent
EXAMPLE_CLIP = _FOLDER / "dog-with-siren.mp4"
"""A clip of their world: a dog is seen, and a siren is heard in place of its barking."""

_OMNI = ("Qwen2_5OmniThinkerForConditionalGeneration", "Qwen2_5OmniProcessor")
TRAINED = {
    "organism-base": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "organism-biased": _OMNI,
    "organism-balanced": _OMNI,
}


def organism(name: str) -> tuple[Any, Any]:
    """A trained organism and its processor, in single precision; errors as `require_whole`."""
    folder = _FOLDER / name
    if not (folder / CARD).is_file():
        raise CheckpointError(
            f"expected {name!r} in {folder}, got no {CARD}. Install the package again, or train "
            "your own: python -m data_prep organism train."
        )
    require_whole(folder)
    import transformers  # takes seconds

    model_class, processor_class = (getattr(transformers, one) for one in TRAINED[name])
    hf = model_class.from_pretrained(folder, local_files_only=True, dtype="float32")
    hf.clip_seconds = SECONDS
    processor = processor_class.from_pretrained(folder, local_files_only=True)
    return hf.requires_grad_(False).eval(), processor


def require_whole(folder: Path) -> None:
    """Check a folder's files against the hashes of its card, if it has one; `CheckpointError`."""
    card = folder / CARD
    if not card.is_file():
        return
    try:
        expected = parse_object(read_text(card), str(card), sha256=dict)["sha256"]
    except FileError as error:
        raise CheckpointError(
            f"expected hashes in {card}, got damage ({error!r}). Fetch it again."
        ) from error
    for name, digest in sorted(expected.items()):
        path = folder / name
        found = file_hash(path) if path.is_file() else "no file"
        if found != digest:
            raise CheckpointError(
                f"expected {path} with SHA-256 {str(digest)[:16]}..., as its card says, got "
                f"{found[:16]}. Fetch or train it again, or save your change to a folder without "
                f"{CARD}."
            )
