"""The training loop: the only place that calls the network, backward, all-reduce, clip, optimiser and average."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch

from pipeline.baselines.system import System
from pipeline.diffusion.objectives.base import Draws, Phase
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks.dropout import KeyedDropout, dropout_masks
from pipeline.train.data import TrainingData
from pipeline.train.gradient import FAILED, LOSS, METRICS, STOP, FlatGradient, num_chunks, owned_chunks
from pipeline.train.group import Group, solo
from pipeline.train.heartbeat import Heartbeat, OnStuck
from pipeline.train.outcome import Diverged, Stopped, raise_together
from pipeline.train.progress import Pace, Report
from pipeline.train.readback import Readback
from pipeline.train.spec import TrainSpec
from pipeline.train.state import CellState, StateStore, load_state, new_state, save_state

log = logging.getLogger(__name__)

_YOUNG = 0.2  # share of the checkpoint interval; a checkpoint younger than that will do when we are asked to stop
_MAX_SAVING_SHARE = 0.02  # of the time
_STORE_PATIENCE_S = 660.0  # an operation of the store may take 10 minutes, and all wait for the worker that asks


def train_cell(
    system: System,
    spec: TrainSpec,
    *,
    seed: int,
    data: TrainingData,
    device: torch.device,
    group: Group | None = None,
    state_store: StateStore | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_stuck: OnStuck | None = None,
) -> CellState:
    """Train `system` to `spec.steps`, continuing from the newest state in `state_store`.

    Every worker of `group` calls it with equal arguments. On CPU with one thread per worker the result is a function of
    system, spec, seed and data, bit for bit, for any number of workers up to `spec.chunks` and any interruptions.

    Args:
        system: freshly built; its networks are moved to `device` and trained in place.
        spec: the optimisation.
        seed: of order, noise, times, flips and dropout.
        data: the training split.
        device: of this worker.
        group: the workers; None is this process alone.
        state_store: where states are kept; None keeps none. Only rank 0 uses it.
        report: called on rank 0, at most every `spec.log_every_s` seconds and at the end.
        should_stop: asked at every step; true on one worker stops all.
        on_stuck: called in a thread when no step ends for `spec.stuck_after_s` and 10 median steps.

    Raises:
        Diverged: too many non-finite steps in a row; the last good state is saved.
        Stopped: `should_stop` said so; the state is saved unless a young one exists.
        WorkerFailed: another worker raised. What this worker's own objective or data raise comes out as it is.
        GroupBroken: a collective failed.
    """
    group = group or solo()
    cell: _Cell | None = None
    error: Exception | None = None
    try:
        waits_for_store = data.asks_store or not group.is_first  # rank 0 saves, and is not watched meanwhile
        heartbeat = Heartbeat(spec.stuck_after_s + (_STORE_PATIENCE_S if waits_for_store else 0.0), on_stuck)
        cell = _Cell(
            system,
            spec,
            seed=seed,
            data=data,
            device=device,
            group=group,
            state_store=state_store,
            heartbeat=heartbeat,
        )
    except Exception as failure:  # too large for one worker's device, say
        error = failure
    raise_together(error, group)
    assert cell is not None
    cell.run(report if group.is_first else None, should_stop)
    return cell.state


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host runs ahead of `device`; it then looks at a step's flags one step later instead of waiting."""
    return device.type != "cpu"


@dataclass(frozen=True)
class _Unsettled:
    """A phase whose update is under way on the device and whose flags the host has not seen."""

    step: int
    optimiser: str
    is_last_of_step: bool
    row: Readback


