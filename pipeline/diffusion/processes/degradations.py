"""The degradations by the names that users give them, and their table: each says which process it is.

Options are those of the schedule or operator behind the name, whose defaults have no level without effect; the
published level schedules are among them (`levels: vcd`, `fade: vcd_cosine`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import ConfigError, closest, parse, union
from pipeline.diffusion.processes.operator import OperatorSpec
from pipeline.diffusion.processes.spectral import SpectralSpec

End = Literal["gaussian", "flat", "zero", "images"]
"""D(x_0, 1): Gaussian noise, one colour, exactly the centre, or an image in which more of x_0 is left."""


@dataclass(frozen=True)
class Degradation:
    """A way to destroy an image in T levels.

    Attributes:
        name: in grid files.
        summary: one sentence.
        tree: options (all of them, with num_levels and noise) -> the process as plain data.
        terminal: what D(x_0, 1) is with the default options; `terminal_with` answers for others.
        options: names and defaults, besides num_levels and noise.
        is_gaussian: it adds noise of its own, sigma(t) > 0: systems of the ddpm type go with it.
        ends: what the terminal is with other options, or None where they do not matter.
    """

    name: str
    summary: str
    tree: Callable[[Mapping[str, Any]], dict[str, Any]]
    terminal: End
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_gaussian: bool = False
    ends: Callable[[Mapping[str, Any]], End] | None = None

    def process(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The process tree, for `build_process`.

        Args:
            options: `num_levels` (T), `noise` (standard deviation at every level, 0 if missing, on the [-1, 1] scale)
                and any of this degradation's own options.

        Raises:
            ConfigError: an option that this degradation does not have.
        """
        return self.tree(self._complete(options))

    def terminal_with(self, options: Mapping[str, Any]) -> End:
        """What D(x_0, 1) is with these options."""
        return self.ends(self._complete(options)) if self.ends else self.terminal

    def check(self, options: Mapping[str, Any], shape: tuple[int, ...]) -> str | None:
        """Why these options do not fit data of `shape`, in one sentence, or None."""
        try:
            parse(union({"spectral": SpectralSpec, "operator": OperatorSpec}), self.process(options), "process").build(
                tuple(shape), None
            )
        except ConfigError as error:
            return str(error)
        return None

    def _complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        known = {"num_levels": None, "noise": 0.0, **self.options}
        for name in options:
            if name not in known:
                raise ConfigError(f"degradation {self.name}: unknown option {name!r}{closest(name, list(known))}")
        return {**known, **options}


def _spectral(basis: str, schedule: Mapping[str, Any], centre: str = "grey") -> dict[str, Any]:
    return {"kind": "spectral", "basis": basis, "centre": centre, "schedule": dict(schedule)}


def _given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in ("num_levels", "noise", *names)}


def _noise(options: Mapping[str, Any]) -> dict[str, Any]:
    return _spectral("pixel", {"kind": "cosine", "num_levels": options["num_levels"]})


def _blurring(options: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in options.items() if name not in ("num_levels", "noise")}
    return _spectral("dct", {"kind": "blurring", **settings})


