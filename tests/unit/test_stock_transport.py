"""What our apps need on Flower's own transport: keys in two halves, names that are signed, bundles without code."""

import base64
import io
import json
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import validate_config
from typer.testing import CliRunner

from federation.client.stock.keys import FILE_NAME, SplitKeys
from federation.core.clock import FixedClock
from federation.core.errors import ConfigError, DataError, Reason, TrainingError
from federation.core.identity import Identity
from federation.training.flower import (
    ConfigRecord,
    Context,
    Grid,
    Message,
    RecordDict,
    become,
    lost,
    refused,
    stamp,
)
from federation.training.models import initial
from federation.training.plan import read_plan
from federation.training.secure_sum import Attempt, RoundKey
from federation.training.stock.bundle import CLIENT_APP, SERVER_APP, write_bundle
from federation.training.stock.nodes import NODE_POLL_S, PartnerGrid, introduce, sign_node
from federation.training.stock.server_app import StockRun, build_server_app, keep_run, proposal_text, read_proposal
from federation.v1 import training_pb2 as pb
from gateway.cli import app as cli
from gateway.training.proposals import TrainingRules, complete
from tests.kits.training import ALLIANCE, DELTA, NOW, PARTNERS, SUMMED, Authority, identity_of

RUN = 77
NODES = {11: "airline", 12: "bank", 13: "insurer"}
ATTEMPT = Attempt("run-1", "p" * 64, 1, 1, "m" * 64)


def proposal() -> pb.TrainingProposal:
    filled = complete(pb.TrainingProposal(), TrainingRules(SUMMED, DELTA, PARTNERS), frozenset(PARTNERS))
    filled.run_id = "run-1"
    return filled


# Keys


def fixed(size: int) -> bytes:
    return bytes(range(1, size + 1))


def test_a_key_outlives_its_process_and_is_given_out_once(tmp_path: Path) -> None:
    locks: dict[str, Any] = {}
    key = RoundKey(ATTEMPT, identity_of("bank"), fixed)
    SplitKeys(tmp_path, locks, identity_of("bank"), iter_bytes()).put("m-1", key)
    later = SplitKeys(tmp_path, locks, identity_of("bank"), iter_bytes())
    again = later.find("m-1")
    assert again is not None
    assert later.find("m-2") is None
    taken = later.take()
    assert taken is not None
    assert taken.attempt == ATTEMPT
    assert taken.private_bytes() == again.private_bytes() == key.private_bytes()
    assert later.take() is None
    assert locks == {}
    assert list(tmp_path.iterdir()) == []


def iter_bytes() -> Callable[[int], bytes]:
    return lambda size: b"\x07" * size


def test_neither_half_tells_the_key(tmp_path: Path) -> None:
    locks: dict[str, Any] = {}
    key = RoundKey(ATTEMPT, identity_of("bank"), fixed)
    keys = SplitKeys(tmp_path, locks, identity_of("bank"), iter_bytes())
    keys.put("m-1", key)
    path = tmp_path / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    secret = key.private_bytes()
    for half in (path.read_bytes(), locks["lock"]):
        assert secret not in half
        assert secret.hex().encode() not in half
    locks["lock"] = b"\x08" * 32  # the SuperNode was restarted in between, or remembers another attempt
    assert keys.find("m-1") is None
    assert keys.take() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["attempt", "sealed", "cut"])
def test_a_file_that_was_changed_is_a_lost_key(tmp_path: Path, change: str) -> None:
    locks: dict[str, Any] = {}
    keys = SplitKeys(tmp_path, locks, identity_of("bank"), iter_bytes())
    keys.put("m-1", RoundKey(ATTEMPT, identity_of("bank"), fixed))
    path = tmp_path / FILE_NAME
    kept = json.loads(path.read_bytes())
    if change == "attempt":
        kept["attempt"]["round"] = 2  # the same key for another round
    elif change == "sealed":
        kept["sealed"] = "00" + kept["sealed"][2:]
    path.write_bytes(json.dumps(kept).encode()[: -9 if change == "cut" else None])
    assert keys.take() is None


