"""What a partner may send instead of its answer, in both modes, through the servicer: refused, the partner named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.training.flower import Array, Message, MetricRecord, pack, unpack
from federation.training.models import MAX_MODEL_BYTES
from federation.v1 import training_pb2 as pb
from gateway.training.runs import FAILED, FINISHED
from tests.kits.exact import undisturbed, without_noise
from tests.kits.kill import World
from tests.kits.training import SPEC, SUMMED

SPECS = {
    "summed": SUMMED.model_copy(update={"rounds": 3, "spare_attempts": 1}),
    "local": SPEC.model_copy(update={"rounds": 3}),
}
RECORD = {"summed": "masked", "local": "update"}
Change = Callable[[np.ndarray], np.ndarray]
CHANGES: dict[str, Change] = {
    "NaN": lambda array: np.full(array.shape, np.nan, dtype=np.float32),
    "infinity": lambda array: np.full(array.shape, np.inf, dtype=np.float32),
    "minus infinity": lambda array: np.full(array.shape, -np.inf, dtype=np.float32),
    "huge": lambda array: np.full(array.shape, 1e30, dtype=np.float32),
    "shorter": lambda array: array[..., :-1],
    "longer": lambda array: np.concatenate([array, array], axis=-1),
    "another dimension": lambda array: array[None],
    "doubles": lambda array: array.astype(np.float64),
    "64 bits": lambda array: array.astype(np.uint64),
    "16 bits": lambda array: array.astype(np.uint16),
    "signed": lambda array: array.astype(np.int32),
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
}


@pytest.fixture(autouse=True, scope="module")
def exact() -> Iterator[None]:
    with without_noise():
        yield


def answers(request: pb.ExchangeMessagesRequest, mode: str) -> Message | None:
    """The message of a reply that carries an update or a vector."""
    message = unpack(request.reply.message, item="test")
    return message if not message.has_error() and RECORD[mode] in message.content else None


def reply(run_id: str, data: bytes) -> pb.ExchangeMessagesRequest:
    return pb.ExchangeMessagesRequest(reply=pb.FlowerMessage(run_id=run_id, message=data))


def play(folder: Path, mode: str, poison: Callable[[str, Message], list[bytes]]) -> tuple[World, str]:
    """A run in which the insurer's second answer is replaced; the reason of its end."""
    world, seen = World(folder, SPECS[mode], {}), list[str]()

    def tamper(party: str, request: pb.ExchangeMessagesRequest) -> list[pb.ExchangeMessagesRequest]:
        message = answers(request, mode)
        if party != "insurer" or message is None:
            return [request]
        seen.append(message.metadata.reply_to_message_id)
        if len(seen) < 2:
            return [request]
        return [reply(request.reply.run_id, data) for data in poison(party, message)]

    world.tamper = tamper
    record = world.play()
    if record.state == FINISHED:
        return world, ""
    assert record.state == FAILED
    assert record.rounds_done == 1  # nothing of the poisoned round is in any model
    return world, record.reason


@pytest.mark.parametrize("mode", SPECS)
@pytest.mark.parametrize("change", CHANGES)
def test_array_that_is_not_what_was_asked_for(mode: str, change: str, tmp_path: Path) -> None:
    def poison(_: str, message: Message) -> list[bytes]:
        record: Any = message.content[RECORD[mode]]
        for name in list(record):
            record[name] = Array(np.ascontiguousarray(CHANGES[change](record[name].numpy())))
        return [pack(message)]

    _, reason = play(tmp_path, mode, poison)
    assert reason.startswith("BAD_UPDATE: insurer")


def test_update_beyond_what_clipped_rows_can_make(tmp_path: Path) -> None:
    def poison(_: str, message: Message) -> list[bytes]:
        record: Any = message.content["update"]
        record["weight"] = Array(record["weight"].numpy() + np.float32(1e4))
        return [pack(message)]

    _, reason = play(tmp_path, "local", poison)
    assert reason.startswith("BAD_UPDATE: insurer: norm above")


