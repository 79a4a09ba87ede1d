"""Where are the similarities of chosen pictures to chosen sounds kept?

In a file beside the manifest, for its page; of a large set, those of evenly spaced samples.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from hooked_omni.files import write_whole

_MOST = 1000  # samples

Similarity = Float[np.ndarray, "picture sound"]


def matrix_path(manifest: Path) -> Path:
    """The file that belongs to a manifest."""
    return manifest.with_name(f"{manifest.stem}.similarity.npz")


def write_matrix(
    manifest: Path,
    ids: Sequence[str],
    e_video: Float[np.ndarray, "sample d_model"],
    e_audio: Float[np.ndarray, "sample d_model"],
) -> None:
    """Write the cosines of all pictures and all sounds, from their unit embeddings."""
    kept = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _MOST)).astype(int))
    file, names = io.BytesIO(), np.array([ids[i] for i in kept])
    np.savez_compressed(file, ids=names, similarity=e_video[kept] @ e_audio[kept].T)
    write_whole(matrix_path(manifest), file.getvalue())


def read_matrix(manifest: Path, kinds: Mapping[str, str]) -> tuple[Similarity, list[str]] | None:
    """The matrix and its samples' kinds; None if there is none, or it is of other samples.

    `kinds` has the kind of each sample of the manifest by id.
    """
    try:
        with np.load(matrix_path(manifest), allow_pickle=False) as file:
            ids, similarity = [str(one) for one in file["ids"]], file["similarity"]
            square = similarity.shape == (len(ids),) * 2 and bool((abs(similarity) < 1.01).all())
    except Exception:  # numpy, zipfile and zlib raise their own each for a damaged file
        return None
    fits = square and len(ids) > 0 and kinds.keys() >= set(ids)
    return (similarity, [kinds[one] for one in ids]) if fits else None
