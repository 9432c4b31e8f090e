"""Tokens a second by a clock of its own."""

from services.generator.throughput import WINDOW_SECONDS, Throughput


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = 100.0
    throughput = Throughput(clock=lambda: now)
    assert throughput.rate() == 0
    throughput.add(30)
    now += 1
    throughput.add(20)
    assert throughput.rate() == 50 / WINDOW_SECONDS
    now += WINDOW_SECONDS - 0.5
    assert throughput.rate() == 20 / WINDOW_SECONDS
    now += WINDOW_SECONDS
    throughput.add(5)
    assert throughput.rate() == 5 / WINDOW_SECONDS
    assert throughput.total == 55
