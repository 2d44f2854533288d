"""Writes the locked requirements of the image: for each package its version and the digest of the wheel to install.

`make lock` runs it after requirements.txt, constraints.txt or requirements-image.txt changed. The image runs CPython
3.11 on x86-64 with glibc 2.36 (Debian 12); a package without a wheel for that is an error.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

FOLDER = Path(__file__).parent
VARIANTS = ("cpu", "cuda")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH = "torch==2.13.0"
NEWEST_GLIBC = 36
"""Minor version of the glibc 2.x of the image's base."""


def image_tags() -> list[Tag]:
    """Wheel tags that the image can install, best first."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(NEWEST_GLIBC, 16, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64"]
    platforms += ["manylinux_2_5_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    return [*cpython_tags((3, 11), platforms=platforms), *compatible_tags((3, 11), "cp311", platforms)]


def chosen_wheel(wheels: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The wheel of a pylock package that pip would take in the image; None if none fits."""
    ranks = {tag: rank for rank, tag in enumerate(image_tags())}

    def rank(wheel: dict[str, Any]) -> int:
        name = wheel.get("name") or Path(wheel.get("url") or wheel["path"]).name.replace("%2B", "+")
        return min((ranks[tag] for tag in parse_wheel_filename(name)[3] if tag in ranks), default=len(ranks))

    best = min(wheels, key=rank, default=None)
    return None if best is None or rank(best) == len(ranks) else best


def lock_text(document: dict[str, Any], variant: str) -> str:
    """Requirements with digests, from a resolution in the form of PEP 751.

    Raises:
        SystemExit: packages have no wheel that the image can install.
    """
    lines = [f"# Written by `make lock`; variant {variant}, CPython 3.11, x86-64, glibc 2.{NEWEST_GLIBC}."]
    lines += [f"--extra-index-url {CPU_INDEX}"] if variant == "cpu" else []
    missing: list[str] = []
    for package in document["packages"]:
        wheel = chosen_wheel(package.get("wheels", ()))
        if wheel is None:
            missing.append(f"{package['name']}=={package['version']}")
            continue
        lines.append(f"{package['name']}=={package['version']} --hash=sha256:{wheel['hashes']['sha256']}")
    if missing:
        sys.exit(f"no wheel for CPython 3.11 on x86-64: {', '.join(missing)}; choose another version or package")
    return "\n".join(lines) + "\n"


def resolved(variant: str, torch_folder: str | None) -> dict[str, Any]:
    """The exact versions and files of a variant; asks the package index.

    Args:
        variant: cpu or cuda.
        torch_folder: has the CPU wheel of torch; None takes it from its own index.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "image.in")
        torch = f"{TORCH}+cpu\n" if variant == "cpu" else ""
        source.write_text(f"-r {FOLDER / 'requirements-image.txt'}\n{torch}")
        target = Path(folder, "pylock.toml")
        command = [sys.executable, "-m", "uv", "pip", "compile", str(source), "--output-file", str(target), "--quiet"]
        command += ["--constraints", str(FOLDER.parent / "constraints.txt"), "--format", "pylock.toml"]
        command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-header"]
        if variant == "cpu":
            command += ["--find-links", torch_folder] if torch_folder else ["--torch-backend", "cpu"]
        subprocess.run(command, check=True)
        return tomllib.loads(target.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--find-links", help="folder with the CPU wheel of torch, in place of its index")
    given = parser.parse_args()
    for variant in VARIANTS:
        text = lock_text(resolved(variant, given.find_links), variant)
        (FOLDER / f"requirements-{variant}.lock").write_text(text)


if __name__ == "__main__":
    main()
