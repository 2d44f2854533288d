"""The moments stage: mean and variance of a sampler's output per component, against those of the data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec, load_predictor, process_for, read_statistics
from pipeline.baselines.threads import single_thread
from pipeline.config import DataError, Spec
from pipeline.diffusion.bases import build_basis
from pipeline.diffusion.processes import Process, diagonal
from pipeline.diffusion.sampling import sample, time_grid
from pipeline.shards import read_split, to_float
from pipeline.store import Artifact, Attempt

STAGE = "moments"
STAGE_VERSION = 1

Array = NDArray[np.float64]
Method = Literal["response", "images"]
Progress = Callable[[int, int], None]

_ROWS = 1024  # images whose components are in memory at once


class MomentsSpec(Spec):
    """Which sampler of which system, and whether its law is worked out exactly or measured on images."""

    system: SystemSpec | Literal["gaussian", "test_split", "mean_image"]
    sampler: SamplerSpec | None = None
    method: Method
    num_images: PositiveInt
    seed: NonNegativeInt = 0


@dataclass(frozen=True, eq=False)
class RunningMoments:
    """Count n, mean `(dim,)` and summed squared deviations `(dim,)`, float64 (Chan, Golub & LeVeque 1979).

    The triple keeps its digits where |mean| >> standard deviation. Bits depend on the order in which parts are merged.
    """

    count: int
    mean: Array
    squares: Array

    @classmethod
    def of(cls, components: Array) -> "RunningMoments":
        """Moments of rows `(n >= 1, dim)`."""
        mean = components.mean(axis=0)
        return cls(len(components), mean, np.square(components - mean).sum(axis=0))

    def merged(self, other: "RunningMoments") -> "RunningMoments":
        """Moments of the rows of both."""
        count = self.count + other.count
        delta = other.mean - self.mean
        squares = self.squares + other.squares + np.square(delta) * (self.count * other.count / count)
        return RunningMoments(count, self.mean + delta * (other.count / count), squares)

    @property
    def variance(self) -> Array:
        """Unbiased variance `(dim,)`, divisor n - 1; n >= 2."""
        return self.squares / (self.count - 1)


def moments_method(system: SystemSpec | str, sampler: SamplerSpec | None) -> Method:
    """`response` where the exact predictor meets a kernel that draws nothing, else `images`."""
    if isinstance(system, str) or sampler is None or system.network.is_trained:
        return "images"
    return "images" if sampler.kernel.build().draws else "response"


def run(
    spec: MomentsSpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write `moments.npz`: mean, variance, target_mean and target_variance `(dim,)` float64, and the count of images.

    Components are those of the process's basis (of a control row: principal components, or pixels), in data units and
    measured from the process's centre. The targets are the data's, whose variances hold the resolution step^2 / 12 of
    levels; the variance of output that is stored as levels holds it too.

    With the method `response` no image is drawn (count 0): the exact predictor of Gaussian data makes every step affine
    and diagonal, so that the outputs for x_T = s and x_T = -s give offset and gain of all components, and the output
    for x_T ~ N(0, s^2) has the variance (gain s)^2, in float64.

    Args:
        spec: which sampler of which system, and how.
        inputs: `dataset` and `statistics`; `images.<k>`, blocks of the sample stage, for the method `images`.
        attempt: where the file goes.
        progress: called with images done and images in all.

    Returns:
        `w2`, the squared 2-Wasserstein distance sum (sqrt v - sqrt Sigma)^2 + (mean difference)^2 of the two diagonal
        Gaussians, method, num_images, nfe and `absent`: None or the sentence why there is no distance.

    Raises:
        DataError: image blocks overlap or leave gaps.
        ConfigError: the method `response` for a process that is not diagonal.
    """
    with single_thread():
        axes = _axes(spec, inputs)
        nfe = _nfe(spec, axes.process)
        if axes.variances is None:
            return _absent(spec, "the data have no variances in the basis of the process")
        if spec.method == "response":
            count = 0
            mean, variance = _response(spec, inputs)
        else:
            found = _of_images(inputs, axes, progress)
            if found is None or found.count < 2:
                return _absent(spec, "a variance needs at least two images")
            count, mean = found.count, found.mean
            variance = found.variance + _resolution(inputs["dataset"].meta["quantisation"])
    w2 = float(np.square(np.sqrt(variance) - np.sqrt(axes.variances)).sum() + np.square(mean - axes.mean).sum())
    np.savez(
        attempt.path("moments.npz"),
        allow_pickle=False,
        mean=mean,
        variance=variance,
        count=np.int64(count),
        target_mean=axes.mean,
        target_variance=axes.variances,
    )
    return {"w2": w2, "method": spec.method, "num_images": count, "nfe": nfe, "absent": None}


