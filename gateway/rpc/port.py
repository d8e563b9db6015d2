"""Opens a gRPC port with TLS, the gatekeeper, health and reflection.

Limits that hold for every peer: message size, header size, streams a connection, connections, idle ones; what a stream
may carry in all is each servicer's to bound. Strangers have little room: in a message, in calls at a time, in
connections.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from federation.core.errors import ConfigError, Reason
from federation.core.identity import Identity
from gateway.rpc.interceptor import Gatekeeper

MAX_MESSAGE_BYTES = 16 << 20
"""Of what is sent: an answer of a large table."""
MAX_REQUEST_BYTES = 8 << 20
"""Of what is read: more than anybody honest sends. Each of the calls that a party has under way may hold so much."""
MAX_STRANGER_BYTES = 32 << 10
"""Of a message where no certificate is asked for: a certificate request and an invitation, and no more to be read for
somebody who is nobody yet."""
MAX_STRANGERS = 64
"""Calls without a certificate that are under way at a time; further ones are refused, so that none of them piles up."""
MAX_CONNECTIONS, MAX_STRANGERS_CONNECTIONS = 512, 128
"""Of all peers of a port together; further ones are closed at once. Whoever can reach a port may open any number, and
what the process needs files for, databases and batches, must go on: 1,024 are what a process often may have."""
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 32 << 10),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.so_reuseport", 0),  # a second gateway on the port is an error, not a silent half
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),  # an agent's has a stream, and whoever comes back opens another
]


@dataclass(frozen=True)
class Service:
    """A service of ``federation.v1``: its name without the "Service" at its end, the generated module, its servicer."""

    name: str
    module: ModuleType
    servicer: Any

    def add_to(self, server: grpc.aio.Server) -> str:
        """Has a server serve it; returns its full name."""
        getattr(self.module, f"add_{self.name}ServiceServicer_to_server")(self.servicer, server)
        return f"federation.v1.{self.name}Service"


async def open_port(
    address: str,
    identity: Identity,
    gatekeeper: Gatekeeper,
    services: Sequence[Service],
    *,
    client_certificates: bool,
) -> tuple[grpc.aio.Server, int]:
    """Starts serving and returns the server with its port number.

    Args:
        address: ``host:port``; port 0 lets the system choose.
        identity: The gateway's own.
        gatekeeper: Authenticates every call of ours.
        services: What the port serves.
        client_certificates: Whether TLS asks for a certificate of the alliance CA; only the enrolment port does not.

    Raises:
        ConfigError: the address cannot be bound.
    """
    most, at_once = (MAX_REQUEST_BYTES, None) if client_certificates else (MAX_STRANGER_BYTES, MAX_STRANGERS)
    connections = MAX_CONNECTIONS if client_certificates else MAX_STRANGERS_CONNECTIONS
    options = [
        *OPTIONS,
        ("grpc.max_receive_message_length", most),
        ("grpc.max_allowed_incoming_connections", connections),
    ]
    server = grpc.aio.server(interceptors=[gatekeeper], options=options, maximum_concurrent_rpcs=at_once)
    health = health_aio.HealthServicer()
    names = [service.add_to(server) for service in services]
    for name in names:
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if client_certificates:  # strangers need no map of the service
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME, "grpc.health.v1.Health"], server)
    pair = [(identity.key_pem, identity.certificate_pem)]
    ca = identity.ca_pem if client_certificates else None
    credentials = grpc.ssl_server_credentials(pair, ca, require_client_auth=client_certificates)
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as exc:
        fix = "Is another process using it? Change `listen` in gateway.yaml."
        raise ConfigError(Reason.BAD_CONFIG, item=f"address {address}", detail=str(exc), fix=fix) from exc
    await server.start()
    return server, port
