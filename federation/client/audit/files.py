"""A copy of the audit log as plain files, and its check, which needs nothing but the files and the log's public key.

    entries.jsonl   canonical JSON, one entry a line
    checkpoint      the signed tree head
    tile/           hashes of the tree as C2SP static tiles: from them a changed line is found, not only noticed

Source: https://c2sp.org/tlog-tiles
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from federation.client.audit.check import MAX_ENTRY_BYTES, AuditReport, LogCheck
from federation.core.checkpoint import MAX_NOTE_CHARS, Checkpoint, VerifierKey, open_checkpoint, parse_verifier_key
from federation.core.errors import AuditError, ConfigError, Reason
from federation.core.merkle import HASH_BYTES, GrowingTree, NodeReader, root_of

ENTRIES_FILE = "entries.jsonl"
CHECKPOINT_FILE = "checkpoint"
TILE_WIDTH = 256
_TILE_HEIGHT = 8


def verify_folder(folder: Path, vkey: str, state_path: Path | None = None) -> AuditReport:
    """Checks a copy that ``AuditVerifier.export`` made, wherever it has been since.

    Args:
        folder: The copy.
        vkey: The log's public key as text; take it from the invitation, not from beside the copy.
        state_path: Where the last checkpoint that verified is kept: a copy that is not older must hold its tree.

    Raises:
        AuditError: AUDIT_BROKEN, naming the first broken entry or file.
        ConfigError: MISSING_FILE; BAD_CONFIG for the key.
    """
    key = parse_verifier_key(vkey)
    try:
        note = (folder / CHECKPOINT_FILE).read_bytes()[: MAX_NOTE_CHARS * 4]
        checkpoint = open_checkpoint(note.decode(), key)
        seen = None if state_path is None else last_seen(state_path, key)
        check = LogCheck(seen if seen is not None and seen.size <= checkpoint.size else None)
        for entry in _lines(folder / ENTRIES_FILE):
            check.add(entry)
        report = check.finish(checkpoint, lambda node: _locate(folder, checkpoint, node))
        for name, content in tiles(check.leaf_hashes):
            if (folder / name).read_bytes() != content:
                raise AuditError(Reason.AUDIT_BROKEN, item=name)
    except UnicodeDecodeError as exc:
        raise AuditError(Reason.AUDIT_BROKEN, item="form of the checkpoint") from exc
    except OSError as exc:
        raise ConfigError(Reason.MISSING_FILE, item=str(exc.filename or folder)) from exc
    return report


def last_seen(path: Path, key: VerifierKey) -> Checkpoint | None:
    """The checkpoint that a verifier remembers, None before its first check. Raises AuditError for a damaged file."""
    try:
        note = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return open_checkpoint(note.decode(), key)
    except (UnicodeDecodeError, AuditError) as exc:
        fix = "Restore it; only if you accept that earlier history is not compared, remove it."
        raise AuditError(Reason.AUDIT_BROKEN, item=f"state file {path}", fix=fix) from exc


def tiles(leaf_hashes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of a tree's hash tiles, each 256 nodes wide and eight levels high; the last may be partial."""
    rows: dict[int, list[bytes]] = {}
    tree = GrowingTree()
    for value in leaf_hashes:
        for level, _index, made in tree.append(value):
            if level % _TILE_HEIGHT == 0:
                rows.setdefault(level // _TILE_HEIGHT, []).append(made)
    for height, row in rows.items():
        for start in range(0, len(row), TILE_WIDTH):
            part = row[start : start + TILE_WIDTH]
            yield tile_path(height, start // TILE_WIDTH, len(part)), b"".join(part)


def tile_path(height: int, number: int, width: int) -> str:
    """Where a tile lies: 1234067 is written x001/x234/067, and a partial tile says its width."""
    name = f"{number % 1000:03}"
    while number := number // 1000:
        name = f"x{number % 1000:03}/{name}"
    return f"tile/{height}/{name}" + (f".p/{width}" if width < TILE_WIDTH else "")


def _locate(folder: Path, checkpoint: Checkpoint, node: NodeReader) -> int | None:
    """The first line that differs from the signed tree, if the tiles still hold that tree."""
    signed: list[bytes] = []
    for start in range(0, checkpoint.size, TILE_WIDTH):
        width = min(TILE_WIDTH, checkpoint.size - start)
        path = folder / tile_path(0, start // TILE_WIDTH, width)
        content = path.read_bytes() if path.is_file() else b""
        signed += [content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)]
    if root_of(signed) != checkpoint.root:
        return None
    return next((index for index, value in enumerate(signed) if node(0, index) != value), None)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number in range(1 << 62):
            line = file.readline(MAX_ENTRY_BYTES + 2)
            if not line:
                return
            if not line.endswith(b"\n"):
                raise AuditError(Reason.AUDIT_BROKEN, item=f"entry {number}: no end of line")
            yield line[:-1]
