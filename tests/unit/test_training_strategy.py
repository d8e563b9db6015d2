"""All partners or nobody, and nothing malformed; Flower's private names are where we left them."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from federation.core.errors import DataError, Reason, TrainingError
from federation.training import flower
from federation.training.features import MARKETING_V1
from federation.training.flower import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
    become,
    from_record,
    pack,
    stamp,
    to_record,
    unpack,
)
from federation.training.models import initial, load_weights, save_weights
from federation.training.plan import Plan, read_plan
from federation.training.strategy import AllOrNothing
from federation.v1 import training_pb2 as pb

NODES = {2: "airline", 3: "bank", 4: "insurer"}
FEATURES = ["age", "loan"]
WIDTH = MARKETING_V1.width(FEATURES)


def proposal(**changes: Any) -> pb.TrainingProposal:
    fields = {
        "run_id": "run-1",
        "purpose": "model_training",
        "model": "logistic_regression",
        "feature_schema": "marketing-v1",
        "features": FEATURES,
        "label": "accepted_offer",
        "rounds": 2,
        "steps_per_round": 10,
        "sampling_rate": 0.1,
        "clipping_norm": 1.0,
        "noise_multiplier": 2.0,
        "learning_rate": 1.0,
        "epsilon": 2.0,
        "delta": 1e-6,
        "partners": list(NODES.values()),
        "trust": pb.TRUST_LOCAL,
    }
    return pb.TrainingProposal(**(fields | changes))


PLAN: Plan = read_plan(proposal())


def sent() -> tuple[AllOrNothing, list[Message]]:
    """A strategy that has asked everybody for round 1."""
    become(7)
    strategy = AllOrNothing(PLAN, NODES)
    start = to_record(initial(PLAN.kind, WIDTH))
    messages = list(strategy.configure_train(1, start, ConfigRecord(), None))  # type: ignore[arg-type]
    for message in messages:
        stamp(message, f"id-{message.metadata.dst_node_id}")
    return strategy, messages


def reply(message: Message, weight: Any = None, **extra: Any) -> Message:
    update = initial(PLAN.kind, WIDTH)
    update["weight"] += 1 if weight is None else weight
    return Message(RecordDict({"update": to_record(update), **extra}), reply_to=message)


def test_mean_of_all_partners_is_added() -> None:
    strategy, messages = sent()
    replies = [reply(message, weight) for message, weight in zip(messages, (1, 2, 6), strict=True)]
    record, metrics = strategy.aggregate_train(1, replies)
    assert record is not None
    weights = from_record(record, item="test")
    assert np.allclose(weights["weight"], 3)
    assert np.allclose(weights["bias"], 0)
    assert metrics is None


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_partial_replies_refuse_the_round_and_name_who_is_missing(kept: int) -> None:
    strategy, messages = sent()
    with pytest.raises(TrainingError, match="insurer") as caught:
        strategy.aggregate_train(1, [reply(message) for message in messages[:kept]])
    assert caught.value.reason == Reason.RUN_FAILED


def test_second_reply_of_one_partner_does_not_stand_for_another() -> None:
    strategy, messages = sent()
    with pytest.raises(TrainingError, match="airline"):
        strategy.aggregate_train(1, [reply(messages[0]), reply(messages[0]), reply(messages[1])])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_update_that_is_not_finite_or_huge_is_refused_by_name(value: float) -> None:
    strategy, messages = sent()
    with pytest.raises(TrainingError, match="bank") as caught:
        strategy.aggregate_train(1, [reply(messages[0]), reply(messages[1], value), reply(messages[2])])
    assert caught.value.reason == Reason.BAD_UPDATE


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"weight": np.zeros((1, WIDTH), np.float32)},
        {"weight": np.zeros((1, WIDTH + 1), np.float32), "bias": np.zeros(1, np.float32)},
        {"weight": np.zeros((1, WIDTH), np.float64), "bias": np.zeros(1, np.float32)},
        {"weight": np.zeros((1, WIDTH), np.float32), "bias": np.zeros(1, np.float32), "more": np.zeros(1, np.float32)},
    ],
)
def test_update_of_wrong_shape_type_or_name_is_refused_by_name(arrays: dict[str, Any]) -> None:
    strategy, messages = sent()
    bad = Message(RecordDict({"update": to_record(arrays)}), reply_to=messages[1])
    with pytest.raises(TrainingError, match="bank") as caught:
        strategy.aggregate_train(1, [reply(messages[0]), bad, reply(messages[2])])
    assert caught.value.reason == Reason.BAD_UPDATE


def test_reply_with_metrics_beside_the_update_is_refused() -> None:
    strategy, messages = sent()
    told = reply(messages[0], metrics=MetricRecord({"loss": 0.3, "num-examples": 22_442}))
    with pytest.raises(TrainingError, match="airline"):
        strategy.aggregate_train(1, [told])


def test_array_that_claims_more_than_it_holds_is_refused_before_it_is_made() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**50,)})
    record = to_record({"weight": np.zeros(3, np.float32)})
    deep = [text.encode() for text in ("(" * 9000, "{'shape': " + "-" * 9000 + "1}")]  # for a parser to fail at
    headers = [b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text for text in (b"nope", *deep)]
    for data in (buffer.getvalue(), b"\x93NUMPY", b"", *headers):
        record["weight"].data = data
        with pytest.raises(TrainingError, match="bank") as caught:
            from_record(record, item="bank")
        assert caught.value.reason == Reason.BAD_UPDATE


@pytest.mark.parametrize("data", [b"\xff" * 20, b"", b"\x0a\x02\x08\x01"])
def test_bytes_that_are_no_message_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(TrainingError, match="bank"):
        from_record(unpack(data, item="bank").content["update"], item="bank")  # type: ignore[arg-type]


def test_flower_keeps_what_we_take_from_inside_it() -> None:
    become(41)
    message = Message(RecordDict({"arrays": ArrayRecord()}), dst_node_id=3, message_type="train", group_id="1")
    stamp(message, "ours")
    assert message.metadata.message_id == "ours", (
        "flwr keeps message ids elsewhere now: mend federation.training.flower"
    )
    assert (message.metadata.run_id, message.metadata.src_node_id) == (41, flower.SERVER_NODE)
    back = unpack(pack(Message(RecordDict({}), reply_to=unpack(pack(message), item="test"))), item="test")
    assert back.metadata.reply_to_message_id == "ours"
    assert (back.metadata.src_node_id, back.metadata.run_id) == (3, 41)


def test_gateway_side_loads_neither_torch_nor_opacus_and_flower_stays_silent() -> None:
    code = (
        "import sys, os, gateway.rpc.training;"
        "assert not {'torch', 'opacus', 'pandas'} & set(sys.modules), 'too much';"
        "import flwr.supercore.telemetry as t;"
        "assert t.FLWR_TELEMETRY_ENABLED == '0';"
        "assert os.environ['FLWR_DISABLE_UPDATE_CHECK'] == '1'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", "offer_sharing"),
        ("model", "neural_oracle"),
        ("feature_schema", "other"),
        ("features", ["age", "email"]),
        ("label", ""),
        ("label", "age"),
        ("rounds", 0),
        ("steps_per_round", 10**6),
        ("sampling_rate", float("nan")),
        ("sampling_rate", 1.1),
        ("clipping_norm", float("inf")),
        ("noise_multiplier", 0.0),
        ("learning_rate", -1.0),
        ("epsilon", 0.0),
        ("delta", 0.5),
        ("partners", ["bank"]),
        ("partners", ["bank", "bank"]),
        ("run_id", ""),
        ("run_id", "run-1\u200b"),  # looks like run-1
        ("run_id", "run-1\x1b[2J"),  # clears the terminal of whoever looks at what waits
        ("run_id", "../run-1"),
    ],
)
def test_proposal_that_makes_no_sense_is_refused(field: str, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        read_plan(proposal(**{field: value}))
    assert caught.value.reason == Reason.BAD_FIELD


def test_model_file_is_the_same_bytes_for_the_same_weights_and_checked_when_read() -> None:
    weights = initial(PLAN.kind, WIDTH)
    data = save_weights(weights)
    assert data == save_weights(dict(reversed(weights.items())))
    assert np.array_equal(load_weights(data, PLAN.kind, WIDTH)["weight"], weights["weight"])
    for bad in (b"", b"x" * 100, data[:-1], save_weights({"weight": weights["weight"]})):
        with pytest.raises(TrainingError):
            load_weights(bad, PLAN.kind, WIDTH)
    with pytest.raises(TrainingError):
        load_weights(data, PLAN.kind, WIDTH + 1)
