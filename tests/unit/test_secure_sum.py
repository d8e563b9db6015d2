"""The secure sum alone: exact as a sum, random as a part, and no key counts but the right one, once."""

import json
import os
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from federation.core.errors import Reason, TrainingError
from federation.core.identity import Identity, Role
from federation.training.secure_sum import Attempt, Integers, RoundKey, Words, add_masked
from federation.v1 import common_pb2
from gateway.identity.authority import Authority
from tests.kits.training import ALLIANCE, NOW, PARTNERS, identity_of

ATTEMPT = Attempt("run-1", "a" * 64, 1, 1, "b" * 64)


def make_keys(attempt: Attempt = ATTEMPT, parties: tuple[str, ...] = PARTNERS) -> dict[str, RoundKey]:
    return {party: RoundKey(attempt, identity_of(party), os.urandom) for party in parties}


def offers_of(keys: dict[str, RoundKey]) -> list[bytes]:
    return [key.offer for key in keys.values()]


def hide_all(values: dict[str, Integers], attempt: Attempt = ATTEMPT) -> dict[str, Words]:
    keys = make_keys(attempt, tuple(values))
    offers = offers_of(keys)
    return {party: key.agree(offers, tuple(values), NOW).hide(values[party]) for party, key in keys.items()}


def refused(offers: list[bytes], me: str = "bank", key: RoundKey | None = None) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        (key or make_keys()[me]).agree(offers, PARTNERS, NOW)
    return caught.value


@pytest.mark.parametrize("parties", [3, 5])
def test_sum_of_hidden_vectors_is_the_sum_of_the_vectors(parties: int) -> None:
    rng = np.random.default_rng(1)
    values = {f"partner-{number}": rng.integers(-(2**28), 2**28, 1000) for number in range(parties)}
    total = add_masked(hide_all(values), tuple(values), 1000)
    assert np.array_equal(total, sum(values.values()))


def test_part_of_the_sum_looks_uniform_whatever_it_hides() -> None:
    size, bins = 64_000, 64
    zeros = {party: np.zeros(size, dtype=np.int64) for party in PARTNERS}
    hidden = hide_all(zeros)
    parts = [*hidden.values(), hidden["bank"] + hidden["airline"]]  # one alone, and any two together
    for words in parts:
        for bits in (words >> np.uint32(26), words & np.uint32(63)):  # the highest and the lowest six bits
            counts = np.bincount(bits.astype(np.int64), minlength=bins)
            assert stats.chisquare(counts).pvalue > 1e-6
        assert abs(np.corrcoef(words[:-1], words[1:])[0, 1]) < 0.03
    assert not add_masked(hidden, PARTNERS, size).any()


def test_masks_are_new_in_every_attempt() -> None:
    values = {party: np.arange(100) for party in PARTNERS}
    first, again = hide_all(values), hide_all(values, replace(ATTEMPT, attempt=2))
    assert all((first[party] != again[party]).mean() > 0.9 for party in PARTNERS)


def test_two_parties_are_refused_at_both_ends() -> None:
    keys = make_keys(parties=PARTNERS[:2])
    with pytest.raises(TrainingError) as caught:
        keys["bank"].agree(offers_of(keys), PARTNERS[:2], NOW)
    assert caught.value.reason == Reason.TOO_FEW_PARTNERS
    with pytest.raises(TrainingError) as caught:
        add_masked({party: np.zeros(2, np.uint32) for party in PARTNERS[:2]}, PARTNERS[:2], 2)
    assert caught.value.reason == Reason.TOO_FEW_PARTNERS


def test_key_and_masks_are_used_once() -> None:
    keys = make_keys()
    masks = keys["bank"].agree(offers_of(keys), PARTNERS, NOW)
    masks.hide(np.zeros(2, np.int64))
    with pytest.raises(TrainingError) as caught:
        masks.hide(np.ones(2, np.int64))
    assert caught.value.reason == Reason.ATTEMPT_LOST
    assert refused(offers_of(keys), key=keys["bank"]).reason == Reason.ATTEMPT_LOST


def test_key_is_gone_after_a_refusal() -> None:
    keys = make_keys()
    assert refused([], key=keys["bank"]).reason == Reason.BAD_KEY
    assert refused(offers_of(keys), key=keys["bank"]).reason == Reason.ATTEMPT_LOST


