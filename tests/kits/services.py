"""Every file of the contract that holds services: a new one belongs here, so that tests of all services see it."""

from federation.v1 import (
    audit_pb2,
    budget_pb2,
    consent_pb2,
    enrolment_pb2,
    models_pb2,
    offers_pb2,
    overlap_pb2,
    policy_pb2,
    training_pb2,
)

FILES = audit_pb2, budget_pb2, consent_pb2, enrolment_pb2, models_pb2, offers_pb2, overlap_pb2, policy_pb2, training_pb2
