import math

import pytest

from incumbent.campaign.records import Profile, Promotion
from incumbent.campaign.timing import (
    FAST_TRIES,
    TOGETHER,
    ExponentialBackoff,
    allowing_for,
    retry_pause,
    timing_for,
)
from incumbent.errors import ConfigurationError

PROMPT, CHORIA = Profile.PROMPT, Profile.CHORIA


@pytest.mark.parametrize(
    ("settings", "sentence"),
    (
        ({"ttl": 0}, "bucket TTL must be at least 1 second, this bucket has none"),
        ({"ttl": 0.999}, "bucket TTL must be at least 1 second, it is 0.999 s"),
        ({"ttl": -1}, "bucket TTL must be at least 1 second, it is -1 s"),
        ({"ttl": math.nan}, "bucket TTL must be at least 1 second, it is nan s"),
        ({"ttl": 3600.5}, "bucket TTL must be at most 1 hour, it is 3600.5 s"),
        ({"ttl": math.inf}, "bucket TTL must be at most 1 hour, it is inf s"),
        (
            {"ttl": 30, "interval": 0.9},
            "campaign interval must be at least 1 second, it is 0.9 s with a bucket TTL of 30 s",
        ),
        (
            {"ttl": 30, "interval": math.nan},
            "campaign interval must be at least 1 second, it is nan s with a bucket TTL of 30 s",
        ),
        (
            {"ttl": 1.2, "profile": CHORIA},
            "campaign interval must be at least 1 second, it is 0.9 s with a bucket TTL of 1.2 s",
        ),
        (
            {"ttl": 1},
            (
                "campaign interval of 1 s is too close to the bucket TTL of 1 s: it must end"
                " 1 s before the TTL and 0.5 s before the leader's deadline at 0.75 s, so it may be"
                " 0 s at most"
            ),
        ),
        (
            {"ttl": 3.9, "profile": CHORIA},
            (
                "campaign interval of 2.925 s is too close to the bucket TTL of 3.9 s: it must end"
                " 1 s before the TTL and 0.5 s before the leader's deadline at 3.51 s, so it may be"
                " 2.9 s at most"
            ),
        ),
        (
            {"ttl": 30, "interval": 29.5},
            (
                "campaign interval of 29.5 s is too close to the bucket TTL of 30 s: it must end"
                " 1 s before the TTL and 0.5 s before the leader's deadline at 27 s, so it may be"
                " 26.5 s at most"
            ),
        ),
        (
            {"ttl": 30, "interval": 26.75},
            (
                "campaign interval of 26.75 s is too close to the bucket TTL of 30 s: it must end"
                " 1 s before the TTL and 0.5 s before the leader's deadline at 27 s, so it may be"
                " 26.5 s at most"
            ),
        ),
        ({"ttl": 30, "splay": -1}, "campaign splay must be 0 seconds or more, it is -1 s"),
        ({"ttl": 30, "splay": math.inf}, "campaign splay must be 0 seconds or more, it is inf s"),
    ),
)
def test_a_limit_that_is_broken_is_named_in_one_sentence(settings, sentence):
    """Every limit has its own sentence, with the values that break it."""
    with pytest.raises(ConfigurationError) as refused:
        timing_for(**settings)

    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "settings",
    (
        {"ttl": 2},
        {"ttl": 4, "profile": CHORIA},
        {"ttl": 3600},
        {"ttl": 3600, "profile": CHORIA},
        {"ttl": 30, "interval": 1},
        {"ttl": 30, "interval": 26.5},
        {"ttl": 30, "splay": 0},
    ),
)
def test_the_limits_themselves_are_allowed(settings):
    """What lies exactly on a limit works, and leaves time for two attempts at a renewal."""
    timing = timing_for(**settings)

    assert timing.interval + 2 * timing.write_timeout <= timing.lease < timing.ttl


@pytest.mark.parametrize(
    ("ttl", "profile", "interval", "lease", "write_timeout", "relay_after", "stranger_after"),
    (
        (2, PROMPT, 1, 1.75, 0.375, 1.25, 1.7),
        (5, PROMPT, 5 / 3, 4.5, 17 / 12, 47 / 18, 3.95),
        (30, PROMPT, 10, 27, 2, 47 / 3, 22.7),
        (3600, PROMPT, 1200, 3240, 2, 1880, 2700.2),
        (4, CHORIA, 3, 3.6, 0.3, 3.2, 3.2),
        (30, CHORIA, 22.5, 27, 2, 24, 22.7),
    ),
)
def test_durations_follow_from_the_ttl_and_the_profile(
    ttl, profile, interval, lease, write_timeout, relay_after, stranger_after
):
    """A profile and a TTL give all durations."""
    timing = timing_for(ttl, profile=profile)

    assert timing.interval == pytest.approx(interval)
    assert timing.lease == pytest.approx(lease)
    assert timing.write_timeout == pytest.approx(write_timeout)
    assert timing.relay_after == pytest.approx(relay_after)
    assert timing.stranger_after == pytest.approx(stranger_after)


def test_a_relay_never_comes_before_half_of_the_ttl():
    """A short interval does not make standbys impatient."""
    assert timing_for(30, interval=1).relay_after == 15


@pytest.mark.parametrize(("profile", "splay"), ((PROMPT, 0), (CHORIA, 5)))
def test_only_choria_members_start_at_a_random_moment(profile, splay):
    """The splay is Choria's 5 seconds or none, and can be set for both."""
    assert timing_for(30, profile=profile).splay == splay
    assert timing_for(30, profile=profile, splay=3).splay == 3


