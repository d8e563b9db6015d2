"""What we take from inside Flower is where we left it; when one of these fails, mend federation/training/flower*.py."""

import inspect
import threading
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import ErrorCode
from flwr.server.superlink.fleet.vce import vce_api
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from federation.client.stock import runner
from federation.core.clock import SystemClock
from federation.training import flower_runtime as runtime
from federation.training.flower import LOST, REFUSED, Message, RecordDict, become, refusal_of, refused, stamp
from federation.training.flower_runtime import TaskDoor

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_version_is_the_one_that_is_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = {line for extra in extras.values() for line in extra if line.startswith("flwr")}
    assert {pin.partition("==")[2] for pin in pins} == {version("flwr")}


def test_our_error_codes_are_none_of_flowers() -> None:
    theirs = {value for value in vars(ErrorCode).values() if isinstance(value, int)}
    assert max(theirs) >= 8
    assert not {LOST, REFUSED} & theirs


def test_a_message_has_an_id_of_its_content_that_our_agents_take() -> None:
    become(3)
    message = Message(RecordDict({}), dst_node_id=5, message_type="query.proposal", group_id="0")
    assert 0 < len(message.object_id) <= 128
    stamp(message, message.object_id)
    reply = refused(message, "bank: no")
    assert (reply.metadata.src_node_id, reply.metadata.reply_to_message_id) == (5, message.object_id)
    assert refusal_of(reply) == "bank: no"


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (runtime.pull_task_input, ["client"]),
        (runtime.push_message, ["client", "message", "context"]),
        (runtime.push_task_output, ["client", "context", "sub_status", "details"]),
        (runtime.make_task_heartbeat_fn_http, None),
        (runtime.RuntimeTokenHttpInterceptor, ["token"]),
    ],
)
def test_the_parts_of_flowers_own_client_process_are_called_as_before(function: Any, names: list[str] | None) -> None:
    parameters = list(inspect.signature(function).parameters)
    assert len(parameters) == 1 if names is None else parameters == names


def test_tasks_are_taken_as_before() -> None:
    request = runtime.AcquireTaskRequest(supported_task_types=[runtime.TaskType.CLIENT_APP])
    assert list(request.supported_task_types) == ["flwr-clientapp"]
    assert {runtime.SubStatus.COMPLETED, runtime.SubStatus.FAILED} == {"completed", "failed"}
    retry = runtime.make_simple_http_retry_invoker()
    assert hasattr(retry, "max_tries")
    assert hasattr(retry, "max_time")
    with TaskDoor("127.0.0.1:1") as door:
        assert callable(door._client.AcquireTask)


def test_the_commands_know_the_options_that_we_tell_people_to_use() -> None:
    link = ["--host=127.0.0.1", "--port=1", "--enable-supernode-auth", "--ssl-certfile=c", "--ssl-keyfile=k"]
    link += ["--ssl-ca-certfile=a", "--disable-runtime-dependency-installation"]
    assert _parse_args_run_superlink().parse_args(link).enable_supernode_auth
    node = ["--superlink=127.0.0.1:1", "--root-certificates=a", "--auth-supernode-private-key=k", "--port=2"]
    node += ["--isolation=process", '--node-config=partner="bank/partner.yaml"']
    assert _parse_args_run_supernode().parse_args(node).isolation == "process"


def test_the_simulation_has_one_backend_whose_name_is_fixed() -> None:
    assert "from .backend.raybackend import RayBackend" in inspect.getsource(vce_api)


class Door:
    """A SuperNode that is away at first, then has two tasks."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop, self.calls, self.answered = stop, 0, list[str]()

    def take(self) -> str | None:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError
        return {2: "first", 3: None, 4: "second"}.get(self.calls)

    def answer(self, token: str, app: Any) -> None:
        self.answered.append(token)
        if token == "second":
            self.stop.set()
        raise ValueError  # the runner outlives a message that fails


def test_the_runner_goes_on_after_a_node_was_away_and_a_message_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, "POLL_S", 0.001)
    stop = threading.Event()
    door: Any = Door(stop)
    runner.serve(door, tmp_path, SystemClock(), stop)
    assert door.answered == ["first", "second"]
