"""The sample stage: one block of images of one cell, the same bits whoever makes it and however it is shared out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.baselines.devices import placed
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.start import terminal_of
from pipeline.baselines.system import SystemSpec, load_predictor, read_statistics
from pipeline.baselines.threads import single_thread
from pipeline.config import ConfigError
from pipeline.diffusion.kernels import Kernel
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import Terminal
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import sample, time_grid
from pipeline.sample.blocks import SampleBlock
from pipeline.sample.previews import preview
from pipeline.shards import ShardWriter, read_split, split_index, to_levels
from pipeline.shards.writer import SAMPLES_PER_BLOCK
from pipeline.store import Artifact, Attempt

STAGE = "sample"
STAGE_VERSION = 1
SPLIT = "images"
"""The block is stored as a split of this name, so `read_split(artifact, "images")` gives the images back."""

Progress = Callable[[int, int], None]


def run(
    spec: SampleBlock, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write the block's images (levels, or float32 points) and, for block 0, a preview.

    Args:
        spec: the block.
        inputs: `dataset` and `statistics`; for a trained system also `model`, and `terminal` where x_T is fitted.
        attempt: where the files go.
        progress: called with images done and images in all.

    Returns:
        Metadata in the layout of a data set with the one split `images`, and how the images were made.
    """
    spec = placed(spec)
    dataset = inputs["dataset"].meta
    quantisation: int | None = dataset["quantisation"]
    num_available = None
    labels = None
    with single_thread():
        if spec.system == "test_split":
            images, num_available = _test_images(spec, inputs["dataset"])
            method = {"kind": "test_split", "nfe": 0}
        elif spec.system == "gaussian":
            images = np.concatenate(list(_gaussian_draws(spec, inputs, progress)))
            method = {"kind": "gaussian", "nfe": 0}
        elif spec.system == "mean_image":
            images = _mean_images(spec, inputs)
            method = {"kind": "mean_image", "nfe": 0}
        else:
            labels = _labels(spec, dataset["num_classes"])
            images, method = _drawn(spec, inputs, labels, progress)
    if not np.isfinite(images).all():
        num_bad = int((~np.isfinite(images.reshape(len(images), -1)).all(axis=1)).sum())
        raise RuntimeError(f"{num_bad} of {len(images)} images of block {spec.block} are not finite")
    levels = images if images.dtype == np.uint8 else to_levels(images, quantisation)
    with ShardWriter(attempt.path, SPLIT) as writer:
        writer.write(levels, labels)
    if spec.block == 0 and (picture := preview(levels, quantisation)) is not None:
        attempt.path("preview.png").write_bytes(picture)
    progress(len(levels), spec.count)
    return {
        "name": dataset["name"],
        "shape": list(dataset["shape"]),
        "quantisation": quantisation,
        "num_classes": None if labels is None else dataset["num_classes"],
        "class_names": None if labels is None else dataset.get("class_names"),
        "samples_per_block": SAMPLES_PER_BLOCK,
        "splits": {SPLIT: {"count": len(levels), "shards": [entry.to_json() for entry in writer.entries]}},
        "first": spec.first,
        "count": len(levels),
        "num_available": num_available,
        "seed": spec.seed,
        "method": method,
    }


def _labels(spec: SampleBlock, num_classes: int | None) -> np.ndarray | None:
    if spec.labels == "none":
        return None
    if num_classes is None:
        raise ConfigError("labels: balanced needs a data set with classes; this one has none")
    return np.arange(spec.first, spec.first + spec.count, dtype=np.int64) % num_classes


def _batches(spec: SampleBlock) -> Iterator[tuple[np.ndarray, int]]:
    """Image indices in batches of exactly `batch_shape`, the last one padded, and how many of each are wanted."""
    stop = spec.first + spec.count
    for start in range(spec.first, stop, spec.batch_shape):
        rows = np.arange(start, start + spec.batch_shape, dtype=np.int64)
        yield np.minimum(rows, stop - 1), min(spec.batch_shape, stop - start)