def test_pauses_at_a_vacancy_grow_and_then_last_an_interval():
    """Eight quick tries at growing distances, then one for each interval."""
    timing = timing_for(30)

    quick = [timing.pause(tries, 0) for tries in range(FAST_TRIES)]
    assert quick == sorted(set(quick))
    assert quick[0] == pytest.approx(0.1)
    assert quick[-1] == pytest.approx(0.5, abs=0.01)
    assert timing.pause(FAST_TRIES, 0) == timing.interval
    assert timing.pause(FAST_TRIES, 0.9) == pytest.approx(1.09 * timing.interval)


@pytest.mark.parametrize("tries", (0, 3, 100))
def test_jitter_shortens_a_pause_by_up_to_a_half(tries):
    """Members that lose one race do not meet again in the next."""
    longest = retry_pause(tries, 0)

    assert longest <= 0.5
    assert retry_pause(tries, 0.5) == pytest.approx(0.75 * longest)
    assert retry_pause(tries, 0.99) == pytest.approx(0.505 * longest)


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    (
        (None, [22.5, 22.5, 22.5]),
        (lambda tries: 10.0 * tries, [22.5, 10, 20]),
        (lambda tries: 0.0, [22.5, 1, 1]),
    ),
)
def test_a_choria_member_ticks_by_its_backoff_while_it_has_no_success(backoff, pauses):
    """The backoff gives the pause by tries, at least a second; without tries the interval rules."""
    timing = timing_for(30, profile=CHORIA, backoff=backoff)

    assert [timing.pause(tries, 0.7) for tries in range(3)] == pauses


def test_a_prompt_member_ticks_by_its_backoff_after_its_quick_tries():
    """The backoff replaces the interval, not the quick tries at a fresh vacancy."""
    timing = timing_for(30, backoff=lambda tries: 40.0 + tries)

    assert timing.pause(0, 0) < 1
    assert timing.pause(FAST_TRIES - 1, 0) < 1
    assert [timing.pause(FAST_TRIES + more, 0) for more in range(3)] == [41, 42, 43]


@pytest.mark.parametrize(
    ("profile", "promotion", "expected"),
    (
        (PROMPT, None, Promotion.AUTO),
        (CHORIA, None, Promotion.NEXT_CAMPAIGN),
        (PROMPT, Promotion.NEXT_CAMPAIGN, Promotion.NEXT_CAMPAIGN),
        (CHORIA, Promotion.AUTO, Promotion.AUTO),
    ),
)
def test_the_promotion_is_the_profiles_unless_it_is_given(profile, promotion, expected):
    """Each manner of a profile can be had without the others."""
    assert timing_for(30, profile=profile, promotion=promotion).promotion is expected


def test_an_exponential_backoff_grows_up_to_its_maximum():
    """The first pause is the initial one, and no number of tries is too many."""
    backoff = ExponentialBackoff(10, 1.5, 20)

    assert [backoff(tries) for tries in (1, 2, 3, 4)] == [10, 15, 20, 20]
    assert ExponentialBackoff(1, 10, 3600)(10**6) == 3600


@pytest.mark.parametrize("ttl", (2, 5, 15, 30, 3600))
@pytest.mark.parametrize("sent_at", (0.0, 0.3, 12345.678, 1e6 + 1 / 3))
def test_renewals_of_many_elections_are_due_together(ttl, sent_at):
    """At one of few moments, and never later than an interval after the last, nor much sooner."""
    timing = timing_for(ttl)
    due = [timing.renewal_after(sent_at + timing.interval * n / 1000) for n in range(1000)]
    assert len({round(moment, 6) for moment in due}) <= 1 / TOGETHER + 1
    for number, moment in enumerate(due):
        late = sent_at + timing.interval * (1 + number / 1000) - moment
        assert -1e-6 <= late <= TOGETHER * timing.interval + 1e-6


def test_a_renewal_at_its_moment_is_followed_by_one_an_interval_later():
    """Not sooner and sooner, also if each is sent a little late."""
    timing = timing_for(15)
    moment = timing.renewal_after(1000.0)
    for _ in range(100):
        following = timing.renewal_after(moment + 0.002)
        assert following - moment == pytest.approx(timing.interval)
        moment = following


def test_choria_renews_when_choria_does():
    """Its manners are kept exactly."""
    timing = timing_for(15, profile=Profile.CHORIA)
    assert timing.renewal_after(1.234) == 1.234 + timing.interval


@pytest.mark.parametrize(
    ("ttl", "patch", "margin"),
    (
        (30, 0.02, 3.0),
        (30, 1.5, 3.0),
        (30, 2.5, 4.0),
        (30, 10.0, 11.5),
        (30, 13.0, 3.0),
        (6, 2.0, 2.3),
        (6, 3.0, 0.6),
        (2, 0.5, 0.625),
    ),
)
def test_slow_strip_moves_the_deadline(ttl, patch, margin):
    """It is sent so early that it ends before the TTL, if there is time for that at all."""
    timing = allowing_for(timing_for(ttl), patch)
    assert timing.margin == pytest.approx(margin)
    assert allowing_for(timing, 0.0) == timing_for(ttl)


def test_choria_leaves_no_time_for_a_slow_strip():
    """A renewal is sent at three quarters of the TTL, as there."""
    timing = timing_for(30, profile=Profile.CHORIA)
    assert allowing_for(timing, 5.0) == timing
