"""Objectives on the levels of a degradation: states, targets, code, rollout, teacher."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import ConfigError, parse, union
from pipeline.diffusion import build_process
from pipeline.diffusion.objectives import ENCODER, OBJECTIVES, Batch, Draws, VariationalCold, VariationalColdSpec
from pipeline.diffusion.objectives.variational_cold import kl_divergence, kl_weight, rollout
from pipeline.diffusion.predictor import Precondition
from pipeline.diffusion.randomness import NoiseStream
from pipeline.networks import MlpSpec

SHAPE = (1, 4, 4)
LEVELS = 6
HEAT: dict[str, Any] = {"kind": "heat", "num_levels": LEVELS, "fade": "cosine"}
LATENT = 3
STREAM = NoiseStream(4)
VARIATIONAL = {"kind": "variational_cold", "latent_dim": LATENT}


def process(**changes: Any) -> Any:
    return build_process({"kind": "spectral", "basis": "dct", "schedule": HEAT | changes}, shape=SHAPE)


def build(objective: dict[str, Any], **changes: Any) -> Any:
    prediction: Any = "x0" if objective["kind"] == "cold" else "x_prev"
    return parse(union(OBJECTIVES), objective).build(Precondition(process(**changes), prediction))


def moved(network: nn.Module, seed: int = 0) -> nn.Module:
    """After some training, as far as zero-initialised layers are concerned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def networks(dropout: float = 0.0) -> dict[str, nn.Module]:
    mlp = MlpSpec(width=16, depth=1, dropout=dropout)
    network = moved(mlp.build(SHAPE, 3, num_times=2, latent_dim=LATENT))
    return {"network": network, ENCODER: moved(mlp.encoder(SHAPE, LATENT))}


def bound(objective: dict[str, Any], *, own: dict[str, nn.Module] | None = None, **changes: Any) -> VariationalCold:
    own = own or networks()
    built_objective = build(VARIATIONAL | objective, **changes)
    built_objective.bind(own, lambda name: {key: 0.5 * value for key, value in own[name].state_dict().items()})
    return built_objective


def draws(size: int = 12, *, step: int = 5, first: int = 0) -> Draws:
    return Draws(STREAM, step, range(first, first + size), max(12, size))


def batch(given: Draws) -> Batch:
    x_0 = Draws(STREAM, 0, given.positions, given.global_batch).uniform("data", SHAPE) * 2 - 1
    return Batch(x_0, torch.tensor(list(given.positions)) % 3, given.positions, given.global_batch)


def inputs(objective: Any, given: Draws | None = None) -> Any:
    given = given or draws()
    return objective.inputs(batch(given), given)