# Names


class Nodes(Grid):
    """Nodes that answer at once; ``said`` makes the reply of one."""

    def __init__(self, said: dict[int, Callable[[Message], Message]], late: int = 0) -> None:
        self.said, self.late, self.asked = said, late, list[Message]()

    @property
    def run(self) -> Any:
        return None

    def set_run(self, run: Any) -> None:
        pass

    def create_message(self, *args: Any, **more: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        self.late -= 1
        return [] if self.late >= 0 else list(self.said)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for number, message in enumerate(messages):
            stamp(message, f"m-{number}")
            self.asked.append(message)
            replies.append(self.said[message.metadata.dst_node_id](message))
        return replies


def approves(party: str, *, run: int = RUN, node: int = 0, identity: Identity | None = None) -> Any:
    def reply(message: Message) -> Message:
        signed = sign_node(
            identity or identity_of(party), read_plan(proposal()), run, node or message.metadata.dst_node_id
        )
        return Message(RecordDict({"partner": ConfigRecord({"signed": signed})}), reply_to=message)

    return reply


def ask(said: dict[int, Any], late: int = 0) -> dict[int, str]:
    become(RUN)
    ca = identity_of("bank").ca
    pauses: list[float] = []
    grid = Nodes(said, late)
    found = introduce(grid, proposal(), ca, FixedClock(NOW), timeout_s=5 * NODE_POLL_S, pause=pauses.append)
    assert len(pauses) == late
    return found


ALL = {node: approves(party) for node, party in NODES.items()}


def test_partners_are_found_by_their_signed_names_also_when_they_come_late() -> None:
    assert ask(ALL) == NODES
    assert ask(ALL, late=3) == NODES


def test_a_node_that_is_no_partner_of_the_run_may_refuse() -> None:
    assert ask({**ALL, 14: lambda message: refused(message, "grocer: this partner is not in it")}) == NODES


@pytest.mark.parametrize(
    ("node", "said", "reason", "words"),
    [
        (12, lambda message: refused(message, "bank: epsilon\x00"), Reason.PROPOSAL_REFUSED, "bank: epsilon[.]"),
        (12, approves("bank", run=RUN + 1), Reason.BAD_KEY, "node 12"),
        (12, approves("bank", node=13), Reason.BAD_KEY, "node 12"),
        (12, approves("airline"), Reason.PARTNER_UNAVAILABLE, "bank"),
        (12, approves("marketing"), Reason.PARTNER_UNAVAILABLE, "bank"),
        (
            12,
            lambda m: Message(RecordDict({"partner": ConfigRecord({"signed": b"x"})}), reply_to=m),
            Reason.BAD_KEY,
            "",
        ),
        (12, lambda m: Message(RecordDict({}), reply_to=m), Reason.BAD_KEY, "node 12"),
        (12, lost, Reason.PROPOSAL_REFUSED, "code 7001"),
    ],
)
def test_what_is_no_approval_of_a_partner_ends_the_run(node: int, said: Any, reason: Reason, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        ask({**ALL, node: said})
    assert caught.value.reason is reason


def test_a_name_of_another_authority_is_refused() -> None:
    stranger = identity_of("bank", authority=Authority.create(ALLIANCE, NOW))
    with pytest.raises(TrainingError, match="node 12: signature") as caught:
        ask({**ALL, 12: approves("bank", identity=stranger)})
    assert caught.value.reason is Reason.BAD_KEY


def test_too_few_nodes_are_waited_for_and_then_named() -> None:
    two = {node: ALL[node] for node in (11, 12)}
    with pytest.raises(TrainingError, match="2 nodes, 3 partners") as caught:
        introduce(Nodes(two), proposal(), identity_of("bank").ca, FixedClock(NOW), timeout_s=3, pause=lambda _: None)
    assert caught.value.reason is Reason.PARTNER_UNAVAILABLE


def test_the_strategies_grid_hears_partners_and_no_one_else() -> None:
    become(RUN)
    inner = Nodes(
        {
            11: lost,
            12: lambda m: Message(RecordDict({}), reply_to=m),
            13: lambda m: refused(m, "insurer: budget"),
            9: lost,
        }
    )
    grid = PartnerGrid(inner, NODES)

    def send(*nodes: int) -> list[Message]:
        asked = [Message(RecordDict({}), dst_node_id=node, message_type="train", group_id="1") for node in nodes]
        return list(grid.send_and_receive(asked, timeout=1))

    assert send() == []
    assert inner.asked == []
    assert sorted(grid.get_node_ids()) == sorted(NODES)
    assert [reply.has_error() for reply in send(11, 12)] == [True, False]
    assert send(9) == []  # an error of nobody's: what Flower's transport itself says
    with pytest.raises(TrainingError, match="insurer: budget") as caught:
        send(12, 13)
    assert caught.value.reason is Reason.PROPOSAL_REFUSED


# Bundles and models


def test_a_bundle_holds_no_code_and_names_apps_that_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "entente-run"
    write_bundle(folder, proposal(), 60)
    assert [path.name for path in folder.iterdir()] == ["pyproject.toml"]
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(folder))) as fab:
        assert sorted(fab.namelist()) == [".info/CONTENT", "pyproject.toml"]
        config = tomllib.loads(fab.read("pyproject.toml").decode())
    assert validate_config(config, check_module=True)[:2] == (True, [])
    app = config["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    assert proposal_text(proposal()) == app["config"]["proposal"]
    with pytest.raises(ConfigError):
        write_bundle(folder, proposal(), 60)


def test_the_operator_writes_a_bundle_from_the_policy(tmp_path: Path) -> None:
    policies = Path(__file__).resolve().parents[2] / "policies"
    command = [
        "operator",
        "flower-run",
        str(tmp_path / "run-7"),
        "--policies",
        str(policies),
        "--epsilon",
        "1",
        "--json",
    ]
    said = CliRunner().invoke(cli, command)
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["run_id"] == "run-7"
    config = tomllib.loads((tmp_path / "run-7" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    plan = read_plan(read_proposal(base64.b64decode(config["proposal"])))
    assert (plan.run_id, plan.epsilon, plan.judging) == ("run-7", 1.0, None)
    assert set(plan.partners) == {"airline", "bank", "insurer"}
    again = CliRunner().invoke(cli, command)
    assert isinstance(again.exception, ConfigError)
    outside = CliRunner().invoke(cli, [*command[:2], str(tmp_path / "run-8"), *command[3:-3], "--epsilon", "99"])
    assert isinstance(outside.exception, DataError)
    assert not (tmp_path / "run-8").exists()


def test_a_proposal_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for data in (b"\xff" * 9, b"\x0a" * 100_000):
        with pytest.raises(DataError):
            read_proposal(data)
    app = build_server_app(lambda: tmp_path)
    for config in ({}, {"proposal": "not base64!"}, {"proposal": 3}):
        with pytest.raises(DataError) as caught:
            app(Nodes({}), context(config))
        assert caught.value.reason is Reason.BAD_FIELD


def context(config: dict[str, Any]) -> Any:
    return Context(run_id=RUN, node_id=1, node_config={}, state=RecordDict(), run_config=config)


def test_no_model_is_written_over_another_or_outside_of_its_folder(tmp_path: Path) -> None:
    plan = read_plan(proposal())
    run = StockRun(plan, initial(plan.kind, plan.width), plan.rounds)
    path = keep_run(run, tmp_path, FixedClock(NOW))
    assert path == tmp_path / "models" / "run-1.safetensors"
    for name in ("run-1", "../run-2", ".run", "a/b"):
        with pytest.raises(TrainingError):
            keep_run(replace(run, plan=replace(plan, run_id=name)), tmp_path, FixedClock(NOW))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["run-1.json", "run-1.safetensors"]
