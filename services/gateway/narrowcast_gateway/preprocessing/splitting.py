"""Train, validation and test by document, with near-duplicates on one side.

Normal reports are typed over a template and differ in a few words; if one of them lies in
train and its twin in test, the test measures memory. Rows that are nearly the same form a
cluster, and a cluster is never divided.
"""

import hashlib
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from narrowcast.errors import InvalidInput

# Rows are near-duplicates from this Jaccard similarity of their sets of three-word runs. One
# other word in a text of sixty gives 0.9, two 0.81. Of 3,000 synthetic reports typed over few
# templates it joins half a percent; lower values begin to join different findings.
NEAR_DUPLICATE_SIMILARITY = 0.8
SHINGLE_WORDS = 3
# datasketch's usual number.
PERMUTATIONS = 128

# Numbers count: two reports that differ in sizes alone are the same template.
_WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True)
class SplitInput:
    """One row to be placed.

    Attributes:
        row_id: the caller's id of the row.
        document_id: rows of one document stay together.
        text: what similarity is judged by; description and conclusion.
    """

    row_id: str
    document_id: str
    text: str


@dataclass(frozen=True)
class Split:
    """Where each row went, in the order given, and what was found on the way.

    Attributes:
        train, validation, test: row ids.
        clusters: groups of rows kept together, single rows included.
        exact_duplicates: rows whose words equal those of an earlier row.
        near_duplicates: further rows that are nearly the same as an earlier one.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    clusters: int
    exact_duplicates: int
    near_duplicates: int


class _Clusters:
    """Union-find over row positions."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> bool:
        """Join two clusters; whether they were two."""
        first, second = sorted((self.root(one), self.root(other)))
        self._parent[second] = first
        return first != second


def split_rows(rows: Sequence[SplitInput], *, seed: int, validation: float, test: float) -> Split:
    """Place every row; the same rows and seed always give the same split.

    Similarity is the Jaccard index of sets of three-word shingles, of the pairs MinHash LSH
    proposes; rows at ``NEAR_DUPLICATE_SIMILARITY`` or above are joined, transitively. Test is filled first,
    then validation, from clusters in a seeded random order; a cluster larger than what a side
    still lacks goes to train. With three clusters or more, test and validation get at least
    one each, the smallest where none fits.

    Args:
        rows: any number; 100,000 take about a minute and half a gigabyte.
        seed: of the order of clusters.
        validation: share of rows, at least 0 and with ``test`` below 1.
        test: share of rows.

    Raises:
        InvalidInput: ``invalid_split`` for shares out of range.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        message = "The shares of validation and test must be 0 or more and sum to less than 1."
        raise InvalidInput(message, code="invalid_split")
    clusters = _Clusters(len(rows))
    _join_documents(rows, clusters)
    exact, near = _join_duplicates(rows, clusters)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in range(len(rows)):
        groups[clusters.root(position)].append(position)
    side = _place(list(groups.values()), len(rows), seed, {"test": test, "validation": validation})
    chosen = {
        name: tuple(row.row_id for position, row in enumerate(rows) if side[position] == name)
        for name in _SIDES
    }
    return Split(chosen["train"], chosen["validation"], chosen["test"], len(groups), exact, near)


_SIDES = ("train", "validation", "test")


def _join_documents(rows: Sequence[SplitInput], clusters: _Clusters) -> None:
    first: dict[str, int] = {}
    for position, row in enumerate(rows):
        clusters.join(first.setdefault(row.document_id, position), position)


def _join_duplicates(rows: Sequence[SplitInput], clusters: _Clusters) -> tuple[int, int]:
    """Join equal and similar rows; returns how many there were of each."""
    first: dict[bytes, int] = {}
    exact = near = 0
    index = MinHashLSH(threshold=_CANDIDATE_SIMILARITY, num_perm=PERMUTATIONS)
    shingles: dict[int, npt.NDArray[np.uint32]] = {}
    # Copying an empty sketch spares drawing the permutations anew for every row.
    empty = MinHash(num_perm=PERMUTATIONS, seed=_SKETCH_SEED, hashfunc=int)
    for position, row in enumerate(rows):
        words = _WORD.findall(row.text.lower().replace("ё", "е"))
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        earlier = first.setdefault(digest, position)
        if earlier != position:
            clusters.join(earlier, position)
            exact += 1
            continue
        hashes = _shingle_hashes(words)
        sketch = empty.copy()
        sketch.update_batch(hashes.tolist())
        similar = False
        for candidate in index.query(sketch):
            joined = clusters.root(candidate) == clusters.root(position)
            # What is in the cluster already need not be compared.
            if joined or _jaccard(hashes, shingles[candidate]) >= NEAR_DUPLICATE_SIMILARITY:
                clusters.join(candidate, position)
                similar = True
        near += similar
        shingles[position] = hashes
        index.insert(position, sketch, check_duplication=False)
    return exact, near


# Of the hash permutations; any constant does, changing it changes splits.
_SKETCH_SEED = 1
# The index finds pairs at its threshold half of the time only, so it is asked for less similar
# ones; the exact index of the candidates decides.
_CANDIDATE_SIMILARITY = 0.65


def _shingle_hashes(words: list[str]) -> npt.NDArray[np.uint32]:
    """Sorted hashes of the runs of ``SHINGLE_WORDS`` words; of all words where there are fewer."""
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    runs = (" ".join(words[start : start + SHINGLE_WORDS]) for start in range(count))
    return np.unique(np.fromiter((zlib.crc32(run.encode()) for run in runs), np.uint32, count))


def _jaccard(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> float:
    """Shared to all members of two sorted sets."""
    shared = np.intersect1d(one, other, assume_unique=True).size
    return float(shared / (one.size + other.size - shared))


def _place(groups: list[list[int]], total: int, seed: int, shares: dict[str, float]) -> dict[int, str]:
    left = list(groups)
    random.Random(seed).shuffle(left)  # noqa: S311 - reproducible, not secret
    side: dict[int, str] = {}
    asked = [name for name, share in shares.items() if share > 0]
    for name in asked:
        # Every side, train included, is to get something where there is enough to go round.
        if len(groups) > len(asked):
            left = _fill(name, max(1, round(total * shares[name])), left, side, must=True)
        else:
            left = _fill(name, round(total * shares[name]), left, side, must=False)
    for group in left:
        side.update(dict.fromkeys(group, "train"))
    return side


def _fill(
    name: str, quota: int, groups: list[list[int]], side: dict[int, str], *, must: bool
) -> list[list[int]]:
    """Give clusters to ``name`` while they fit; returns those left."""
    taken: list[int] = []
    lacking = quota
    for number, group in enumerate(groups):
        if len(group) <= lacking:
            taken.append(number)
            lacking -= len(group)
    if must and not taken:
        taken = [min(range(len(groups)), key=lambda number: len(groups[number]))]
    for number in taken:
        side.update(dict.fromkeys(groups[number], name))
    chosen = set(taken)
    return [group for number, group in enumerate(groups) if number not in chosen]
