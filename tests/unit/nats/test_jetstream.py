"""The JSON of JetStream's API."""

from __future__ import annotations

import base64

import pytest

from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaign.records import BucketInfo, Cause, Marker, Peer, Record
from incumbent.errors import BucketError, BucketInvalid, BucketNotFound, BucketUnreachable
from incumbent.nats import jetstream
from incumbent.nats.jetstream import Delivery


@pytest.mark.parametrize(
    "reply",
    (
        "$JS.ACK.KV_B.consumer.1.42.7.1795503088123456789.3",
        "$JS.ACK.hub.ACCOUNT.KV_B.consumer.1.42.7.1795503088123456789.3",
        "$JS.ACK._.ACCOUNT.KV_B.consumer.1.42.7.1795503088123456789.3.random",
    ),
)
def test_a_reply_subject_tells_of_the_delivery(reply: str) -> None:
    """With a domain and without, in the forms of ADR-15."""
    delivery = jetstream.delivery_from(reply)
    assert delivery == Delivery(42, 7, pytest.approx(1795503088.123, abs=0.001), 3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    (
        ("2026-11-24T06:51:28Z", 1795503088.0),
        ("2026-11-24T06:51:28.5Z", 1795503088.5),
        ("2026-11-24T06:51:28.890332172Z", 1795503088.890332),
    ),
)
def test_times_have_up_to_nine_decimals(text: str, seconds: float) -> None:
    """As Go writes them."""
    assert jetstream.timestamp(text) == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    (
        ({"code": 404, "err_code": 10059}, BucketNotFound, "there is no bucket B: correct"),
        (
            {"code": 404, "err_code": 10037, "description": "no message found"},
            jetstream.NoMessage,
            "",
        ),
        ({"code": 503, "err_code": 10076, "description": "x"}, BucketUnreachable, "is not enabled"),
        ({"code": 503, "err_code": 10039, "description": "x"}, BucketUnreachable, "is not enabled"),
        ({"code": 503, "err_code": 10008, "description": "x"}, BucketUnreachable, "now: x"),
        ({"code": 500, "err_code": 10074, "description": "x"}, BucketInvalid, "bucket B: x"),
        ({}, BucketInvalid, "bucket B: unknown error"),
    ),
)
def test_errors_become_ours(error: dict[str, object], kind: type[BucketError], words: str) -> None:
    """Which one it is depends on the server's number, never on its words."""
    found = jetstream.error_from({"error": error}, "B")
    assert type(found) is kind
    assert words in str(found)


def test_an_answer_without_an_error_has_none() -> None:
    """So it is one."""
    assert jetstream.error_from({"config": {}}, "B") is None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    (
        ({"stream": "KV_B", "seq": 7}, Answer(Outcome.STORED, 7)),
        ({"stream": "KV_B", "seq": 7, "duplicate": True}, Answer(Outcome.STORED, 7)),
        (
            {"error": {"err_code": 10071, "description": "wrong last sequence: 3"}},
            Answer(Outcome.REFUSED, reason="wrong last sequence: 3"),
        ),
        (
            {"error": {"err_code": 10164, "description": "wrong last sequence"}},
            Answer(Outcome.UNKNOWN, reason="wrong last sequence"),
        ),
        ({"error": {"code": 500}}, Answer(Outcome.UNKNOWN, reason="unknown error")),
        ({}, Answer(Outcome.UNKNOWN, reason="an acknowledgement without a sequence")),
        ({"seq": "7"}, Answer(Outcome.UNKNOWN, reason="an acknowledgement without a sequence")),
    ),
)
def test_a_write_is_stored_refused_or_unknown(answer: dict[str, object], outcome: Answer) -> None:
    """Only one error says for certain that the write was not stored."""
    assert jetstream.answer_from(answer) == outcome


def test_a_stored_message_becomes_an_entry() -> None:
    """With its headers, and the time at which it was stored."""
    headers = b"NATS/1.0\r\nIncumbent-Replica: r/1\r\nX: a: b\r\nno colon\r\n\r\n"
    message = {
        "seq": 9,
        "data": base64.b64encode("ä".encode()).decode(),
        "hdrs": base64.b64encode(headers).decode(),
        "time": "2026-11-24T06:51:28Z",
    }
    assert jetstream.entry_from(message) == (
        Record(9, "ä", term=9, replica="r/1", promoted=False),
        1795503088.0,
    )


