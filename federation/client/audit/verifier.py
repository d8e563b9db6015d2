"""Checks the gateway's audit log over the wire, remembers what it saw, and makes copies that need no gateway.

Guarantees, when ``AuditVerifier.verify`` returns: the holder of the log's key signed a tree of exactly these entries,
they are well formed, and the tree that this verifier saw last time is a prefix of it. It trusts the log's public key,
which came with the party's invitation, and its own state file. It cannot know what was never logged, nor whether
others are shown another log; for that, parties compare checkpoints.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from federation.client.audit.check import AuditReport, LogCheck, locate_by_proofs
from federation.client.audit.files import CHECKPOINT_FILE, ENTRIES_FILE, last_seen, tiles, verify_folder
from federation.core.checkpoint import Checkpoint, open_checkpoint, parse_verifier_key
from federation.core.errors import AuditError, ConfigError, Reason
from federation.core.files import write_secret
from federation.v1 import audit_pb2
from federation.v1.audit_pb2_grpc import AuditServiceStub

__all__ = ["AuditReport", "AuditVerifier", "verify_folder"]

CALL_S = 30
DOWNLOAD_S = 600


class AuditVerifier:
    """One party's view of the log.

    Args:
        stub: Of the audit service.
        vkey: The log's public key as text, from the invitation.
        state_path: Where the last checkpoint that verified is kept. Losing it loses the memory of what was seen.

    Raises:
        ConfigError: BAD_CONFIG for the key.
    """

    def __init__(self, stub: AuditServiceStub, vkey: str, state_path: Path) -> None:
        self._stub, self._key, self._state = stub, parse_verifier_key(vkey), state_path

    def verify(self) -> AuditReport:
        """Downloads the whole log and checks it; remembers the checkpoint if all is well.

        Raises:
            AuditError: AUDIT_BROKEN, naming the first broken entry or what else is wrong.
            grpc.RpcError: The gateway does not answer, or refuses.
        """
        note, check = self._note(), LogCheck(last_seen(self._state, self._key))
        for entry in self._entries(open_checkpoint(note, self._key)):
            check.add(entry)
        return self._finish(note, check)

    def export(self, folder: Path) -> AuditReport:
        """Checks the log and writes a copy of it, whole or not at all; see ``files`` for what is in it.

        Args:
            folder: Must not exist, or be empty.

        Raises:
            ConfigError: BAD_CONFIG when there is something in the folder.
            AuditError, grpc.RpcError: As ``verify``.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(Reason.BAD_CONFIG, item=f"{folder} is not empty", fix="Choose a new folder.")
        scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
        scratch.mkdir(parents=True)
        try:
            note, check = self._note(), LogCheck(last_seen(self._state, self._key))
            with (scratch / ENTRIES_FILE).open("wb") as file:
                for entry in self._entries(open_checkpoint(note, self._key)):
                    file.write(entry + b"\n")
                    check.add(entry)
            report = self._finish(note, check)
            for name, content in tiles(check.leaf_hashes):
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(content)
            (scratch / CHECKPOINT_FILE).write_bytes(note.encode())
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return report

    def _finish(self, note: str, check: LogCheck) -> AuditReport:
        checkpoint = open_checkpoint(note, self._key)

        def proof_of(index: int) -> list[bytes]:
            request = audit_pb2.GetInclusionProofRequest(index=index, tree_size=checkpoint.size)
            return list(self._stub.GetInclusionProof(request, timeout=CALL_S).hashes)

        report = check.finish(checkpoint, lambda node: locate_by_proofs(node, checkpoint, proof_of))
        write_secret(self._state, note.encode())
        return report

    def _note(self) -> str:
        return self._stub.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=CALL_S).checkpoint

    def _entries(self, checkpoint: Checkpoint) -> Iterator[bytes]:
        """Exactly the entries that the checkpoint covers, in order."""
        if checkpoint.size == 0:  # on the wire, an end of 0 asks for everything
            return
        request = audit_pb2.ListEntriesRequest(start=0, end=checkpoint.size)
        index = 0
        for page in self._stub.ListEntries(request, timeout=DOWNLOAD_S):
            if page.start != index or index + len(page.entries) > checkpoint.size:
                raise AuditError(Reason.AUDIT_BROKEN, item=f"entry {index}: the gateway sent others")
            yield from page.entries
            index += len(page.entries)
