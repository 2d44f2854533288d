"""The degradations by the names that users give them: each says which process it is.

Names, options and defaults come from the specifications in the tables of schedules and operators. The defaults have no
level without effect; the published level schedules are among the options (`levels: vcd`, `fade: vcd_cosine`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import ConfigError, closest, parse
from pipeline.diffusion.processes import build_process
from pipeline.diffusion.processes.operators import OPERATORS, OperatorDegradationSpec
from pipeline.diffusion.schedules import DEGRADATION_SCHEDULES, DegradationScheduleSpec, End, Named
from pipeline.diffusion.schedules.blurring import BlurringSpec

_SHARED = ("kind", "num_levels", "noise", "fade")
"""Fields that are no options of their own."""


@dataclass(frozen=True)
class Degradation:
    """A way to destroy an image.

    Attributes:
        name: in grid files.
        summary: one sentence.
        options: names and defaults, besides num_levels and noise.
        tree: all options, num_levels and noise -> the process as plain data.
        end: all options, num_levels and noise -> what D(x_0, 1) is.
        is_gaussian: it adds noise of its own, sigma(t) > 0: systems of the ddpm type go with it.
    """

    name: str
    summary: str
    options: Mapping[str, Any]
    tree: Callable[[Mapping[str, Any]], dict[str, Any]]
    end: Callable[[Mapping[str, Any]], End]
    is_gaussian: bool = False

    @property
    def terminal(self) -> End:
        """What D(x_0, 1) is with the default options."""
        return self.terminal_with({})

    def terminal_with(self, options: Mapping[str, Any]) -> End:
        """What D(x_0, 1) is with these options: gaussian, flat (one colour), zero (the centre) or images (neither)."""
        return self.end(self._complete(options))

    def process(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The process tree, for `build_process`.

        Args:
            options: `num_levels` (T), `noise` (standard deviation at every level, 0 if missing, on the [-1, 1] scale)
                and any of this degradation's own options.

        Raises:
            ConfigError: an option that this degradation does not have.
        """
        return self.tree(self._complete(options))

    def check(self, options: Mapping[str, Any], shape: tuple[int, ...]) -> str | None:
        """Why these options do not fit data of `shape`, in one sentence, or None."""
        try:
            build_process(self.process(options), shape)
        except ConfigError as error:
            return str(error)
        return None

    def _complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        known = {"num_levels": None, "noise": 0.0, **self.options}
        for name in options:
            if name not in known:
                raise ConfigError(f"degradation {self.name}: unknown option {name!r}{closest(name, list(known))}")
        return {**known, **options}


def named_degradations(
    kinds: Mapping[str, type[DegradationScheduleSpec] | type[OperatorDegradationSpec]],
) -> Iterator[Degradation]:
    """The degradations that the specifications of a table name, in its order."""
    for kind, spec in kinds.items():
        for named in spec.names:
            fields = {name: info.default for name, info in spec.model_fields.items() if name not in _SHARED}
            options = {**fields, "fade": "cosine"} if named.is_black else fields
            tree = _spectral_tree if issubclass(spec, DegradationScheduleSpec) else _operator_tree
            yield Degradation(
                name=named.name,
                summary=named.summary,
                options=options,
                tree=_bound(tree, kind, spec, named),
                end=_bound(_end, kind, spec, named),
            )


def _bound(function: Callable[..., Any], kind: str, spec: Any, named: Named) -> Callable[[Mapping[str, Any]], Any]:
    return lambda options: function(kind, spec, named, options)


def _spectral_tree(
    kind: str, spec: type[DegradationScheduleSpec], named: Named, options: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "kind": "spectral",
        "basis": spec.basis,
        "centre": "black" if named.is_black else named.centre,
        "schedule": {"kind": kind, **options},
    }


def _operator_tree(
    kind: str, spec: type[OperatorDegradationSpec], named: Named, options: Mapping[str, Any]
) -> dict[str, Any]:
    own = {name: value for name, value in options.items() if name not in _SHARED}
    shared = {name: value for name, value in options.items() if name in _SHARED}
    centre = "black" if named.is_black else named.centre
    return {"kind": "operator", "degradation": {"kind": kind, **own}, "centre": centre, **shared}


def _end(
    kind: str,
    spec: type[DegradationScheduleSpec] | type[OperatorDegradationSpec],
    named: Named,
    options: Mapping[str, Any],
) -> End:
    if options.get("fade", "none") != "none":
        return "zero"
    own = {name: value for name, value in options.items() if name not in _SHARED}
    levels = {"num_levels": 1} if issubclass(spec, DegradationScheduleSpec) else {}
    return parse(spec, {"kind": kind, **own, **levels}, f"degradation {named.name}").end


def _noise_tree(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "spectral", "schedule": {"kind": "cosine", "num_levels": options["num_levels"]}}


def _blurring_tree(options: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in options.items() if name not in _SHARED}
    return {"kind": "spectral", "basis": "dct", "schedule": {"kind": "blurring", **own}}


_GAUSSIAN = (
    Degradation(
        name="noise",
        summary="Gaussian noise: the forward process of DDPM.",
        options={},
        tree=_noise_tree,
        end=lambda options: "gaussian",
        is_gaussian=True,
    ),
    Degradation(
        name="blurring",
        summary="Blur and Gaussian noise together, at all times: blurring diffusion.",
        options={name: info.default for name, info in BlurringSpec.model_fields.items() if name not in _SHARED},
        tree=_blurring_tree,
        end=lambda options: "gaussian",
        is_gaussian=True,
    ),
)

DEGRADATIONS: dict[str, Degradation] = {
    degradation.name: degradation
    for degradation in (
        *_GAUSSIAN,
        *named_degradations(DEGRADATION_SCHEDULES),
        *named_degradations(OPERATORS),
    )
}
"""Every degradation by its name."""