def test_a_marker_has_no_data() -> None:
    """A message without data is one all the same."""
    hdrs = base64.b64encode(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n").decode()
    message = {"seq": 9, "hdrs": hdrs, "time": "2026-11-24T06:51:28Z"}
    assert jetstream.entry_from(message) == (Marker(9, Cause.EXPIRED), 1795503088.0)


def test_settings_come_from_the_streams() -> None:
    """Nanoseconds become seconds; what is not said has the server's default."""
    answer = {
        "config": {
            "max_age": 30_000_000_000,
            "max_msgs_per_subject": 5,
            "num_replicas": 3,
            "subject_delete_marker_ttl": 30_000_000_000,
        },
        "created": "2026-11-24T06:00:00Z",
        "cluster": {"name": "east"},
        "ts": "2026-11-24T06:51:28Z",
    }
    assert jetstream.info_from("B", answer) == BucketInfo(
        name="B",
        ttl=30.0,
        history=5,
        replicas=3,
        created="2026-11-24T06:00:00Z",
        markers=True,
        mirror=False,
        clustered=True,
        server_time=1795503088.0,
    )


@pytest.mark.parametrize(
    ("config", "mirror"),
    (({"mirror": {"name": "X"}}, True), ({"sources": [{}]}, True), ({}, False)),
)
def test_mirrors_and_aggregates_are_told(config: dict[str, object], mirror: object) -> None:
    """They cannot be written conditionally."""
    info = jetstream.info_from("B", {"config": config, "created": "", "cluster": None})
    assert info.mirror is mirror
    assert (info.ttl, info.markers, info.clustered) == (0.0, False, False)


@pytest.mark.parametrize(
    ("ttl", "marker", "window"), ((0.5, 1.0, 0.5), (30, 30, 30), (600, 600, 120))
)
def test_a_bucket_is_asked_for_within_the_servers_limits(
    ttl: float, marker: float, window: float
) -> None:
    """A marker lives a second at least, and duplicates are known for two minutes at most."""
    request = jetstream.stream_request("B", ttl=ttl, replicas=3)
    assert request["max_age"] == ttl * 1e9
    assert request["subject_delete_marker_ttl"] == marker * 1e9
    assert request["duplicate_window"] == window * 1e9
    assert (request["name"], request["subjects"]) == ("KV_B", ["$KV.B.>"])
    assert (request["num_replicas"], request["max_msgs_per_subject"]) == (3, 1)


def test_a_consumer_ends_with_the_subscription() -> None:
    """It asks for the latest of every key, and keeps nothing on the server's disk."""
    config = jetstream.consumer_request("B", "_INBOX.x", 0.5)["config"]
    assert config["deliver_policy"] == "last_per_subject"
    assert (config["filter_subject"], config["deliver_subject"]) == ("$KV.B.>", "_INBOX.x")
    assert config["idle_heartbeat"] == 5e8
    assert config["mem_storage"]
    assert config["inactive_threshold"] == 5e9


def test_the_peers_of_a_bucket_begin_with_the_leader() -> None:
    """Where there is no cluster there are none; without a leader only the others."""
    replicas = [{"name": "n2", "current": True, "lag": 3}, {"name": "n3", "offline": True}]
    leader = Peer("n1", leader=True)
    others = [Peer("n2", current=True, lag=3), Peer("n3", current=False, offline=True)]
    with_leader = {"cluster": {"leader": "n1", "replicas": replicas}}
    assert jetstream.peers_from(with_leader) == [leader, *others]
    assert jetstream.peers_from({"cluster": {"replicas": replicas}}) == others
    assert jetstream.peers_from({}) == []


@pytest.mark.parametrize(
    ("config", "why"),
    (
        ({"sealed": True}, "sealed"),
        ({"retention": "workqueue"}, "retention workqueue"),
        ({"retention": "interest"}, "retention interest"),
        ({"no_ack": True}, "no_ack"),
        ({"discard_new_per_subject": True}, "discard_new_per_subject"),
        ({"subject_transform": {"src": ">", "dest": "x.>"}}, "subject_transform"),
        ({"allow_msg_counter": True}, "allow_msg_counter"),
    ),
)
def test_streams_that_cannot_hold_records_say_why(config: dict[str, object], why: str) -> None:
    """And what to do, behind a colon."""
    info = jetstream.info_from("B", {"config": config, "created": ""})
    assert why in info.unfit
    assert ": " in info.unfit


@pytest.mark.parametrize("own", ({}, {"max_bytes": 1 << 20}))
def test_our_own_streams_are_fit_and_not_risky(own: dict[str, int]) -> None:
    """What `--create-bucket` makes."""
    config = {**jetstream.stream_request("B", ttl=30, replicas=1), **own}
    info = jetstream.info_from("B", {"config": config, "created": ""})
    assert (info.unfit, info.risks) == ("", ())
    assert info.takes("shop.billing")


@pytest.mark.parametrize(
    ("held", "limit", "told"),
    ((900, 1000, True), (700, 1000, False), (900, -1, False), (0, 1000, False)),
)
def test_a_bucket_is_told_to_be_nearly_full(held: int, limit: int, told: object) -> None:
    """In words that do not change with each record."""
    config = {"max_bytes": limit, "discard": "new"}
    answer = {"config": config, "created": "", "state": {"bytes": held}}
    (*said,) = jetstream.info_from("B", answer).risks
    sentence = "it is nearly full, and may take no records when it is: raise its max_bytes"
    assert said == ([sentence] if told else [])


@pytest.mark.parametrize(
    ("config", "risks"),
    (
        ({"max_bytes": 1024, "discard": "old"}, 1),
        ({"max_msgs": 10}, 1),
        ({"max_msgs": -1, "max_bytes": -1, "discard": "old"}, 0),
        ({"max_msgs": 10, "discard": "new"}, 0),
        ({"persist_mode": "async"}, 1),
    ),
)
def test_streams_that_may_lose_records_are_risky(config: dict[str, object], risks: int) -> None:
    """They work until they are full, or the server fails."""
    assert len(jetstream.info_from("B", {"config": config, "created": ""}).risks) == risks


@pytest.mark.parametrize(
    ("subjects", "takes"),
    (
        ((), True),
        (("$KV.B.>",), True),
        (("$KV.B.shop.*",), True),
        (("$KV.B.shop.billing",), True),
        (("x", "$KV.*.shop.>"), True),
        (("$KV.B.other.>",), False),
        (("$KV.B.*",), False),
        (("$KV.B.shop.billing.>",), False),
        (("orders.>",), False),
    ),
)
def test_which_keys_a_stream_takes(subjects: tuple[str, ...], takes: object) -> None:
    """By the wildcards of NATS."""
    config = {"subjects": list(subjects)}
    info = jetstream.info_from("B", {"config": config, "created": ""})
    assert info.takes("shop.billing") is takes
