"""A channel to the gateway that tells what leaves before it leaves."""

from collections.abc import Callable
from typing import Any

import grpc

Record = Callable[[str, bytes], None]
"""Takes a method and the bytes that are about to leave for it; raises if it cannot keep them, and then they stay."""


class RecordedChannel(grpc.Channel):
    """A channel whose every outgoing message passes ``record``, after serialization and before encryption."""

    def __init__(self, inner: grpc.Channel, record: Record) -> None:
        self._inner, self._record = inner, record

    def _recording(self, method: str, serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
        def recorded(message: Any) -> bytes:
            data = serialize(message) if serialize is not None else bytes(message)
            self._record(method, data)
            return data

        return recorded

    def unary_unary(self, method: str, request_serializer: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As grpc.Channel."""
        return self._inner.unary_unary(method, self._recording(method, request_serializer), *args, **kwargs)

    def unary_stream(self, method: str, request_serializer: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As grpc.Channel."""
        return self._inner.unary_stream(method, self._recording(method, request_serializer), *args, **kwargs)

    def stream_unary(self, method: str, request_serializer: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As grpc.Channel."""
        return self._inner.stream_unary(method, self._recording(method, request_serializer), *args, **kwargs)

    def stream_stream(self, method: str, request_serializer: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As grpc.Channel."""
        return self._inner.stream_stream(method, self._recording(method, request_serializer), *args, **kwargs)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """As grpc.Channel."""
        self._inner.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        """As grpc.Channel."""
        self._inner.unsubscribe(callback)

    def close(self) -> None:
        """As grpc.Channel."""
        self._inner.close()

    def __enter__(self) -> "RecordedChannel":
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()
