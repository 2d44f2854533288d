"""Variational cold diffusion: x_{t-1} from x_t and a code z, optionally with jittered or rolled-out inputs.

Feucht, "Variational Cold Diffusion"; its rollout follows the version that made the published samples. Without jitter
and rollout this is the plain variational model, with jitter VWD, with rollout VCD. All units are those of [-1, 1].
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.diffusion.objectives.base import ENCODER, Batch, Draws, Metrics, Phase, PhaseInputs
from pipeline.diffusion.objectives.levels import LevelInputs, Levelled, LevelledSpec
from pipeline.diffusion.predictor import Condition, NetworkInputs, Precondition

_OFFSET = 0.008  # of the cosine in the annealing curve, as in the noise schedule it was taken from


class VariationalColdSpec(LevelledSpec):
    """Summed squared error of D(x_0, s) plus beta w(step) KL(q(z | x_t, x_s) || N(0, I)).

    Attributes:
        latent_dim: length of z.
        beta: weight of the KL term. The published .004 for squares of [0, 1] data is .016 here; it scales with the
            number of pixels.
        kl_annealing: steps of the rise of w, after a third as many at its start value 1.5e-4; 0: w = 1 throughout.
        jitter: standard deviation of noise on the network's input alone; target and prediction stay with the clean one.
        rollout: train on states that the model's own predictions lead to from D(x_0, T), instead of D(x_0, t).
        teacher_from: step from which the averaged weights make these states, before it the present ones.
        reset_probability_early: before that step, the chance that a level's rollout goes on from D(x_0, t).
        reset_probability: the same, from that step on.
        stride: s lies so many levels below t, the clean image at the lowest.
    """

    kind: Literal["variational_cold"] = "variational_cold"
    latent_dim: PositiveInt = 128
    beta: NonNegativeFloat = 0.016
    kl_annealing: NonNegativeInt = 20_000
    jitter: NonNegativeFloat = 0.0
    rollout: bool = False
    teacher_from: NonNegativeInt = 500
    reset_probability_early: float = Field(0.3, ge=0.0, le=1.0)
    reset_probability: float = Field(0.125, ge=0.0, le=1.0)
    stride: PositiveInt = 1

    no_density: ClassVar[str | None] = (
        "the levels are deterministic: reconstruction and KL terms of variational cold diffusion bound no likelihood"
    )

    @model_validator(mode="after")
    def _rollout_walks_every_level(self) -> "VariationalColdSpec":
        if self.rollout and self.stride > 1:
            raise ValueError(f"a rollout walks level by level: stride must be 1, found {self.stride}")
        return self

    @property
    def num_times(self) -> int:
        return 2

    @property
    def num_latents(self) -> int | None:
        return self.latent_dim

    def build(self, precondition: Precondition | None = None) -> "VariationalCold":
        return VariationalCold(self, precondition)


def kl_weight(step: int, num_steps: int) -> float:
    """w at zero-based training `step`: w_0 for floor(K/3) steps, then w_0 ... 1 along a cosine over K steps, then 1.

    w = 1 - cos^2((u + .008)/1.008 pi/2) with u = 0 at first and then j/(K - 1), j = 0 ... K - 1, for K = `num_steps`; 1
    for K = 0. The same for every degradation: the published code lets it fall for those that do not go to black.
    """
    if num_steps == 0:
        return 1.0
    j = max(step - num_steps // 3, 0)
    share = min(j / max(num_steps - 1, 1), 1.0)
    return 1.0 - math.cos((share + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2


def kl_divergence(mean: Float[Tensor, "batch d"], log_variance: Float[Tensor, "batch d"]) -> Float[Tensor, " batch"]:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats per example."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)


Degrade = Callable[[Tensor, Tensor | float], Tensor]
"""(c_0 `(n, dim)`, t) -> D(x_0, t)."""

Step = Callable[[Tensor, int, Tensor, Sequence[int]], Tensor]
"""(S_i `(n, dim)`, level i, D(x_0, i-1), rows of the batch) -> S_{i-1}."""


def rollout(
    c_0: Float[Tensor, "batch dim"],
    levels: Sequence[int],
    *,
    num_levels: int,
    resets: Collection[int],
    degrade: Degrade,
    step: Step,
) -> Float[Tensor, "batch dim"]:
    """The state S_t of each row at its level, where the teacher's steps down from D(x_0, T) lead.

    S_T = D(x_0, T), and for i = T ... 2: S_{i-1} = step(h, i) with h = D(x_0, i) where i is in `resets`, else h = S_i.
    Only steps that a row's own state depends on are taken: those from the next reset above its level.

    Args:
        c_0: clean components.
        levels: the level 1 ... T of each row.
        num_levels: T.
        resets: levels at which the rollout goes on from the true state.
        degrade: the forward process.
        step: one step of the teacher for the rows that take it.
    """
    starts = [min((reset for reset in resets if reset > level), default=num_levels) for level in levels]
    states = degrade(c_0, torch.tensor(starts, dtype=torch.float64, device=c_0.device) / num_levels)
    for level in range(num_levels, 1, -1):
        rows = [row for row, (low, start) in enumerate(zip(levels, starts, strict=True)) if low < level <= start]
        if rows:
            index = torch.tensor(rows, device=c_0.device)
            earlier = degrade(c_0[index], (level - 1) / num_levels)
            states = states.index_copy(0, index, step(states[index], level, earlier, rows))
    return states


@dataclass(frozen=True, kw_only=True)
class VariationalInputs(LevelInputs):
    """KL term of each example `(batch,)`, with its gradient, and the step's weight of it without beta."""

    kl: Tensor
    kl_weight: float


