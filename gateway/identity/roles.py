"""Which role may make which call. A method that is not here may be called by nobody; a test keeps the table total."""

from federation.core.errors import IdentityError, Reason
from federation.core.identity import Role

_P, _M, _C, _O, _A = Role.PARTNER, Role.MARKETING, Role.COMPLIANCE, Role.OPERATOR, Role.AUDITOR
_ALL = frozenset({_P, _M, _C, _O, _A})
READS_LOG = frozenset({_C, _A, _O})
"""The audit log grows by what is decided: to a partner that proposes offers, or marketing that has them proposed, its
size would say how each was decided, and so who is the recipient's customer. The index of a new entry is its size, so an
answer that everybody gets names it to these roles only."""

ROLES: dict[str, frozenset[Role]] = {
    "EnrolmentService/RequestCertificate": _ALL,  # renewal; the first request comes through the enrolment port
    "EnrolmentService/ListCertificateRequests": frozenset({_O}),
    "EnrolmentService/IssueCertificate": frozenset({_O}),
    "EnrolmentService/RevokeCertificate": frozenset({_O}),
    "EnrolmentService/WhoAmI": _ALL,
    "OverlapService/BuildIndex": frozenset({_O}),
    "OverlapService/UpdateIndex": frozenset({_O}),
    "OverlapService/WatchOverlapTasks": frozenset({_P}),
    "OverlapService/GetBatch": frozenset({_P}),
    "OverlapService/PutBatch": frozenset({_P}),
    "OverlapService/GetBatches": frozenset({_P}),
    "OverlapService/PutBatches": frozenset({_P}),
    "OverlapService/ReportOverlapTask": frozenset({_P}),
    "OverlapService/QueryCube": frozenset({_M}),
    "OverlapService/QueryTable": frozenset({_M}),
    "OverlapService/PreviewTable": frozenset({_M}),
    "OverlapService/QueryLinks": frozenset({_M}),
    "OverlapService/ListCubes": frozenset({_M, _C, _O, _A}),
    "TrainingService/ExchangeMessages": frozenset({_P}),
    "TrainingService/StartRun": frozenset({_M, _O}),
    "TrainingService/ProposeRun": frozenset({_M, _O}),
    "TrainingService/DecideRun": frozenset({_P}),
    "TrainingService/PauseRun": frozenset({_P, _M, _O}),
    "TrainingService/ResumeRun": frozenset({_P, _M, _O}),
    "TrainingService/StopRun": frozenset({_M, _O}),
    "TrainingService/ListRuns": _ALL,
    "TrainingService/GetModel": frozenset({_P, _M, _O}),
    "ModelService/ListModels": _ALL,
    "ModelService/UseModel": frozenset({_M, _O}),
    "ModelService/RollBackModel": frozenset({_M, _O, _C}),
    "ModelService/CompareModels": frozenset({_M, _O, _C, _A}),
    "ConsentService/RecordConsents": frozenset({_P}),
    "ConsentService/WithdrawConsent": frozenset({_P}),
    "ConsentService/GetConsents": frozenset({_P}),
    "PolicyService/GetPolicy": _ALL,
    "PolicyService/ExplainRequest": frozenset({_C, _A}),
    "PolicyService/ProposePolicy": frozenset({_C}),
    "PolicyService/ApprovePolicy": frozenset({_C}),
    "PolicyService/VetoPolicy": frozenset({_C, _P}),
    "PolicyService/ActivatePolicy": frozenset({_C}),
    "PolicyService/RollBackPolicy": frozenset({_C}),
    "PolicyService/ListPolicySteps": _ALL,
    "BudgetService/GetBudget": _ALL,
    "OfferService/ProposeOffers": frozenset({_P}),
    "OfferService/PullInbox": frozenset({_P}),
    "OfferService/AcknowledgeOffers": frozenset({_P}),
    "OfferService/ListDecisions": frozenset({_C, _A}),
    "AuditService/GetCheckpoint": READS_LOG,
    "AuditService/ListEntries": READS_LOG,
    "AuditService/GetInclusionProof": READS_LOG,
    "AuditService/GetConsistencyProof": READS_LOG,
}
"""``Service/Method`` without the package, to the roles that may call it."""


def check_role(method: str, role: Role) -> None:
    """Raises IdentityError (ROLE_NOT_ALLOWED) unless the role may call ``/federation.v1.Service/Method``."""
    allowed = ROLES.get(method.removeprefix("/federation.v1."), frozenset())
    if role not in allowed:
        called, who = method.rsplit("/", 1)[-1], " or ".join(sorted(allowed)) or "nobody"
        raise IdentityError(Reason.ROLE_NOT_ALLOWED, item=f"{role} calling {called}, which is for {who}")
