"""Which sound goes to which picture, so that the pairs are as unlike as can be?

The Hungarian assignment that minimizes the sum of similarities (Algorithm 1 of the paper), with
forbidden cells. For sets too large for one matrix, the same inside random blocks: every block is
optimal, and what is lost is the choice between blocks.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from hooked_omni.errors import ManifestError

Similarity = Float[np.ndarray, "video audio"]
Forbidden = Bool[np.ndarray, "video audio"]
Clips = Int[np.ndarray, " clip"]


def assign(similarity: Similarity, forbidden: Forbidden) -> Int[np.ndarray, " video"]:
    """The sound of each picture, each used once, so that the sum of similarities is the least.

    Example:
        >>> assign(np.array([[0.9, 0.1], [0.2, 0.8]]), np.eye(2, dtype=bool))
        array([1, 0])

    Args:
        similarity: Cosine similarity of each picture to each sound.
        forbidden: True where a picture must not get that sound.

    Raises:
        ManifestError: If every assignment uses a forbidden cell, or a similarity is no number.
    """
    if bad := int((~np.isfinite(similarity)).sum()):
        raise ManifestError(
            f"expected finite similarities, got {bad} that are not. Look for captions that embed "
            f"to nothing."
        )
    cost = np.array(similarity, dtype=np.float64)
    cost[forbidden] = np.inf
    try:
        return linear_sum_assignment(cost)[1]
    except ValueError as error:
        raise _no_way(forbidden) from error


def assign_in_blocks(
    e_video: Float[np.ndarray, "clip d_model"],
    e_audio: Float[np.ndarray, "clip d_model"],
    forbidden_among: Callable[[Clips], Forbidden],
    block: int,
    seed: int,
) -> Clips:
    """For each clip the clip whose sound it gets, each used once; optimal inside random blocks.

    Memory is that of the embeddings and of one block's matrices (about 14 bytes a cell). With
    `block` at least the number of clips, this is `assign`.

    Args:
        e_video: Unit embeddings of what each clip shows.
        e_audio: Unit embeddings of what each clip sounds like.
        forbidden_among: For some clips, which pairs of them are forbidden.
        block: Most clips in a block (one more where a clip would be left over).
        seed: Which clips share a block.
    """
    chosen = np.full(len(e_video), -1)
    for members in blocks(len(e_video), block, seed):
        similarity = e_video[members] @ e_audio[members].T
        chosen[members] = members[assign(similarity, forbidden_among(members))]
    return chosen


def blocks(n_clips: int, block: int, seed: int) -> list[Clips]:
    """Clips dealt at random into as few blocks as possible, of equal size but for one clip."""
    if block < 2:
        raise ManifestError(f"expected blocks of at least 2 clips, got {block}. Try 4000.")
    # Never a block of one clip, which could only be paired with itself.
    n_blocks = max(1, min(-(-n_clips // block), n_clips // 2))
    order = np.random.default_rng(seed).permutation(n_clips) if n_blocks > 1 else np.arange(n_clips)
    return [np.sort(part) for part in np.array_split(order, n_blocks)]


def _no_way(forbidden: Forbidden) -> ManifestError:
    alone = np.flatnonzero(forbidden.all(axis=1) | forbidden.all(axis=0))
    reason = f"{len(alone)} of them can be paired with no other"
    if not len(alone):
        reason = "too many of them compete for the same few partners"
    return ManifestError(
        f"expected a partner for each of {len(forbidden)} clips, got none: {reason}. Sounds of the "
        f"same video id, or too far apart in duration or loudness, are never paired: widen the "
        f"tolerances, take larger blocks, or leave clips out."
    )
