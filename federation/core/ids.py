"""Kinds of identifier as types of their own, so that a token cannot be passed for a handle."""

from typing import NewType

PartyId = NewType("PartyId", str)
"""Name of a party, as in its certificate: lower-case letters, digits and hyphens, at most 32."""

CustomerId = NewType("CustomerId", str)
"""A partner's own key of its customer. Never leaves the partner."""

Handle = NewType("Handle", bytes)
"""16 random bytes that stand for one customer of one partner at the gateway."""

Token = NewType("Token", bytes)
"""32 bytes: an identifier blinded by every partner of an epoch."""

EpochId = NewType("EpochId", str)
"""Public name of an epoch."""

PolicyVersion = NewType("PolicyVersion", str)
"""SHA-256 over the canonical policy set, hexadecimal."""

HANDLE_BYTES = 16
POINT_BYTES = 32
