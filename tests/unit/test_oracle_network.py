"""The exact predictor in place of a network: no weights, and the answers of a Gaussian."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.baselines.system import SystemSpec, build_system, load_predictor
from pipeline.config import ConfigError, parse
from pipeline.diffusion import build_process, log_likelihood, oracles
from pipeline.diffusion.predictor import Predictor
from pipeline.evaluate.gaussian import gaussian_log_density
from pipeline.grid import load_grid, make_plan
from pipeline.grid.cost import estimate
from pipeline.networks import NETWORKS, OraclePredictor, OracleSpec
from pipeline.store import Store, open_store
from pipeline.train.spec import TrainTask
from tests import stage_cases
from tests.diffusion_cases import image_process, image_statistics, normal

ORACLE = {"kind": "oracle"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def state(rows: int = 5, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return normal(4, rows, 1, 16, dtype=dtype)


def test_only_the_oracle_has_nothing_to_train() -> None:
    assert [kind for kind, spec in NETWORKS.items() if not spec.is_trained] == ["oracle"]


def test_a_module_of_it_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="oracle is not trained"):
        OracleSpec().build((3,))


def test_a_training_of_it_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="oracle is not trained"):
        parse(TrainTask, {"system": stage_cases.system(network=ORACLE)})


@pytest.mark.parametrize(
    "changes",
    [
        {"class_conditional": True},
        {"process": None, "objective": {"kind": "classification"}},
        {
            "process": {"kind": "spectral", "basis": "dct", "schedule": {"kind": "heat", "num_levels": 4}},
            "prediction": "x_prev",
            "objective": {"kind": "sequential"},
        },
    ],
)
def test_a_system_that_it_cannot_predict_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="oracle is exact for Gaussian noise"):
        stage_cases.system(network=ORACLE, **changes)


def test_a_system_of_it_has_a_process_and_no_networks() -> None:
    spec = stage_cases.system(network=ORACLE)
    built = build_system(spec, shape=(1, 4, 4), num_classes=None, statistics=stage_cases.train_statistics())
    assert built.process is not None
    assert built.networks == {}
    assert parse(SystemSpec, spec.model_dump(mode="json")) == spec


def test_it_is_loaded_without_a_model_and_predicts_for_the_statistics_of_the_data(store: Store) -> None:
    predictor = load_predictor(
        stage_cases.system(network=ORACLE),
        model=None,
        dataset=stage_cases.dataset(store),
        statistics=stage_cases.statistics(store),
    )
    process, fitted = predictor.process, stage_cases.train_statistics()
    exact = oracles.gaussian(process, torch.zeros(16), fitted.variances)  # the centre is the mean
    for t in (0.1, 0.9):
        torch.testing.assert_close(predictor(state(), t).eps, exact(state(), t).eps, rtol=0, atol=1e-14)


def test_without_statistics_of_the_data_it_says_what_is_missing(store: Store) -> None:
    process = {"kind": "spectral", "basis": "pixel", "schedule": {"kind": "cosine"}}
    spec = stage_cases.system(network=ORACLE, process=process)
    with pytest.raises(ConfigError, match="the mean and the variances of the data"):
        load_predictor(spec, model=None, dataset=stage_cases.dataset(store), statistics=None)


@pytest.mark.parametrize("prior", ["standard", "data"])
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_it_is_a_network_whose_output_is_zero(prior: str, t: float) -> None:
    process = image_process("gud", basis="pca", prior=prior)
    zero = Predictor(lambda x, t, gamma, cond: torch.zeros_like(x), process, "eps")
    exact = OraclePredictor(process)
    for name in ("x_0", "eps", "v"):
        given, expected = (getattr(predictor(state(), t), name) for predictor in (exact, zero))
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)


def test_it_answers_in_the_dtype_of_the_state() -> None:
    process = image_process("gud")
    assert OraclePredictor(process)(state(dtype=torch.float32), 0.5).eps.dtype == torch.float32


def test_its_flow_in_white_components_has_the_likelihood_of_the_gaussian() -> None:
    statistics = image_statistics()
    schedule = {"kind": "gud", "softness_a": 1.5}
    tree = {"kind": "spectral", "basis": "pca", "centre": "mean", "prior": "data", "schedule": schedule}
    process = build_process(tree, (1, 4, 4), statistics)
    x = 0.3 * normal(8, 3, 1, 4, 4)
    found = log_likelihood(process, OraclePredictor(process), x, {"kind": "ode", "steps": 8, "trace": "exact"}).total
    torch.testing.assert_close(found, gaussian_log_density(statistics, x.flatten(1)), rtol=1e-9, atol=0)


def test_a_plan_of_it_has_images_and_no_trainings_to_price(store: Store, tmp_path: Path) -> None:
    tree = {
        "name": "rehearsal",
        "experiment": {"dataset": {"kind": "gaussian", "name": "two", "variances": [1.0, 0.1]}, "network": ORACLE},
        "grid": [{"baseline": "gud", "softness_a": [0.5, 1.0]}],
        "evaluate": {
            "num_images": 300,
            "block_images": 100,
            "batch_images": 100,
            "metrics": ["moments"],
            "samplers": {"gud": {"kind": ["ddim", "ancestral"], "steps": 5}},
        },
    }
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump(tree))
    plan = make_plan(load_grid(str(grid)))
    cost = estimate(plan, plan.missing(store))
    assert (cost.num_trainings, cost.num_images, cost.train_hours) == (0, 600, 0.0)
    assert cost.train_flops == cost.sample_flops == 0.0
    assert {task.stage for task in plan.tasks.values()} == {"ingest", "statistics", "sample", "moments", "result"}
