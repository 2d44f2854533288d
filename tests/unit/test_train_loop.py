"""The training loop in one process: skipping, resuming, averages, curve."""

import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.diffusion.objectives.base import Batch, Draws
from pipeline.train.data import TrainingData
from pipeline.train.outcome import Diverged, Failure, Stopped
from pipeline.train.progress import Progress
from pipeline.train.state import CellState
from tests import stage_cases
from tests.train_cases import (
    CPU,
    FaultyData,
    MemoryStates,
    are_equal,
    built,
    data,
    not_a_number,
    spec,
    system,
    trained,
    weights,
)


class TestTraining:
    def test_repeats_bit_for_bit(self) -> None:
        assert are_equal(weights(trained(spec())), weights(trained(spec())))

    def test_another_seed_gives_other_weights(self) -> None:
        from pipeline.train.loop import train_cell

        one, two = (train_cell(system(), spec(), seed=seed, data=data(spec()), device=CPU) for seed in (1, 2))
        assert not are_equal(weights(one), weights(two))

    def test_first_adam_step_moves_by_the_learning_rate(self) -> None:
        before = {name: value.clone() for name, value in system().networks["network"].named_parameters()}
        state = trained(spec(steps=1, lr=1e-3, clip_norm=None))
        moved = [(v - before[k]).abs().max().item() for k, v in state.networks["network"].named_parameters()]
        assert max(moved) == pytest.approx(1e-3, rel=1e-3)

    @pytest.mark.parametrize("chunks", [2, 3, 8])
    def test_chunks_only_change_rounding(self, chunks: int) -> None:
        whole, parts = weights(trained(spec(steps=5))), weights(trained(spec(steps=5, chunks=chunks)))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5)

    def test_bf16_trains_float32_weights(self) -> None:
        state = trained(spec(steps=3, precision="bf16"))
        assert all(value.dtype == torch.float32 for value in weights(state).values())
        assert not are_equal(weights(state), weights(trained(spec(steps=3))))

    def test_a_classifier_learns(self) -> None:
        curve = trained(spec(steps=60, batch=32, flips=False), system=built(stage_cases.classifier())).curve.arrays()
        assert curve["loss"][-5:].mean() < 0.8 * curve["loss"][:5].mean()
        assert curve["metric_accuracy"][-5:].mean() > curve["metric_accuracy"][:5].mean()


class TestAverage:
    def test_is_the_written_recursion(self) -> None:
        decay = 0.9
        ema = {"decay": decay, "with_warmup": False}
        expected = dict(system().networks["network"].named_parameters())
        for steps in (1, 2, 3):
            now = dict(trained(spec(steps=steps, ema=ema)).networks["network"].named_parameters())
            expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in now}
        averages = trained(spec(steps=3, ema=ema)).averaged("network")
        for name, value in expected.items():
            torch.testing.assert_close(averages[name], value.detach())


class TestSkipping:
    def test_a_step_without_finite_loss_changes_nothing_but_the_count(self) -> None:
        faulty = trained(spec(steps=5), with_data=lambda d: FaultyData(d, [4], not_a_number))
        undisturbed = trained(spec(steps=4))
        assert are_equal(weights(faulty), weights(undisturbed))
        assert (faulty.num_skipped, faulty.step) == (1, 5)

    def test_training_goes_on_after_a_skipped_step(self) -> None:
        faulty = trained(spec(), with_data=lambda d: FaultyData(d, [3, 6], not_a_number))
        assert faulty.num_skipped == 2
        assert all(torch.isfinite(value).all() for value in weights(faulty).values())
        assert np.isnan(faulty.curve.arrays()["loss"][3])

    def test_an_overflowing_gradient_is_skipped_too(self) -> None:
        huge = FaultyData(data(spec()), [2], lambda batch: replace(batch, x_0=batch.x_0 * 1e30))
        assert trained(spec(), with_data=lambda _: huge).num_skipped == 1

    def test_more_than_max_skips_in_a_row_diverges_and_keeps_the_last_good_state(self) -> None:
        states = MemoryStates()
        with pytest.raises(Diverged, match="4 steps in a row"):
            trained(
                spec(max_skips=3), with_data=lambda d: FaultyData(d, range(2, 12), not_a_number), state_store=states
            )
        saved = states.latest()
        assert saved is not None
        assert saved.meta["step"] == 6
        resumed_at_two = trained(spec(steps=2))
        from safetensors.torch import load

        kept = load(saved.read("tensors.safetensors"))
        assert are_equal(
            weights(resumed_at_two), {n: v for n, v in kept.items() if n.startswith(("weights", "average"))}
        )

    def test_max_skips_in_a_row_are_survived(self) -> None:
        faulty = trained(spec(max_skips=3), with_data=lambda d: FaultyData(d, [2, 3, 4, 6, 7, 8], not_a_number))
        assert faulty.num_skipped == 6


