"""What an operator process is told: one value for each flag of `incumbent operator`."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one operator process.

    `incumbent.cli.flags` checks them. Here nothing is checked, and no file is read: credentials are
    read at each connect, so that a renewed file is used without a restart.
    """

    nats_urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """`--nats-url`: the servers to begin with; one is enough to find the others of its cluster. The
    default is that of every NATS tool."""

    nats_creds: Path | None = None
    """`--nats-creds`: a credentials file with a JWT and a seed. At most one of this, `nats_nkey`,
    `nats_user` and `nats_token_file` is given; by default the login is anonymous."""

    nats_nkey: Path | None = None
    """`--nats-nkey`: a file with an NKey seed."""

    nats_user: str | None = None
    """`--nats-user`: a user name; goes together with `nats_password_file`."""

    nats_password_file: Path | None = None
    """`--nats-password-file`: a file with the password; blank space around it does not count. A
    file, for others can see a process's arguments and environment."""

    nats_token_file: Path | None = None
    """`--nats-token-file`: a file with an authorization token, as for the password."""

    nats_tls_ca: Path | None = None
    """`--nats-tls-ca`: PEM certificates to trust, instead of the system's. By default TLS is used
    when the URL or the server asks for it."""

    nats_tls_cert: Path | None = None
    """`--nats-tls-cert`: the client's certificate; goes together with `nats_tls_key`."""

    nats_tls_key: Path | None = None
    """`--nats-tls-key`: the private key of the client's certificate."""

    nats_tls_first: bool = False
    """`--nats-tls-first`: begin with TLS before the server says anything. Off, for a server does it
    either way and has to be set up for this one."""

    nats_domain: str | None = None
    """`--nats-domain`: the JetStream domain, for a bucket behind a leaf node. Default: the
    account's own."""

    nats_inbox_prefix: str = "_INBOX"
    """`--nats-inbox-prefix`: what the subjects of answers begin with, for a user who may subscribe
    to nothing else. The default is that of every NATS client."""

    nats_connect_timeout: float = 2.0
    """`--nats-connect-timeout`: seconds for each step of connecting to a server, before the next
    server is tried. 2 s, as in other NATS clients."""

    bucket: str = "LEADER_ELECTION"
    """`--bucket`: the bucket of elections that name none."""

    create_bucket: bool = False
    """`--create-bucket`: whether to create `bucket` if there is none. Off, for the TTL and the
    number of replicas are decisions, and a narrow account may not create streams."""

    bucket_ttl: float = 30.0
    """`--bucket-ttl`: seconds, of a bucket that is created. 30 s lets a leader live through the
    election of a new stream leader in NATS; shorter means a quicker fail-over."""

    bucket_replicas: int = 1
    """`--bucket-replicas`: 1, 3 or 5, of a bucket that is created. 1, for a single server can do no
    more; a cluster should have 3."""

    bucket_max_bytes: int | None = None
    """`--bucket-max-bytes`: the most bytes of a bucket that is created. None: no limit, or 64 MiB
    in an account whose streams must have one."""

    history_stream: str | None = None
    """`--history-stream`: a JetStream stream in which the terms of elections are written down. None
    by default: an administrator makes it, and decides how much it keeps."""

    site: str | None = None
    """`--site`: the name of this cluster in identities; must differ between clusters that share a
    bucket, and wins over the name under which an election was served before. Default: that name, or
    the first 8 characters of the UID of the namespace `kube-system`."""

    replica: str = field(default_factory=socket.gethostname)
    """`--replica`: the name of this process among its peers. Default: the host name, which for a
    pod is its name. Need not be unique: a nonce is added."""

    namespaces: tuple[str, ...] = ()
    """`--namespace`: where to look for elections. Default: in all namespaces."""

    without_finalizer: tuple[str, ...] = ()
    """`--without-finalizer`: namespaces whose elections get no finalizer. None by default: a
    finalizer lets the operator take its labels back before an election is gone. But it would hold a
    namespace for ever that is deleted together with the operator, or with its rights there."""

    label_prefixes: tuple[str, ...] = ()
    """`--label-prefix`: prefixes of label keys that elections may use besides `incumbent.dev`.
    None by default: who may write elections could otherwise set any label on any pod."""

    allow_locks: tuple[str, ...] = ()
    """`--allow-lock`: rules for locks that elections may use besides their own, see
    `controller.locks`. None by default: the authors of elections in one namespace could otherwise
    read and take the locks of another one, and any key of any bucket of the NATS account."""

    max_elections_per_namespace: int = 1000
    """`--max-elections-per-namespace`: elections of one namespace that are served; 0: all. 1000, a
    fifth of the 5,000 for which memory and load are measured: so no namespace takes all of it, and
    hardly any has as many."""

    http_address: str = ":8080"
    """`--http-address`: where health, metrics and the list of elections are served, as `host:port`;
    without a host on all addresses, as probes and scrapes come from other hosts."""

    metrics_address: str | None = None
    """`--metrics-address`: one more address, at which only metrics are served. Default: none, they
    are served with everything else."""

    probes_address: str | None = None
    """`--probes-address`: one more address, at which only `/livez` and `/readyz` are served, in the
    same way."""

    http_hosts: tuple[str, ...] = ()
    """`--http-host`: names under which HTTP clients reach this process, or `*.` and what they end
    with. Addresses, `localhost`, names without a dot and those that end with `.svc` or
    `.svc.cluster.local` always count; a page of any other name could be somebody else's."""

    log_format: str = "json"
    """`--log-format`: `json`, for collectors, or `text`, for people."""

    log_level: str = "info"
    """`--log-level`: `debug`, `info`, `warning` or `error`. On `info` a stable election says
    nothing."""

    release_on_exit: bool = False
    """`--release-on-exit`: whether to strip the labels and give the records up at the end, for a
    successor in another site. Only for a single replica: with others there is nobody to succeed,
    they go on."""

    kubeconfig: str | None = None
    """`--kubeconfig`: a kubeconfig file, or several, joined like in KUBECONFIG. Default: as for
    kubectl, KUBECONFIG, ~/.kube/config, or the service account of the pod."""

    context: str | None = None
    """`--context`: the context in the kubeconfig. Default: its current one."""
