"""One error base, one subclass per gate or protocol, one catalog of reasons.

An error carries a ``Reason`` and the ``item`` it is about. Both may be shown to a peer; ``detail`` is for the log of
the process that raised it and never leaves it. The catalog gives each reason its gRPC status and its public sentence.
"""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why something was refused. The value is what travels as ``ErrorInfo.reason``."""

    # Identity
    NO_CERTIFICATE = "NO_CERTIFICATE"
    BAD_CERTIFICATE = "BAD_CERTIFICATE"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"
    ROLE_NOT_ALLOWED = "ROLE_NOT_ALLOWED"
    PARTY_MISMATCH = "PARTY_MISMATCH"
    BAD_INVITATION = "BAD_INVITATION"
    BAD_CSR = "BAD_CSR"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    UNKNOWN_REQUEST = "UNKNOWN_REQUEST"
    UNKNOWN_CERTIFICATE = "UNKNOWN_CERTIFICATE"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    # Input
    BAD_FIELD = "BAD_FIELD"
    BAD_TIME = "BAD_TIME"
    NOT_CANONICAL = "NOT_CANONICAL"
    TOO_LARGE = "TOO_LARGE"
    MISSING_COLUMN = "MISSING_COLUMN"
    HALF_EMPTY_COLUMN = "HALF_EMPTY_COLUMN"
    BROKEN_ROW = "BROKEN_ROW"
    FILE_SHRANK = "FILE_SHRANK"
    MISSING_FILE = "MISSING_FILE"
    BAD_CONFIG = "BAD_CONFIG"
    # Policy
    POLICY_INVALID = "POLICY_INVALID"
    POLICY_DENIED = "POLICY_DENIED"
    OBLIGATION_FAILED = "OBLIGATION_FAILED"
    UNKNOWN_PROPOSAL = "UNKNOWN_PROPOSAL"
    WRONG_STEP = "WRONG_STEP"
    FOUR_EYES = "FOUR_EYES"
    # Budget
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    BAD_COST = "BAD_COST"
    ANSWER_LOST = "ANSWER_LOST"
    # Audit
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    AUDIT_BROKEN = "AUDIT_BROKEN"
    # Overlap
    BAD_POINT = "BAD_POINT"
    TRUNCATED_STREAM = "TRUNCATED_STREAM"
    BAD_MANIFEST = "BAD_MANIFEST"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    DECOYS_MISSING = "DECOYS_MISSING"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    UNKNOWN_BATCH = "UNKNOWN_BATCH"
    UNKNOWN_EPOCH = "UNKNOWN_EPOCH"
    EPOCH_INCOMPLETE = "EPOCH_INCOMPLETE"
    EPOCH_REPLACED = "EPOCH_REPLACED"
    EPOCH_ABANDONED = "EPOCH_ABANDONED"
    OUT_OF_SEQUENCE = "OUT_OF_SEQUENCE"
    WITHDRAWALS_UNCONFIRMED = "WITHDRAWALS_UNCONFIRMED"
    UNKNOWN_CUBE = "UNKNOWN_CUBE"
    QUESTION_MISFIT = "QUESTION_MISFIT"
    PARTNER_UNAVAILABLE = "PARTNER_UNAVAILABLE"
    NO_ROOM = "NO_ROOM"
    BUILD_FAILED = "BUILD_FAILED"
    # Training
    TOO_FEW_PARTNERS = "TOO_FEW_PARTNERS"
    PROPOSAL_REFUSED = "PROPOSAL_REFUSED"
    RUN_FAILED = "RUN_FAILED"
    RUN_BUSY = "RUN_BUSY"
    RUN_PAUSED = "RUN_PAUSED"
    RUN_STOPPED = "RUN_STOPPED"
    NOT_APPROVED = "NOT_APPROVED"
    NOT_YOURS = "NOT_YOURS"
    TOO_MANY_PROPOSALS = "TOO_MANY_PROPOSALS"
    UNKNOWN_RUN = "UNKNOWN_RUN"
    BAD_UPDATE = "BAD_UPDATE"
    BAD_KEY = "BAD_KEY"
    ATTEMPT_LOST = "ATTEMPT_LOST"
    # Consent and offers
    UNKNOWN_HANDLE = "UNKNOWN_HANDLE"
    TOO_MANY_CONSENTS = "TOO_MANY_CONSENTS"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    TOO_MANY_OFFERS = "TOO_MANY_OFFERS"
    # Anything else
    UNAVAILABLE = "UNAVAILABLE"
    STATE_UNWRITABLE = "STATE_UNWRITABLE"
    STATE_IN_USE = "STATE_IN_USE"
    INTERNAL = "INTERNAL"


class Entry(NamedTuple):
    """What a reason means on the wire."""

    status: str  # name of a grpc.StatusCode
    message: str  # public sentence
    retryable: bool = False


CATALOG: dict[Reason, Entry] = {
    Reason.NO_CERTIFICATE: Entry("UNAUTHENTICATED", "A client certificate of the alliance is required."),
    Reason.BAD_CERTIFICATE: Entry(
        "UNAUTHENTICATED", "The certificate does not name a party and role of this alliance."
    ),
    Reason.CERTIFICATE_REVOKED: Entry("UNAUTHENTICATED", "The certificate was revoked."),
    Reason.CERTIFICATE_EXPIRED: Entry("UNAUTHENTICATED", "The certificate has expired."),
    Reason.ROLE_NOT_ALLOWED: Entry("PERMISSION_DENIED", "The caller's role may not make this call."),
    Reason.PARTY_MISMATCH: Entry("PERMISSION_DENIED", "A field names another party than the caller's certificate."),
    Reason.BAD_INVITATION: Entry("PERMISSION_DENIED", "The invitation is unknown, used or expired."),
    Reason.BAD_CSR: Entry("INVALID_ARGUMENT", "The certificate request is not acceptable."),
    Reason.BAD_SIGNATURE: Entry("PERMISSION_DENIED", "A signature or its certificate does not verify."),
    Reason.UNKNOWN_REQUEST: Entry("NOT_FOUND", "There is no such certificate request."),
    Reason.TOO_MANY_REQUESTS: Entry("RESOURCE_EXHAUSTED", "Too many certificate requests of the party wait."),
    Reason.UNKNOWN_CERTIFICATE: Entry(
        "NOT_FOUND", "The gateway knows no such certificate or party; nothing was revoked."
    ),
    Reason.BAD_FIELD: Entry("INVALID_ARGUMENT", "A field is missing or has a value that is not allowed."),
    Reason.BAD_TIME: Entry("INVALID_ARGUMENT", "A time is not RFC 3339 with a zone."),
    Reason.NOT_CANONICAL: Entry("INVALID_ARGUMENT", "A value has no canonical form."),
    Reason.TOO_LARGE: Entry("RESOURCE_EXHAUSTED", "The input is larger than allowed."),
    Reason.MISSING_COLUMN: Entry("INVALID_ARGUMENT", "A required column is missing."),
    Reason.HALF_EMPTY_COLUMN: Entry("FAILED_PRECONDITION", "A required column is mostly empty."),
    Reason.BROKEN_ROW: Entry("INVALID_ARGUMENT", "A row cannot be read."),
    Reason.FILE_SHRANK: Entry(
        "FAILED_PRECONDITION",
        "Far fewer people are in the files than were sent: more likely a broken file than a fact.",
    ),
    Reason.MISSING_FILE: Entry("FAILED_PRECONDITION", "A file is missing, or cannot be read or written."),
    Reason.BAD_CONFIG: Entry("FAILED_PRECONDITION", "The configuration is not valid."),
    Reason.POLICY_INVALID: Entry("FAILED_PRECONDITION", "The policy files are not valid."),
    Reason.POLICY_DENIED: Entry("PERMISSION_DENIED", "The policy does not permit this."),
    Reason.OBLIGATION_FAILED: Entry("PERMISSION_DENIED", "A duty that the policy attaches could not be carried out."),
    Reason.UNKNOWN_PROPOSAL: Entry("NOT_FOUND", "There is no such proposal of a policy version."),
    Reason.WRONG_STEP: Entry("FAILED_PRECONDITION", "This step is not possible now."),
    Reason.FOUR_EYES: Entry("PERMISSION_DENIED", "Whoever proposed a policy version cannot approve it."),
    Reason.BUDGET_EXHAUSTED: Entry("RESOURCE_EXHAUSTED", "The privacy budget does not allow this."),
    Reason.BAD_COST: Entry("INVALID_ARGUMENT", "The privacy cost of this request is not defined."),
    Reason.ANSWER_LOST: Entry(
        "DATA_LOSS",
        "This was released before, and what was released is not stored any more. It is not made again: restore the "
        "gateway's answers or models as they were, or ask in a new epoch or run.",
    ),
    Reason.AUDIT_UNAVAILABLE: Entry("UNAVAILABLE", "The audit log cannot be written, so nothing is released.", True),
    Reason.AUDIT_BROKEN: Entry("DATA_LOSS", "The audit log does not verify."),
    Reason.BAD_POINT: Entry("INVALID_ARGUMENT", "A point has a wrong length or low order."),
    Reason.TRUNCATED_STREAM: Entry("INVALID_ARGUMENT", "The stream ended before the declared end.", True),
    Reason.BAD_MANIFEST: Entry("INVALID_ARGUMENT", "The batch's manifest does not fit the epoch's plan."),
    Reason.DIGEST_MISMATCH: Entry("INVALID_ARGUMENT", "The rows are not those that were signed."),
    Reason.DECOYS_MISSING: Entry("DATA_LOSS", "A partner did not give back the rows that it was given to blind."),
    Reason.QUOTA_EXCEEDED: Entry("RESOURCE_EXHAUSTED", "More batches or rows than declared for this epoch."),
    Reason.UNKNOWN_BATCH: Entry("NOT_FOUND", "There is no such batch for the caller."),
    Reason.UNKNOWN_EPOCH: Entry("NOT_FOUND", "There is no such epoch."),
    Reason.EPOCH_INCOMPLETE: Entry("FAILED_PRECONDITION", "The epoch's index is not complete yet."),
    Reason.EPOCH_REPLACED: Entry(
        "FAILED_PRECONDITION", "A later epoch replaced this one: only answers that are stored can be given."
    ),
    Reason.EPOCH_ABANDONED: Entry(
        "FAILED_PRECONDITION", "The epoch was never complete and will not be, because another was begun."
    ),
    Reason.OUT_OF_SEQUENCE: Entry("FAILED_PRECONDITION", "A delta is not the next one of its partner.", True),
    Reason.WITHDRAWALS_UNCONFIRMED: Entry(
        "UNAVAILABLE", "A partner has not confirmed that every withdrawal is in the index; stored answers stand.", True
    ),
    Reason.UNKNOWN_CUBE: Entry("NOT_FOUND", "The policy declares no such cube."),
    Reason.QUESTION_MISFIT: Entry("FAILED_PRECONDITION", "The question does not fit what the epoch was built with."),
    Reason.PARTNER_UNAVAILABLE: Entry("UNAVAILABLE", "A partner's agent is not connected.", True),
    Reason.NO_ROOM: Entry("UNAVAILABLE", "The gateway's disk has no room for this; its operator makes some.", True),
    Reason.BUILD_FAILED: Entry("ABORTED", "A partner could not do its part of the build.", True),
    Reason.TOO_FEW_PARTNERS: Entry("FAILED_PRECONDITION", "There are fewer partners than required."),
    Reason.PROPOSAL_REFUSED: Entry("PERMISSION_DENIED", "A partner's own limits refuse this."),
    Reason.RUN_FAILED: Entry("ABORTED", "The training run ended without a model."),
    Reason.RUN_BUSY: Entry("FAILED_PRECONDITION", "Another training run is under way.", True),
    Reason.RUN_PAUSED: Entry("ABORTED", "The training run is paused.", True),
    Reason.RUN_STOPPED: Entry("ABORTED", "The training run was stopped."),
    Reason.NOT_APPROVED: Entry("FAILED_PRECONDITION", "A partner has not approved the training run."),
    Reason.NOT_YOURS: Entry("PERMISSION_DENIED", "Only who started the training run, or an operator, may do this."),
    Reason.TOO_MANY_PROPOSALS: Entry("RESOURCE_EXHAUSTED", "Too many training runs wait for approval."),
    Reason.UNKNOWN_RUN: Entry("NOT_FOUND", "There is no such training run."),
    Reason.BAD_UPDATE: Entry("INVALID_ARGUMENT", "A model update has a wrong shape or a value that is not finite."),
    Reason.BAD_KEY: Entry("PERMISSION_DENIED", "A key of the secure sum is missing, repeated or not its partner's."),
    Reason.ATTEMPT_LOST: Entry("ABORTED", "A try of a training round was lost and needs new keys.", True),
    Reason.UNKNOWN_HANDLE: Entry("NOT_FOUND", "The caller has no such handle."),
    Reason.TOO_MANY_CONSENTS: Entry("RESOURCE_EXHAUSTED", "The gateway keeps no more consent states of the caller."),
    Reason.IDEMPOTENCY_CONFLICT: Entry("ALREADY_EXISTS", "The same id was used before with other content."),
    Reason.TOO_MANY_OFFERS: Entry(
        "RESOURCE_EXHAUSTED", "The party proposed too many offers lately; later is fine.", True
    ),
    Reason.UNAVAILABLE: Entry("UNAVAILABLE", "The service cannot be reached.", True),
    Reason.STATE_UNWRITABLE: Entry(
        "UNAVAILABLE", "This side's own state folder cannot be written (is its disk full?), so nothing leaves.", True
    ),
    Reason.STATE_IN_USE: Entry("FAILED_PRECONDITION", "Another agent works on this state folder."),
    Reason.INTERNAL: Entry("INTERNAL", "The gateway failed; the incident was recorded."),
}


class EntenteError(Exception):
    """Base of every error we raise on purpose.

    Args:
        reason: Why.
        item: What it is about, in public words ("row 17", "column email", "field hops"). Never personal data.
        detail: For the local log only.
        fix: What to do, one imperative sentence; shown by the command line, which has its own for some reasons where it
            is empty. That of a BudgetError travels to the peer.
    """

    def __init__(self, reason: Reason, *, item: str = "", detail: str = "", fix: str = "") -> None:
        self.reason, self.item, self.detail, self.fix = reason, item, detail, fix
        super().__init__(f"{reason}: {self.public}" + (f" ({detail})" if detail else ""))

    @property
    def public(self) -> str:
        """The sentence a peer may see."""
        return CATALOG[self.reason].message + (f" Item: {self.item}." if self.item else "")


class IdentityError(EntenteError):
    """The caller or a signer is not who it must be."""


class DataError(EntenteError):
    """Input of a person, a file or a peer is not usable."""


class ConfigError(EntenteError):
    """A configuration file is not usable."""


class PolicyError(EntenteError):
    """The policy is invalid or says no."""


class BudgetError(EntenteError):
    """The privacy budget says no."""


class AuditError(EntenteError):
    """The audit log cannot be written or does not verify."""


class OverlapError(EntenteError):
    """The overlap protocol was not followed."""


class TrainingError(EntenteError):
    """A training run cannot start or go on."""


class OfferError(EntenteError):
    """An offer or a consent state is not acceptable."""


class TransportError(EntenteError):
    """A peer cannot be reached, or answered with an error."""
