"""Pages of the documentation: their code runs, their grids are valid, their links and commands exist."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import cli
from pipeline.config import parse, parse_yaml
from pipeline.grid import make_plan
from pipeline.grid.axes import combinations
from pipeline.grid.spec import ExperimentSpec, grid_from
from pipeline.grid.validity import refusal

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
RUNNABLE = ("add-a-method.md", "mathematics.md")
"""Pages whose Python needs no store."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def yaml_blocks(key: str) -> list[Any]:
    found = [(page, number, text) for page in PAGES for number, text in enumerate(blocks(page, "yaml"))]
    chosen = [(page, number, text) for page, number, text in found if key in parse_yaml(text).data]
    return [pytest.param(text, id=f"{page.name}-{number}") for page, number, text in chosen]


@pytest.mark.parametrize("name", RUNNABLE)
def test_code_of_a_page_runs_from_top_to_bottom(name: str) -> None:
    page = ROOT / "docs" / name
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, text in enumerate(blocks(page, "python")):
        exec(compile(text, f"{name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_every_page_is_python(page: Path) -> None:
    for number, text in enumerate(blocks(page, "python")):
        compile(text, f"{page.name}, block {number}", "exec")


@pytest.mark.parametrize("text", yaml_blocks("grid"))
def test_grids_of_the_pages_are_valid_and_nothing_of_them_is_skipped(text: str) -> None:
    grid = grid_from(parse_yaml(text, "page"))
    assert [combination.label for combination in combinations(grid.grid) if refusal(combination)] == []
    if grid.experiment.dataset.name == "digits":  # others need files to be planned
        assert make_plan(grid).cells


@pytest.mark.parametrize("text", yaml_blocks("dataset"))
def test_data_sources_of_the_pages_are_valid(text: str) -> None:
    parse(ExperimentSpec, {**parse_yaml(text).data, "network": {"kind": "mlp"}})


def test_no_yaml_of_the_pages_is_left_unchecked() -> None:
    texts = [text for page in PAGES for text in blocks(page, "yaml")]
    assert len(texts) == len(yaml_blocks("grid")) + len(yaml_blocks("dataset"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", page.read_text())
    missing = [path for path, _ in targets if "://" not in path and not (page.parent / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_of_a_page_are_headings(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / path if path else page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page: Path) -> None:
    verbs = re.findall(r"python -m pipeline (?:-v )?([a-z|]+)", page.read_text())
    assert {verb for text in verbs for verb in text.split("|")} <= set(cli.commands)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)", page.read_text())) <= targets


def test_the_readme_is_short_and_names_the_test_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "`make test`" in text
