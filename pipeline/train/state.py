"""The resumable state of a cell: weights, averages, optimiser tensors, counters; safetensors and JSON, no pickle."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from pipeline.baselines.system import System
from pipeline.diffusion.objectives.base import Objective
from pipeline.networks.ema import ExponentialMovingAverage
from pipeline.train.curve import Curve
from pipeline.train.group import Group
from pipeline.train.outcome import raise_together
from pipeline.train.spec import TrainSpec
from pipeline.train.weights import FlatWeights

_TENSORS = "tensors.safetensors"
_SEPARATOR = "|"  # cannot occur in a parameter's name


class SavedState(Protocol):
    """One complete state of the store."""

    @property
    def meta(self) -> Mapping[str, Any]: ...

    def read(self, name: str) -> bytes: ...


class StateStore(Protocol):
    """Where states live; `latest` passes over damaged ones."""

    def save(self, step: int, files: Mapping[str, Path | bytes], meta: dict[str, Any]) -> object: ...

    def latest(self) -> SavedState | None: ...


@dataclass
class CellState:
    """Everything of a running cell that the next step depends on."""

    networks: dict[str, nn.Module]
    flat_weights: dict[str, FlatWeights]  # by optimiser, like the next two
    averages: dict[str, ExponentialMovingAverage]
    optimisers: dict[str, torch.optim.Optimizer]
    objective: Objective
    curve: Curve
    step: int = 0  # steps done
    skips_in_row: int = 0
    num_skipped: int = 0

    def averaged(self, network: str) -> dict[str, Tensor]:
        """The state dict of a network with averages in place of all weights that are trained; live, not a copy."""
        result = dict(self.networks[network].state_dict())
        for name, average in self.averages.items():
            views = self.flat_weights[name].views(list(average.weights().values()))
            result |= {key: view for (owner, key), view in views.items() if owner == network}
        return result

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by a name that says where they belong; CPU, contiguous."""
        named: dict[str, Tensor] = {}
        for name, network in self.networks.items():
            named |= {_join("weights", name, key): value for key, value in network.state_dict().items()}
        for name, average in self.averages.items():
            named |= {_join("average", name, key): value for key, value in average.weights().items()}
        for name, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                named |= {_join("optimiser", name, str(index), key): value for key, value in values.items()}
        named |= {_join("objective", key): value for key, value in self._objective_parts()[0].items()}
        return {key: value.detach().cpu().contiguous().clone() for key, value in named.items()}

    def counters(self) -> dict[str, Any]:
        """The rest, JSON-able."""
        averages = {
            name: {"num_updates": average.num_updates, "num_images": average.num_images}
            for name, average in self.averages.items()
        }
        return {
            "step": self.step,
            "skips_in_row": self.skips_in_row,
            "num_skipped": self.num_skipped,
            "averages": averages,
            "objective": self._objective_parts()[1],
            "curve": self.curve.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Continue where `tensors` and `counters` were taken."""
        parts: dict[str, dict[tuple[str, ...], Tensor]] = {}
        for name, value in tensors.items():
            kind, *path = name.split(_SEPARATOR)
            parts.setdefault(kind, {})[tuple(path)] = value
        for name, network in self.networks.items():
            network.load_state_dict({key[1]: v for key, v in parts["weights"].items() if key[0] == name})
        for name, average in self.averages.items():
            weights = {key[1]: v for key, v in parts["average"].items() if key[0] == name}
            average.load_state_dict({**counters["averages"][name], "average": weights})
        for name, optimiser in self.optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in parts.get("optimiser", {}).items():
                if key[0] == name:
                    state.setdefault(int(key[1]), {})[key[2]] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        objective = {key[0]: value for key, value in parts.get("objective", {}).items()}
        self.objective.load_state_dict({**counters["objective"], **objective})
        self.curve.load_state_dict(counters["curve"])
        self.step = int(counters["step"])
        self.skips_in_row, self.num_skipped = int(counters["skips_in_row"]), int(counters["num_skipped"])

    def _objective_parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.objective.state_dict()
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        return tensors, {key: value for key, value in state.items() if key not in tensors}


def new_state(system: System, spec: TrainSpec, device: torch.device) -> CellState:
    """The state before the first step; the system's networks are moved to `device` and set to training mode."""
    networks = {name: network.to(device).train() for name, network in system.networks.items()}
    groups = system.objective.optimisers(networks)
    flat_weights = {name: FlatWeights(networks, param_groups) for name, param_groups in groups.items()}
    return CellState(
        networks=networks,
        flat_weights=flat_weights,
        averages={name: _average(weights, spec) for name, weights in flat_weights.items()},
        optimisers={name: _optimiser(weights, spec) for name, weights in flat_weights.items()},
        objective=system.objective,
        curve=Curve(spec.steps),
    )


def _average(weights: FlatWeights, spec: TrainSpec) -> ExponentialMovingAverage:
    ema = spec.ema
    return ExponentialMovingAverage(
        weights, decay=ema.decay, half_life_images=ema.half_life_images, warmup=ema.with_warmup
    )


def _optimiser(weights: FlatWeights, spec: TrainSpec) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if spec.optimiser == "adamw" else torch.optim.Adam
    return kind(weights.param_groups(), lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True)


def save_state(state: CellState, store: StateStore) -> None:
    """Write `state` as the store's newest; rank 0 only."""
    with tempfile.TemporaryDirectory(prefix="train-state-") as folder:
        path = Path(folder) / _TENSORS
        save_file(state.tensors(), path)
        store.save(state.step, {_TENSORS: path}, state.counters())


def load_state(state: CellState, store: StateStore | None, group: Group) -> bool:
    """Restore the newest complete state on every rank (read by rank 0); False if there is none."""
    counters: bytes | None = None
    tensors: bytes | None = None
    error: Exception | None = None
    if group.is_first and store is not None:
        try:
            saved = store.latest()
            if saved is not None:
                counters = json.dumps(dict(saved.meta)).encode()
                tensors = saved.read(_TENSORS)
        except Exception as failure:  # the others wait for what was read
            error = failure
    raise_together(error, group)
    counters = group.from_first(counters)
    if counters is None:
        return False
    tensors = group.from_first(tensors)
    assert tensors is not None
    state.restore(load(tensors), json.loads(counters))
    return True


def _join(*parts: str) -> str:
    assert not any(_SEPARATOR in part for part in parts)
    return _SEPARATOR.join(parts)
