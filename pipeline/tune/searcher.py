"""A searcher over multiples of a step: Optuna's tree-structured Parzen estimator, driven by Ray Tune."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from pipeline.grid.proposals import Proposal, bounds, rounded
from pipeline.grid.spec import SearchSpec

MAX_REPEATS = 20
"""How often a point that is known already, or just being evaluated, is proposed again before it is accepted."""
Coordinates = tuple[tuple[str, float], ...]


class PointSearch(OptunaSearch):
    """Proposes points of a `SearchSpec`, each once as far as possible.

    A proposal that is known is answered at once, so that it costs no trial; one that is being evaluated is put aside.
    The memory is saved with Tune's experiment.

    Args:
        search: space, step, metric and seed.
        known: points that are evaluated already, with their metric; the searcher learns from them.
    """

    def __init__(self, search: SearchSpec, known: Sequence[tuple[Proposal, float]] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = {
            name: optuna.distributions.FloatDistribution(low, high, step=search.step)
            for name, (low, high) in bounds(search).items()
        }
        super().__init__(
            space=space,
            metric=search.metric,
            mode="min",
            sampler=optuna.samplers.TPESampler(seed=search.seed, multivariate=True, constant_liar=True),
            points_to_evaluate=[dict(point) for point, _ in known],
            evaluated_rewards=[value for _, value in known],
        )
        self._search = search
        self._values: dict[Coordinates, float | None] = {self._key(point): value for point, value in known}
        self._proposed: dict[str, Coordinates] = {}

    def _key(self, values: Mapping[str, Any]) -> Coordinates:
        return tuple(sorted(rounded(self._search, values).items()))

    def suggest(self, trial_id: str) -> dict[str, float] | None:
        """The next point, as multiples of the step."""
        for repeat in range(MAX_REPEATS + 1):
            name = f"{trial_id}/{repeat}"
            key = self._key(super().suggest(name) or {})
            if key not in self._values or repeat == MAX_REPEATS:
                self._ot_trials[trial_id] = self._ot_trials.pop(name)
                self._values.setdefault(key, None)
                self._proposed[trial_id] = key
                return dict(key)
            value = self._values[key]
            report = None if value is None else {self.metric: value}
            super().on_trial_complete(name, report, error=value is None)
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Trials have one step; its value arrives with their end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn the metric; a trial without it counts as failed."""
        value = None if result is None else result.get(self.metric)
        key = self._proposed.get(trial_id)
        if key is not None and value is not None:
            self._values[key] = float(value)
        super().on_trial_complete(trial_id, None if value is None else result, error=error or value is None)
