"""Which sequences are scored together: the passes of one scoring, decided on the token ids alone.

- ``shared``: rows of segments, and the tokens that sequences begin with alike stand once. Nobody has to say which
  responses belong to one prompt: sequences are sorted, so that those that begin alike stand side by side. On a CPU this
  goes on within a prompt: of solutions that take the same first steps each of these steps stands once.
- ``packed``: the same without sharing.
- ``padded``: one row a sequence, those of like length together, padded on the right.
- ``alone``: one pass a sequence, so that no bit of a score depends on any other sequence.

Passes come longest first, so that what does not fit into memory fails at once. They are a function of the set of
sequences and of the budget: a scoring that goes on after it was killed repeats none and gives the same bits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from rm_workflow.models.segments import Ids, num_common

Layout = Literal["shared", "packed", "padded", "alone"]
ONE_ROW = frozenset({"shared", "packed"})
# A segment more costs about as much as computing a token or two.
NESTED_FROM = 8


@dataclass(frozen=True)
class Tree:
    """Sequences whose first ``num_common`` tokens are the same, by their numbers.

    Attributes:
        num_tokens: that it computes when it stands alone.
        inner: trees of some of its members that have more tokens in common.
    """

    members: tuple[int, ...]
    num_common: int
    num_tokens: int
    inner: tuple["Tree", ...] = ()

    @property
    def leaves(self) -> tuple[int, ...]:
        """Return the members that are in no inner tree."""
        within = {member for tree in self.inner for member in tree.members}
        return tuple(member for member in self.members if member not in within)


@dataclass(frozen=True)
class Pass:
    """What one forward pass computes.

    Attributes:
        members: the numbers of its sequences.
        trees: how they lie in one row; empty where each has a padded row of its own.
    """

    members: tuple[int, ...]
    trees: tuple[Tree, ...] = ()


def passes(sequences: Sequence[Ids], layout: Layout, budget: int, nests: bool = False) -> list[Pass]:
    """Return the passes over sequences that are all different and sorted by their ids.

    Args:
        budget: tokens of one pass, padding included; one longer sequence still makes a pass.
        nests: ``shared`` shares within a tree too.
    """
    if layout == "shared":
        found = nested_trees(sequences) if nests else trees(sequences)
        return _in_rows(list(_within_budget(found, sequences, budget, nests)), budget)
    if layout == "packed":
        return _in_rows([_tree([member], 0, sequences) for member in range(len(sequences))], budget)
    longest_first = sorted(range(len(sequences)), key=lambda member: -len(sequences[member]))
    if layout == "alone":
        return [Pass((member,)) for member in longest_first]
    return list(_padded(longest_first, sequences, budget))


def num_computed(sequences: Sequence[Ids], planned: Iterable[Pass]) -> int:
    """Return the tokens that passes compute, padding included."""
    return sum(
        sum(tree.num_tokens for tree in one.trees)
        if one.trees
        else len(one.members) * max(len(sequences[member]) for member in one.members)
        for one in planned
    )


def _padded(longest_first: Sequence[int], sequences: Sequence[Ids], budget: int) -> Iterator[Pass]:
    start = 0
    while start < len(longest_first):
        num_rows = max(1, budget // len(sequences[longest_first[start]]))
        yield Pass(tuple(longest_first[start : start + num_rows]))
        start += num_rows


def _in_rows(found: list[Tree], budget: int) -> list[Pass]:
    """Lay trees in rows within a budget, the largest first."""
    rows: list[list[Tree]] = []
    room = 0
    for tree in sorted(found, key=lambda tree: (-tree.num_tokens, tree.members)):
        if not rows or tree.num_tokens > room:
            rows.append([])
            room = budget
        rows[-1].append(tree)
        room -= tree.num_tokens
    return [Pass(tuple(member for tree in row for member in tree.members), tuple(row)) for row in rows]


def _within_budget(found: Iterable[Tree], sequences: Sequence[Ids], budget: int, nests: bool) -> Iterator[Tree]:
    """Cut trees that are larger than the budget; every part begins with the common tokens again."""
    for tree in found:
        part: list[int] = []
        num_tokens = tree.num_common
        for member in tree.members:
            num_own = len(sequences[member]) - tree.num_common
            # In a nested tree a member shares all but the last few tokens that it could with the one before it.
            more = num_common(sequences[part[-1]], sequences[member]) + 1 - NESTED_FROM if nests and part else 0
            num_new = min(num_own, len(sequences[member]) - more)
            if part and num_tokens + num_new > budget:
                yield _tree(part, tree.num_common, sequences, nests)
                part, num_tokens, num_new = [], tree.num_common, num_own
            part.append(member)
            num_tokens += num_new
        yield _tree(part, tree.num_common, sequences, nests)


def _tree(members: Sequence[int], common: int, sequences: Sequence[Ids], nests: bool = False) -> Tree:
    """Return a tree; one sequence alone shares nothing."""
    common = common if len(members) > 1 else 0
    tree = Tree(tuple(members), common, 0, tuple(_inner(members, common, sequences)) if nests else ())
    num_own = sum(len(sequences[member]) - common for member in tree.leaves)
    num_inner = sum(inner.num_tokens - common for inner in tree.inner)
    return replace(tree, num_tokens=common + num_own + num_inner)


def nested_trees(sequences: Sequence[Ids]) -> list[Tree]:
    """Return each sequence in one tree, which holds trees of those that have more in common, and so on."""
    whole = _tree(range(len(sequences)), 0, sequences, True)
    return [*whole.inner, *(_tree([member], 0, sequences) for member in whole.leaves)]


def _inner(members: Sequence[int], common: int, sequences: Sequence[Ids]) -> Iterator[Tree]:
    """Yield the trees of sorted members that have at least ``NESTED_FROM`` more tokens in common."""
    run, least = [members[0]], 0
    for before, member in pairwise(members):
        shared = num_common(sequences[before], sequences[member])
        if shared >= common + NESTED_FROM:
            least = min(least, shared) if len(run) > 1 else shared
            run.append(member)
            continue
        if len(run) > 1:
            yield _tree(run, least, sequences, True)
        run = [member]
    if len(run) > 1:
        yield _tree(run, least, sequences, True)


def trees(sequences: Sequence[Ids]) -> list[Tree]:
    """Return each sequence in one tree, so that sharing leaves few tokens to compute.

    Sorted sequences that have v tokens in common are neighbours, and such runs lie inside one another: all under the
    template's first words, those of one prompt within. A run becomes one tree, or leaves those of its inner runs to
    themselves that save more.
    """
    open_runs = [_Run(0)]
    for member in range(len(sequences)):
        is_last = member + 1 == len(sequences)
        common = 0 if is_last else num_common(sequences[member], sequences[member + 1])
        closed = _Settled(1, 0, [([member], 0)])
        while open_runs[-1].num_common > common:
            open_runs[-1].inner.append(closed)
            closed = open_runs.pop().settled()
        if open_runs[-1].num_common < common:
            open_runs.append(_Run(common))
        open_runs[-1].inner.append(closed)
    return [_tree(members, common, sequences) for members, common in open_runs[0].settled().groups]


@dataclass(frozen=True)
class _Settled:
    """A run of neighbours with the groups that share: members and the number of their common tokens.

    Attributes:
        saved: tokens that need not be computed.
    """

    num_members: int
    saved: int
    groups: list[tuple[list[int], int]]


@dataclass
class _Run:
    """Neighbours that begin with ``num_common`` equal tokens, as the runs inside it."""

    num_common: int
    inner: list[_Settled] = field(default_factory=list)

    def settled(self) -> _Settled:
        """Join the inner runs that gain by it; one alone gains nothing."""
        gains = [self.num_common > 0 and run.num_members * self.num_common >= run.saved for run in self.inner]
        if sum(gains) < 2:
            gains = [False] * len(gains)
        joining = [run for run, gain in zip(self.inner, gains, strict=True) if gain]
        joined = [member for run in joining for members, _ in run.groups for member in members]
        apart = [run for run, gain in zip(self.inner, gains, strict=True) if not gain]
        groups = [group for run in apart for group in run.groups]
        saved = sum(run.saved for run in apart) + max(0, len(joined) - 1) * self.num_common
        if joined:
            groups.append((joined, self.num_common))
        return _Settled(sum(run.num_members for run in self.inner), saved, groups)