class TestResuming:
    @pytest.mark.parametrize("stop_after", [1, 5, 11])
    def test_ends_bit_equal_to_an_undisturbed_run(self, stop_after: int) -> None:
        def broken(batch: Batch) -> Batch:
            raise KeyboardInterrupt

        states = MemoryStates()
        train = spec(checkpoint_steps=1)
        with pytest.raises(KeyboardInterrupt):
            trained(train, with_data=lambda d: FaultyData(d, [stop_after], broken), state_store=states)
        assert max(states.saved) == stop_after
        resumed, undisturbed = trained(train, state_store=states), trained(spec())
        assert are_equal(resumed.tensors(), undisturbed.tensors())
        assert resumed.counters() == undisturbed.counters()

    def test_repeats_no_step_before_the_state(self) -> None:
        class Counting:
            asks_store = False

            def __init__(self, inner: object) -> None:
                self.inner, self.steps = inner, []

            def batch(self, draws: Draws) -> Batch:
                self.steps.append(draws.step)
                return self.inner.batch(draws)

        states = MemoryStates()
        trained(spec(checkpoint_steps=4), state_store=states)
        assert sorted(states.saved) == [4, 8]
        counting = Counting(data(spec()))
        trained(spec(), state_store=states, with_data=lambda _: counting)
        assert sorted(set(counting.steps)) == [8, 9, 10, 11]

    def test_being_asked_to_stop_saves_the_running_step(self) -> None:
        states, asked = MemoryStates(), iter(range(100))
        with pytest.raises(Stopped, match="after step 4 of 12"):
            trained(spec(checkpoint_interval_s=1e-9), state_store=states, should_stop=lambda: next(asked) == 3)
        assert max(states.saved) == 4

    def test_being_asked_to_stop_right_after_a_checkpoint_saves_nothing(self) -> None:
        states = MemoryStates()
        with pytest.raises(Stopped):
            trained(spec(checkpoint_interval_s=3600.0), state_store=states, should_stop=lambda: True)
        assert not states.saved


class TestHostAheadOfDevice:
    """The order of work on a GPU, played on the CPU: flags are read one step late, results are the same."""

    @pytest.fixture(autouse=True)
    def _late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipeline.train.loop.is_asynchronous", lambda device: True)

    def reference(self, **changes: Any) -> CellState:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.train.loop.is_asynchronous", lambda device: False)
            return trained(spec(**changes), with_data=lambda d: FaultyData(d, [3, 6], not_a_number))

    def test_skips_and_averages_are_the_same(self) -> None:
        late = trained(spec(), with_data=lambda d: FaultyData(d, [3, 6], not_a_number))
        assert are_equal(late.tensors(), self.reference().tensors())
        assert late.counters() == self.reference().counters()

    def test_states_are_the_same(self) -> None:
        states = MemoryStates()
        trained(spec(checkpoint_steps=7), state_store=states, with_data=lambda d: FaultyData(d, [3, 6], not_a_number))
        resumed = trained(spec(), state_store=states)
        assert are_equal(resumed.tensors(), self.reference().tensors())

    def test_divergence_is_noticed(self) -> None:
        with pytest.raises(Diverged):
            trained(spec(max_skips=3), with_data=lambda d: FaultyData(d, range(2, 12), not_a_number))


class TestReporting:
    def test_last_report_is_the_end(self) -> None:
        reports: list[Progress] = []
        state = trained(spec(), report=reports.append)
        assert (reports[-1].step, reports[-1].steps) == (12, 12)
        assert reports[-1].loss == pytest.approx(state.curve.last("loss"))
        assert reports[-1].images_per_s > 0

    def test_reports_are_rate_limited(self) -> None:
        reports: list[Progress] = []
        trained(spec(steps=40, log_every_s=3600.0), report=reports.append)
        assert len(reports) == 1

    def test_an_error_of_the_objective_comes_out_as_it_is(self) -> None:
        def bad(batch: Batch) -> Batch:
            raise ZeroDivisionError("in the data")

        with pytest.raises(ZeroDivisionError, match="in the data") as caught:
            trained(spec(), with_data=lambda d: FaultyData(d, [2], bad))
        assert Failure.of(caught.value).kind == "ZeroDivisionError"

    def test_running_out_of_memory_has_its_own_kind(self) -> None:
        assert Failure.of(torch.OutOfMemoryError("CUDA out of memory")).kind == "OutOfMemory"
        assert Failure.of(MemoryError()).kind == "OutOfMemory"


def test_curve_has_a_row_per_window_and_no_clock() -> None:
    arrays = trained(spec(steps=12)).curve.arrays()
    assert set(arrays) == {"step", "lr", "loss", "grad_norm", "metric_eps_mse"}
    np.testing.assert_array_equal(arrays["step"], np.arange(1, 13))
    assert math.isfinite(arrays["loss"].sum())


def test_a_store_that_refuses_costs_the_checkpoint_and_not_the_training(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStates):
        def save(self, step: int, files: dict[str, Path | bytes], meta: dict[str, Any]) -> None:
            raise OSError("no space left")

    state = trained(spec(checkpoint_steps=5), state_store=Full())
    assert are_equal(weights(state), weights(trained(spec())))
    assert "no space left" in caplog.text


class TestStandingStill:
    @staticmethod
    def said(*, asks_store: bool, wait_s: float) -> list[str]:
        """What is said of a batch that takes `wait_s`, or until something is said, where steps may take 10 ms."""
        told: list[str] = []
        is_told = threading.Event()

        def tell(reason: str) -> None:
            told.append(reason)
            is_told.set()

        def slow(batch: Batch) -> Batch:
            is_told.wait(wait_s)
            return batch

        def with_data(inner: TrainingData) -> FaultyData:
            faulty = FaultyData(inner, [3], slow)
            faulty.asks_store = asks_store
            return faulty

        trained(spec(steps=5, stuck_after_s=0.01), with_data=with_data, on_stuck=tell)
        return told

    def test_is_told(self) -> None:
        (told,) = self.said(asks_store=False, wait_s=30.0)
        assert told.startswith("no step has ended for")

    def test_data_may_wait_for_the_store(self) -> None:
        assert self.said(asks_store=True, wait_s=2.5) == []
