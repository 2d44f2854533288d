"""What an objective is: phases of (inputs, one network call, loss), and the data and draws that they see."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import Spec
from pipeline.diffusion.predictor import NetworkInputs, Precondition
from pipeline.diffusion.randomness import NoiseStream

ENCODER = "encoder"
"""Name of the network that finds the latent code of two levels of one image, where an objective has one."""


@dataclass(frozen=True)
class Batch:
    """This worker's part of a global batch, or a chunk of it.

    Attributes:
        x_0: data `(batch, *shape)`, float32, in [-1, 1].
        label: class indices `(batch,)`, int64, or None.
        positions: places of the examples in the global batch, 0 <= position < global_batch.
        global_batch: examples in the whole batch over all workers.
    """

    x_0: Tensor
    label: Tensor | None
    positions: Sequence[int]
    global_batch: int


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step; row i is a function of (seed, step, positions[i], name) only.

    So a batch split over workers or chunks sees the same numbers as a whole one.

    Attributes:
        stream: the run's noise stream; it holds the seed.
        step: zero-based training step.
        positions: places of the examples in the global batch.
        global_batch: examples in the whole batch over all workers.
        device: where the numbers are returned.
    """

    stream: NoiseStream
    step: int
    positions: Sequence[int]
    global_batch: int
    device: torch.device | str = "cpu"

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Unit normal numbers `(batch, *shape)`, float32."""
        return self.stream.normal(self.positions, self.step, name, tuple(shape)).to(self.device)

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1), `(batch, *shape)`, float32."""
        return self.stream.uniform(self.positions, self.step, name, tuple(shape)).to(self.device)

    def times(self, name: str) -> Float[Tensor, " batch"]:
        """Low-discrepancy times in [0, 1), float64: (u + position / global_batch) mod 1 with one u per step.

        Each is uniform; together they cover [0, 1) evenly. Kingma 2021, appendix I.1.
        """
        offset = self.stream.scalar_uniform(self.step, name)
        positions = torch.tensor(self.positions, dtype=torch.float64)
        return ((offset + positions / self.global_batch) % 1.0).to(self.device)

    def level_times(self, name: str, num_levels: int) -> Float[Tensor, " batch"]:
        """Low-discrepancy levels as times k / num_levels, k = 1 ... num_levels, float64; each is equally likely."""
        return (1 + torch.floor(self.times(name) * num_levels)).clamp(max=num_levels) / num_levels


@dataclass(frozen=True, kw_only=True)
class PhaseInputs:
    """What a phase computes before its network call; objectives add what their loss needs."""

    network: NetworkInputs


Metrics = dict[str, Tensor]
"""Values per example `(batch,)`, detached."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One network call and one optimiser step.

    Attributes:
        optimiser: name of the optimiser that steps, a key of `Objective.optimisers`.
        network: name of the network that is called.
        inputs: corruption and everything else that comes before the call.
        loss: (inputs, network output) -> loss per example `(batch,)`, float32, and metrics; their mean is minimised.
    """

    optimiser: str
    network: str
    inputs: Callable[[Batch, Draws], PhaseInputs]
    loss: Callable[[PhaseInputs, Tensor], tuple[Tensor, Metrics]]


class Objective(ABC):
    """What is minimised. The train loop alone calls backward, all-reduce, clip, step and EMA, and a phase's network."""

    network = "network"
    """Name under which the one network of a single-network objective is known."""

    uses_average: bool = False
    """Whether inputs of phases read the averaged weights; the loop then brings them up to date before each step."""

    @property
    def is_stackable(self) -> bool:
        """Whether several cells may share one grouped network: one phase, one call."""
        return True

    def optimisers(self, networks: Mapping[str, nn.Module]) -> dict[str, list[dict[str, Any]]]:
        """Parameter groups by optimiser name; by default one optimiser per network, named like it."""
        return {name: [{"params": list(network.parameters())}] for name, network in networks.items()}

    def bind(  # noqa: B027  most objectives need nothing
        self,
        networks: Mapping[str, nn.Module],
        averaged: Callable[[str], Mapping[str, Tensor]],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Take hold of what a phase's inputs need beside the phase's own network call; by default nothing.

        Called once, when networks and averages are in place and restored.

        Args:
            networks: by name; their weights change in place as training goes on.
            averaged: the averaged weights of a network by parameter name, live: later updates show in these tensors.
            autocast: the precision in which the loop calls networks, as a context.
        """

    @abstractmethod
    def phases(self, step: int) -> tuple[Phase, ...]:
        """The phases of zero-based training step `step`, in order."""

    def state_dict(self) -> dict[str, Any]:
        """Counters that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        if state:
            raise ValueError(f"this objective keeps no state, found {sorted(state)}")


class ObjectiveSpec(Spec):
    """Base of the entries of `OBJECTIVES`."""

    no_density: ClassVar[str | None] = None
    """Why models trained like this have no likelihood, in one sentence; None where the process decides."""

    @property
    def num_times(self) -> int:
        """Times that the network reads: 0 none, 1 that of its input, 2 also that of what it predicts."""
        return 0

    @property
    def num_latents(self) -> int | None:
        """Length of the latent code that the network reads and the network `ENCODER` finds; None: there is no code."""
        return None

    @abstractmethod
    def build(self, precondition: Precondition | None = None) -> Objective:
        """The objective for networks behind `precondition`; None where no reverse process is learned."""