def _drawn(
    spec: SampleBlock, inputs: dict[str, Artifact], labels: np.ndarray | None, progress: Progress
) -> tuple[np.ndarray, dict[str, Any]]:
    assert spec.sampler is not None
    assert not isinstance(spec.system, str)
    predictor = load_predictor(
        spec.system,
        model=inputs.get("model"),
        dataset=inputs["dataset"],
        statistics=inputs.get("statistics"),
        device=spec.device,
    )
    sampler = spec.sampler.on(predictor.process)
    assert sampler.steps is not None
    kernel: Kernel = sampler.kernel.build()
    walk = _Walk(spec, sampler, predictor, kernel, terminal_of(predictor.process, spec.system.start, inputs))
    images: list[np.ndarray] = []
    done = 0
    for rows, wanted in _batches(spec):
        label = None if labels is None else torch.from_numpy(labels[rows - spec.first]).to(spec.device)
        images.append(walk(rows.tolist(), label)[:wanted])
        done += wanted
        progress(done, spec.count)
    nfe = kernel.nfe(sampler.steps) + (sampler.final == "denoise")
    return np.concatenate(images), {"kind": "sampler", "nfe": nfe, "sampler": spec.sampler.identity()}


class _Walk:
    """The reverse path of a batch of image indices; every draw is keyed (seed, index, step, name)."""

    def __init__(
        self, spec: SampleBlock, sampler: SamplerSpec, predictor: Predictor, kernel: Kernel, terminal: Terminal
    ) -> None:
        assert isinstance(spec.system, SystemSpec)
        self.spec, self.sampler, self.predictor, self.kernel = spec, sampler, predictor, kernel
        self.terminal = terminal
        self.num_latents: int | None = spec.system.objective.num_latents
        self.stream = NoiseStream(spec.seed)

    def __call__(self, rows: list[int], label: torch.Tensor | None) -> np.ndarray:
        """Images `(batch, *shape)` float32."""
        sampler, device = self.sampler, self.spec.device
        assert sampler.steps is not None

        def noise(step: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
            return self.stream.normal(rows, step, name, shape[1:]).to(device)

        x = sample(
            self.predictor.process,
            self.kernel,
            self.predictor,
            self.terminal.draw(rows, self.spec.seed).to(device),
            time_grid(sampler.steps, sampler.spacing),
            noise,
            self._condition(rows, label),
            final=sampler.final,
        )
        assert isinstance(x, torch.Tensor)
        return x.float().cpu().numpy()

    def _condition(
        self, rows: list[int], label: torch.Tensor | None
    ) -> Condition | Callable[[int], Condition | None] | None:
        """Label and latent code; a code per image is that of step 0 at every step."""
        length = self.num_latents
        if length is None:
            return None if label is None else Condition(label=label)

        def at(step: int) -> Condition:
            return Condition(label=label, latent=prior_latents(self.stream, rows, step, length).to(self.spec.device))

        return at if self.sampler.latents == "step" else at(0)


def prior_latents(stream: NoiseStream, rows: Sequence[int], step: int, length: int) -> torch.Tensor:
    """z ~ N(0, I), `(batch, length)` float32, keyed (seed, image, step)."""
    return stream.normal(rows, step, "z", (length,))


def _mean_images(spec: SampleBlock, inputs: dict[str, Artifact]) -> np.ndarray:
    """The mean of the training images, over and over."""
    mean = read_statistics(inputs["statistics"], "pixel").mean
    shape = tuple(inputs["dataset"].meta["shape"])
    return np.broadcast_to(mean.float().numpy().reshape(1, *shape), (spec.count, *shape)).copy()


def _gaussian_draws(spec: SampleBlock, inputs: dict[str, Artifact], progress: Progress) -> Iterator[np.ndarray]:
    """Exact draws of N(mean, covariance) of the training data: mean + S^(1/2) eps with the symmetric root."""
    statistics = read_statistics(inputs["statistics"], "pca")
    assert statistics.components is not None
    root = statistics.components.T * statistics.variances.sqrt() @ statistics.components
    shape = tuple(inputs["dataset"].meta["shape"])
    stream = NoiseStream(spec.seed)
    done = 0
    for rows, wanted in _batches(spec):
        eps = stream.normal(rows.tolist(), 0, "x_T", (root.shape[0],)).double()
        x = statistics.mean + eps @ root
        yield x.float().numpy().reshape(len(rows), *shape)[:wanted]
        done += wanted
        progress(done, spec.count)


def _test_images(spec: SampleBlock, dataset: Artifact) -> tuple[np.ndarray, int]:
    """The data's own test images in seeded order, each at most once: fewer than asked where the split ends."""
    num_available = split_index(dataset, "test").count
    order = NoiseStream(spec.seed).permutation(num_available, 0, "test_split")
    chosen = order.numpy()[spec.first : min(spec.first + spec.count, num_available)]
    return read_split(dataset, "test").images[chosen], num_available
