"""Checks names, sizes and durations that people write. Each error says what is not valid."""

from __future__ import annotations

import re

from incumbent.campaign.timing import MAXIMUM_TTL, MINIMUM_TTL
from incumbent.errors import ConfigurationError
from incumbent.nats.servers import server_from

UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of durations, in seconds."""

BUCKET = r"[a-zA-Z0-9_-]+"
"""The rule of NATS for bucket names, and for JetStream domains."""

SHORTEST_CONNECT, LONGEST_CONNECT = 0.1, 60.0
"""The limits of `--nats-connect-timeout` in seconds."""

SMALLEST_BUCKET = 64 * 1024
"""The smallest limit of a bucket in bytes. A record takes up to a kilobyte."""

DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""The rule of Kubernetes for DNS subdomain names."""

_KEY = r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*"
_LONGEST_KEY = 512
"""Most characters of a key, as in the CRD of `LeaderElection`."""
_LONGEST_IDENTITY = 255


def duration(text: str) -> float:
    """Return the seconds in a text like `30s`, `1m30s`, `500ms` or `30`.

    Raises:
        ConfigurationError: the text is not a duration.
    """
    number = r"\d+(?:\.\d+)?"
    if re.fullmatch(rf"{number}|(?:{number}(?:ms|s|m|h))+", text):
        parts = re.findall(rf"({number})(ms|s|m|h|)", text)
        return sum(float(count) * UNITS[unit] for count, unit in parts)
    msg = f"{text!r} is not a duration; write it like 30s, 1m30s, 500ms, or 30 for seconds."
    raise ConfigurationError(msg)


def ttl(text: str) -> float:
    """Return the seconds of a bucket's TTL.

    Raises:
        ConfigurationError: the text is not a duration, or not within the limits of a TTL.
    """
    seconds = duration(text)
    if MINIMUM_TTL <= seconds <= MAXIMUM_TTL:
        return seconds
    msg = f"{text} is no TTL for elections; it must be from 1 second to 1 hour."
    raise ConfigurationError(msg)


def connect_timeout(text: str) -> float:
    """Return the seconds for each step of connecting to a server.

    Raises:
        ConfigurationError: the text is not a duration from 0.1 s to 1 minute.
    """
    seconds = duration(text)
    if SHORTEST_CONNECT <= seconds <= LONGEST_CONNECT:
        return seconds
    msg = (
        f"{text} is no time for connecting; it must be from {SHORTEST_CONNECT:g} to"
        f" {LONGEST_CONNECT:g} seconds."
    )
    raise ConfigurationError(msg)


def size(text: str) -> int:
    """Return the bytes in a text like `64MiB`, `64Mi` or `67108864`, for a bucket.

    Raises:
        ConfigurationError: the text is not a size, or the size is too small for a bucket.
    """
    match = re.fullmatch(r"([0-9]+)(?:([KMG])iB?)?", text)
    if match is None:
        msg = f"{text!r} is not a size; write it like 64MiB, or 67108864 for bytes."
        raise ConfigurationError(msg)
    bytes_ = int(match[1]) << 10 * " KMG".index(match[2] or " ")
    if bytes_ < SMALLEST_BUCKET:
        msg = f"{text} is too small for a bucket; it must be at least {SMALLEST_BUCKET >> 10}KiB."
        raise ConfigurationError(msg)
    return bytes_


def inbox_prefix(text: str) -> str:
    """Return the prefix of the subjects of answers.

    Raises:
        ConfigurationError: the text is not a subject, or has a wildcard.
    """
    if re.fullmatch(r"[^\s.*>]+(\.[^\s.*>]+)*", text) and text.isprintable():
        return text
    msg = (
        f"{text!r} is not a prefix of inboxes; write it like _INBOX_ops, without a wildcard or a"
        " dot at the end."
    )
    raise ConfigurationError(msg)


def nats_url(text: str) -> str:
    """Return the URL of a NATS server, with the scheme `nats` if the text has no scheme.

    Raises:
        ConfigurationError: the text is not such a URL. The message does not repeat any part of it.
    """
    server_from(text)
    return text if "://" in text else f"nats://{text}"


def bucket_name(text: str) -> str:
    """Return the name of a bucket, or of a JetStream domain.

    Raises:
        ConfigurationError: NATS does not allow this name.
    """
    if re.fullmatch(BUCKET, text):
        return text
    msg = f"{text!r} is not a valid name; it must consist of letters, digits, '-' and '_'."
    raise ConfigurationError(msg)


def plain_name(text: str) -> str:
    """Return the name of a site or a replica, which becomes part of identities and headers.

    Raises:
        ConfigurationError: the name is too long, or has characters that are not allowed.
    """
    if re.fullmatch(r"[a-zA-Z0-9._-]{1,253}", text):
        return text
    msg = (
        f"{text!r} is not a valid name; it must consist of at most 253 letters, digits,"
        " '.', '-' and '_'."
    )
    raise ConfigurationError(msg)


def namespace(text: str) -> str:
    """Return the name of a namespace.

    Raises:
        ConfigurationError: Kubernetes does not allow this name.
    """
    if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        return text
    msg = (
        f"{text!r} is not the name of a namespace; it must consist of at most 63 lower-case"
        " letters, digits and '-'. Give the flag once for each."
    )
    raise ConfigurationError(msg)


def label_prefix(text: str) -> str:
    """Return a prefix of label keys, without the slash.

    Raises:
        ConfigurationError: the text is not a domain name, or the domain belongs to Kubernetes.
    """
    prefix = text.removesuffix("/")
    if not re.fullmatch(DOMAIN, prefix) or len(prefix) > 253:  # noqa: PLR2004  # as in Kubernetes
        msg = f"{text!r} is not a prefix of label keys; write a domain name, like example.com."
        raise ConfigurationError(msg)
    if re.search(r"(^|\.)(kubernetes|k8s)\.io$", prefix):
        msg = f"{text!r} belongs to Kubernetes; use a domain of your own."
        raise ConfigurationError(msg)
    return prefix


def key_name(text: str) -> str:
    """Return the key of an election.

    Raises:
        ConfigurationError: a `LeaderElection` cannot have this key.
    """
    if re.fullmatch(_KEY, text) and len(text) <= _LONGEST_KEY:
        return text
    msg = (
        f"{text!r} is not a valid key; it must consist of at most {_LONGEST_KEY} letters, digits,"
        " '-', '_', '=' and '/', with dots between its parts."
    )
    raise ConfigurationError(msg)


def identity_name(text: str) -> str:
    """Return an identity, which becomes the value of a record.

    Raises:
        ConfigurationError: the identity is empty or too long, has unprintable characters, or begins
            or ends with a space.
    """
    if text.isprintable() and text.strip() == text and 0 < len(text) <= _LONGEST_IDENTITY:
        return text
    msg = (
        f"{text!r} is not a valid identity; it must consist of 1 to {_LONGEST_IDENTITY} printable"
        " characters, the first and the last not a space."
    )
    raise ConfigurationError(msg)