@pytest.mark.parametrize(
    "change",
    [{"run_id": "run-2"}, {"proposal": "c" * 64}, {"round": 2}, {"attempt": 2}, {"model": "c" * 64}],
    ids=lambda change: next(iter(change)),
)
def test_replayed_key_of_another_attempt_is_refused_by_name(change: dict[str, object]) -> None:
    keys = make_keys()
    old = RoundKey(replace(ATTEMPT, **change), identity_of("airline"), os.urandom)  # type: ignore[arg-type]
    error = refused([old.offer, keys["bank"].offer, keys["insurer"].offer], key=keys["bank"])
    assert (error.reason, "airline" in error.item) == (Reason.BAD_KEY, True)


def test_missing_repeated_and_echoed_keys_are_refused_by_name() -> None:
    keys = make_keys()
    offers = offers_of(keys)
    assert "insurer: missing" in refused(offers[:2]).item
    again = RoundKey(ATTEMPT, identity_of("airline"), os.urandom).offer
    assert "airline: repeated" in refused([offers[0], again, offers[1]]).item
    # one partner's public key under another's name: what a mask of known value would need
    secret = os.urandom(32)
    one = RoundKey(ATTEMPT, identity_of("airline"), lambda _: secret)
    two = RoundKey(ATTEMPT, identity_of("insurer"), lambda _: secret)
    assert "insurer: repeated" in refused([one.offer, keys["bank"].offer, two.offer]).item
    # an older key of one's own
    assert refused(offers_of(make_keys()), key=make_keys()["bank"]).reason == Reason.ATTEMPT_LOST


@pytest.mark.parametrize("forger", ["other CA", "other role", "stranger", "other signer", "late"])
def test_forged_key_is_refused(forger: str) -> None:
    keys = make_keys()
    outsider: Identity = {
        "other CA": identity_of("airline", authority=Authority.create(ALLIANCE, NOW)),
        "other role": identity_of("airline", Role.MARKETING),
        "stranger": identity_of("stranger"),
        "other signer": identity_of("insurer"),
        "late": identity_of("airline"),
    }[forger]
    fake = RoundKey(ATTEMPT, outsider, os.urandom)
    offer, at = fake.offer, NOW
    if forger == "other signer":  # the insurer signs in the airline's name
        payload = ATTEMPT.signed_payload("airline", os.urandom(32))
        offer = outsider.sign("training-key", payload).SerializeToString()
    if forger == "late":
        at = NOW + timedelta(days=365)
    with pytest.raises(TrainingError) as caught:
        keys["bank"].agree([offer, keys["bank"].offer, keys["insurer"].offer], PARTNERS, at)
    assert caught.value.reason == Reason.BAD_KEY


@pytest.mark.parametrize("wrong", ["bit", "kind", "bytes", "key", "extra", "low order", "size"])
def test_tampered_key_is_refused(wrong: str) -> None:
    keys, airline = make_keys(), identity_of("airline")
    signed = common_pb2.Signed.FromString(keys["airline"].offer)
    said = json.loads(signed.payload)
    offer = {
        "bit": common_pb2.Signed(**{**_fields(signed), "payload": signed.payload.replace(b'"round":1', b'"round":2')}),
        "kind": airline.sign("manifest", signed.payload),
        "bytes": None,
        "key": airline.sign("training-key", json.dumps({**said, "key": "00"}).encode()),
        "extra": airline.sign("training-key", json.dumps({**said, "more": 1}, sort_keys=True).encode()),
        "low order": airline.sign("training-key", ATTEMPT.signed_payload("airline", bytes(32))),
        "size": common_pb2.Signed(**{**_fields(signed), "kind": "x" * 20_000}),
    }[wrong]
    data = offer.SerializeToString() if offer is not None else b"\xff" * 40
    error = refused([data, keys["bank"].offer, keys["insurer"].offer], key=keys["bank"])
    assert error.reason == Reason.BAD_KEY


def _fields(signed: common_pb2.Signed) -> dict[str, object]:
    return {field.name: value for field, value in signed.ListFields()}


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3, np.uint64), np.zeros(3, np.int32), np.zeros(3, np.float32), np.zeros(4, np.uint32), np.uint32(1)],
)
def test_vector_of_another_modulus_or_shape_is_refused_by_name(vector: np.ndarray) -> None:
    hidden = hide_all({party: np.zeros(3, np.int64) for party in PARTNERS})
    with pytest.raises(TrainingError, match="insurer") as caught:
        add_masked({**hidden, "insurer": vector}, PARTNERS, 3)
    assert caught.value.reason == Reason.BAD_UPDATE
    with pytest.raises(TrainingError, match="insurer") as caught:
        add_masked({party: hidden[party] for party in PARTNERS if party != "insurer"}, PARTNERS, 3)
    assert caught.value.reason == Reason.RUN_FAILED
