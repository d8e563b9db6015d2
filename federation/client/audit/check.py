"""What is checked about an audit log, wherever its entries came from: the tree, the form and the story they tell. Pure.

Tree: the entries hash to the signed root, and an older signed tree is a prefix. Form: each entry is the canonical JSON
of ``{at, body, index, kind}`` with its own index. Story: every outcome belongs to one earlier intent, and no intent has
two. Intents without outcome are not an error but evidence: a release that was under way or was cut off by a crash.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from federation.core.canonical import canonical_json
from federation.core.checkpoint import Checkpoint
from federation.core.clock import from_text
from federation.core.errors import AuditError, EntenteError, Reason
from federation.core.merkle import (
    HASH_BYTES,
    GrowingTree,
    NodeReader,
    inclusion_path,
    leaf_hash,
    range_root,
    verify_inclusion,
)

MAX_ENTRY_BYTES = 1 << 20
INTENT = "intent"
CLOSING = ("outcome", "failed")
_FIELDS = {"index", "at", "kind", "body"}


@dataclass(frozen=True)
class AuditReport:
    """A log that was found intact."""

    old_size: int | None  # at the last check; None: this was the first
    size: int
    root: str  # hexadecimal
    kinds: Mapping[str, int]  # entries by kind
    open_intents: tuple[int, ...]  # releases that were announced and have neither outcome nor failure

    @property
    def summary(self) -> str:
        """One plain line."""
        grew = f"{self.size} entries" if self.old_size is None else f"grew from {self.old_size} to {self.size}"
        unfinished = f"; intents without outcome: {len(self.open_intents)}" if self.open_intents else ""
        return f"{grew}, intact{unfinished}"


class LogCheck:
    """Takes entries in order, then compares with a checkpoint.

    The tree is judged before form and story: where an entry was changed, its index is the news, not what the change
    does to entries after it.

    Args:
        seen: The checkpoint of the last check, already verified.
    """

    def __init__(self, seen: Checkpoint | None = None) -> None:
        self._seen, self._seen_root = seen, None if seen is None or seen.size else GrowingTree().root()
        self._tree = GrowingTree()
        self._hashes = bytearray()
        self._problem: AuditError | None = None
        self._kinds: Counter[str] = Counter()
        self._open: set[int] = set()

    @property
    def size(self) -> int:
        """Entries taken."""
        return self._tree.size

    @property
    def leaf_hashes(self) -> Sequence[bytes]:
        """Of every entry taken."""
        return [bytes(self._hashes[at : at + HASH_BYTES]) for at in range(0, len(self._hashes), HASH_BYTES)]

    def add(self, entry: bytes) -> None:
        """Takes the next entry. Its faults are kept for ``finish``."""
        index = self._tree.size
        value = leaf_hash(entry)
        self._hashes += value
        self._tree.append(value)
        if self._seen is not None and self._seen.size == self._tree.size:
            self._seen_root = self._tree.root()
        if self._problem is None:
            try:
                self._read(index, entry)
            except AuditError as exc:
                self._problem = exc

    def finish(self, checkpoint: Checkpoint, first_broken: Callable[[NodeReader], int | None]) -> AuditReport:
        """The report, or why there is none.

        Args:
            checkpoint: Verified; says what the entries must hash to.
            first_broken: Finds the first entry that the checkpoint does not cover, given the nodes of the tree of what
                was taken; None where it cannot be told.

        Raises:
            AuditError: AUDIT_BROKEN, naming the first broken entry or what else is wrong.
        """
        if self._seen is not None and checkpoint.size < self._seen.size:
            raise _broken(f"the log shrank from {self._seen.size} to {checkpoint.size} entries")
        if self.size != checkpoint.size:
            raise _broken(f"entry {min(self.size, checkpoint.size)}: got {self.size} entries of {checkpoint.size}")
        if self._tree.root() != checkpoint.root:
            index = first_broken(self._nodes())
            raise _broken("the entries are not those that were signed" if index is None else f"entry {index}")
        if self._seen is not None and self._seen_root != self._seen.root:
            raise _broken(f"history before entry {self._seen.size} was rewritten since the last check")
        if self._problem is not None:
            raise self._problem
        old_size = None if self._seen is None else self._seen.size
        open_intents = tuple(sorted(self._open))
        return AuditReport(old_size, self.size, checkpoint.root.hex(), dict(self._kinds), open_intents)

    def _read(self, index: int, entry: bytes) -> None:
        try:
            value = json.loads(entry) if len(entry) <= MAX_ENTRY_BYTES else None
            canonical = canonical_json(value) == entry
        except (ValueError, RecursionError, EntenteError) as exc:
            raise _broken(f"entry {index}: not JSON") from exc
        if not canonical or not isinstance(value, dict) or set(value) != _FIELDS:
            raise _broken(f"entry {index}: wrong form")
        if value["index"] != index or not isinstance(value["body"], dict):
            raise _broken(f"entry {index}: wrong index or body")
        try:
            from_text(value["at"])
        except (EntenteError, TypeError) as exc:
            raise _broken(f"entry {index}: wrong time") from exc
        kind = str(value["kind"])
        self._kinds[kind] += 1
        if kind == INTENT:
            self._open.add(index)
        elif kind in CLOSING:
            intent = value["body"].get("intent")
            if type(intent) is not int or intent not in self._open:
                raise _broken(f"entry {index}: {kind} without an open intent")
            self._open.remove(intent)

    def _nodes(self) -> NodeReader:
        return node_reader(self.leaf_hashes)


def node_reader(leaf_hashes: Sequence[bytes]) -> NodeReader:
    """All complete nodes of a tree, from the hashes of its leaves."""
    tree, nodes = GrowingTree(), {}
    for value in leaf_hashes:
        for level, index, made in tree.append(value):
            nodes[level, index] = made
    return lambda level, index: nodes[level, index]


def locate_by_proofs(
    node: NodeReader, checkpoint: Checkpoint, proof_of: Callable[[int], Sequence[bytes]]
) -> int | None:
    """The first entry that differs from the signed tree, found with O(log^2 size) inclusion proofs.

    A proof that verifies for one leaf also authenticates its sibling subtrees; the leftmost of them that hashes
    otherwise here holds the first difference, if the leaves before it agree. They do: the search moves to the right.

    Args:
        node: Nodes of the tree over the entries at hand; as many entries as the checkpoint says.
        checkpoint: Verified.
        proof_of: The log's inclusion proof of an entry at the checkpoint's size.
    """
    index = 0
    while index < checkpoint.size:
        proof = proof_of(index)
        if not verify_inclusion(node(0, index), index, checkpoint.size, proof, checkpoint.root):
            return index
        path = inclusion_path(index, checkpoint.size)
        differing = [
            leaves[0]
            for leaves, value in zip(path, proof, strict=True)
            if leaves[0] > index and range_root(node, leaves) != value
        ]
        if not differing:
            return None
        index = min(differing)
    return None


def _broken(item: str) -> AuditError:
    return AuditError(Reason.AUDIT_BROKEN, item=item)
