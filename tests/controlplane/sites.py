"""A running site: where it is, how to log in, and what it was asked to do.

A `Site` is a value; any process may have it, whoever runs the servers.
"""

from __future__ import annotations

import json
import secrets
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

WRITES = ("create", "update", "patch", "delete", "deletecollection")
"""The verbs of an audit log that change something."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request from the audit log."""

    user: str
    user_agent: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    status: int


@dataclass(frozen=True, slots=True)
class AuditLog:
    """What an API server was asked, in order; without controllers, scheduler and node agents.

    A request is here before its answer is; a watch, when it began and when it ended.
    """

    path: Path

    def position(self) -> int:
        """Return where the log ends now, for `requests(since=…)`."""
        return self.path.stat().st_size

    def requests(
        self,
        *,
        since: int = 0,
        user: str | None = None,
        namespace: str | None = None,
        verbs: Iterable[str] | None = None,
    ) -> list[Request]:
        """Return the requests after `since` of that user, namespace and verbs (None: of any)."""
        found = []
        with self.path.open("rb") as log:
            log.seek(since)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                request = _request(json.loads(line))
                if (
                    user in {None, request.user}
                    and namespace in {None, request.namespace}
                    and (verbs is None or request.verb in verbs)
                ):
                    found.append(request)
        return found


def _request(event: dict[str, dict[str, str]]) -> Request:
    what = event.get("objectRef", {})
    return Request(
        user=event["user"].get("username", ""),  # none if the request was given up before
        user_agent=str(event.get("userAgent", "")),
        verb=str(event["verb"]),
        resource=what.get("resource", ""),
        subresource=what.get("subresource", ""),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        status=int(event.get("responseStatus", {}).get("code", 0)),
    )


@dataclass(frozen=True, slots=True)
class Site:
    """One Kubernetes API server with its controllers, and its users.

    The users `admin`, `operator` and `node-agent` may do everything; they differ in the audit log.
    """

    name: str
    url: str
    folder: str
    ca: str
    """The file with the certificate authority."""
    tokens: dict[str, str]
    """Of every user."""
    kubectl: str
    """The path of the program."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig file."""
        return self.kubeconfig_for("admin")

    @property
    def audit(self) -> AuditLog:
        """What the API server was asked."""
        return AuditLog(Path(self.folder, "audit.log"))

    def kubeconfig_for(self, user: str, *, server: str = "", token: str = "") -> Path:
        """Write a kubeconfig file for a user.

        Args:
            user: one of `tokens`, or any name if there is a `token`.
            server: host and port of a proxy before the API server.
            token: for example of a service account.
        """
        url = f"https://{server}" if server else self.url
        name = f"{user}-via-{server}" if server else user
        # A colon in $KUBECONFIG would separate two files.
        path = Path(self.folder, f"{name.replace(':', '-')}.kubeconfig")
        cluster = {"server": url, "certificate-authority": self.ca}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [{"name": self.name, "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token or self.tokens[user]}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
        }
        # Replaced as a whole, for another worker's kubectl may be reading it.
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        new.touch(mode=0o600)
        new.write_text(yaml.safe_dump(content))
        return new.replace(path)

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts the API server."""
        return ssl.create_default_context(cafile=self.ca)

    def to_json(self) -> str:
        """Return this as text, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the site that `to_json` wrote."""
        return cls(**json.loads(text))