def _absent(spec: MomentsSpec, reason: str) -> dict[str, Any]:
    return {"w2": None, "method": spec.method, "num_images": 0, "nfe": 0, "absent": reason}


def _resolution(quantisation: int | None) -> float:
    """Variance that the statistics of the data hold beside that of the centres of their bins."""
    return 0.0 if quantisation is None else (2.0 / quantisation) ** 2 / 12


def _nfe(spec: MomentsSpec, process: Process | None) -> int:
    """Predictor evaluations per image."""
    if spec.sampler is None or process is None:
        return 0
    sampler = spec.sampler.on(process)
    assert sampler.steps is not None
    return sampler.kernel.build().nfe(sampler.steps) + (sampler.final == "denoise")


@dataclass(frozen=True, eq=False)
class _Axes:
    """Components x -> c, and mean and variances of the data in them; `variances` is None where they are not known."""

    to_components: Callable[[Tensor], Tensor]
    mean: Array
    variances: Array | None
    process: Process | None


def _axes(spec: MomentsSpec, inputs: Mapping[str, Artifact]) -> _Axes:
    """Those of the system's process; of a control row: principal components, or pixels where the data have none."""
    dataset, statistics = inputs["dataset"].meta, inputs["statistics"]
    if isinstance(spec.system, SystemSpec):
        process = process_for(spec.system, dataset, statistics)
        variances = None if process.variances is None else process.variances.numpy()
        return _Axes(process.to_components, process.mean_components.numpy(), variances, process)
    with np.load(statistics.path("statistics.npz"), allow_pickle=False) as arrays:
        name = "pca" if "variances_pca" in arrays else "pixel"
    fitted = read_statistics(statistics, name)
    basis = build_basis(name, tuple(dataset["shape"]), fitted)
    centre = fitted.mean.reshape(basis.shape)
    return _Axes(
        lambda x: basis.to_components(x - centre), np.zeros(basis.dim), fitted.variances_in(basis).numpy(), None
    )


def _response(spec: MomentsSpec, inputs: Mapping[str, Artifact]) -> tuple[Array, Array]:
    """Exact mean and variance `(dim,)` of the output for x_T ~ N(0, s^2), from the outputs of -s and s."""
    assert isinstance(spec.system, SystemSpec)
    assert spec.sampler is not None
    predictor = load_predictor(
        spec.system, model=None, dataset=inputs["dataset"], statistics=inputs["statistics"], device="cpu"
    )
    process = diagonal(predictor.process)
    sampler = spec.sampler.on(process)
    assert sampler.steps is not None
    x = sample(
        process,
        sampler.kernel.build(),
        predictor,
        process.to_data(torch.stack([-process.scale, process.scale])),
        time_grid(sampler.steps, sampler.spacing),
        final=sampler.final,
    )
    assert isinstance(x, Tensor)
    low, high = process.to_components(x).numpy()
    return (high + low) / 2, np.square((high - low) / 2)


def _of_images(inputs: Mapping[str, Artifact], axes: _Axes, progress: Progress) -> RunningMoments | None:
    """Moments of the components of all blocks, merged in order of their image indices; None without an image."""
    blocks = [artifact for name, artifact in inputs.items() if name.startswith("images.")]
    quantisation: int | None = inputs["dataset"].meta["quantisation"]
    total = sum(int(block.meta["count"]) for block in blocks)
    found: RunningMoments | None = None
    expected = 0
    for block in sorted(blocks, key=lambda block: int(block.meta["first"])):
        count, first = int(block.meta["count"]), int(block.meta["first"])
        if count == 0:
            continue
        if first != expected:
            raise DataError(f"image blocks do not join: images {expected} to {first - 1} are missing or doubled")
        expected = first + count
        images = read_split(block, "images").images
        for start in range(0, count, _ROWS):
            x = torch.from_numpy(to_float(images[start : start + _ROWS], quantisation)).double()
            part = RunningMoments.of(axes.to_components(x).numpy())
            found = part if found is None else found.merged(part)
        progress(expected, total)
    return found
