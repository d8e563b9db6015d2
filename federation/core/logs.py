"""How every process of ours writes its log: lines on standard output, and plain tracebacks.

Guarantees that a traceback shows where something failed and the words of the exception, and no value of any variable.
structlog's own default prints variables where ``rich`` is installed: at a gateway exact counts and the noise that hides
them, at a partner its customers' addresses.
"""

import os
import sys

import structlog

from federation.core.terminal import harmless


def configure_logs() -> None:
    """Sets the log of this process. Whatever starts a process of ours calls it first."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            _make_harmless,
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )


def _make_harmless(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: harmless(value) if isinstance(value, str) else value for name, value in event.items()}
