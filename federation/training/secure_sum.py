"""The secure sum: each partner's vector of integers is hidden under masks that vanish in the sum of all, modulo 2^32.

Every pair of partners agrees on a mask; one adds it, the other subtracts it. Without both keys of every pair a vector
under its masks is as good as uniform, so whoever carries the vectors (the gateway) learns their sum and nothing else.

Guarantees, if X25519, HKDF and AES are what they are thought to be:

- the gateway cannot put itself in the middle: a key counts only under the signature of a partner of the approved
  proposal, by its certificate of the alliance's CA, over run, proposal, round, attempt and model. So all partners agree
  on the noise, on each other and on the model that they are asked about, or nobody sends anything;
- a key masks one vector. A round that is tried again is tried with new keys;
- the sum is exact: arithmetic is modulo 2^32 from end to end. That it does not wrap is the encoding's duty
  (``federation.training.joint_noise``).

It does not hide anything from all other partners together: n - 1 of them and the gateway can take their part out of the
sum, and what protects the last one then is its own share of the noise. It has no recovery from dropouts: a missing
vector makes the others useless, which is safe. A partner can spoil a sum with a wrong vector, and nobody can see whose
it was: that is the price of hiding. Keys are dropped after their use; Python cannot promise to overwrite memory.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", section 4 (masks
that cancel; here without recovery from dropouts); RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38A (counter mode).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from federation.core.canonical import canonical_json
from federation.core.errors import IdentityError, Reason, TrainingError
from federation.core.identity import Identity, Role, verify_signed
from federation.v1 import common_pb2

MIN_PARTIES = 3
"""With two, each could take its own part out of the sum."""
KEY = "training-key"
MAX_KEY_BYTES = 16_384
"""Of one signed key: a certificate and a few hundred bytes."""
WORD = np.dtype("<u4")
Words = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int64]
RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True)
class Attempt:
    """What a key is for: one try of one round, on one model, under one approved proposal."""

    run_id: str
    proposal: str
    """SHA-256 of the proposal, hexadecimal."""
    round: int
    attempt: int
    model: str
    """SHA-256 of the model that the round begins with, hexadecimal."""

    def signed_payload(self, party: str, public_key: bytes) -> bytes:
        """What a party signs to offer a key."""
        return canonical_json({**asdict(self), "party": party, "key": public_key.hex()})


class RoundKey:
    """One party's key for one attempt, used once. Not safe to share between threads.

    Args:
        attempt: What it is for.
        identity: Signs it.
        random_bytes: A cryptographic source.
    """

    def __init__(self, attempt: Attempt, identity: Identity, random_bytes: RandomBytes) -> None:
        self.attempt = attempt
        self._identity = identity
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(random_bytes(32))
        self._public = self._private.public_key().public_bytes_raw()
        payload = attempt.signed_payload(identity.subject.party, self._public)
        self.offer = identity.sign(KEY, payload).SerializeToString()
        """The signed public key, for the other parties (federation.v1.Signed)."""

    def private_bytes(self) -> bytes:
        """The private key, for a keeper that must outlive this process. Raises TrainingError (ATTEMPT_LOST)."""
        if self._private is None:
            raise TrainingError(Reason.ATTEMPT_LOST, item="the key was used before")
        return self._private.private_bytes_raw()

    def agree(self, offers: Sequence[bytes], parties: Sequence[str], at: datetime) -> "Masks":
        """Agrees with every other party on a mask. The key is gone afterwards, also if this raises.

        Args:
            offers: Every party's signed key, in any order, one's own included.
            parties: Of the approved proposal.
            at: When certificates must be valid.

        Raises:
            TrainingError: TOO_FEW_PARTNERS, ATTEMPT_LOST for a key that was used, BAD_KEY naming whose key is missing,
                repeated, of another attempt or not a partner's.
        """
        private, self._private = self._private, None
        if private is None:
            raise TrainingError(Reason.ATTEMPT_LOST, item="the key was used before")
        me = str(self._identity.subject.party)
        keys = verify_offers(offers, self.attempt, parties, self._identity, at)
        if keys[me] != self._public:
            raise TrainingError(Reason.ATTEMPT_LOST, item="the key is not the one that was offered last")
        return Masks([(me < party, self._secret(private, party, keys[party])) for party in sorted(set(keys) - {me})])

    def _secret(self, private: X25519PrivateKey, party: str, public: bytes) -> bytes:
        """The stream cipher's key that is shared with one party. Raises TrainingError (BAD_KEY)."""
        try:
            secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as exc:  # a point of low order, for which everybody knows the secret
            raise TrainingError(Reason.BAD_KEY, item=f"{party}: low order") from exc
        pair = sorted([(str(self._identity.subject.party), self._public.hex()), (party, public.hex())])
        info = b"entente/v1/training-mask\0" + canonical_json({**asdict(self.attempt), "pair": pair})
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