class TestLevels:
    def test_are_all_times_k_over_T_equally_often(self) -> None:
        times = torch.stack([draws(64, step=step).level_times("t", 8) for step in range(50)])
        levels, counts = (times * 8).unique(return_counts=True)
        assert torch.equal(levels, torch.arange(1.0, 9.0, dtype=torch.float64))
        assert torch.equal(counts, torch.full_like(counts, 50 * 64 // 8))

    def test_one_example_sees_every_level_over_the_steps(self) -> None:
        times = [draws(1, step=step, first=3).level_times("t", 5).item() for step in range(200)]
        assert set(times) == {0.2, 0.4, 0.6, 0.8, 1.0}

    def test_single_level_is_the_end(self) -> None:
        assert torch.equal(draws(5).level_times("t", 1), torch.ones(5, dtype=torch.float64))


class TestStates:
    @pytest.mark.parametrize("stride", [1, 4])
    def test_truth_is_the_noiseless_level_below(self, stride: int) -> None:
        objective = build({"kind": "sequential", "stride": stride}, noise=0.2)
        given = inputs(objective)
        below = ((given.t * LEVELS).round() - stride).clamp(min=0) / LEVELS
        c_0 = objective.process.to_components(batch(draws()).x_0)
        torch.testing.assert_close(given.truth, objective.process.degrade(c_0, below))
        torch.testing.assert_close(given.network.cond.time_to, below.float())
        assert (below == 0).any()

    def test_truth_of_cold_is_the_image(self) -> None:
        objective = build({"kind": "cold"})
        assert torch.equal(inputs(objective).truth, objective.process.to_components(batch(draws()).x_0))

    @pytest.mark.parametrize("kind", ["cold", "sequential"])
    def test_noise_of_the_process_is_in_the_state(self, kind: str) -> None:
        given = draws(600)
        clean, noisy = (inputs(build({"kind": kind}, noise=noise), given) for noise in (0.0, 0.2))
        assert (noisy.u_t - clean.u_t).std().item() == pytest.approx(0.2, rel=0.03)
        assert torch.equal(noisy.truth, clean.truth)

    def test_perfect_prediction_has_no_loss(self) -> None:
        class Perfect(Precondition):
            def prediction(self, u_t: Tensor, t: Any, output: Tensor, cond: Any = None) -> Any:
                told = super().prediction(u_t, t, output, cond)
                return replace(told, value=self.process.basis.to_components(output))

        for kind, prediction in (("cold", "x0"), ("sequential", "x_prev")):
            objective = parse(union(OBJECTIVES), {"kind": kind}).build(Perfect(process(), prediction))
            given = inputs(objective)
            loss, _ = objective.loss(given, objective.process.basis.to_data(given.truth))
            assert loss.max() < 1e-9 if kind == "sequential" else loss.max() < 1e-5

    def test_sum_and_mean_are_over_an_image(self) -> None:
        output = torch.zeros(12, *SHAPE)
        for kind, reduced in (("cold", torch.mean), ("sequential", torch.sum)):
            objective = build({"kind": kind, "loss": "mse"} if kind == "cold" else {"kind": kind})
            given = inputs(objective)
            prediction = objective.precondition.prediction(given.u_t, given.t, output, given.network.cond)
            expected = reduced((prediction.value - given.truth).square(), dim=1)
            torch.testing.assert_close(objective.loss(given, output)[0], expected)

    @pytest.mark.parametrize("kind", ["cold", "sequential", "variational_cold"])
    def test_labels_are_told_and_hidden_at_their_share(self, kind: str) -> None:
        own = {"latent_dim": LATENT} if kind == "variational_cold" else {}
        shares = []
        for dropout in (0.0, 0.4):
            objective = build({"kind": kind, "label_dropout": dropout, **own})
            if own:
                objective.bind(networks(), lambda name: {})
            label = inputs(objective, draws(1000)).network.cond.label
            shares.append((label == -1).float().mean().item())
        assert shares[0] == 0.0
        assert shares[1] == pytest.approx(0.4, abs=0.05)


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "prediction"), [("cold", "x_prev"), ("sequential", "x0"), ("variational_cold", "x0")]
    )
    def test_other_predictions(self, kind: str, prediction: Any) -> None:
        with pytest.raises(ConfigError, match="learns prediction"):
            parse(union(OBJECTIVES), {"kind": kind}).build(Precondition(process(), prediction))

    def test_process_without_levels(self) -> None:
        schedule = {"kind": "log_linear", "gamma_min": -6.0, "gamma_max": 5.0}
        continuous = build_process({"kind": "spectral", "schedule": schedule}, shape=SHAPE)
        with pytest.raises(ConfigError, match="needs a process with levels"):
            parse(union(OBJECTIVES), {"kind": "cold"}).build(Precondition(continuous, "x0"))

    @pytest.mark.parametrize("kind", ["cold", "sequential", "variational_cold"])
    def test_no_process(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="needs a process"):
            parse(union(OBJECTIVES), {"kind": kind}).build(None)

    def test_rollout_of_one_level(self) -> None:
        with pytest.raises(ConfigError, match="two levels"):
            build(VARIATIONAL | {"rollout": True}, num_levels=1)

    def test_rollout_with_strides(self) -> None:
        with pytest.raises(ConfigError, match="stride must be 1"):
            parse(union(OBJECTIVES), VARIATIONAL | {"rollout": True, "stride": 2})

    def test_missing_encoder(self) -> None:
        with pytest.raises(ConfigError, match="needs a network 'encoder'"):
            build(VARIATIONAL).optimisers({"network": networks()["network"]})

    @pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"beta": -1.0}, {"reset_probability": 1.5}, {"stride": 0}])
    def test_nonsense(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            parse(VariationalColdSpec, wrong)


class TestKlTerm:
    def test_is_that_of_torch(self) -> None:
        mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64)
        normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
        expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(kl_divergence(mean, log_variance), expected)

    @pytest.mark.parametrize("num_steps", [1, 2, 3, 30, 301])
    def test_weight_never_falls_and_ends_at_one(self, num_steps: int) -> None:
        values = [kl_weight(step, num_steps) for step in range(2 * num_steps + 2)]
        assert values == sorted(values)
        assert values[0] == pytest.approx(1.55e-4, rel=0.01)
        assert values[-1] == 1.0

    def test_weight_is_one_without_annealing(self) -> None:
        assert kl_weight(0, 0) == 1.0

    def test_loss_is_the_weighted_sum(self) -> None:
        objective = bound({"beta": 0.7, "kl_annealing": 9})
        given = inputs(objective, draws(step=6))
        loss, metrics = objective.loss(given, torch.zeros(12, *SHAPE))
        assert metrics["kl_weight"].unique().item() == pytest.approx(kl_weight(6, 9))
        torch.testing.assert_close(loss, metrics["recon"] + 0.7 * kl_weight(6, 9) * metrics["kl"])

    def test_encoder_learns_from_both_terms(self) -> None:
        own = networks()
        objective = bound({}, own=own)
        for part in ("recon", "kl"):
            given = inputs(objective)
            call = given.network
            output = own["network"](call.x, call.t, call.gamma, call.cond)
            value = objective.error(given, output).square().sum() if part == "recon" else given.kl.sum()
            gradients = torch.autograd.grad(value, list(own[ENCODER].heads.parameters()))
            assert all(gradient.abs().sum() > 0 for gradient in gradients)


