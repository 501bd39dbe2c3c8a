"""Which objects changed after a version."""

from hypothesis import given
from hypothesis import strategies as st

from incumbent.server.changelog import MOST_GONE, ChangeLog


@given(st.lists(st.sampled_from("abc")), st.integers(0, 60))
def test_what_changed_after_a_version_is_told_once_and_the_latest_first(changes, version):
    log = ChangeLog()
    for number, key in enumerate(changes, start=1):
        log.note(key, number)
    later = changes[version:][::-1]
    assert log.since(version) == list(dict.fromkeys(later))


def test_changes_of_few_that_are_gone_are_remembered():
    log = ChangeLog()
    log.note("gone", 1)
    log.trim({"a"}, 1)
    assert log.since(0) == ["gone"]


def test_of_many_that_are_gone_nobody_knows_the_changes_any_more():
    log = ChangeLog()
    present = {"a"}
    for number in range(1, 10 * MOST_GONE):
        log.note(f"gone-{number}", number)
        log.trim(present, number)
    last = 10 * MOST_GONE
    log.note("a", last)
    assert len(log._changed_at) <= 2 * len(present) + MOST_GONE + 1
    assert log.since(0) is None
    assert log.since(last - 1) == ["a"]