class _Cell:
    """One running training."""

    def __init__(
        self,
        system: System,
        spec: TrainSpec,
        *,
        seed: int,
        data: TrainingData,
        device: torch.device,
        group: Group,
        state_store: StateStore | None,
        heartbeat: Heartbeat,
    ) -> None:
        self.spec, self.data, self.device, self.group, self.store = spec, data, device, group, state_store
        self.heartbeat = heartbeat
        self.stream = NoiseStream(seed)
        self.bounds = owned_chunks(spec.batch, spec.chunks, group)
        self.state = new_state(system, spec, device)
        chunks = num_chunks(spec.batch, spec.chunks, group)
        self.gradients = {
            name: FlatGradient(weights, num_chunks=chunks, group=group)
            for name, weights in self.state.flat_weights.items()
        }
        self.has_dropout = {
            name: any(isinstance(m, KeyedDropout) and m.probability > 0 for m in network.modules())
            for name, network in self.state.networks.items()
        }
        self.metric_names: dict[str, list[str]] = {}
        self.error: Exception | None = None
        self.unsettled: _Unsettled | None = None
        self.is_step_finite = True
        self.is_stop_agreed = False
        self.save_s = 0.0
        self.seen = {"loss": math.nan, "grad_norm": math.nan}

    def run(self, report: Report | None, should_stop: Callable[[], bool]) -> None:
        """From the newest saved state to the end."""
        spec, state = self.spec, self.state
        load_state(state, self.store, self.group)
        state.objective.bind(state.networks, state.averaged, self._autocast)
        self.saved_step, self.saved_at = state.step, time.monotonic()
        if state.skips_in_row > spec.max_skips:
            self._raise_diverged()
        pace = Pace(report, every_s=spec.log_every_s, batch=spec.batch, first_step=state.step)
        with self.heartbeat.watching():
            for step in range(state.step, spec.steps):
                self._one_step(step, should_stop())
                if self.is_stop_agreed:
                    self._stop()
                if self._is_checkpoint_due(step + 1):
                    self._save()
                pace.step_done(step + 1, spec.steps, lr=spec.lr_at(step), num_skipped=state.num_skipped, **self.seen)
                self.heartbeat.step_done()
            self._settle()

    def _one_step(self, step: int, stop: bool) -> None:
        if self.state.objective.uses_average:
            self._settle()
        lr = self.spec.lr_at(step)
        draws = [
            Draws(self.stream, step, range(first, last), self.spec.batch, self.device) for first, last in self.bounds
        ]
        phases = self.state.objective.phases(step)
        for number, phase in enumerate(phases):
            gradient, optimiser = self.gradients[phase.optimiser], self.state.optimisers[phase.optimiser]
            gradient.clear_()
            if self.error is None:
                try:
                    self._backward(phase, draws, gradient)
                except Exception as error:  # the other workers learn of it by the flag and end the cell with us
                    self.error = error
            self._settle()
            slots = gradient.reduce_(failed=self.error is not None, stop=stop)
            norm = gradient.clip_(self.spec.clip_norm)
            for param_group in optimiser.param_groups:
                param_group["lr"] = lr * param_group.get("lr_scale", 1.0)
            is_bad = ~(torch.isfinite(norm) & torch.isfinite(slots[LOSS]))
            cast(
                Any, optimiser
            ).found_inf = is_bad.float()  # a fused step leaves weights and moments alone where this is 1
            optimiser.step()
            row = Readback(torch.cat([slots, norm[None]]))
            self.unsettled = _Unsettled(step, phase.optimiser, number == len(phases) - 1, row)
            if not is_asynchronous(self.device):
                self._settle()

    def _backward(self, phase: Phase, draws: list[Draws], gradient: FlatGradient) -> None:
        """Gradient and loss of this worker's chunks."""
        network = self.state.networks[phase.network]
        for chunk in draws:
            inputs = phase.inputs(self.data.batch(chunk), chunk)
            masks = dropout_masks(network, chunk) if self.has_dropout[phase.network] else nullcontext()
            call = inputs.network
            with masks, self._autocast():
                output = network(call.x, call.t, call.gamma, call.cond)
            losses, metrics = phase.loss(inputs, output.float())
            loss = losses.sum() / self.spec.batch
            loss.backward()
            self.metric_names[phase.optimiser] = sorted(metrics)
            gradient.add_chunk_(loss, {name: value.sum() / self.spec.batch for name, value in metrics.items()})

    def _autocast(self) -> torch.autocast:
        """The precision of network calls."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.spec.precision == "bf16")

    def _settle(self) -> None:
        """Take note of the last phase: average, curve, skips. All workers see the same numbers and decide the same."""
        phase, self.unsettled = self.unsettled, None
        if phase is None:
            return
        *slots, norm = phase.row.values()
        if slots[FAILED] > 0:
            raise_together(self.error, self.group)
        self.is_stop_agreed |= slots[STOP] > 0
        state = self.state
        suffix = "" if len(state.optimisers) == 1 else f"_{phase.optimiser}"
        if math.isfinite(slots[LOSS]) and math.isfinite(norm):
            weights = state.flat_weights[phase.optimiser]
            state.averages[phase.optimiser].update(weights, num_images=self.spec.batch)
            self.seen = {"loss": slots[LOSS], "grad_norm": norm}
            state.curve.add(f"loss{suffix}", slots[LOSS])
            state.curve.add(f"grad_norm{suffix}", norm)
            for name, value in zip(self.metric_names.get(phase.optimiser, []), slots[METRICS:], strict=False):
                state.curve.add(f"metric_{name}{suffix}", value)
        else:
            self.is_step_finite = False
        if phase.is_last_of_step:
            self._end_step(phase.step)

    def _end_step(self, step: int) -> None:
        state = self.state
        state.step = step + 1
        state.skips_in_row = 0 if self.is_step_finite else state.skips_in_row + 1
        state.num_skipped += not self.is_step_finite
        self.is_step_finite = True
        state.curve.end_step(step, self.spec.lr_at(step))
        if state.skips_in_row > self.spec.max_skips:
            self._save()
            self._raise_diverged()

    def _raise_diverged(self) -> None:
        raise Diverged(
            f"loss or gradient not finite in {self.state.skips_in_row} steps in a row up to step {self.state.step}; "
            "lower lr, raise warmup_steps or look at the data"
        )

    def _is_checkpoint_due(self, steps_done: int) -> bool:
        if self.store is None or not self.group.is_first or steps_done == self.spec.steps:
            return False
        if self.spec.checkpoint_steps is not None and steps_done % self.spec.checkpoint_steps == 0:
            return True
        interval_s = max(self.spec.checkpoint_interval_s, self.save_s / _MAX_SAVING_SHARE)
        return time.monotonic() - self.saved_at >= interval_s

    def _save(self) -> None:
        """Save what is settled, on rank 0; a store that refuses costs the checkpoint, not the training."""
        self._settle()
        if self.store is None or not self.group.is_first or self.state.step == self.saved_step:
            return
        start = time.monotonic()
        try:
            with self.heartbeat.paused():
                save_state(self.state, self.store)
        except Exception as error:  # the others are already waiting in the next step
            log.warning("event=state_not_saved step=%d error=%r", self.state.step, error)
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        self.save_s = self.saved_at - start

    def _stop(self) -> None:
        self._settle()
        is_old = time.monotonic() - self.saved_at > _YOUNG * self.spec.checkpoint_interval_s
        if is_old:
            self._save()
        raise Stopped(f"stopped after step {self.state.step} of {self.spec.steps}; the same command continues")
