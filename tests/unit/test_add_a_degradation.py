"""The page that adds a degradation: its code runs, and its file and line are all that the package needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-degradation.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def block_starting(text: str) -> str:
    (found,) = [block for block in blocks("python") if block.startswith(text)]
    return found


def apply_diff(diff: str, path: Path) -> None:
    """Inserts each added line after the line shown before it."""
    lines = path.read_text().splitlines()
    before = ""
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(lines.index(before) + 1, line[1:])
            before = line[1:]
        elif line.strip() != "...":
            before = line[1:]
    path.write_text("\n".join(lines) + "\n")


def test_code_of_the_page_runs_from_top_to_bottom() -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, text in enumerate(blocks("python")):
        exec(compile(text, f"add-a-degradation.md, block {number}", "exec"), namespace)


LIVE = """
import torch
from pipeline.diffusion import build_process
from pipeline.diffusion.processes.degradations import DEGRADATIONS

x = torch.rand(2, 1, 8, 8) * 2 - 1
for name, end in (("low_pass", "flat"), ("black_low_pass", "zero"), ("posterise", "images")):
    degradation = DEGRADATIONS[name]
    assert degradation.terminal == end
    assert degradation.check({"num_levels": 4}, (1, 8, 8)) is None
    process = build_process(degradation.process({"num_levels": 4, "noise": 0.1}), (1, 8, 8))
    assert process.is_degradation
    assert process.degrade(process.to_components(x), torch.tensor([0.25, 1.0])).shape == (2, 64)
print(*DEGRADATIONS)
"""


def test_the_file_and_the_line_are_enough(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    diffusion = tmp_path / "pipeline" / "diffusion"
    (diffusion / "schedules" / "low_pass.py").write_text(block_starting('"""Ideal low-pass filter'))
    (diffusion / "processes" / "operators" / "posterise.py").write_text(block_starting('"""Fewer and fewer grey'))
    schedule_line, operator_line = blocks("diff")
    apply_diff(schedule_line, diffusion / "schedules" / "__init__.py")
    apply_diff(operator_line, diffusion / "processes" / "operators" / "__init__.py")
    done = subprocess.run([sys.executable, "-c", LIVE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"low_pass", "black_low_pass", "posterise", "blur"} <= set(done.stdout.split())
