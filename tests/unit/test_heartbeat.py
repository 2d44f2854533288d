"""A training that stands still is noticed, a slow or waiting one is not."""

import threading

import pytest

from pipeline.train.heartbeat import Heartbeat


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("pipeline.train.heartbeat.time.monotonic", lambda: self.now)

    def looks(self, heartbeat: Heartbeat, seconds: int) -> str | None:
        """Look once per second, so long or until something is said."""
        for _ in range(seconds):
            self.now += 1.0
            said = heartbeat.look()
            if said is not None:
                return said
        return None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def stepping(clock: Clock, *, step_s: float = 1.0, patience_s: float = 20.0) -> Heartbeat:
    """A heartbeat in the middle of a training; nothing of it looks by itself."""
    heartbeat = Heartbeat(patience_s, None)
    with heartbeat.watching():
        for _ in range(5):
            clock.now += step_s
            heartbeat.look()
            heartbeat.step_done()
    return heartbeat


def test_a_step_that_does_not_end_is_told_with_its_limit(clock: Clock) -> None:
    heartbeat = stepping(clock)
    assert clock.looks(heartbeat, 20) is None
    said = clock.looks(heartbeat, 1)
    assert said is not None
    assert said.startswith("no step has ended for 21 s; 20 s are allowed")


def test_slow_steps_are_given_ten_times_their_median(clock: Clock) -> None:
    heartbeat = stepping(clock, step_s=7.0)
    assert heartbeat.limit_s == 70.0
    assert clock.looks(heartbeat, 70) is None
    assert clock.looks(heartbeat, 1) is not None


def test_the_first_step_may_warm_up(clock: Clock) -> None:
    heartbeat = Heartbeat(20.0, None)
    with heartbeat.watching():
        assert clock.looks(heartbeat, 100) is None
        assert clock.looks(heartbeat, 1) is not None


def test_a_step_that_ends_starts_the_wait_anew(clock: Clock) -> None:
    heartbeat = stepping(clock)
    assert clock.looks(heartbeat, 15) is None
    heartbeat.step_done()
    assert clock.looks(heartbeat, 15) is None


def test_waiting_for_the_store_is_no_hang(clock: Clock) -> None:
    heartbeat = stepping(clock)
    with heartbeat.paused():
        assert clock.looks(heartbeat, 600) is None
    assert clock.looks(heartbeat, 20) is None
    assert clock.looks(heartbeat, 1) is not None


def test_a_process_that_was_held_has_not_stood_still(clock: Clock) -> None:
    heartbeat = stepping(clock)
    clock.now += 3600.0
    assert heartbeat.look() is None
    assert clock.looks(heartbeat, 18) is None


def test_the_thread_tells_once_and_ends() -> None:
    told: list[str] = []
    is_told = threading.Event()

    def tell(reason: str) -> None:
        told.append(reason)
        is_told.set()

    heartbeat = Heartbeat(0.01, tell, look_every_s=0.001)
    with heartbeat.watching():
        heartbeat.step_done()
        assert is_told.wait(10.0)
    assert len(told) == 1
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
