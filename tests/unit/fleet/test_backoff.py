"""Rests after failures: short at first, bounded, and not the same for everybody."""

from lwd.fleet.backoff import Backoff


def test_rests_grow_to_the_cap_and_begin_anew_after_a_success():
    rests = Backoff(first_s=0.5, most_s=60.0)
    for failures in range(2000):  # days of them
        most_s = min(60.0, 0.5 * 2 ** min(failures, 30))
        assert 0.05 <= rests.failed() <= most_s
    assert rests.failures == 2000
    rests.succeeded()
    assert rests.failed() <= 0.5


def test_a_fleet_that_failed_together_does_not_come_back_as_one():
    hosts = [Backoff() for _ in range(200)]
    for _ in range(9):
        rests_s = [host.failed() for host in hosts]
    assert max(rests_s) - min(rests_s) > 30
    assert len({round(rest_s, 3) for rest_s in rests_s}) > 150