def _blur(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("levels", "blur_min", "blur_max", *(["fade"] if "fade" in options else []))
    schedule = {"kind": "heat", **_given(options, *names), "with_flat_end": _is_flat(options)}
    return _spectral("dct", schedule, "black" if "fade" in options else "grey")


def _is_flat(options: Mapping[str, Any]) -> bool:
    """As asked; else a blur that goes on to the side of the image ends in its mean."""
    asked = options.get("with_flat_end")
    return options["levels"] == "geometric" and options["blur_max"] is None if asked is None else asked


def _blur_end(options: Mapping[str, Any]) -> End:
    # The published levels end at s = N, where 0.7 % of the lowest frequency is left.
    return "flat" if _is_flat(options) or options["levels"] == "vcd" else "images"


def _whole(kind: str, basis: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The process whose schedule takes all options as they are; black where it fades."""

    def tree(options: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in options.items() if name != "centre"}
        centre = options.get("centre", "black" if "fade" in options else "grey")
        return _spectral(basis, {"kind": kind, **settings}, centre)

    return tree


def _operator(kind: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """The same for an operator on whole images."""

    def tree(options: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in options.items() if name not in ("num_levels", "noise", "fade")}
        fading = {"fade": options["fade"], "centre": "black"} if "fade" in options else {}
        return {"kind": "operator", "degradation": {"kind": kind, **own}, **_given(options), **fading}

    return tree


_FADE = {"fade": "cosine"}
_BLUR = {"levels": "geometric", "blur_min": 0.5, "blur_max": None}
_KERNEL = {"kernel_size": 5, "kernel_std": 2.0, "growth": 0.0, "growth_law": "linear"}

_ALL: tuple[Degradation, ...] = (
    Degradation(
        name="noise",
        summary="Gaussian noise: the forward process of DDPM.",
        tree=_noise,
        terminal="gaussian",
        is_gaussian=True,
    ),
    Degradation(
        name="blurring",
        summary="Blur and Gaussian noise together: blurring diffusion.",
        tree=_blurring,
        terminal="gaussian",
        options={"blur_max": 20.0, "min_scale": 0.001, "log_snr_data": 10.0, "log_snr_prior": -10.0},
        is_gaussian=True,
    ),
    Degradation(
        name="blur",
        summary="Heat dissipation: a Gaussian blur that grows until one colour is left.",
        tree=_blur,
        terminal="flat",
        options={**_BLUR, "with_flat_end": None},
        ends=_blur_end,
    ),
    Degradation(
        name="black", summary="The image fades to black.", tree=_whole("dim", "pixel"), terminal="zero", options=_FADE
    ),
    Degradation(
        name="black_blur",
        summary="Blur and fade to black together.",
        tree=_blur,
        terminal="zero",
        options={**_BLUR, **_FADE},
    ),
    Degradation(
        name="pixelate",
        summary="Nested blocks of pixels are replaced by their mean.",
        tree=_whole("block_mean", "haar_dct"),
        terminal="flat",
    ),
    Degradation(
        name="black_pixelate",
        summary="Block means and fade to black together.",
        tree=_whole("block_mean", "haar_dct"),
        terminal="zero",
        options=_FADE,
    ),
    Degradation(
        name="pixelate_nearest",
        summary="Blocks of pixels are replaced by their top left pixel, as in the code of Variational Cold Diffusion.",
        tree=_operator("pixelate_nearest"),
        terminal="flat",
        options={"levels": "distinct"},
    ),
    Degradation(
        name="black_pixelate_nearest",
        summary="The top left pixel of each block, and fade to black.",
        tree=_operator("pixelate_nearest"),
        terminal="zero",
        options={"levels": "distinct", **_FADE},
    ),
    Degradation(
        name="kernel_blur",
        summary="Repeated convolution with a sampled Gaussian, borders continued periodically.",
        tree=_whole("kernel_blur", "fourier"),
        terminal="flat",
        options={**_KERNEL, "with_flat_end": True},
        ends=lambda options: "flat" if options["with_flat_end"] else "images",
    ),
    Degradation(
        name="black_kernel_blur",
        summary="Repeated convolution, borders continued periodically, and fade to black.",
        tree=_whole("kernel_blur", "fourier"),
        terminal="zero",
        options={**_KERNEL, **_FADE},
    ),
    Degradation(
        name="kernel_blur_reflect",
        summary="Repeated convolution with a sampled Gaussian, borders mirrored about the border pixel.",
        tree=_operator("reflect_blur"),
        terminal="flat",
        options={**_KERNEL, "with_flat_end": True},
        ends=lambda options: "flat" if options["with_flat_end"] else "images",
    ),
    Degradation(
        name="fade",
        summary="A Gaussian hole grows from the middle of the image.",
        tree=_whole("masking", "pixel"),
        terminal="zero",
        options={"kernel_std": None, "initial_mask": 1, "with_zero_end": True, "centre": "black"},
        ends=lambda options: "zero" if options["with_zero_end"] else "images",
    ),
    Degradation(
        name="decolor",
        summary="Colour fades to grey.",
        tree=_whole("decolor", "colour"),
        terminal="images",
        options={"chroma": "linear"},
    ),
)

DEGRADATIONS: dict[str, Degradation] = {degradation.name: degradation for degradation in _ALL}
"""Every degradation by its name."""