class TestJitter:
    def test_is_on_the_input_of_the_network_alone(self) -> None:
        own = networks()
        given = draws(400)
        clean, jittered = (inputs(bound({"jitter": jitter}, own=own), given) for jitter in (0.0, 0.25))
        for name in ("u_t", "truth", "kl", "t"):
            assert torch.equal(getattr(clean, name), getattr(jittered, name))
        assert torch.equal(clean.network.cond.latent, jittered.network.cond.latent)
        unit = process()
        precondition = Precondition(unit, "x_prev")
        one = unit.basis.to_components(torch.ones(400, *SHAPE)).unsqueeze(1)
        gain = precondition.inputs(clean.u_t + one, clean.t).x - precondition.inputs(clean.u_t, clean.t).x
        noise = (jittered.network.x - clean.network.x) / gain
        assert noise.std().item() == pytest.approx(0.25, rel=0.03)


class TestRollout:
    """S_t against the rule written out, with any steps."""

    def written_out(self, c_0: Tensor, resets: Sequence[int], given: Any, shift: float) -> dict[int, Tensor]:
        states = {LEVELS: given.degrade(c_0, 1.0)}
        for level in range(LEVELS, 1, -1):
            start = given.degrade(c_0, level / LEVELS) if level in resets else states[level]
            states[level - 1] = 1.1 * start + shift * given.degrade(c_0, (level - 1) / LEVELS) + level
        return states

    @pytest.mark.parametrize("resets", [(), (6,), (4,), (2, 5), (2, 3, 4, 5, 6)])
    def test_follows_the_rule(self, resets: tuple[int, ...]) -> None:
        given = process()
        c_0 = torch.randn(12, 16, dtype=torch.float64)
        levels = [*range(1, 7), *range(1, 7)]
        expected = self.written_out(c_0, resets, given, 0.3)
        states = rollout(
            c_0,
            levels,
            num_levels=LEVELS,
            resets=resets,
            degrade=given.degrade,
            step=lambda state, level, earlier, rows: 1.1 * state + 0.3 * earlier + level,
        )
        for row, level in enumerate(levels):
            torch.testing.assert_close(states[row], expected[level][row])

    def test_takes_only_steps_that_a_state_depends_on(self) -> None:
        taken: list[tuple[int, list[int]]] = []

        def step(state: Tensor, level: int, earlier: Tensor, rows: Sequence[int]) -> Tensor:
            taken.append((level, list(rows)))
            return earlier

        rollout(torch.randn(3, 16), [6, 4, 1], num_levels=6, resets=(3,), degrade=process().degrade, step=step)
        assert taken == [(6, [1]), (5, [1]), (3, [2]), (2, [2])]

    def test_perfect_steps_give_the_true_states(self) -> None:
        given = process()
        c_0, levels = torch.randn(6, 16), list(range(1, 7))
        states = rollout(
            c_0,
            levels,
            num_levels=6,
            resets=(),
            degrade=given.degrade,
            step=lambda state, level, earlier, rows: earlier,
        )
        torch.testing.assert_close(states, given.degrade(c_0, torch.tensor(levels, dtype=torch.float64) / 6))

    def test_is_the_prediction_of_the_network_with_its_own_code(self) -> None:
        """One level below the end: the step that a sampler would take, from the encoder's code."""
        own = networks()
        objective = bound({"rollout": True}, own=own)
        given = inputs(objective)
        rows = (given.t * LEVELS).round() == LEVELS - 1
        positions = [position for position, is_one in zip(range(12), rows, strict=True) if is_one]
        assert positions
        part = replace(draws(), positions=positions)
        c_0 = objective.process.to_components(batch(draws()).x_0)[rows]
        t, s = (torch.full((len(positions),), k / LEVELS, dtype=torch.float64) for k in (LEVELS, LEVELS - 1))
        u_t, target = (objective.process.degrade(c_0, time)[:, None] for time in (t, s))
        seen = [objective.precondition.inputs(*at).x for at in ((u_t, t), (target, s))]
        mean, log_variance = own[ENCODER](torch.cat(seen, 1), t.float(), s.float())
        latent = mean + torch.exp(0.5 * log_variance) * part.normal(f"rollout_z/{LEVELS}", (LATENT,))
        condition = replace(given.network.cond, label=given.network.cond.label[rows], latent=latent, time_to=s)
        call = objective.precondition.inputs(u_t, t, condition)
        output = own["network"].eval()(call.x, call.t, call.gamma, call.cond)
        expected = objective.precondition.prediction(u_t, t, output, call.cond).value
        torch.testing.assert_close(given.u_t[rows, 0], expected.detach(), rtol=1e-5, atol=1e-5)

    def test_one_coin_decides_for_the_whole_batch(self) -> None:
        objective = bound({"rollout": True, "teacher_from": 0, "reset_probability": 0.5})
        parts = [objective.resets(draws(3, step=7, first=first)) for first in (0, 3, 9)]
        assert parts[0] == parts[1] == parts[2]

    def test_coins_have_the_chance_of_their_phase(self) -> None:
        objective = bound({"rollout": True, "teacher_from": 2000})
        late, early = (
            sum(len(objective.resets(draws(step=first + step))) for step in range(2000)) / (2000 * (LEVELS - 2))
            for first in (2000, 0)
        )
        assert late == pytest.approx(0.125, abs=0.02)
        assert early == pytest.approx(0.3, abs=0.02)


