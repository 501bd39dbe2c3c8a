"""The format of log lines, ours and those of libraries: one line each, on standard error.

A line is JSON or text. Our events are dotted names with fields (`nats.connected`). The event of a
library is the sentence that it wrote. Credentials and access logs never appear. Tracebacks appear
only with the level `debug`, in a separate field. With other levels an error is shown as its type
and message.

The number of lines is limited (`BURST`, `RATE`) for each namespace, and for each event without a
namespace. Therefore neither a tenant nor a stranger can fill the disk or hide the lines of others.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from incumbent.display import line
from incumbent.ratelimit import RateLimit

HIDDEN = "***"
BURST, RATE = 1000, 5.0
"""How many lines a namespace may log at once, and then per second. 300 elections begin with 900
lines. 5 lines a second are 100 MB a day."""

TRACEBACK = "exception"
"""The field into which structlog puts a traceback."""

_SECRET_NAMES = re.compile(
    r"(^|[_-])(authorization|credentials|creds|jwt|nkey|passwd|password|secret|seed|token)$",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"(?<=://)[^/\s]+(?=@)"  # the user part of a URL
    r"|\bS[ACNOUX][A-Z2-7]{56}\b"  # an NKey seed
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+"  # a JWT: of a service account, or of NATS credentials
    r"|(?<=[Bb]earer )\S+"
)


def configure(form: str, *, level: str) -> None:
    """Send all log lines, from structlog and from logging, to standard error from now on.

    Args:
        form: `json` or `text`.
        level: `debug`, `info`, `warning` or `error`. For libraries, `info` counts as `warning`,
            because kopf alone writes several lines for each election at the level `info`.
    """
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # There are few lines, and a cached logger could not be configured again.
        cache_logger_on_first_use=False,
    )
    colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    renderer: list[Any] = [for_people, structlog.dev.ConsoleRenderer(colors=colors)]
    if form == "json":
        renderer = [in_order, structlog.processors.JSONRenderer()]
    numeric = logging.getLevelNamesMapping()[level.upper()]
    debugging = numeric <= logging.DEBUG
    handler = logging.StreamHandler()
    handler.addFilter(_is_news)
    if not debugging:
        handler.addFilter(Limit())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, about_object, one_line],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                exception_in_words,
                structlog.processors.format_exc_info if debugging else without_traceback,
                redacted,
                *renderer,
            ],
        )
    )
    logging.captureWarnings(capture=True)
    logging.basicConfig(
        handlers=[handler],
        level=numeric if debugging else max(numeric, logging.WARNING),
        force=True,
    )
    logging.getLogger("incumbent").setLevel(numeric)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether to log a line. Lines that only say that a connection was closed are dropped.

    uvloop logs such an error when we stop waiting for an answer, for example at a deadline. aiohttp
    logs one when an HTTP client stops waiting for ours.
    """
    about_tls = record.name == "asyncio" and "Fatal error on SSL protocol" in str(record.msg)
    if about_tls and "closed=True" in record.getMessage():
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not (record.name == "aiohttp.server" and isinstance(error, ConnectionError))


class Limit:
    """Drops lines of a source that writes too many. The next line says how many were dropped.

    A source is a namespace. For a line without a namespace, the source is our event, or the logger
    of a library.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limit = RateLimit(burst=BURST, rate=RATE)
        self._dropped: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line. Adds the number of dropped lines to it."""
        fields = record.msg if isinstance(record.msg, dict) else {}
        source = _source(record, fields)
        if not self._limit.take(source, self._clock()):
            self._dropped[source] += 1
            return False
        if fields and (dropped := self._dropped.pop(source, 0)):
            fields["suppressed"] = dropped
        return True


def _source(record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
    """Return the source of a line: its namespace, else its event or logger."""
    reference = getattr(record, "k8s_ref", None) or {}
    if namespace := fields.get("namespace") or reference.get("namespace"):
        return f"namespace {namespace}"
    # Some lines have a field `election` (`namespace/name`) or `key` (`namespace.name`) instead.
    election = str(fields.get("election") or fields.get("key") or "")
    if "/" in election or "." in election:
        return f"namespace {re.split('[/.]', election)[0]}"
    return str(fields.get("event") or record.name)


def redact(text: str) -> str:
    """Return the text with everything replaced that looks like a credential."""
    return _SECRETS.sub(HIDDEN, text)


def redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove credentials from all fields, at any depth.

    A number in a field `token` stays, because it is a fencing token.
    """
    return {name: _redacted(name, value) for name, value in event.items()}


def _redacted(name: str, value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(key): _redacted(str(key), child) for key, child in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(name, child) for child in value]
        case _ if _SECRET_NAMES.search(name):
            return HIDDEN
        case _:
            return redact(str(value))


def exception_in_words(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put an exception's type and message into the field `error`."""
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event.setdefault("error", f"{type(error).__name__}: {error}")
    return event


def without_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove the traceback of an exception and the stack of a line."""
    event.pop("exc_info", None)
    event.pop("stack_info", None)
    return event


def about_object(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add the namespace and name of the object to a line of kopf that is about one."""
    record: logging.LogRecord = event["_record"]
    reference = getattr(record, "k8s_ref", None) or {}
    event.update({part: reference[part] for part in ("namespace", "name") if part in reference})
    return event


def one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep the first line of a library's message, and move the others into the field `detail`."""
    event["event"], _, detail = event["event"].partition("\n")
    if detail:
        event["detail"] = detail
    return event


def for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, which a terminal would obey. JSON does not need this.

    The lines of a traceback are indented, so none of them looks like a separate log line.
    """
    shown = {line(name): _for_people(value) for name, value in event.items() if name != TRACEBACK}
    if traceback := event.get(TRACEBACK):
        shown[TRACEBACK] = "\n".join(f"    {line(part)}" for part in traceback.splitlines())
    return shown


def _for_people(value: Any) -> Any:
    match value:
        case str():
            return line(value)
        case Mapping():
            return {str(key): _for_people(child) for key, child in value.items()}
        case list():
            return [_for_people(child) for child in value]
        case _:
            return value


def in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the fields that every line has first, for people who read JSON."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "logger", "event")}
    return {**first, **event}
