"""The gateway's door with real TLS: who gets in, who does not, and what an error looks like from outside."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from federation.client.connection import Connection, raise_translated, translated
from federation.client.enrolment import renew
from federation.core.clock import SystemClock, to_text
from federation.core.database import open_database
from federation.core.errors import EntenteError, Reason
from federation.core.files import write_secret
from federation.core.identity import Identity, Role, Subject, certificate_request, load_identity, new_key, request_id_of
from federation.core.ids import PartyId
from federation.v1 import audit_pb2, audit_pb2_grpc, enrolment_pb2, enrolment_pb2_grpc
from gateway.cli import _waiting
from gateway.identity.authority import MAX_CSR_BYTES, PARTY_DAYS, Authority
from gateway.identity.caller import current_caller
from gateway.identity.registry import MAX_PENDING, PAGE, Registry
from gateway.rpc.enrolment import EnrolmentServicer
from gateway.rpc.interceptor import MAX_CALLS, Gatekeeper
from gateway.rpc.port import (
    MAX_CONNECTIONS,
    MAX_REQUEST_BYTES,
    MAX_STRANGER_BYTES,
    MAX_STRANGERS,
    MAX_STRANGERS_CONNECTIONS,
    Service,
    open_port,
)

BANK = Subject("skyline", Role.PARTNER, PartyId("bank"))
OPEN = "/federation.v1.EnrolmentService/RequestCertificate"


class Probe(audit_pb2_grpc.AuditServiceServicer):
    """Stands for any service: one call that fails inside, one stream that goes on as long as the caller listens."""

    async def GetCheckpoint(self, _request: Any, _context: Any) -> Any:
        raise RuntimeError("customer alice@example.com is in table x")

    async def ListEntries(self, _request: Any, _context: Any) -> AsyncIterator[Any]:
        number = 0
        while True:
            yield audit_pb2.ListEntriesResponse(start=number, entries=[current_caller().party.encode()])
            number += 1
            await asyncio.sleep(0.01)


@dataclass
class Door:
    authority: Authority
    registry: Registry
    address: str
    enrolment: str

    def identity(self, subject: Subject = BANK, ago_days: int = 0) -> Identity:
        key, now = new_key(), SystemClock().now() - timedelta(days=ago_days)
        return Identity(subject, key, self.authority.issue(key.public_key(), subject, now), self.authority.certificate)


@pytest.fixture
def door() -> Iterator[Door]:
    clock = SystemClock()
    authority = Authority.create("skyline", clock.now())
    registry = Registry(open_database(None), "skyline", authority.certificate, clock)
    subject = Subject("skyline", Role.GATEWAY, PartyId("gateway"))
    key = new_key()
    pem = authority.issue(key.public_key(), subject, clock.now(), ("localhost", "127.0.0.1"))
    identity = Identity(subject, key, pem, authority.certificate)
    servicer = EnrolmentServicer(registry, "skyline", list)
    enrolment = Service("Enrolment", enrolment_pb2_grpc, servicer)
    audit = Service("Audit", audit_pb2_grpc, Probe())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Any, int, Any, int]:
        door = Gatekeeper(registry)
        main, port = await open_port("127.0.0.1:0", identity, door, [enrolment, audit], client_certificates=True)
        open_door = Gatekeeper(None, frozenset({OPEN}))
        first, other = await open_port("127.0.0.1:0", identity, open_door, [enrolment], client_certificates=False)
        return main, port, first, other

    main, port, first, other = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield Door(authority, registry, f"127.0.0.1:{port}", f"127.0.0.1:{other}")

    async def stop() -> None:
        await main.stop(0)
        await first.stop(0)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def who(connection: Connection) -> enrolment_pb2.WhoAmIResponse:
    return connection.enrolment.WhoAmI(enrolment_pb2.WhoAmIRequest(), timeout=60)


def refusal(call: Any) -> EntenteError:
    with pytest.raises(EntenteError) as caught, translated():
        call()
    return caught.value


def test_a_live_certificate_gets_in_and_is_known_by_it(door: Door) -> None:
    with Connection(door.address, door.identity()) as connection:
        answer = who(connection)
    assert (answer.party, answer.role, answer.alliance) == ("bank", "partner", "skyline")


def test_no_certificate_or_one_of_another_ca_ends_at_tls(door: Door) -> None:
    with Connection(door.address, None, ca_pem=door.authority.pem) as connection:
        assert refusal(lambda: who(connection)).reason is Reason.UNAVAILABLE
    stranger = Authority.create("skyline", SystemClock().now())
    key = new_key()
    forged = Identity(
        BANK, key, stranger.issue(key.public_key(), BANK, SystemClock().now()), door.authority.certificate
    )
    with Connection(door.address, forged) as connection:
        assert refusal(lambda: who(connection)).reason is Reason.UNAVAILABLE


def test_an_expired_certificate_is_refused(door: Door) -> None:
    with Connection(door.address, door.identity(ago_days=PARTY_DAYS + 1)) as connection:
        assert refusal(lambda: who(connection)).reason is Reason.UNAVAILABLE


def test_revocation_stops_the_next_call_and_a_running_stream(door: Door) -> None:
    auditor = Subject("skyline", Role.AUDITOR, PartyId("auditor"))
    identity = door.identity(auditor)
    with Connection(door.address, identity) as connection:
        stream = connection.audit.ListEntries(audit_pb2.ListEntriesRequest(), timeout=60)
        assert next(iter(stream)).entries == [b"auditor"]
        caller = door.registry.authenticate(identity.certificate_pem)
        door.registry.revoke(caller.serial, "", "test")
        error = refusal(lambda: list(stream))
        assert error.reason is Reason.CERTIFICATE_REVOKED
        assert refusal(lambda: who(connection)).reason is Reason.CERTIFICATE_REVOKED
    with Connection(door.address, door.identity()) as other:
        assert who(other).party == "bank"


def test_a_role_may_not_call_what_is_not_its_own(door: Door) -> None:
    with Connection(door.address, door.identity()) as connection:
        error = refusal(lambda: connection.enrolment.ListCertificateRequests(
            enrolment_pb2.ListCertificateRequestsRequest(), timeout=60))  # fmt: skip
    item = "partner calling ListCertificateRequests, which is for operator"
    assert (error.reason, error.item) == (Reason.ROLE_NOT_ALLOWED, item)


def test_the_size_of_the_audit_log_is_not_for_those_whose_offers_make_it_grow(door: Door) -> None:
    """It grows by one for what is refused at the recipient, by two for what is permitted there."""
    for role in (Role.PARTNER, Role.MARKETING):
        with Connection(door.address, door.identity(Subject("skyline", role, PartyId("bank")))) as connection:
            calls = connection.audit
            for call in (
                lambda calls=calls: calls.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=60),
                lambda calls=calls: calls.GetInclusionProof(audit_pb2.GetInclusionProofRequest(), timeout=60),
                lambda calls=calls: calls.GetConsistencyProof(audit_pb2.GetConsistencyProofRequest(), timeout=60),
            ):
                assert refusal(call).reason is Reason.ROLE_NOT_ALLOWED


def test_a_fault_inside_shows_an_incident_and_nothing_else(door: Door) -> None:
    auditor = Subject("skyline", Role.AUDITOR, PartyId("ops"))
    with Connection(door.address, door.identity(auditor)) as connection:
        with pytest.raises(grpc.RpcError) as caught:
            connection.audit.GetCheckpoint(audit_pb2.GetCheckpointRequest(), timeout=60)
        with pytest.raises(EntenteError) as translated_error:
            raise_translated(caught.value)
        assert who(connection).party == "ops"  # the process lives on
    assert translated_error.value.reason is Reason.INTERNAL
    assert translated_error.value.detail.startswith("incident ")
    shown = f"{caught.value.details()}{caught.value.trailing_metadata()}"  # type: ignore[attr-defined]
    assert "alice" not in shown
    assert "table" not in shown


def test_enrolment_port_serves_the_first_request_only(door: Door) -> None:
    with Connection(door.enrolment, None, ca_pem=door.authority.pem) as connection:
        assert refusal(lambda: who(connection)).reason is Reason.NO_CERTIFICATE
        csr = certificate_request(new_key(), BANK).decode()
        request = enrolment_pb2.RequestCertificateRequest(csr_pem=csr, invitation="guess")
        call = connection.enrolment.RequestCertificate
        assert refusal(lambda: call(request, timeout=60)).reason is Reason.BAD_INVITATION
        request.invitation = door.registry.invite(PartyId("bank"), Role.PARTNER)
        assert call(request, timeout=60).certificate_pem == ""


def test_the_operator_sees_every_request_however_many_and_large(door: Door) -> None:
    """Each party may have a few, each of which may be as large as is read: 2,200 of them were more than a message."""
    pad, asked = "\n" * MAX_CSR_BYTES, set()
    for number in range(PAGE // MAX_PENDING + 1):
        party = replace(BANK, party=PartyId(f"party-{number}"))
        for _ in range(MAX_PENDING):
            key = new_key()
            csr = certificate_request(key, party).decode()
            code = door.registry.invite(party.party, Role.PARTNER)
            door.registry.request(csr + pad[: MAX_CSR_BYTES - len(csr)], code, None)
            asked.add(request_id_of(key.public_key(), party))
    operator = door.identity(Subject("skyline", Role.OPERATOR, PartyId("operator")))
    with Connection(door.address, operator) as connection:
        first = connection.enrolment.ListCertificateRequests(enrolment_pb2.ListCertificateRequestsRequest(), timeout=60)
        assert len(first.requests) == PAGE
        assert {request.request_id for request in _waiting(connection)} == asked


def test_a_client_renews_its_certificate_in_its_folder(door: Door, tmp_path: Path) -> None:
    old = door.identity(ago_days=15)
    for name, content in (("key", old.key_pem), ("certificate", old.certificate_pem), ("ca", old.ca_pem)):
        write_secret(tmp_path / f"{name}.pem", content)

    def sign(request_id: str) -> None:
        [waiting] = door.registry.pending()
        assert waiting.request_id == request_id
        pem = door.authority.issue(old.key.public_key(), BANK, SystemClock().now())
        door.registry.issue(request_id, pem.decode())

    with Connection(door.address, old) as connection:
        new = renew(connection, load_identity(tmp_path), tmp_path, 30, sign)
        assert new.certificate_pem != old.certificate_pem
        assert renew(connection, new, tmp_path, 30, sign).certificate_pem == new.certificate_pem  # nothing to do
    with Connection(door.address, load_identity(tmp_path)) as connection:
        assert who(connection).certificate_expires_at > to_text(SystemClock().now() + timedelta(days=PARTY_DAYS - 1))


def test_a_party_cannot_ask_in_anothers_name(door: Door) -> None:
    csr = certificate_request(new_key(), replace(BANK, party=PartyId("insurer"))).decode()
    with Connection(door.address, door.identity()) as connection:
        request = enrolment_pb2.RequestCertificateRequest(csr_pem=csr)
        error = refusal(lambda: connection.enrolment.RequestCertificate(request, timeout=60))
    assert error.reason is Reason.PARTY_MISMATCH


def test_a_message_over_the_limit_is_refused_and_the_process_lives_on(door: Door) -> None:
    with Connection(door.address, door.identity()) as connection:
        request = enrolment_pb2.RequestCertificateRequest(csr_pem="x" * 100_000)
        error = refusal(lambda: connection.enrolment.RequestCertificate(request, timeout=60))
        assert (error.reason, error.item) == (Reason.TOO_LARGE, "field csr_pem")
        huge = enrolment_pb2.RequestCertificateRequest(csr_pem="x" * MAX_REQUEST_BYTES)
        assert refusal(lambda: connection.enrolment.RequestCertificate(huge, timeout=60)).reason is Reason.UNAVAILABLE
        assert who(connection).party == "bank"


def test_a_stranger_has_little_read(door: Door) -> None:
    with Connection(door.enrolment, None, ca_pem=door.authority.pem) as connection:
        call = connection.enrolment.RequestCertificate
        large = enrolment_pb2.RequestCertificateRequest(csr_pem="x" * (MAX_STRANGER_BYTES + 1))
        with pytest.raises(grpc.RpcError) as caught:
            call(large, timeout=60)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "csr_pem" not in caught.value.details()  # nothing of ours saw it
        csr = certificate_request(new_key(), BANK).decode()
        most = csr + "\n" * (MAX_CSR_BYTES - len(csr))
        code = door.registry.invite(PartyId("bank"), Role.PARTNER)
        assert call(enrolment_pb2.RequestCertificateRequest(csr_pem=most, invitation=code), timeout=60).request_id


def test_a_stock_client_can_list_and_describe_the_service_by_reflection(door: Door) -> None:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    with Connection(door.address, door.identity()) as connection:
        database = ProtoReflectionDescriptorDatabase(connection.channel)
        assert "federation.v1.EnrolmentService" in database.get_services()
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("federation.v1.EnrolmentService").FindMethodByName("WhoAmI")
        ask, tell = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = connection.channel.unary_unary(
            "/federation.v1.EnrolmentService/WhoAmI", ask.SerializeToString, tell.FromString
        )
        assert call(ask(), timeout=60).party == "bank"


def test_buf_curl_can_call_by_reflection_alone(door: Door, tmp_path: Path) -> None:
    buf = Path(sys.executable).with_name("buf")
    if not buf.exists():
        pytest.skip("buf is not installed beside this interpreter")
    identity = door.identity()
    files = {"cacert": identity.ca_pem, "cert": identity.certificate_pem, "key": identity.key_pem}
    options = ["--protocol", "grpc", "--servername", "localhost"]
    for name, content in files.items():
        write_secret(tmp_path / name, content)
        options += [f"--{name}", str(tmp_path / name)]
    url = f"https://{door.address}/federation.v1.EnrolmentService/WhoAmI"
    done = subprocess.run([str(buf), "curl", *options, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["party"] == "bank"


def test_health_says_serving(door: Door) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with Connection(door.address, door.identity()) as connection:
        stub = health_pb2_grpc.HealthStub(connection.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service="federation.v1.EnrolmentService"), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_strangers_may_ask_once_whether_it_serves_and_not_stay(door: Door) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    asked = health_pb2.HealthCheckRequest()
    with Connection(door.address, door.identity()) as bank:
        assert (
            next(health_pb2_grpc.HealthStub(bank.channel).Watch(asked)).status == health_pb2.HealthCheckResponse.SERVING
        )
    with Connection(door.enrolment, None, ca_pem=door.authority.pem) as stranger:
        stub = health_pb2_grpc.HealthStub(stranger.channel)
        assert stub.Check(asked, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Watch(asked, timeout=60))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_strangers_are_turned_away_while_many_wait_and_parties_are_served(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(door.registry, "request", lambda *_: gate.wait(60) and ("id", ""))
    request = enrolment_pb2.RequestCertificateRequest()
    with (
        Connection(door.enrolment, None, ca_pem=door.authority.pem) as first,
        Connection(door.enrolment, None, ca_pem=door.authority.pem) as second,
        Connection(door.address, door.identity()) as bank,
    ):
        asked = [line.enrolment.RequestCertificate.future(request, timeout=60) for line in (first, second) * 40]
        while not any(call.done() for call in asked):
            time.sleep(0.01)
        assert who(bank).party == "bank"
        gate.set()
        codes = [call.code() for call in asked]
    assert codes.count(grpc.StatusCode.OK) >= MAX_STRANGERS
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize(("port", "most"), [("address", MAX_CONNECTIONS), ("enrolment", MAX_STRANGERS_CONNECTIONS)])
def test_nobody_takes_all_files_of_the_process_by_connections(door: Door, port: str, most: int) -> None:
    """Else no database and no batch could be opened, and nobody else come in."""
    host, number = getattr(door, port).split(":")
    with contextlib.ExitStack() as opened, Connection(door.address, door.identity()) as bank:
        assert who(bank).party == "bank"
        lines = [
            opened.enter_context(socket.create_connection((host, int(number)), timeout=60)) for _ in range(most + 40)
        ]
        assert closed(lines[-1])
        lines[0].setblocking(False)
        with pytest.raises(BlockingIOError):  # so it was for their number, and not because they say nothing
            lines[0].recv(1)
        assert who(bank).party == "bank"  # who is there stays
        if port == "enrolment":
            with Connection(door.address, door.identity()) as other:
                assert who(other).party == "bank"


def test_no_party_takes_all_memory_by_calls_that_it_does_not_end(door: Door) -> None:
    """Each may hold a message of 16 MiB of which the last byte never comes."""
    identity, unread = door.identity(Subject("skyline", Role.AUDITOR, PartyId("auditor"))), list[Connection]()
    with contextlib.ExitStack() as opened, Connection(door.address, door.identity()) as bank:
        unread = [opened.enter_context(Connection(door.address, identity)) for _ in range(2)]
        streams = [line.audit.ListEntries(audit_pb2.ListEntriesRequest()) for line in unread * (MAX_CALLS // 2)]
        for stream in streams:
            next(stream)
        for line in unread:
            error = refusal(lambda line=line: who(line))
            assert (error.reason, error.item) == (Reason.UNAVAILABLE, "more than 64 calls of auditor at a time")
        assert who(bank).party == "bank"
        for stream in streams:
            stream.cancel()
        deadline = time.monotonic() + 60
        while True:  # the gateway hears of it a moment later
            try:
                with translated():
                    assert who(unread[0]).party == "auditor"
                break
            except EntenteError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_nothing_is_read_of_who_may_not_call(door: Door) -> None:
    asked = threading.Event()
    with Connection(door.address, door.identity()) as connection:
        method = "/federation.v1.EnrolmentService/ListCertificateRequests"
        call = connection.channel.stream_unary(method, lambda text: text, lambda text: text)
        error = refusal(lambda: call(iter(lambda: asked.wait(60), True), timeout=60))  # no message at all
    asked.set()
    assert error.reason is Reason.ROLE_NOT_ALLOWED


def test_what_is_no_message_is_refused_and_no_fault_of_ours(door: Door) -> None:
    with Connection(door.address, door.identity()) as connection:
        for kind in ("unary_unary", "stream_unary"):
            call = getattr(connection.channel, kind)("/federation.v1.EnrolmentService/WhoAmI", bytes, bytes)
            text = b"\xff\xff"
            error = refusal(lambda call=call, text=text, kind=kind: call(
                text if kind == "unary_unary" else iter([text]), timeout=60))  # fmt: skip
            assert (error.reason, error.item) == (Reason.BAD_FIELD, "request")
        none = connection.channel.stream_unary("/federation.v1.EnrolmentService/WhoAmI", bytes, bytes)
        assert refusal(lambda: none(iter([]), timeout=60)).reason is Reason.TRUNCATED_STREAM


def test_strangers_who_send_nothing_do_not_keep_the_places_of_others(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("gateway.rpc.interceptor.STRANGER_REQUEST_S", 0.5)
    door, asked = request.getfixturevalue("door"), threading.Event()
    try:
        with Connection(door.enrolment, None, ca_pem=door.authority.pem) as strangers:
            call = strangers.channel.stream_unary(OPEN, bytes, bytes)
            silent = [call.future(iter(lambda: asked.wait(60), True), timeout=60) for _ in range(MAX_STRANGERS)]
            codes = {one.code() for one in silent}
            with Connection(door.enrolment, None, ca_pem=door.authority.pem) as other:
                call = other.enrolment.RequestCertificate
                error = refusal(lambda: call(enrolment_pb2.RequestCertificateRequest(csr_pem="x"), timeout=60))
    finally:
        asked.set()
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}  # and not that their own patience was at its end
    assert error.reason is Reason.BAD_CSR


def closed(line: socket.socket) -> bool:
    """Whether the other end hung up; raises TimeoutError where it did not."""
    with contextlib.suppress(ConnectionResetError):
        return line.recv(1) == b""
    return True