def test_sum_that_no_rows_can_make_is_refused_though_nobody_can_tell_whose_it_is(tmp_path: Path) -> None:
    def poison(_: str, message: Message) -> list[bytes]:
        record: Any = message.content["masked"]
        vector = record["sum"].numpy().copy()
        vector[0] += np.uint32(2**30)
        record["sum"] = Array(vector)
        return [pack(message)]

    _, reason = play(tmp_path, "summed", poison)
    assert reason.startswith("BAD_UPDATE: all partners")


@pytest.mark.parametrize("mode", SPECS)
def test_more_than_was_asked_for(mode: str, tmp_path: Path) -> None:
    def poison(_: str, message: Message) -> list[bytes]:
        message.content["metrics"] = MetricRecord({"loss": 0.3})
        return [pack(message)]

    _, reason = play(tmp_path, mode, poison)
    assert reason.startswith("BAD_UPDATE: insurer: content of the reply")


@pytest.mark.parametrize("mode", SPECS)
@pytest.mark.parametrize("data", [b"", b"\xff" * 40, bytes(MAX_MODEL_BYTES + 1)], ids=["empty", "rubbish", "oversized"])
def test_bytes_that_are_no_message_or_too_many(mode: str, data: bytes, tmp_path: Path) -> None:
    _, reason = play(tmp_path, mode, lambda *_: [data])
    assert reason.startswith("BAD_UPDATE: insurer")


@pytest.mark.parametrize("mode", SPECS)
def test_answer_in_the_name_of_another(mode: str, tmp_path: Path) -> None:
    def poison(_: str, message: Message) -> list[bytes]:
        message.metadata.__dict__["_src_node_id"] = 2  # the airline's number
        return [pack(message)]

    _, reason = play(tmp_path, mode, poison)
    assert reason == "BAD_UPDATE: insurer: reply names another node"


@pytest.mark.parametrize("mode", SPECS)
def test_replay_of_an_earlier_round_is_dropped_and_the_partner_still_owes_its_answer(mode: str, tmp_path: Path) -> None:
    world, earlier = World(tmp_path, SPECS[mode], {}), list[pb.ExchangeMessagesRequest]()

    def tamper(party: str, request: pb.ExchangeMessagesRequest) -> list[pb.ExchangeMessagesRequest]:
        if answers(request, mode) is None:
            return [request]
        earlier.append(request)
        return [*earlier[:-1], request]  # everything that anybody has sent, once more, before the new answer

    world.tamper = tamper
    assert world.play().state == FINISHED
    assert world.runs.model().weights == undisturbed(SPECS[mode])


@pytest.mark.parametrize("mode", SPECS)
def test_who_only_repeats_an_earlier_round_is_named_as_missing(mode: str, tmp_path: Path) -> None:
    first: list[bytes] = []
    world = World(tmp_path, SPECS[mode], {})

    def tamper(party: str, request: pb.ExchangeMessagesRequest) -> list[pb.ExchangeMessagesRequest]:
        if party != "insurer" or answers(request, mode) is None:
            return [request]
        first.append(request.reply.message)
        return [reply(request.reply.run_id, first[0])]

    world.tamper = tamper
    record = world.play()
    assert (record.state, record.rounds_done) == (FAILED, 1)
    assert "round 2: no reply of insurer" in record.reason
    assert len(world.paid()) == (2 if mode == "summed" else 1)  # the spare attempt was paid before it was asked for


def test_old_vector_under_the_name_of_a_new_question_spoils_the_sum_and_is_noticed(tmp_path: Path) -> None:
    kept: list[Any] = []
    world = World(tmp_path, SPECS["summed"], {})

    def tamper(party: str, request: pb.ExchangeMessagesRequest) -> list[pb.ExchangeMessagesRequest]:
        message = answers(request, "summed")
        if party != "insurer" or message is None:
            return [request]
        record: Any = message.content["masked"]
        kept.append(record["sum"])
        record["sum"] = kept[0]  # masked for another attempt: without the others' masks it is noise
        return [reply(request.reply.run_id, pack(message))]

    world.tamper = tamper
    record = world.play()
    assert (record.state, record.rounds_done) == (FAILED, 1)
    assert record.reason.startswith("BAD_UPDATE: all partners")
