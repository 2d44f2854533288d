"""What every study works with: a system with its weights, its start, and draws keyed by image and step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.start import terminal_of
from pipeline.baselines.system import SystemSpec, load_encoder, load_predictor, system_for
from pipeline.config import ConfigError
from pipeline.diffusion.predictor import Condition, Predictor
from pipeline.diffusion.processes import Process, Terminal
from pipeline.diffusion.randomness import NoiseStream
from pipeline.diffusion.sampling import NoiseSource, time_grid
from pipeline.sample.stage import prior_latents
from pipeline.sample.study_paths import Conditions, Encoder, Encoding, Walk
from pipeline.shards import read_split, split_index, to_float
from pipeline.store import Artifact


@dataclass(frozen=True, eq=False)
class Scene:
    """A system ready to be studied.

    Attributes:
        spec: the system. process: its forward process. inputs: artifacts by role.
        predictor: with trained weights; None where only the forward process is studied.
        terminal: where x_T comes from, or None likewise.
        sampler: with its steps filled in, or None likewise.
        seed: of all draws. device: of networks and images. batch: images per network call.
    """

    spec: SystemSpec
    process: Process
    inputs: dict[str, Artifact]
    predictor: Predictor | None
    terminal: Terminal | None
    sampler: SamplerSpec | None
    seed: int
    device: str
    batch: int

    @classmethod
    def of(
        cls,
        spec: SystemSpec,
        sampler: SamplerSpec | None,
        inputs: dict[str, Artifact],
        *,
        seed: int,
        device: str,
        batch: int,
    ) -> "Scene":
        """Load what the artifacts hold.

        Raises:
            ConfigError: the data are no images of 1 or 3 channels, or the sampler does not fit the process.
        """
        dataset, statistics = inputs["dataset"], inputs.get("statistics")
        shape = tuple(dataset.meta["shape"])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ConfigError(f"a study shows images (1 or 3 channels, height, width); the data have shape {shape}")
        if sampler is None:
            process = system_for(spec, dataset.meta, statistics).process
            assert process is not None
            return cls(spec, process, inputs, None, None, None, seed, device, batch)
        predictor = load_predictor(
            spec, model=inputs.get("model"), dataset=dataset, statistics=statistics, device=device
        )
        process = predictor.process
        terminal = terminal_of(process, spec.start, inputs)
        return cls(spec, process, inputs, predictor, terminal, sampler.on(process), seed, device, batch)

    @property
    def times(self) -> Tensor:
        """Times of the walk, falling from 1, `(steps + 1,)` float64."""
        assert self.sampler is not None
        assert self.sampler.steps is not None
        return time_grid(self.sampler.steps, self.sampler.spacing)

    @property
    def num_steps(self) -> int:
        """Steps from x_T to the image."""
        return len(self.times) - 1

    @property
    def system_name(self) -> str:
        """One line on the system and the sampler, for figures."""
        tree: dict[str, Any] = self.spec.identity()["process"]
        inner = tree.get("schedule") or tree.get("degradation") or {}
        words = [self.spec.objective.kind, f"{inner.get('kind', '')} on {tree.get('basis', 'pixel')}"]
        if self.process.num_levels is not None:
            words.append(f"{self.process.num_levels} levels")
        if self.sampler is not None:
            words.append(f"{self.sampler.kernel.kind}, {self.num_steps} steps")
        return " · ".join(words)

    def level(self, t: float) -> str:
        """A time as people name it: the level 0 (image) ... T, or the time itself where there are no levels."""
        num_levels = self.process.num_levels
        return f"{t:.2g}" if num_levels is None else f"{t * num_levels:.4g}"

    @property
    def level_name(self) -> str:
        """What `level` counts."""
        return "time" if self.process.num_levels is None else "level"

    def batches(self, num_images: int) -> Iterator[list[int]]:
        """Image indices 0 ... num_images - 1 in batches."""
        for first in range(0, num_images, self.batch):
            yield list(range(first, min(first + self.batch, num_images)))

    def noise(self, rows: list[int]) -> NoiseSource:
        """Draws of the images `rows`, the same ones as a sample block's."""
        stream = NoiseStream(self.seed)
        return lambda step, name, shape: stream.normal(rows, step, name, shape[1:]).to(self.device)

    def walk(self, rows: list[int]) -> Walk:
        """The sampler over the images `rows`."""
        assert self.sampler is not None
        assert self.predictor is not None
        kernel = self.sampler.kernel.build()
        return Walk(self.process, kernel, self.predictor, self.times, self.noise(rows), self.sampler.final)

    def start(self, rows: list[int]) -> Tensor:
        """x_T of the images `rows`, those of a sample block."""
        assert self.terminal is not None
        return self.terminal.draw(rows, self.seed).to(self.device)

    def codes(self, rows: list[int]) -> Callable[[int], Tensor]:
        """Prior codes of the images `rows` by step, those of a sample block: `(batch, latent_dim)`."""
        length: int | None = self.spec.objective.num_latents
        assert length is not None
        assert self.sampler is not None
        stream = NoiseStream(self.seed)
        is_fresh = self.sampler.latents == "step"
        return lambda step: prior_latents(stream, rows, step if is_fresh else 0, length).to(self.device)

    def conditions(
        self, rows: list[int], codes: Callable[[int], Tensor] | None, classes: Tensor | None = None
    ) -> Conditions:
        """Label, where the system has classes, and code of every step; image i is of class i mod classes by default."""
        label = None
        if self.spec.class_conditional:
            num_classes = self.inputs["dataset"].meta["num_classes"]
            label = torch.tensor(rows, dtype=torch.int64) % num_classes if classes is None else classes
            label = label.to(self.device)
        return lambda step: Condition(label=label, latent=None if codes is None else codes(step))

    def prior_conditions(self, rows: list[int]) -> Conditions:
        """Conditions of a sample block: labels and prior codes, as far as the system has them."""
        return self.conditions(rows, None if self.spec.objective.num_latents is None else self.codes(rows))

    def encoded_walk(self, rows: list[int], x_0: Tensor) -> Walk:
        """The sampler whose codes come from the encoder of the images x_0 `(batch, *shape)`."""
        walk = self.walk(rows)
        assert self.predictor is not None
        encoder: Encoder = load_encoder(
            self.spec,
            model=self.inputs["model"],
            dataset=self.inputs["dataset"],
            statistics=self.inputs.get("statistics"),
            device=self.device,
        )
        precondition = self.predictor.precondition
        encoding = Encoding(
            self.predictor,
            encoder,
            lambda u, t: precondition.inputs(u, t).x,
            self.process,
            x_0,
            self.noise(rows),
            self.times,
        )
        return replace(walk, predictor=encoding)

    def test_images(self, num_images: int) -> tuple[Tensor, Tensor | None]:
        """Test images in seeded order and their classes, if any; fewer than asked where the split ends.

        Returns:
            Images `(n, *shape)` float32 in [-1, 1] on the device, classes `(n,)` int64 or None.
        """
        dataset = self.inputs["dataset"]
        order = NoiseStream(self.seed).permutation(split_index(dataset, "test").count, 0, "study").numpy()
        chosen = read_split(dataset, "test").rows(order[:num_images])
        x_0 = torch.from_numpy(np.ascontiguousarray(to_float(chosen.images, dataset.meta["quantisation"])))
        return x_0.to(self.device), None if chosen.labels is None else torch.from_numpy(chosen.labels)
