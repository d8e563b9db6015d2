"""The one door to Flower: every name we take from it, and the only place that touches its private ones (those of a
SuperNode's own runtime are behind ``federation.training.flower_runtime``).

Flower's telemetry and update check are switched off before it is imported, and its log is cut to warnings. Private
are: the process-wide ``TaskIdentity`` that new messages take their run and node from, and the message id, which
Flower's own transport writes into the message's dictionary. The version is pinned; a test fails loudly when any of
this changes.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import hashlib
import io
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federation.core.canonical import digest_hex
from federation.core.errors import Reason, TrainingError
from federation.training.features import Floats
from federation.training.models import MAX_MODEL_BYTES

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Grid",
    "Message",
    "MetricRecord",
    "RecordDict",
    "Run",
    "ServerApp",
    "Strategy",
]

logging.getLogger("flwr").setLevel(logging.WARNING)

SERVER_NODE = 1
"""Node id of the gateway in messages; partners come after it."""


def become(run: int) -> None:
    """Makes this process the server of a run: messages it creates carry the run's number. One run at a time."""
    TaskIdentity.run_id = run
    TaskIdentity.node_id = SERVER_NODE
    TaskIdentity.task_id = 1


def stamp(message: Message, message_id: str) -> None:
    """Gives an outgoing message its id, as Flower's own transport does."""
    message.metadata.__dict__["_message_id"] = message_id


LOST, REFUSED = 7001, 7002
"""Our codes in a Flower error, far from Flower's own. Lost: the sender can no longer answer this message, but may
answer another. Refused: it will not take part."""
MAX_REFUSAL = 400


def lost(message: Message) -> Message:
    """The reply to a message whose attempt is lost at the sender."""
    return Message(Error(LOST, "attempt lost"), reply_to=message)


def refused(message: Message, text: str) -> Message:
    """The reply of a partner that will not take part, with what it says about that."""
    return Message(Error(REFUSED, text[:MAX_REFUSAL]), reply_to=message)


def refusal_of(reply: Message) -> str | None:
    """What a refusing partner says, cut and without control characters; None for any other reply."""
    if not reply.has_error() or reply.error.code != REFUSED:
        return None
    return "".join(character for character in (reply.error.reason or "")[:MAX_REFUSAL] if character.isprintable())


def question_id(message: Message) -> str:
    """The digest of what a message asks, and of whom: hexadecimal, the same whenever and by whichever process."""
    about, content = message.metadata, message_to_proto(message).content.SerializeToString(deterministic=True)
    asked = [about.run_id, about.dst_node_id, about.message_type, about.group_id, hashlib.sha256(content).hexdigest()]
    return digest_hex([str(part) for part in asked])


def pack(message: Message) -> bytes:
    """A message as bytes (flwr.proto.Message)."""
    return bytes(message_to_proto(message).SerializeToString())


def unpack(data: bytes, *, item: str) -> Message:
    """Reads a message of a peer.

    Args:
        data: As it came.
        item: Whom the error names.

    Raises:
        TrainingError: BAD_UPDATE for bytes that are no message.
    """
    if len(data) > MAX_MODEL_BYTES:
        raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: message of {len(data)} bytes")
    try:
        return message_from_proto(ProtoMessage.FromString(data))
    except Exception as exc:  # Flower's readers raise whatever their parts raise; none of it is trusted
        raise TrainingError(Reason.BAD_UPDATE, item=f"{item}: unreadable message", detail=repr(exc)[:300]) from exc


def to_record(weights: Mapping[str, Floats]) -> ArrayRecord:
    """Named arrays as Flower's record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in weights.items()})


def from_record(record: ArrayRecord, *, item: str) -> dict[str, npt.NDArray[np.generic]]:
    """Named arrays of a peer's record.

    The header inside each array's bytes is compared with the number of bytes before anything is allocated, so that a
    small message cannot claim a huge array; pickled arrays are refused.

    Raises:
        TrainingError: BAD_UPDATE.
    """
    return {name: _read_array(array, f"{item}: array {name[:32]!r}") for name, array in record.items()}


def _read_array(array: Any, item: str) -> npt.NDArray[np.generic]:
    data = array.data if array.stype == "numpy.ndarray" else b""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"format version {version}")
        shape, _fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
            raise ValueError("length")
        found: npt.NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as exc:  # numpy reads the header as Python text, and raises whatever its parser does
        raise TrainingError(Reason.BAD_UPDATE, item=item, detail=repr(exc)[:300]) from exc
    return found
