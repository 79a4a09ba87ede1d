"""Where do a clip's captions sit in the space of a sentence embedding model?

A clip is the mean of its captions' embeddings, of length 1 (Algorithm 1 of the paper). Chunks of
clips are files on disk, keyed by model and captions: a stopped run goes on where it was.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.progress import track
from tokenizers import Tokenizer

from hooked_omni.errors import ManifestError, UnknownModelError
from hooked_omni.files import digest, file_hash, write_whole

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PAPERS = "Qwen/Qwen3-Embedding-8B"
# Qwen3-Embedding takes an instruction, in its own form. The paper does not say which it used: this
# is ours, the same for both sides, since pictures and sounds are compared as equals.
_QWEN_TASK = "Retrieve semantically similar text."
_CHUNK = 256  # clips to a file
_OF_MODEL = (".json", ".safetensors", ".bin", ".txt", ".model")

Embeddings = Float[np.ndarray, "clip d_model"]


def embed(
    captions: Sequence[Sequence[str]],
    model: str = MODEL,
    cache_folder: Path | None = None,
    instruct: str | None = None,
    device: str | None = None,
) -> Embeddings:
    """Unit embedding of each clip: the mean over its captions.

    Example:
        >>> embed([["a dog barks", "barking"], ["rain falls"]]).shape
        (2, 384)

    Args:
        captions: For each clip at least one caption.
        model: A sentence-transformers model: a name on the Hugging Face hub, or a folder.
        cache_folder: Where to keep what is done; None keeps nothing.
        instruct: The task, for models that take one; "" is none. None means none, except for
            Qwen3-Embedding, which gets its own.
        device: Such as "cuda"; None lets sentence-transformers choose.

    Raises:
        ManifestError: If a clip has no caption, or one that is longer than the model reads.
        UnknownModelError: If the model cannot be loaded.
    """
    captions = [[text for text in own if text.strip()] for own in captions]
    bare = [i for i, own in enumerate(captions) if not own]
    if bare or not captions:
        raise ManifestError(
            f"expected at least one caption for each of {len(captions)} clips, got none for clips "
            f"{bare[:5]}. Leave them out, or caption them first."
        )
    prompt = instruction(model, instruct)
    parts = [captions[start : start + _CHUNK] for start in range(0, len(captions), _CHUNK)]
    done, made_by = [], fingerprint(model) if cache_folder else []
    for part in track(parts, "embedding captions", disable=len(parts) < 2):
        key = digest("read whole", made_by, prompt, part)
        path = cache_folder / f"{key}.npz" if cache_folder else None
        means = _read(path, len(part))
        if means is None:
            if cut := too_long([text for own in part for text in own], model, instruct, device):
                raise ManifestError(
                    f"expected captions that {model} reads whole, got {len(cut)} that it would cut "
                    f"off: {'; '.join(list(cut.values())[:3])}. Shorten them, leave them out, or "
                    "take a model that reads more."
                )
            means = _means(_load(model, device, *fingerprint(model)), part, prompt)
            if path is not None:
                file = io.BytesIO()
                np.savez(file, means=means)
                write_whole(path, file.getvalue())
        done.append(means)
    return np.concatenate(done)


def instruction(model: str, instruct: str | None = None) -> str:
    """What stands before every caption, in Qwen3-Embedding's form."""
    if instruct is None:
        instruct = _QWEN_TASK if "qwen3-embedding" in model.lower() else ""
    return f"Instruct: {instruct}\nQuery:" if instruct else ""


def unlike_the_paper(made: Mapping[str, Any]) -> str:
    """What a manifest's header says of another embedder than the paper's; empty for the same."""
    while made.get("by") != "pairs" and isinstance(made.get("from"), Mapping):
        made = made["from"]
    model = str(made.get("model", PAPERS))
    same = made.get("by") != "pairs" or Path(model).name == Path(PAPERS).name
    return "" if same else f"pairs were chosen by {model}, in the paper by {PAPERS}"


def too_long(
    texts: Sequence[str], model: str, instruct: str | None = None, device: str | None = None
) -> dict[str, str]:
    """Each text that is longer than the model reads, instruction included, and by how much.

    The model's own tokenizer reads it as it will, and without a limit: what differs was cut off.
    """
    loaded, prompt = _load(model, device, *fingerprint(model)), instruction(model, instruct)
    most = getattr(getattr(loaded[0], "config", None), "max_position_embeddings", None) or np.inf
    cut = {}
    for text in texts:
        whole, read = (
            loaded.preprocess([text], prompt=prompt, processing_kwargs={"text": options})
            for options in ({"truncation": False, "verbose": False}, {})
        )
        n_whole, n_read = whole["input_ids"].numel(), min(read["input_ids"].numel(), most)
        if n_whole > n_read:
            cut[text] = f"{n_whole} tokens, of which it reads {n_read}, in {text[:60]!r}"
    return cut


def _means(model: Any, captions: Sequence[Sequence[str]], prompt: str) -> Embeddings:
    texts = [text for own in captions for text in own]
    vectors = model.encode(texts, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
    vectors, ends = np.asarray(vectors, dtype=np.float32), np.cumsum([len(own) for own in captions])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths < 1e-6).any():
        raise ManifestError(
            "expected captions to embed to finite vectors that do not cancel out, got some that "
            "do. Is this a sentence embedding model? Try another."
        )
    return means / lengths


@lru_cache(maxsize=1)
def _load(model: str, device: str | None, *files: str) -> Any:
    # Takes seconds, and is not needed when all is cached.
    from sentence_transformers import SentenceTransformer

    try:
        loaded = SentenceTransformer(model, device=device)
    except Exception as error:  # whatever hub, tokenizer and weights raise: the way out is the same
        raise UnknownModelError(
            f"expected a sentence-transformers model, got {model!r}, which does not load "
            f"({type(error).__name__}: {str(error)[:300]}). Give a folder that holds one, or a "
            f"name on the Hugging Face hub and a network."
        ) from error
    if isinstance(loaded.tokenizer, Tokenizer):
        # Of static embeddings, which have no limit; one that was saved with it would cut unseen.
        loaded.tokenizer.no_truncation()
    return loaded


def fingerprint(model: str) -> list[str]:
    """Contents of a folder's files, not its place: another model at the same path is another."""
    folder, hashes = Path(model), []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in _OF_MODEL:
            seen = file.stat()
            content = _content(file, seen.st_size, seen.st_mtime_ns, seen.st_ino)
            hashes.append(f"{file.relative_to(folder).as_posix()} {content}")
    return [folder.name, *hashes] if folder.is_dir() else [model]


@cache
def _content(path: Path, *seen: int) -> str:
    """Hash of a file, read again only if it seems to be another: weights are gigabytes."""
    return file_hash(path)


def _read(path: Path | None, n_clips: int) -> Embeddings | None:
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            means = file["means"]
            whole = means.ndim == 2 and len(means) == n_clips and np.isfinite(means).all()
    except Exception:  # numpy, zipfile and zlib raise their own each for a damaged file
        return None
    return means if whole else None
