"""The second door to Flower, for the runner beside a SuperNode alone: how its tasks are taken and answered.

All of it is private to Flower, whose own ``flwr-clientapp`` is made of these names; they bring Flower's command line
with them, so they are not in ``federation.training.flower``. A test fails loudly when one of them changes.
"""

from types import TracebackType
from typing import Any

from federation.training.flower import ClientApp  # before Flower itself, which it silences

# isort: split
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

COMPONENT = "flwr-clientapp"
MAX_RETRY_S = 60.0
"""For a reply that is under way; taking a task is tried once, and again by whoever asks."""


class TaskDoor:
    """The runtime interface of a SuperNode on this machine (``--isolation process``).

    Args:
        address: Of the interface, host and port.
        root_certificates: PEM, where it has a certificate; None for plain HTTP, on loopback only.
    """

    def __init__(self, address: str, root_certificates: bytes | None = None) -> None:
        self._address, self._root_certificates = address, root_certificates
        self._client = self._connect(max_tries=1)

    def take(self) -> str | None:
        """The token of a task that waits for a client app, which is now ours; None where there is none."""
        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        return str(found.token) if found.HasField("task") and found.token else None

    def answer(self, token: str, app: ClientApp) -> None:
        """Gives one task's message to an app and its reply back. The bundle that comes with it is not looked at."""
        client = self._connect(RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        context, status, details = None, SubStatus.FAILED, "the runner failed"
        try:
            message, context, _run, _bundle = pull_task_input(client)
            push_message(client, app(message, context), context)
            status, details = SubStatus.COMPLETED, ""
        finally:
            push_task_output(client, context, status, details)
            heartbeat.stop()
            client.close()

    def __enter__(self) -> "TaskDoor":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def _connect(self, *more: Any, max_tries: int | None = None) -> Any:
        retry = make_simple_http_retry_invoker()
        retry.max_tries, retry.max_time = max_tries, MAX_RETRY_S
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=self._root_certificates is None,
            root_certificates=self._root_certificates,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=COMPONENT), *more],
            retry_invoker=retry,
        )
