"""Which locks an election may use. A lock is a key of a bucket. Pure.

Elections are written by tenants, and the operator's NATS user reads and writes more than one tenant
should. So an election may use the operator's own bucket with the keys that begin with its namespace
and a dot, such as the default key. The administrator allows more by rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from incumbent.display import shown
from incumbent.errors import ConfigurationError
from incumbent.validation import bucket_name, key_name, namespace

NAMESPACE = "{namespace}"
"""Stands in the key of a rule for the namespace of the election."""
WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class LockRule:
    """Allows locks beyond an election's own.

    Each part is a name, or the beginning of names followed by `*`, or only `*`.
    """

    namespace: str
    """Which namespaces it is for."""
    bucket: str
    key: str

    def matches(self, namespace: str, bucket: str, key: str) -> bool:
        """Whether it allows an election of this namespace to use this key of this bucket."""
        return (
            _matches(self.namespace, namespace)
            and _matches(self.bucket, bucket)
            and _matches(self.key.replace(NAMESPACE, namespace), key)
        )

    def __str__(self) -> str:
        """Return it as it is written: `shop/ELECTIONS/global.*`."""
        return f"{self.namespace}/{self.bucket}/{self.key}"


def lock_rule(text: str) -> LockRule:
    """Read a rule. The first two slashes separate its parts, because a key may contain slashes.

    Raises:
        ConfigurationError: no election could match it, or one of its parts is missing.
    """
    parts = text.split("/", 2)
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004
        raise ConfigurationError(_no_rule(text))
    where, bucket, key = parts
    checks = ((namespace, where), (bucket_name, bucket), (key_name, key.replace(NAMESPACE, "x")))
    for check, part in checks:
        # The beginning of names may end with what no name ends with, such as the dot of `global.*`.
        example = f"{part.removesuffix(WILDCARD)}x" if part.endswith(WILDCARD) else part
        if not _valid(check, example):
            raise ConfigurationError(_no_rule(text))
    return LockRule(where, bucket, key)


def _no_rule(text: str) -> str:
    return (
        f"{text!r} is not a rule for locks; write it like shop/ELECTIONS/global.*: a namespace, a"
        " bucket and a key, each of which may end with `*`."
    )


class Locks:
    """Decides which locks elections may use.

    Args:
        bucket: the operator's own, of elections that name none.
        rules: what the administrator allows besides, as texts that `lock_rule` takes.
    """

    def __init__(self, bucket: str, rules: Iterable[str] = ()) -> None:
        self.bucket = bucket
        self.rules = tuple(map(lock_rule, rules))

    def allow(self, namespace: str, bucket: str, key: str) -> bool:
        """Whether an election of this namespace may use this key of this bucket.

        What is no valid name of a bucket or a key is refused, whatever the rules are: in NATS it
        could be a pattern. The definition of the kind refuses it in the spec, not in the status.
        """
        if not (_valid(bucket_name, bucket) and _valid(key_name, key)):
            return False
        # A valid key does not end with a dot, and no namespace contains one.
        own = bucket == self.bucket and key.startswith(f"{namespace}.")
        return own or any(rule.matches(namespace, bucket, key) for rule in self.rules)

    def refusal(self, namespace: str, bucket: str, key: str) -> str:
        """Say why an election may not use a lock, and what to ask for; empty if it may."""
        if self.allow(namespace, bucket, key):
            return ""
        return (
            f"elections of namespace {namespace} may not use key {shown(key)} of bucket"
            f" {shown(bucket)}: by default they use bucket {self.bucket} and keys that begin with"
            f" `{namespace}.`. Ask the administrator of the operator for `--allow-lock"
            f" {namespace}/{shown(bucket)}/{shown(key)}` (chart: `allowedLocks`), or delete the"
            " election and create it again without `bucket` and `key`"
        )


def _matches(pattern: str, name: str) -> bool:
    if pattern.endswith(WILDCARD):
        return name.startswith(pattern.removesuffix(WILDCARD))
    return name == pattern


def _valid(check: Callable[[str], str], name: str) -> bool:
    try:
        check(name)
    except ConfigurationError:
        return False
    return True
