"""The log: one JSON object a line, and never a word of a user's text.

What a request was about stands in `service.observability`'s line about it. A traceback says where and of what kind an error was;
its message is written only where it comes from the system (files, SQLite, memory) and not from what somebody sent.
"""

import asyncio
import logging
import time
import traceback
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.orjson import OrjsonFormatter

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that this code runs for."""

SYSTEM_ERRORS: tuple[type[BaseException], ...] = (OSError, RuntimeError, MemoryError)
SYSTEM_MODULES = ("sqlite3",)


_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"asctime", "message", "taskName", "color_message"}  # uvicorn's
"""What the library itself writes into a record; everything else was given to be said."""


class JoinedLines(logging.StreamHandler[TextIO]):
    """Writes to stderr, what is said in one turn of the event loop in one go.

    Each system call lets go of the interpreter's lock, and a busy service waits long until it has it again.
    """

    def __init__(self) -> None:
        super().__init__(open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        self._is_due = False

    def flush(self) -> None:
        """Write what is kept: now, or where the event loop runs this, in its next turn."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush_now()
            return
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_due = False
        with suppress(OSError):  # nobody reads stderr any more: saying so would go there, too
            super().flush()


class JsonLines(OrjsonFormatter):
    """Writes records as JSON with time, level, logger, message, request id and what else is known."""

    def __init__(self) -> None:
        super().__init__(["asctime", "message"])
        self._second = 0
        self._said_second = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return UTC with milliseconds."""
        second = int(record.created)
        if second != self._second:
            self._second, self._said_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._said_second}.{int(record.msecs):03d}Z"

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Collect the fields of a line, in the order in which they are read."""
        log_data["time"] = record.asctime
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data.update({name: fact for name, fact in record.__dict__.items() if name not in _OWN})
        if "exc_info" in message_dict:
            log_data["exception"] = message_dict["exc_info"]

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """Return the frames and kinds of an error and of what caused it."""
        return "" if ei[1] is None else said_of(ei[1])

    def process_log_record(self, log_record: dict[str, Any]) -> dict[str, Any]:
        """Add the request that this is about, unless the record names one."""
        if (id := request_id.get()) is not None:
            log_record.setdefault("request", id)
        return log_record


def said_of(error: BaseException) -> str:
    """Return an error's traceback without messages that may repeat what a user sent."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(cause.__traceback__)]
        kind = type(cause)
        is_said = isinstance(cause, SYSTEM_ERRORS) or kind.__module__.split(".")[0] in SYSTEM_MODULES
        lines.append("\n".join([f"{kind.__module__}.{kind.__qualname__}{f': {cause}' if is_said else ''}", *where]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\ncaused by\n".join(lines)
