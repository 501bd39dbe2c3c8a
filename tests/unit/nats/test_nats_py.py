"""The private parts of nats-py that `incumbent.nats.client` replaces or reads.

A change there may break what no other test shows: an error that is no longer told, a connection
that is not closed. Read what changed, adapt `nats.client` if it has to be, and only then put
the new digest here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import textwrap

import nats.aio.client
import nats.aio.transport
import nats.protocol.parser
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from incumbent.nats import client as nats_client

DIGESTS = {
    # What is replaced, with other manners:
    Client._process_info: "e6893c29b882986c",
    Client._process_err: "9729e6c7573040f1",
    Client._process_op_err: "611c7e5c7bd8842d",
    nats.aio.transport.WebSocketTransport: "88353823c84203f5",
    # What calls it, and in which order:
    Client.connect: "2877a6af1f79f971",
    Client._select_next_server: "233380ac22df8920",
    Client._connect_to_server: "cd2cda82543708a0",
    Client._process_connect_init: "e4565f042e6d5a94",
    Client._connect_command: "39f3b8987bdce11f",
    Client._read_loop: "1df16bbb1b6d8888",
    Client._ping_interval: "9abaed4f5031e61b",
    Client._flusher: "f361185611d5b4ff",
    Client._close: "b1e52de4a16509bd",
    nats.protocol.parser.Parser.parse: "915ebbfa6707fbdd",
    nats.aio.transport.TcpTransport: "7da386ab3e15379b",
}


def digest(thing: object) -> str:
    """Return a digest of what a piece of source does: neither comments nor layout count."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            first = body[0].value
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                body[:1] = [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


@pytest.mark.parametrize("thing", DIGESTS, ids=lambda thing: thing.__qualname__)
def test_nats_py_is_as_it_was_when_this_was_written(thing: object) -> None:
    """See the text at the top for what to do."""
    version = importlib.metadata.version("nats-py")
    assert digest(thing) == DIGESTS[thing], f"nats-py {version} changed {thing}"


def private_names(name: str) -> set[str]:
    """Return the private attributes that a class of ours uses and does not make itself."""
    (found,) = (
        node
        for node in ast.parse(inspect.getsource(nats_client)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    used, made = set(), {node.name for node in found.body if hasattr(node, "name")}
    for node in ast.walk(found):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            (made if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            made.add(node.target.attr)
    return {name for name in used | made if not name.startswith("__")}


async def test_every_private_part_of_nats_py_that_is_used_exists() -> None:
    """And nothing of ours has the name of one by chance."""
    theirs = {*vars(Client()), *dir(Client)}
    known = {
        "_flusher_task", "_pending_data_size", "_ping_interval_task",
        "_process_err", "_process_info", "_process_op_err", "_reading_task", "_subs", "_transport",
    }  # fmt: skip
    assert private_names("NatsClient") & theirs == known
    assert "_wait_for_msgs_task" in vars(Subscription(Client(), 1, "a"))
    transport = nats.aio.transport.WebSocketTransport()
    assert {"_ws", "_client"} <= {*vars(transport)}
    await transport._client.close()
