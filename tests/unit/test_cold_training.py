"""Trainings of the objectives on levels: they learn, and encoder, average and precision are where they belong."""

from typing import Any

import pytest
import torch

from pipeline.diffusion.objectives import ENCODER
from pipeline.train.state import CellState
from tests import stage_cases
from tests.train_cases import are_equal, built, spec, trained, weights

HEAT: dict[str, Any] = {"kind": "heat", "num_levels": 6, "fade": "cosine"}
VARIATIONAL: dict[str, Any] = {"kind": "variational_cold", "latent_dim": 3}


def system(objective: dict[str, Any], **network: Any) -> Any:
    """A blur to black of the stage cases' squares."""
    spec_of = stage_cases.system(
        process={"kind": "spectral", "basis": "dct", "centre": "black", "schedule": HEAT},
        prediction="x0" if objective["kind"] == "cold" else "x_prev",
        objective=objective,
        network={"kind": "mlp", "width": 32, "depth": 1} | network,
    )
    return built(spec_of)


VCD = VARIATIONAL | {"rollout": True, "teacher_from": 4, "kl_annealing": 6, "beta": 0.01}


class TestTraining:
    @pytest.mark.parametrize(
        "objective",
        [
            {"kind": "cold"},
            {"kind": "sequential"},
            VARIATIONAL | {"beta": 0.01, "kl_annealing": 30},
            VARIATIONAL | {"beta": 0.01, "kl_annealing": 30, "jitter": 0.1},
            VARIATIONAL | {"beta": 0.01, "kl_annealing": 30, "rollout": True, "teacher_from": 20},
        ],
        ids=["cold", "sequential", "variational", "vwd", "vcd"],
    )
    def test_lowers_the_loss(self, objective: dict[str, Any]) -> None:
        curve = trained(spec(steps=60, batch=32, chunks=1, flips=False), system=system(objective)).curve.arrays()
        values = curve["metric_recon" if "metric_recon" in curve else "loss"]
        assert values[-10:].mean() < 0.85 * values[:10].mean()

    def test_moves_the_encoder_and_averages_it(self) -> None:
        state = trained(spec(steps=3), system=system(VCD))
        start = system(VCD).networks[ENCODER].state_dict()
        now, average = state.networks[ENCODER].state_dict(), state.averaged(ENCODER)
        for name in ("input.weight", "heads.mean.weight", "heads.log_variance.weight"):
            assert not torch.equal(start[name], now[name])
            assert not torch.equal(average[name], now[name])
        assert set(state.optimisers) == {"network"}

    def test_host_ahead_of_the_device_sees_the_same_averages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run() -> CellState:
            return trained(spec(), system=system(VCD, dropout=0.2))

        expected = run()
        monkeypatch.setattr("pipeline.train.loop.is_asynchronous", lambda device: True)
        late = run()
        assert are_equal(late.tensors(), expected.tensors())
        assert late.counters() == expected.counters()

    def test_number_of_chunks_only_changes_rounding(self) -> None:
        whole, parts = (weights(trained(spec(steps=6, chunks=n), system=system(VCD))) for n in (1, 4))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4)

    def test_runs_in_bfloat16_throughout(self) -> None:
        called: list[torch.dtype] = []
        subject = system(VCD)
        for name in ("network", ENCODER):
            subject.networks[name].input.register_forward_hook(lambda m, given, out: called.append(out.dtype))
        state = trained(spec(steps=6, precision="bf16"), system=subject)
        assert set(called) == {torch.bfloat16}
        assert all(torch.isfinite(value).all() for value in weights(state).values())
