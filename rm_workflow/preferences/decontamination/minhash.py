"""MinHash bands: texts whose sets of words are alike share at least one (Broder 1997; Leskovec et al., ch. 3)."""

import numpy as np

from rm_workflow.catalog.models import NearDuplicate
from rm_workflow.preferences.decontamination.words import HashedWords, Hashes, Indices, hash_stretches

SEED = 0
# The least chance that two texts exactly at the threshold share a band.
RECALL = 0.99


def rows_of_band(near_duplicate: NearDuplicate) -> int:
    """Return the number of signature values in a band: as many as keep ``RECALL`` at the threshold.

    Two texts of similarity s share a band of r values with probability s**r, and one of b bands with 1 - (1 - s**r)**b.
    More values in a band mean fewer candidates.
    """
    threshold, permutations = near_duplicate.threshold, near_duplicate.permutations
    recalls = {rows: 1 - (1 - threshold**rows) ** (permutations // rows) for rows in range(1, permutations + 1)}
    return max((rows for rows, recall in recalls.items() if recall >= RECALL), default=1)


def bands(hashed: HashedWords, texts: Indices, near_duplicate: NearDuplicate) -> Hashes:
    """Return the bands of some texts, a row each; texts without words share all of theirs.

    Args:
        texts: indices into ``hashed``, ascending.
    """
    import rensa

    chosen = np.isin(hashed.texts, texts)
    offsets = np.concatenate([[0], np.cumsum(hashed.lengths[texts])]).astype(np.uint64)
    permutations = near_duplicate.permutations
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashed.hashes[chosen], offsets, permutations, SEED)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), permutations)
    rows = rows_of_band(near_duplicate)
    num_bands = permutations // rows
    # The number of the band goes into its hash, so that bands are compared with their like alone.
    numbered = np.empty((len(texts), num_bands, rows + 1), dtype=np.uint64)
    numbered[:, :, 0] = np.arange(num_bands)
    numbered[:, :, 1:] = signatures[:, : num_bands * rows].reshape(len(texts), num_bands, rows)
    first = np.arange(0, numbered.size, rows + 1)
    return hash_stretches(numbered.ravel(), first, first + rows + 1).reshape(len(texts), num_bands)
