"""The retry layer: bounded, jittered, and only for what may pass."""

import pytest

from pipeline.store import Retry, StoreError, StoreUnavailable
from pipeline.store.backend import Transient
from tests.store_doubles import FakeClock


def failing(times: int):
    """An operation that fails this often, then answers 'done'."""
    left = [times]

    def operation() -> str:
        if left[0]:
            left[0] -= 1
            raise Transient("503")
        return "done"

    return operation


def test_transient_failures_are_retried_until_the_answer() -> None:
    clock = FakeClock()
    assert Retry(clock=clock)("get x", failing(5)) == "done"
    assert len(clock.waits) == 5


def test_waits_stay_under_a_doubling_ceiling() -> None:
    clock = FakeClock()
    Retry(first_s=1.0, most_s=60.0, budget_s=1e9, clock=clock)("get x", failing(40))
    assert all(wait <= min(60.0, 2.0**number) for number, wait in enumerate(clock.waits))
    assert max(clock.waits) > 10.0


def test_waits_are_jittered() -> None:
    clock = FakeClock()
    Retry(first_s=60.0, budget_s=1e9, clock=clock)("get x", failing(20))
    assert len(set(clock.waits)) == 20


def test_the_budget_ends_the_tries() -> None:
    clock = FakeClock()
    with pytest.raises(StoreUnavailable, match="get x: 503"):
        Retry(budget_s=600.0, clock=clock)("get x", failing(10**6))
    assert clock.seconds <= 600.0


def test_no_budget_means_one_try() -> None:
    clock = FakeClock()
    with pytest.raises(StoreUnavailable, match="1 tries"):
        Retry(budget_s=0.0, clock=clock)("get x", failing(1))
    assert clock.waits == []


def test_a_refusal_is_not_retried() -> None:
    clock = FakeClock()

    def refuse() -> None:
        raise StoreError("403")

    with pytest.raises(StoreError):
        Retry(clock=clock)("put x", refuse)
    assert clock.waits == []