@dataclass(frozen=True)
class _Teacher:
    """Generator and encoder that share the memory of trained or averaged weights; evaluation mode, no gradient."""

    network: nn.Module
    encoder: nn.Module


class VariationalCold(Levelled):
    """Generator and encoder under one optimiser; one phase, its network call is the generator's.

    The code is z = mean + exp(log_variance / 2) n from the encoder's view of the state and of D(x_0, s), each scaled as
    the generator's input is. What the step's position decides (w, the teacher) is a function of the step, so a resumed
    training needs no counter.
    """

    def __init__(self, spec: VariationalColdSpec, precondition: Precondition | None) -> None:
        super().__init__(spec, precondition, "x_prev")
        if spec.rollout and self.num_levels < 2:
            raise ConfigError("objective: a rollout needs two levels at least: with one there is nothing to roll out")
        self.spec = spec
        self.uses_average = spec.rollout
        self._phase = Phase(optimiser=self.network, network=self.network, inputs=self.inputs, loss=self.loss)
        self._autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._encoder: nn.Module | None = None
        self._present: _Teacher | None = None
        self._average: _Teacher | None = None

    @property
    def is_stackable(self) -> bool:
        """False: the encoder and the teacher are called too."""
        return False

    def optimisers(self, networks: Mapping[str, nn.Module]) -> dict[str, list[dict[str, Any]]]:
        """One for generator and encoder."""
        if ENCODER not in networks:
            raise ConfigError(f"objective: variational_cold needs a network {ENCODER!r}, found {sorted(networks)}")
        both = (networks[self.network], networks[ENCODER])
        return {self.network: [{"params": [parameter for network in both for parameter in network.parameters()]}]}

    def bind(
        self,
        networks: Mapping[str, nn.Module],
        averaged: Callable[[str], Mapping[str, Tensor]],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Take the encoder, and for rollouts the teachers, which follow present and averaged weights by themselves."""
        self._encoder, self._autocast = networks[ENCODER], autocast
        if not self.spec.rollout:
            return
        names = (self.network, ENCODER)
        self._present = _Teacher(*(_shadow(networks[name], networks[name].state_dict()) for name in names))
        self._average = _Teacher(*(_shadow(networks[name], averaged(name)) for name in names))

    def phases(self, step: int) -> tuple[Phase, ...]:
        return (self._phase,)

    def inputs(self, batch: Batch, draws: Draws) -> VariationalInputs:
        """State, code and jittered input of each example."""
        assert self._encoder is not None, "bind comes first"
        process, spec = self.process, self.spec
        t = self.time(draws)
        s = self.earlier(t, spec.stride)
        c_0 = process.to_components(batch.x_0)
        truth = process.degrade(c_0, s)
        label = self.condition_label(batch, draws)
        mean = self._rolled_out(c_0, label, draws) if spec.rollout else process.degrade(c_0, t)
        u_t = self.noisy(mean, t, draws, "eps")
        clean = self.precondition.inputs(u_t, t, Condition(label=label, time_to=s))
        latent, kl = self._code(self._encoder, clean, truth, s, draws, "z")
        network = _with_latent(clean, latent)
        if spec.jitter:
            noise = process.basis.to_components(draws.normal("jitter", process.shape))
            seen = torch.add(u_t, noise.unsqueeze(1), alpha=spec.jitter)
            network = self.precondition.inputs(seen, t, network.cond)
        weight = kl_weight(draws.step, spec.kl_annealing)
        return VariationalInputs(network=network, u_t=u_t, t=t, truth=truth, kl=kl, kl_weight=weight)

    def loss(self, inputs: PhaseInputs, output: Tensor) -> tuple[Float[Tensor, " batch"], Metrics]:
        """Loss per example, float32; metrics `recon` (summed squares), `kl` (nats) and `kl_weight` (w)."""
        assert isinstance(inputs, VariationalInputs)
        recon = self.error(inputs, output).square().sum(1).float()
        weights = torch.full_like(recon, inputs.kl_weight)
        metrics = {"recon": recon.detach(), "kl": inputs.kl.detach(), "kl_weight": weights}
        return recon + self.spec.beta * inputs.kl_weight * inputs.kl, metrics

    def resets(self, draws: Draws) -> list[int]:
        """Levels of this step at which every rollout goes on from the true state: one coin each for the whole batch."""
        is_late = draws.step >= self.spec.teacher_from
        chance = self.spec.reset_probability if is_late else self.spec.reset_probability_early
        levels = range(2, self.num_levels)
        return [level for level in levels if draws.stream.scalar_uniform(draws.step, f"reset/{level}") < chance]

    @torch.no_grad()
    def _rolled_out(self, c_0: Tensor, label: Tensor | None, draws: Draws) -> Float[Tensor, "batch dim"]:
        """S_t of each example. Its levels are drawn once more on the host, which decides there who takes which step."""
        teacher = self._average if draws.step >= self.spec.teacher_from else self._present
        assert teacher is not None
        levels = (self.time(replace(draws, device="cpu")) * self.num_levels).round().long().tolist()

        def step(state: Tensor, level: int, earlier: Tensor, rows: Sequence[int]) -> Tensor:
            own = replace(draws, positions=[draws.positions[row] for row in rows])
            index = torch.tensor(rows, device=state.device)
            t, s = level / self.num_levels, torch.full_like(index, level - 1, dtype=torch.float64) / self.num_levels
            u_t = self.noisy(state, t, own, f"rollout_eps/{level}")
            condition = Condition(label=None if label is None else label[index], time_to=s)
            given = self.precondition.inputs(u_t, t, condition)
            latent, _ = self._code(teacher.encoder, given, earlier, s, own, f"rollout_z/{level}")
            given = _with_latent(given, latent)
            with self._autocast():
                output = teacher.network(given.x, given.t, given.gamma, given.cond)
            return self.precondition.prediction(u_t, t, output.float(), given.cond).value

        return rollout(
            c_0,
            levels,
            num_levels=self.num_levels,
            resets=self.resets(draws),
            degrade=self.process.degrade,
            step=step,
        )

    def _code(
        self, encoder: nn.Module, given: NetworkInputs, c_s: Tensor, s: Tensor, draws: Draws, name: str
    ) -> tuple[Tensor, Tensor]:
        """A draw of z `(batch, latent_dim)` for the generator's input `given` and D(x_0, s), and its KL `(batch,)`."""
        pair = torch.cat([given.x, self.precondition.inputs(c_s.unsqueeze(1), s).x], dim=1)
        with self._autocast():
            mean, log_variance = encoder(pair, given.t, s.float())
        mean, log_variance = mean.float(), log_variance.float()
        latent = mean + torch.exp(0.5 * log_variance) * draws.normal(name, (self.spec.latent_dim,))
        return latent, kl_divergence(mean, log_variance)


def _with_latent(given: NetworkInputs, latent: Tensor) -> NetworkInputs:
    return replace(given, cond=replace(given.cond or Condition(), latent=latent))


def _shadow(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `network` whose parameters are `tensors` themselves, so that it follows them; evaluation mode."""
    shadow = copy.deepcopy(network).eval().requires_grad_(False)
    for name, parameter in shadow.named_parameters():
        parameter.data = tensors[name]
    return shadow
