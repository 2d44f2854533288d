"""Expansion of a grid: products, names, validity, merging, sharing, and what identifies a training."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, Document
from pipeline.grid import make_plan
from pipeline.grid.axes import combinations
from pipeline.grid.cost import estimate, forward_flops
from pipeline.grid.plan import Plan
from pipeline.grid.spec import grid_from, load_grid
from pipeline.grid.tasks import execute
from pipeline.grid.validity import RULES, refusal
from pipeline.store import open_store
from tests.grids import TINY, merged, tiny_grid


def plan_of(**changes: Any) -> Plan:
    return make_plan(grid_from(Document(merged(TINY, changes), source="grid.yaml")))


def test_lists_multiply_inside_a_block_and_blocks_add_up() -> None:
    plan = plan_of()
    names = [cell.name for cell in plan.cells]
    assert names == ["ddpm/cosine", "ddpm/linear_beta", "gud/a=0.5", "gaussian", "test_split"]
    assert len(plan.trainings) == 3


def test_a_plan_is_priced_by_steps_batches_and_network_calls() -> None:
    plan = plan_of(grid=[{"baseline": "ddpm"}])
    cost = estimate(plan, plan.tasks)
    (training,) = [task for task in plan.trainings if task.spec.system.process]
    forward = forward_flops(training.spec.system, (1, 8, 8), None)
    assert cost.train_flops == 20 * 32 * 3 * forward
    assert cost.sample_flops == 80 * (3 + 1) * forward, "three steps and the last look at the clean image"
    assert forward > 2 * 64 * 16, "at least the first layer"


def test_samplers_share_one_training() -> None:
    samplers = {"ddpm": [{"kind": "ddim", "steps": [3, 5]}, {"kind": "ancestral", "steps": 4}]}
    plan = plan_of(grid=[{"baseline": "ddpm"}], evaluate={"samplers": samplers})
    assert [cell.name for cell in plan.cells] == ["ddpm/ddim3", "ddpm/ddim5", "ddpm/ancestral4"]
    assert len(plan.trainings) == 1
    likelihoods = {task.key for cell in plan.cells for task in cell.tasks.likelihoods}
    assert len(likelihoods) == 2, "the likelihood of a model does not depend on its sampler"


def test_ddim_with_eta_one_is_merged_with_its_twin() -> None:
    samplers = {"ddpm": [{"kind": "ancestral", "steps": 3}, {"kind": "ddim", "eta": 1.0, "steps": 3}]}
    plan = plan_of(grid=[{"baseline": "ddpm"}], evaluate={"samplers": samplers})
    assert len(plan.cells) == 1
    ((label, kept),) = plan.merged
    assert "ddim3" in label
    assert kept == plan.cells[0].name


def test_the_same_combination_in_two_blocks_is_one_cell() -> None:
    plan = plan_of(grid=[{"baseline": "ddpm", "schedule": "linear"}, {"baseline": "ddpm", "schedule": "linear_beta"}])
    assert len(plan.cells) == 1
    assert len(plan.merged) == 1


def test_seeds_are_separate_trainings_with_the_same_reference() -> None:
    plan = plan_of(grid=[{"baseline": "ddpm"}], seeds=[0, 1])
    assert [cell.name for cell in plan.cells] == ["ddpm/seed0", "ddpm/seed1"]
    assert len(plan.trainings) == 2
    assert len({cell.tasks.nets[0].reference[0].key for cell in plan.cells}) == 1


def test_a_longer_set_of_images_contains_the_blocks_of_a_shorter_one() -> None:
    short, long = (plan_of(grid=[{"baseline": "ddpm"}], evaluate={"num_images": n}) for n in (80, 160))
    few, many = ([task.key for task in plan.cells[0].tasks.samples] for plan in (short, long))
    assert many[:2] == few
    assert len(many) == 4


def test_runtime_settings_do_not_change_what_is_computed() -> None:
    usual = plan_of(grid=[{"baseline": "ddpm"}])
    other = plan_of(grid=[{"baseline": "ddpm"}], experiment={"train": {"workers": 2, "checkpoint_steps": 5}})
    assert usual.cells[0].key == other.cells[0].key


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": {"train": {"lr": 2e-3}}},
        {"experiment": {"network": {"width": 32}}},
        {"seeds": [7]},
        {"experiment": {"dataset": {"max_train": 200}}},
        {"evaluate": {"batch_images": 20}},
    ],
)
def test_whatever_changes_the_outcome_changes_the_address(changes: dict[str, Any]) -> None:
    base = plan_of(grid=[{"baseline": "ddpm"}])
    assert plan_of(grid=[{"baseline": "ddpm"}], **changes).cells[0].key != base.cells[0].key


def test_a_block_may_replace_parts_of_the_experiment() -> None:
    plan = plan_of(grid=[{"baseline": "ddpm", "train.lr": [1e-3, 2e-3], "network.width": 8}])
    assert [cell.name for cell in plan.cells] == ["ddpm/lr=0.001/8", "ddpm/lr=0.002/8"]
    assert [task.spec.identity()["train"]["lr"] for task in plan.trainings] == [1e-3, 2e-3]


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"baseline": "dpm"}, "unknown baseline 'dpm'; did you mean ddpm?"),
        ({"schedule": "cosine"}, "baseline: is required"),
        ({"baseline": "ddpm", "shedule": "cosine"}, "no baseline has this axis; did you mean schedule?"),
        ({"baseline": "ddpm", "schedule": []}, "the list is empty"),
        ({"baseline": "ddpm", "train.lrr": 1}, "unknown key; did you mean lr?"),
        ({"baseline": "ddpm", "schedule": "cosin"}, "unknown kind 'cosin'; did you mean cosine?"),
        ({"baseline": "gud", "softness_a": "x"}, "softness_a"),
        ({"baseline": "ddpm", "softness_a": 1}, "nothing is left to run: ddpm has no softness_a"),
        ({"baseline": "ddpm", "degradation": "blur"}, "ddpm cannot take degradation = blur"),
        ({"baseline": "gud", "ordering": "level"}, "ordering level is not defined in the pca basis; use basis haar"),
    ],
)
def test_a_bad_block_is_refused_in_one_sentence(block: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(grid=[block])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_combinations_that_make_no_sense_are_skipped_with_a_reason_and_the_rest_stays() -> None:
    plan = plan_of(grid=[{"baseline": ["ddpm", "gud"], "softness_a": [0.5, 1]}])
    assert [cell.name for cell in plan.cells] == ["gud/a=0.5", "gud/a=1"]
    assert len(plan.skipped) == 2
    assert all("ddpm has no softness_a" in reason for _, reason in plan.skipped)


VIOLATIONS: dict[str, dict[str, Any]] = {
    "axes_of_the_baseline": {"baseline": "ddpm", "softness_a": 1},
    "choices_of_the_baseline": {"baseline": "gud", "degradation": "blur"},
    "axes_that_need_another": {"baseline": "gud", "schedule": "vp", "softness_a": 0.5},
    "values_of_the_baseline": {"baseline": "cold", "degradation": "black", "start_noise": 0.0},
    "degradation_as_schedule": {"baseline": "gud", "basis": "dct", "schedule": "heat"},
    "component_schedule_of_ddpm": {"baseline": "ddpm", "schedule": "gud"},
    "ordering_interpolation": {"baseline": "gud", "ordering": "rank", "ordering_r": 0.5},
    "ordering_level": {"baseline": "gud", "ordering": "level", "basis": "dct"},
    "ordering_column": {"baseline": "gud", "ordering": "column", "basis": "dct"},
    "ordering_row": {"baseline": "gud", "ordering": "row", "basis": "pca"},
    "columns_in_pixels": {"baseline": "gud", "schedule": "columns", "basis": "haar"},
    "haar_columns_in_haar": {"baseline": "gud", "schedule": "haar_columns", "basis": "pixel"},
}


def test_every_rule_has_an_example() -> None:
    assert set(VIOLATIONS) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_refuses_its_example(rule: Any) -> None:
    (combination,) = combinations([VIOLATIONS[rule.name]])
    assert rule.matches(combination)
    assert refusal(combination)


@given(st.permutations(["cosine", "linear_beta", "sigmoid"]), st.permutations(["eps", "v", "x0"]))
@settings(max_examples=10, deadline=None)
def test_the_order_of_values_changes_neither_count_nor_addresses(schedules: list[str], predictions: list[str]) -> None:
    plan = plan_of(grid=[{"baseline": "ddpm", "schedule": schedules, "prediction": predictions}])
    assert len(plan.cells) == 9
    assert {cell.key for cell in plan.cells} == _ALL_NINE


_ALL_NINE = {
    cell.key
    for cell in plan_of(
        grid=[{"baseline": "ddpm", "schedule": ["cosine", "linear_beta", "sigmoid"], "prediction": ["eps", "v", "x0"]}]
    ).cells
}


def test_names_are_unique() -> None:
    plan = plan_of(grid=[{"baseline": "ddpm", "schedule": [{"kind": "cosine", "offset": o} for o in (0.008, 0.01)]}])
    names = [cell.name for cell in plan.cells]
    assert len(set(names)) == len(names) == 2


def test_a_grid_file_with_a_base_takes_what_it_does_not_say(tmp_path: Path) -> None:
    base = tiny_grid(tmp_path)
    base.rename(tmp_path / "base.yaml")
    (tmp_path / "grid.yaml").write_text("base: base.yaml\nname: other\nseeds: [3]\n")
    grid = load_grid(str(tmp_path / "grid.yaml"), ("experiment.train.steps=7",))
    assert (grid.name, grid.seeds, grid.experiment.train.steps) == ("other", (3,), 7)


def test_a_missing_data_set_is_named_before_anything_runs() -> None:
    source = {"kind": "idx", "name": "nowhere", "uri": "no/such/folder"}
    with pytest.raises(Exception, match="no/such/folder"):
        plan_of(experiment={"dataset": source | {"max_train": None}})


def test_only_what_is_missing_is_planned_to_run(tmp_path: Path) -> None:
    plan = plan_of(grid=[{"baseline": "gaussian"}], evaluate={"metrics": ["nll"]})
    store = open_store(str(tmp_path))
    assert set(plan.missing(store)) == set(plan.tasks)
    for task in plan.tasks.values():
        execute(task, store)
    assert plan.missing(store) == {}