class Masks:
    """One party's masks for one vector: a stream cipher's key for each other party, and whether to add its stream."""

    def __init__(self, keys: Sequence[tuple[bool, bytes]]) -> None:
        self._keys: Sequence[tuple[bool, bytes]] | None = keys

    def hide(self, values: Integers) -> Words:
        """Hides one vector; the masks are gone afterwards.

        Args:
            values: int64 (d,), taken modulo 2^32.

        Returns:
            uint32 (d,): the values plus or minus one mask for each other party.

        Raises:
            TrainingError: ATTEMPT_LOST for a second vector.
        """
        keys, self._keys = self._keys, None
        if keys is None:
            raise TrainingError(Reason.ATTEMPT_LOST, item="the masks were used before")
        out = np.asarray(values, dtype=np.int64).astype(WORD)  # two's complement: the value modulo 2^32
        for add, key in keys:
            # The key is of this pair and attempt alone, so the counter may start at zero.
            encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
            stream = np.frombuffer(encryptor.update(bytes(WORD.itemsize * out.size)), dtype=WORD)
            out = out + stream if add else out - stream
        return out


def verify_offers(
    offers: Sequence[bytes], attempt: Attempt, parties: Sequence[str], identity: Identity, at: datetime
) -> dict[str, bytes]:
    """Public keys by party, each signed by that party for this attempt, every party exactly once.

    Args:
        offers: As they came.
        attempt: What the keys must be for.
        parties: Of the approved proposal.
        identity: Whose alliance and CA count.
        at: When certificates must be valid.

    Raises:
        TrainingError: TOO_FEW_PARTNERS, BAD_KEY.
    """
    if len(set(parties)) < MIN_PARTIES:
        raise TrainingError(Reason.TOO_FEW_PARTNERS, item=f"a secure sum needs {MIN_PARTIES}")
    if len(offers) > len(parties) or any(len(offer) > MAX_KEY_BYTES for offer in offers):
        raise TrainingError(Reason.BAD_KEY, item="number or size of the keys")
    keys: dict[str, bytes] = {}
    for offer in offers:
        party, key = _read_offer(offer, attempt, identity, at)
        if party not in parties:
            raise TrainingError(Reason.BAD_KEY, item=f"{party}: not in the proposal")
        if party in keys or key in keys.values():
            raise TrainingError(Reason.BAD_KEY, item=f"{party}: repeated")
        keys[party] = key
    missing = sorted(set(parties) - set(keys))
    if missing:
        raise TrainingError(Reason.BAD_KEY, item=f"{', '.join(missing)}: missing")
    return keys


def _read_offer(offer: bytes, attempt: Attempt, identity: Identity, at: datetime) -> tuple[str, bytes]:
    """Who offers which public key for an attempt. Raises TrainingError (BAD_KEY)."""
    try:
        signed = common_pb2.Signed.FromString(offer)
        subject = verify_signed(signed, KEY, identity.ca, at)
    except (DecodeError, IdentityError) as exc:
        item = exc.item if isinstance(exc, IdentityError) else "unreadable"
        raise TrainingError(Reason.BAD_KEY, item=f"signature: {item}") from exc
    if subject.role is not Role.PARTNER or subject.alliance != identity.subject.alliance:
        raise TrainingError(Reason.BAD_KEY, item=f"{subject.party}: not a partner of this alliance")
    party = str(subject.party)
    try:
        said: Any = json.loads(signed.payload)
        key = bytes.fromhex(said["key"])
    except (ValueError, TypeError, KeyError) as exc:
        raise TrainingError(Reason.BAD_KEY, item=f"{party}: payload") from exc
    if len(key) != 32 or signed.payload != attempt.signed_payload(party, key):
        raise TrainingError(Reason.BAD_KEY, item=f"{party}: for another run, proposal, round, attempt or model")
    return party, key


def add_masked(vectors: Mapping[str, npt.NDArray[np.generic]], parties: Sequence[str], width: int) -> Integers:
    """The sum of all parties' vectors, as signed integers.

    Args:
        vectors: What each party sent.
        parties: Of the run; at least three.
        width: Of each vector.

    Returns:
        int64 (width,), each within [-2^31, 2^31).

    Raises:
        TrainingError: TOO_FEW_PARTNERS, RUN_FAILED for a missing party, BAD_UPDATE naming who sent another type or
            shape than uint32 (width,).
    """
    if len(set(parties)) < MIN_PARTIES:
        raise TrainingError(Reason.TOO_FEW_PARTNERS, item=f"a secure sum needs {MIN_PARTIES}")
    if set(vectors) != set(parties):
        raise TrainingError(Reason.RUN_FAILED, item=f"no part of {', '.join(sorted(set(parties) - set(vectors)))}")
    total: Words = np.zeros(width, dtype=WORD)
    for party, vector in vectors.items():
        if vector.dtype != WORD or vector.shape != (width,):
            raise TrainingError(Reason.BAD_UPDATE, item=f"{party}: type or shape of the masked vector")
        total = total + vector.astype(WORD)
    return total.view(np.dtype("<i4")).astype(np.int64)
