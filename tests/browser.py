"""A page as a headless browser shows it: its text after scripts ran, and a picture of it."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
]


def need_browser() -> None:
    """Skips the test where no browser is installed."""
    if not CHROMIUM:
        pytest.skip("chromium is not installed: apt-get install chromium")


def _run(url: str, folder: Path, *, wait_ms: int, width: int, height: int, action: list[str]) -> str:
    profile = folder / f"profile-{action[0].strip('-').split('=')[0]}"
    sizes = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--virtual-time-budget={wait_ms}"]
    done = subprocess.run([CHROMIUM, *FLAGS, *sizes, *action, url], capture_output=True, timeout=120, check=True)
    return done.stdout.decode(errors="replace")


def page_dom(url: str, folder: Path, *, wait_ms: int = 15_000, width: int = 1700, height: int = 1000) -> str:
    """The document after `wait_ms` of virtual time; skips without a browser."""
    need_browser()
    return _run(url, folder, wait_ms=wait_ms, width=width, height=height, action=["--dump-dom"])


def page_picture(url: str, target: Path, *, wait_ms: int = 15_000, width: int = 1700, height: int = 1000) -> Path:
    """A PNG of the page; skips without a browser."""
    need_browser()
    action = [f"--screenshot={target}"]
    _run(url, target.parent, wait_ms=wait_ms, width=width, height=height, action=action)
    return target


class _Grid(HTMLParser):
    """Text of every grid cell by row number and column; pinned and scrolling columns share the row number."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, str]] = {}
        self._row: int | None = None
        self._column: str | None = None
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("role") == "row":
            index = given.get("row-index") or ""
            self._row = int(index) if index.isdigit() else None
        if tag == "div" and self._column is not None:
            self._depth += 1
        elif given.get("role") == "gridcell" and self._row is not None:
            self._column, self._depth = given.get("col-id"), 0

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self._column is not None:
            if self._depth == 0:
                self._column = None
            else:
                self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._row is not None and self._column is not None:
            cells = self.rows.setdefault(self._row, {})
            cells[self._column] = cells.get(self._column, "") + data.strip()


def table_rows(dom: str) -> list[dict[str, str]]:
    """Rows of the runs table from top to bottom, as column -> text."""
    grid = _Grid()
    grid.feed(dom)
    return [grid.rows[index] for index in sorted(grid.rows)]
