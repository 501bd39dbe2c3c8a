"""The settings of an operator process: one value for each flag of `incumbent operator`."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one operator process.

    `incumbent.cli.flags` checks them. This class checks nothing and reads no file. Credentials are
    read at each connect, so a renewed file is used without a restart.
    """

    nats_urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """`--nats-url`: the servers to connect to first. One is enough, because it names the others of
    its cluster. The default is the usual one of NATS tools."""

    nats_creds: Path | None = None
    """`--nats-creds`: a credentials file with a JWT and a seed. At most one of `nats_creds`,
    `nats_nkey`, `nats_user` and `nats_token_file` is given. By default the login is anonymous."""

    nats_nkey: Path | None = None
    """`--nats-nkey`: a file with an NKey seed."""

    nats_user: str | None = None
    """`--nats-user`: a user name; goes together with `nats_password_file`."""

    nats_password_file: Path | None = None
    """`--nats-password-file`: a file with the password. Blank space around it does not count. It is
    a file because others can see the arguments and the environment of a process."""

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
    """`--nats-tls-first`: begin with TLS before the server sends anything. Off by default, because
    a server must be configured for this."""

    nats_domain: str | None = None
    """`--nats-domain`: the JetStream domain, for a bucket behind a leaf node. Default: the domain
    of the account."""

    nats_inbox_prefix: str = "_INBOX"
    """`--nats-inbox-prefix`: the prefix of the subjects of answers, for a user who may subscribe
    only to this prefix. The default is the usual one of NATS clients."""

    nats_connect_timeout: float = 2.0
    """`--nats-connect-timeout`: seconds for each step of connecting to a server, before the next
    server is tried. 2 s, as in other NATS clients."""

    bucket: str = "LEADER_ELECTION"
    """`--bucket`: the bucket of elections that do not name one."""

    create_bucket: bool = False
    """`--create-bucket`: whether to create `bucket` if it does not exist. Off by default, because a
    person should decide about the TTL and the number of replicas, and because an account with few
    rights may not create streams."""

    bucket_ttl: float = 30.0
    """`--bucket-ttl`: the TTL in seconds of a bucket that is created. With 30 s a leader survives
    the election of a new stream leader in NATS. A shorter TTL means a quicker fail-over."""

    bucket_replicas: int = 1
    """`--bucket-replicas`: the replicas of a bucket that is created: 1, 3 or 5. The default is 1,
    because a single server cannot have more. A NATS cluster should have 3."""

    bucket_max_bytes: int | None = None
    """`--bucket-max-bytes`: the most bytes of a bucket that is created. None: no limit, or 64 MiB
    in an account whose streams must have a limit."""

    history_stream: str | None = None
    """`--history-stream`: a JetStream stream to which the terms of elections are written. None by
    default, because an administrator creates it and decides how much it keeps."""

    site: str | None = None
    """`--site`: the name of this cluster in identities. It must differ between clusters that share
    a bucket. It wins over the name under which an election was served before. Default: that earlier
    name, or the first 8 characters of the UID of the namespace `kube-system`."""

    replica: str = field(default_factory=socket.gethostname)
    """`--replica`: the name of this process among its peers. Default: the host name, which in a pod
    is the pod's name. It does not have to be unique, because a nonce is added."""

    namespaces: tuple[str, ...] = ()
    """`--namespace`: the namespaces whose elections are served. Default: all namespaces."""

    without_finalizer: tuple[str, ...] = ()
    """`--without-finalizer`: the namespaces whose elections get no finalizer. Empty by default,
    because a finalizer lets the operator remove its labels before an election is gone. But if a
    namespace is deleted together with the operator, or with its rights there, the finalizer would
    block the deletion for ever."""

    label_prefixes: tuple[str, ...] = ()
    """`--label-prefix`: prefixes of label keys that elections may use besides `incumbent.dev`.
    Empty by default, because the authors of elections could otherwise set any label on any pod."""

    allow_locks: tuple[str, ...] = ()
    """`--allow-lock`: rules for locks that elections may use besides their own, see
    `controller.locks`. Empty by default, because the authors of elections in one namespace could
    otherwise read and take the locks of another namespace, and any key of any bucket of the NATS
    account."""

    max_elections_per_namespace: int = 1000
    """`--max-elections-per-namespace`: the most elections of one namespace that are served; 0: all.
    Memory and load are measured for 5,000 elections. With the default of 1000, one namespace cannot
    use up this capacity. Hardly any namespace has that many elections."""

    http_address: str = ":8080"
    """`--http-address`: the address, as `host:port`, that serves health, metrics and the list of
    elections. Without a host it is served on all addresses, because probes and scrapes come from
    other hosts."""

    metrics_address: str | None = None
    """`--metrics-address`: one more address, which serves only metrics. None: only `http_address`
    serves them."""

    probes_address: str | None = None
    """`--probes-address`: one more address, which serves only `/livez` and `/readyz`. None: only
    `http_address` serves them."""

    http_hosts: tuple[str, ...] = ()
    """`--http-host`: the names under which HTTP clients reach this process, or `*.` and the end of
    such names. Addresses, `localhost`, names without a dot and names that end with `.svc` or
    `.svc.cluster.local` are always allowed. A request with any other name may come from a page of
    somebody else."""

    log_format: str = "json"
    """`--log-format`: `json`, for collectors, or `text`, for people."""

    log_level: str = "info"
    """`--log-level`: `debug`, `info`, `warning` or `error`. With `info` a stable election logs
    nothing."""

    release_on_exit: bool = False
    """`--release-on-exit`: whether to strip the labels and give up the records at the end, so that
    another site can take over. Only useful for a single replica, because other replicas of this
    site would continue."""

    kubeconfig: str | None = None
    """`--kubeconfig`: a kubeconfig file, or several, joined as in KUBECONFIG. Default, as for
    kubectl: KUBECONFIG, ~/.kube/config, or the service account of the pod."""

    context: str | None = None
    """`--context`: the context in the kubeconfig. Default: the current context."""
