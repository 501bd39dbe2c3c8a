"""How often something may happen, for each source on its own."""

from hypothesis import given
from hypothesis import strategies as st

from incumbent.ratelimit import RateLimit


def test_a_burst_passes_and_then_so_many_a_second():
    limit = RateLimit(burst=3, rate=2)
    assert [limit.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not limit.take("a", 0.4)
    assert limit.take("a", 0.5)
    assert not limit.take("a", 0.6)


def test_one_source_takes_nothing_from_another():
    limit = RateLimit(burst=1, rate=0.1)
    assert limit.take("a", 0.0)
    assert not limit.take("a", 0.0)
    assert limit.take("b", 0.0)


def test_a_source_that_was_silent_long_enough_has_its_burst_again_and_no_more():
    limit = RateLimit(burst=2, rate=1)
    assert limit.take("a", 0.0)
    assert limit.take("a", 0.0)
    assert [limit.take("a", 1000.0) for _ in range(3)] == [True, True, False]


def test_sources_that_have_their_burst_again_are_forgotten():
    """Namespaces come and go: what is remembered does not grow with how many there were."""
    limit = RateLimit(burst=2, rate=1)
    for number in range(10_000):
        limit.take(f"namespace-{number}", float(number))
    assert len(limit) < 200


def test_sources_that_are_limited_are_not_forgotten():
    limit = RateLimit(burst=1, rate=0.001)
    for number in range(500):
        assert limit.take(f"namespace-{number}", 0.0)
    assert not any(limit.take(f"namespace-{number}", 1.0) for number in range(500))


def test_of_very_many_sources_those_that_came_last_are_remembered():
    limit = RateLimit(burst=1, rate=0.001, most=100)
    for number in range(1000):
        assert limit.take(str(number), 0.0)
    assert len(limit) == 100
    assert not limit.take("999", 1.0)
    assert limit.take("0", 1.0)


@given(
    st.lists(st.floats(0, 10), max_size=60),
    st.integers(1, 5),
    st.floats(0.1, 5),
)
def test_never_more_than_the_burst_and_the_rate_together(pauses, burst, rate):
    limit, now, passed = RateLimit(burst=burst, rate=rate), 0.0, 0
    for pause in pauses:
        now += pause
        passed += limit.take("a", now)
    assert passed <= burst + rate * now + 1e-6
