"""Studies of one system: images level by level, what a latent code decides at which step, images continued."""

import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, model_validator

from pipeline.baselines.devices import DEVICE_PATTERN, placed
from pipeline.baselines.samplers import SamplerSpec
from pipeline.baselines.system import SystemSpec
from pipeline.baselines.threads import single_thread
from pipeline.config import Spec, runtime
from pipeline.diffusion.extension import is_column_ordered
from pipeline.sample.study_kinds import STUDIES
from pipeline.sample.study_scene import Scene
from pipeline.store import Artifact, Attempt

STAGE = "study"
STAGE_VERSION = 1

Kind = Literal["forward", "sequence", "exchange", "interpolation", "reconstruction", "extension"]
OF_LATENTS: tuple[Kind, ...] = ("exchange", "interpolation", "reconstruction")
"""Studies of a latent code: only variational systems have one."""

Progress = Callable[[int, int], None]


def applies(kind: Kind, system: SystemSpec) -> bool:
    """Whether a study of this kind means anything for a system: what `StudySpec` accepts."""
    if kind in OF_LATENTS:
        return system.objective.num_latents is not None
    return kind != "extension" or is_column_ordered(system.process)


class StudySpec(Spec):
    """One study of one system.

    Attributes:
        kind: `forward` strips of degraded test images; generative `sequence`; `exchange` of latent codes at
            single steps and in windows; `interpolation` of codes; `reconstruction` of test images by the encoder;
            `extension` of test images from their left half, for processes that go column by column.
        system: what is studied.
        sampler: how images are made; `forward` takes none.
        num_images: images, or pairs of them, that are measured; the sheet shows the first few.
        windows: exchange only: half-open ranges of steps [first, stop), step 0 leaves x_T; null is three equal parts.
        seed: of x_T, of the codes and of the order of test images; that of a sample block gives the block's images.
        batch_shape: images per network call.
        device: where networks run.
    """

    kind: Kind
    system: SystemSpec
    sampler: SamplerSpec | None = None
    num_images: PositiveInt = 64
    windows: tuple[tuple[NonNegativeInt, PositiveInt], ...] | None = None
    seed: NonNegativeInt = 0
    batch_shape: PositiveInt = 250
    device: str = runtime("auto", pattern=DEVICE_PATTERN)

    @model_validator(mode="after")
    def _fits_together(self) -> "StudySpec":
        if self.system.process is None:
            raise ValueError("system: a study needs a process; this system has none")
        if (self.sampler is None) != (self.kind == "forward"):
            raise ValueError(
                f"sampler: a study of kind {self.kind} " + ("needs one" if self.sampler is None else "takes none")
            )
        if not applies(self.kind, self.system):
            raise ValueError(
                "kind extension continues images column by column; it needs basis pixel, and schedule columns (axis "
                "column) or schedule gud with ordering column"
                if self.kind == "extension"
                else f"kind {self.kind} studies a latent code and the objective {self.system.objective.kind} has none; "
                "use a variational system, or kind forward or sequence"
            )
        if self.windows is not None and self.kind != "exchange":
            raise ValueError("windows: only an exchange has them")
        for first, stop in self.windows or ():
            if first >= stop:
                raise ValueError(f"windows: [{first}, {stop}) holds no step")
            steps = None if self.sampler is None else self.sampler.steps
            if steps is not None and stop > steps:
                raise ValueError(f"windows: [{first}, {stop}) ends behind the sampler's {steps} steps")
        return self


def run(
    spec: StudySpec, inputs: dict[str, Artifact], attempt: Attempt, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write the study's figures (PNG), `study.json` (what was measured) and `study.npz` (values per image).

    Args:
        spec: the study.
        inputs: `dataset` and `statistics`; `model` unless kind is forward; `terminal` where x_T is fitted.
        attempt: where the files go.
        progress: called with walks done and walks in all.

    Returns:
        What `study.json` holds: the kind, names of the figures, and the study's numbers.

    Raises:
        ConfigError: the data are no images, or windows and steps do not fit the sampler.
    """
    spec = placed(spec)
    with single_thread():
        scene = Scene.of(spec.system, spec.sampler, inputs, seed=spec.seed, device=spec.device, batch=spec.batch_shape)
        options = {"windows": spec.windows} if spec.kind == "exchange" else {}
        findings = STUDIES[spec.kind](scene, spec.num_images, progress, **options)
    meta = {"kind": spec.kind, "figures": sorted(findings.figures), **findings.numbers}
    for name, png in findings.figures.items():
        attempt.path(name).write_bytes(png)
    attempt.path("study.json").write_text(json.dumps(meta, indent=1, sort_keys=True, allow_nan=False) + "\n")
    np.savez(attempt.path("study.npz"), allow_pickle=False, **findings.arrays)
    return meta
