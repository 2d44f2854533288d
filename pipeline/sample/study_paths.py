"""Paths that studies compare: latents exchanged, interpolated or encoded, over any predictor and kernel."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.diffusion.kernels import Kernel
from pipeline.diffusion.kernels.base import Denoiser
from pipeline.diffusion.predictions import Prediction
from pipeline.diffusion.predictor import Condition
from pipeline.diffusion.processes import Process
from pipeline.diffusion.sampling import NoiseSource, sample

Images = Float[Tensor, "batch channels height width"]
Latents = Float[Tensor, "steps batch latent"]
Conditions = Callable[[int], Condition | None]
"""Condition of each step; step 0 leaves x_T."""

Encoder = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(x_pair (batch, 2 C, H, W), t (batch,), time_to (batch,)) -> mean, log variance`, each `(batch, latent)`."""


@dataclass(frozen=True, eq=False)
class Walk:
    """A sampler over one batch of images, ready to be repeated under other conditions.

    Attributes:
        process: forward process.
        kernel: reverse kernel.
        predictor: what it calls.
        times: falling, `(steps + 1,)`, float64.
        noise: draws of the kernel, the same in every repetition.
        final: "state", or "denoise" for one more evaluation at the end.
    """

    process: Process
    kernel: Kernel
    predictor: Denoiser
    times: Tensor
    noise: NoiseSource
    final: str = "state"

    @property
    def num_steps(self) -> int:
        """Steps from x_T to the image."""
        return len(self.times) - 1

    def image(self, x_T: Images, conditions: Conditions | None = None) -> Images:
        """x_0 reached from x_T."""
        return self._sampled(x_T, conditions)[0]

    def path(self, x_T: Images, conditions: Conditions | None = None) -> Float[Tensor, "states batch C H W"]:
        """x_T, the state after every step, and the final prediction if there is one, in data space."""
        x, path = self._sampled(x_T, conditions)
        states = [self.process.to_data(c) for c in path]
        return torch.stack(states if self.final == "state" else [*states, x])

    def _sampled(self, x_T: Images, conditions: Conditions | None) -> tuple[Tensor, Tensor]:
        final = "state" if self.final == "state" else "denoise"
        found = sample(
            self.process,
            self.kernel,
            self.predictor,
            x_T,
            self.times,
            self.noise,
            conditions,
            final=final,
            return_path=True,
        )
        assert isinstance(found, tuple)
        return found


@dataclass(frozen=True, eq=False)
class Exchange:
    """Images after an exchange of latents, with the two that it lies between; all from the same x_T.

    Attributes:
        target: `(batch, *shape)`, made with the target's latents at all steps. source: likewise with the source's.
        exchanged: `(exchanges, batch, *shape)`, made with the source's latents at some steps, the target's elsewhere.
    """

    target: Tensor
    source: Tensor
    exchanged: Tensor


def exchange_images(
    walk: Walk, x_T: Images, between: Callable[[Collection[int]], Conditions], steps: Sequence[Collection[int]]
) -> Exchange:
    """The images of every exchange.

    Args:
        walk: the sampler.
        x_T: common start of source and target.
        between: conditions that have the source's latents at the given steps and the target's elsewhere.
        steps: for every exchange the steps with the source's latents.
    """
    target = walk.image(x_T, between(()))
    source = walk.image(x_T, between(range(walk.num_steps + 1)))
    return Exchange(target, source, torch.stack([walk.image(x_T, between(chosen)) for chosen in steps]))


@dataclass(frozen=True, eq=False)
class Encoding:
    """A predictor whose latent is drawn from the encoder of given images: q(z | x_t, D(x_0, s)).

    Attributes:
        predictor: of the earlier level, with `cond.latent` and `cond.time_to`.
        encoder: sees the present state and the true degraded image of the step's earlier time.
        shown: what the networks are shown for a state at a time, as in training.
        process: forward process.
        x_0: the images, data space.
        noise: unit normal `(step, name, shape) -> tensor`, asked for name "latent".
        times: of the walk: they tell the step.
    """

    predictor: Denoiser
    encoder: Encoder
    shown: Callable[[Float[Tensor, "batch J dim"], Tensor], Images]
    process: Process
    x_0: Images
    noise: NoiseSource
    times: Tensor

    def __call__(self, u_t: Tensor, t: Tensor, cond: Condition | None = None) -> Prediction:
        """The prediction at (u_t, t) with z of the step that starts at t."""
        now = float(t)
        step = int((self.times - now).abs().argmin())
        to = None if cond is None else cond.time_to
        if to is None:
            to = self.times[min(step + 1, len(self.times) - 1)].expand(len(u_t)).to(u_t.device)
        at = torch.full_like(to, now)
        earlier = self.process.degrade(self.process.to_components(self.x_0), to)
        pair = torch.cat([self.shown(u_t, at), self.shown(earlier[:, None], to)], dim=1)
        mean, log_variance = self.encoder(pair, at.float(), to.float())
        eps = self.noise(step, "latent", tuple(mean.shape)).to(mean)
        latent = mean + torch.exp(log_variance / 2) * eps
        return self.predictor(u_t, t, replace(cond or Condition(), latent=latent))
