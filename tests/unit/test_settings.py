import ast
import inspect
import socket
from dataclasses import FrozenInstanceError, fields

import pytest

from incumbent import settings
from incumbent.settings import Settings


def test_defaults_need_no_argument():
    """Without a flag the operator takes local NATS, every namespace, and its host's name."""
    default = Settings()
    assert default.nats_urls == ("nats://127.0.0.1:4222",)
    assert default.bucket == "LEADER_ELECTION"
    assert default.bucket_ttl == 30.0
    assert default.namespaces == ()
    assert default.replica == socket.gethostname()
    assert default.http_address == ":8080"


def test_nothing_is_decided_for_others():
    """What creates, releases or trusts more than asked for is off."""
    default = Settings()
    assert not default.create_bucket
    assert not default.release_on_exit
    assert not default.nats_tls_first
    assert default.label_prefixes == ()


def test_settings_cannot_be_changed():
    """Whoever has the settings can rely on them."""
    with pytest.raises(FrozenInstanceError):
        Settings().bucket = "other"


def test_every_setting_is_documented_with_its_flag():
    """Each field is followed by a text that begins with its flag."""
    [definition] = [
        node
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef)
    ]
    body = definition.body[1:]
    documented = {}
    for field, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(text, ast.Expr), f"nothing follows {ast.unparse(field)}"
        documented[field.target.id] = text.value.value
    assert [*documented] == [field.name for field in fields(Settings)]
    for name, text in documented.items():
        flag = text.split("`")[1].removeprefix("--").replace("-", "_")
        assert name in {flag, f"{flag}s", f"{flag}es"}