class TestTeacher:
    def states(self, step: int, own: dict[str, nn.Module], averages: dict[str, dict[str, Tensor]]) -> Tensor:
        objective = build(VARIATIONAL | {"rollout": True, "teacher_from": 10})
        objective.bind(own, averages.__getitem__)
        return inputs(objective, draws(step=step)).u_t

    def test_is_the_present_network_before_the_switch_and_the_average_after(self) -> None:
        own, other = networks(), {name: moved(network, 5) for name, network in networks().items()}
        averages = {name: dict(network.state_dict()) for name, network in other.items()}
        present = {name: dict(network.state_dict()) for name, network in own.items()}
        assert torch.equal(self.states(9, own, averages), self.states(9, own, present))
        assert not torch.equal(self.states(10, own, averages), self.states(10, own, present))
        assert torch.equal(self.states(10, own, averages), self.states(10, other, averages))

    @pytest.mark.parametrize("name", ["network", ENCODER])
    def test_follows_weights_and_averages_as_they_change(self, name: str) -> None:
        own = networks()
        averages = {key: {k: v.clone() for k, v in m.state_dict().items()} for key, m in own.items()}
        objective = build(VARIATIONAL | {"rollout": True, "teacher_from": 10, "reset_probability": 0.0})
        objective.bind(own, averages.__getitem__)
        for step, tensors in ((9, dict(own[name].named_parameters())), (10, averages[name])):
            before = inputs(objective, draws(step=step)).u_t
            with torch.no_grad():
                for value in tensors.values():
                    value.mul_(1.5)
            assert not torch.allclose(inputs(objective, draws(step=step)).u_t, before, atol=1e-4)

    def test_has_neither_dropout_nor_gradient_and_leaves_the_network_as_it_was(self) -> None:
        own = networks(dropout=0.5)
        objective = bound({"rollout": True}, own=own)
        given = inputs(objective)
        assert not given.u_t.requires_grad
        assert own["network"].training
        assert all(parameter.requires_grad for network in own.values() for parameter in network.parameters())
        plain = networks()
        plain["network"].load_state_dict(own["network"].state_dict())
        assert torch.equal(given.u_t, inputs(bound({"rollout": True}, own=plain)).u_t)
