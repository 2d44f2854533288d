"""The command line: verbs, exit codes, and errors as one sentence. No logic."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pipeline.config import ConfigError, DataError
from pipeline.store.errors import ArtifactDamaged, LeaseHeld, ResourceError, StoreError, StoreUnavailable

PROGRAM = "python -m pipeline"
EXIT_BAD_REQUEST = 2
EXIT_FAILED_CELLS = 3
EXIT_HELD = 4
EXIT_INTERRUPTED = 130


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every verb on a grid takes; the command gets one `Request`."""

    @click.argument("grid")
    @click.option("--store", default="runs", show_default=True, help="Folder or s3://bucket/prefix of all results.")
    @click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Replace one value of the grid file.")
    @click.option("--data", default=None, help="Folder of relative data locations (else PIPELINE_DATA, else here).")
    @click.option("--tracking", default=None, help="MLflow: sqlite:///FILE, http://HOST:PORT, or none.")
    @click.option("--single-driver", is_flag=True, help="Nobody else writes: accept a store without conditional puts.")
    @wraps(function)
    def command(grid: str, **rest: Any):
        from pipeline.grid.session import Request

        names = ("store", "overrides", "data", "tracking", "single_driver", "address", "max_units")
        request = Request(grid, **{name: rest.pop(name) for name in names if name in rest})
        return function(request, **rest)

    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Log every event.")
def cli(verbose: bool) -> None:
    """Experiment grids of generalized diffusion models: one YAML file to a table of results."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)


@cli.command()
@_options
@click.option("--resolved", is_flag=True, help="Print the whole validated tree as YAML.")
def plan(request: Any, resolved: bool) -> None:
    """Show cells, what is skipped or merged and why, what the store has, and a rough cost."""
    from pipeline.grid import overview, session

    the_plan = session.planned(request)
    if resolved:
        click.echo(overview.resolved_yaml(the_plan), nl=False)
        return
    for line in overview.plan_lines(the_plan, session.readable(request)):
        click.echo(line)


@cli.command()
@_options
@click.option("--address", default=None, help="Ray cluster to join (else RAY_ADDRESS, else Ray on this machine).")
@click.option("--units", "max_units", type=click.IntRange(min=1), default=None, help="CPUs (or GPUs) to use at most.")
def run(request: Any) -> None:
    """Train, sample, evaluate and track everything that the store does not have yet."""
    from pipeline.grid import overview, session

    the_plan = session.planned(request)
    store = session.opened(request)
    for line in overview.plan_lines(the_plan, store, with_cost=False):
        click.echo(line)
    report, tracking = session.run_grid(request, the_plan, store, show=overview.ProgressPrinter(click.echo))
    if report.refusal is not None:
        raise DataError(report.refusal)
    for line in overview.report_lines(the_plan, store, report, tracking):
        click.echo(line)
    sys.exit(_exit_code(report))


@cli.command()
@_options
@click.option("--address", default=None, help="Ray cluster to join (else RAY_ADDRESS, else Ray on this machine).")
@click.option("--units", "max_units", type=click.IntRange(min=1), default=None, help="CPUs (or GPUs) to use at most.")
def tune(request: Any) -> None:
    """Let Ray Tune evaluate the points of a grid: all, the promising ones (staged), or those of a search."""
    from pipeline.grid import overview, session
    from pipeline.tune import driver, report

    grid = session.load_grid(request.grid, request.overrides)
    store = session.opened(request)
    done, tracking = driver.tune_grid(request, grid, store, show=overview.ProgressPrinter(click.echo))
    if done.run.refusal is not None:
        raise DataError(done.run.refusal)
    for line in overview.report_lines(done.plan, store, done.run, tracking):
        click.echo(line)
    for line in report.tune_lines(done):
        click.echo(line)
    sys.exit(_exit_code(done.run))


def _exit_code(report: Any) -> int:
    if report.interrupted:
        return EXIT_INTERRUPTED
    if not report.failures and not report.stopped:
        return 0
    return EXIT_FAILED_CELLS


@cli.command()
@_options
@click.option("--address", default=None, help="Job server of a Ray cluster, http://HEAD:8265 (else RAY_ADDRESS).")
@click.option("--kuberay", metavar="TEMPLATE", default=None, help="RayJob to fill in: a file or a kustomize folder.")
@click.option("--namespace", default=None, help="With --kuberay: else the template's, else kubectl's.")
@click.option("--verb", type=click.Choice(["run", "tune"]), default="run", show_default=True)
@click.option("--units", "max_units", type=click.IntRange(min=1), default=None, help="CPUs (or GPUs) to use at most.")
@click.option("--working-dir", default=".", show_default=True, help="Folder with code and grid that is uploaded.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Variable of driver and workers; no secrets.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent; nothing is asked or sent.")
@click.option("--no-wait", is_flag=True, help="Return as soon as it is sent.")
@click.option("--cancel", is_flag=True, help="Stop the live submission of this grid.")
def submit(request: Any, dry_run: bool, no_wait: bool, cancel: bool, **options: Any) -> None:
    """Send a grid to a cluster and see it to its end; a live submission of the same grid is attached to."""
    from functools import partial

    from pipeline.grid import submit as sending
    from pipeline.grid.submit_target import prepared

    cluster, submission = prepared(request, **options)
    if dry_run:
        click.echo(cluster.rendered(submission, 1).rstrip())
        click.echo("attempt 1 is assumed: a dry run asks no cluster", err=True)
        return
    voices = {"echo": partial(click.echo, nl=False), "tell": partial(click.echo, err=True)}
    if cancel:
        sys.exit(sending.cancel(cluster, submission, **voices))
    sys.exit(sending.submit(cluster, submission, **voices, wait=not no_wait))


@cli.command()
@_options
def status(request: Any) -> None:
    """Show progress of a running or finished grid."""
    from pipeline.grid import overview, session

    for line in overview.status_lines(session.planned(request), session.opened(request)):
        click.echo(line)


@cli.command()
@_options
@click.option("--format", "form", type=click.Choice(["terminal", "csv", "markdown", "latex"]), default="terminal")
@click.option("--each-seed", is_flag=True, help="One row per seed in place of means over seeds.")
def table(request: Any, form: str, each_seed: bool) -> None:
    """Print the result table from the store."""
    from pipeline.grid import overview, session

    plan, store = session.planned(request), session.opened(request)
    click.echo(overview.table_text(plan, store, form, each_seed=each_seed), nl=False)


@cli.command()
@_options
@click.option("--out", default="report", show_default=True, help="Folder of the files.")
@click.option("--each-seed", is_flag=True, help="One row per seed in place of means over seeds.")
def report(request: Any, out: str, each_seed: bool) -> None:
    """Write tables, figures, sample sheets and one HTML page from the store."""
    from pipeline.grid import session
    from pipeline.grid.report import write_report

    for line in write_report(session.planned(request), session.opened(request), out, each_seed=each_seed):
        click.echo(str(line))


@cli.command()
@_options
@click.option("--out", default="figures", show_default=True, help="Folder of the pictures.")
def figures(request: Any, out: str) -> None:
    """Write sample sheets and the figures of studies as files, one folder per row."""
    from pipeline.grid import session
    from pipeline.grid.figures import write_figures

    count = 0
    for path in write_figures(session.planned(request), session.opened(request), out):
        click.echo(str(path))
        count += 1
    click.echo(f"{count} files")


@cli.command()
@_options
@click.argument("cell")
def why(request: Any, cell: str) -> None:
    """Explain what a cell is made from and why it would be computed again."""
    from pipeline.grid import overview, session

    for line in overview.why_lines(session.planned(request), session.opened(request), cell):
        click.echo(line)


@cli.command()
@_options
def sync(request: Any) -> None:
    """Rebuild the tracking page of a grid from the store."""
    from pipeline.grid import overview, session

    report = session.synced(request)
    for line in overview.tracking_lines(report):
        click.echo(line)
    sys.exit(EXIT_FAILED_CELLS if report.pending else 0)


@cli.command()
@click.option("--store", default="runs", show_default=True)
@click.option("--repair", is_flag=True, help="Put damaged artifacts aside, so that the next run makes them again.")
def verify(store: str, repair: bool) -> None:
    """Check size and sha256 of every artifact."""
    from pipeline.store import open_store, preflight
    from pipeline.store import verify as verify_store

    opened = open_store(store)
    preflight(opened)
    problems = verify_store(opened, repair=repair)
    for problem in problems:
        click.echo(str(problem))
    click.echo(f"{len(list(opened.keys()))} artifacts, {len(problems)} problems")
    sys.exit(EXIT_FAILED_CELLS if problems and not repair else 0)


@cli.command()
@click.option("--store", default="runs", show_default=True)
@click.option("--older-than-days", type=click.FloatRange(min=0), default=7.0, show_default=True)
@click.option("--delete", is_flag=True, help="Really delete; without it only tell.")
def gc(store: str, older_than_days: float, delete: bool) -> None:
    """Tell (or delete) what no grid of the store refers to."""
    from pipeline.store import collect, open_store, preflight, recorded_roots

    opened = open_store(store)
    preflight(opened)
    found = collect(opened, lambda: recorded_roots(opened), older_than_days=older_than_days, dry_run=not delete)
    for prefix in found.removed:
        click.echo(prefix)
    verb = "deleted" if delete else "would delete (--delete does it)"
    click.echo(f"{verb}: {len(found.removed)} items, {found.size_bytes / 1e6:.1f} MB; {found.num_kept} artifacts stay")


@cli.command()
@click.option("--store", default="runs", show_default=True)
@click.option("--tracking", default=None)
@click.option("--address", default=None, help="Ray cluster whose hosts are asked as well, HEAD:6379.")
def doctor(store: str, tracking: str | None, address: str | None) -> None:
    """Check versions, store, tracking and devices of this machine, and of every host of a cluster."""
    from pipeline.grid.doctor import findings

    is_healthy = True
    for finding in findings(store, tracking, address):
        is_healthy &= finding.is_good
        click.echo(f"{'ok  ' if finding.is_good else 'BAD '} {finding.text}")
    sys.exit(0 if is_healthy else EXIT_BAD_REQUEST)


@cli.command()
@click.argument(
    "name",
    type=click.Choice(
        ["ingest", "statistics", "terminal", "train", "sample", "features", "likelihood", "result", "study"]
    ),
)
@_options
@click.option("--cell", default=None, help="Name of one cell, or how it begins; all cells without it.")
def stage(request: Any, name: str, cell: str | None) -> None:
    """Run one stage, and what it needs, in this process without Ray (CPU or one GPU)."""
    from pipeline.grid import overview, session

    printer = overview.StagePrinter(click.echo)
    count = session.run_stage(request, name, cell, printer)
    click.echo(f"{count} tasks run")


def main() -> None:
    """Entry point: errors that a user can act on become one sentence and an exit code."""
    try:
        cli(standalone_mode=False, prog_name=PROGRAM)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(EXIT_BAD_REQUEST)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
        reason = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"error: {reason}; `{path} --help` tells what is possible", err=True)
        sys.exit(EXIT_BAD_REQUEST)
    except LeaseHeld as error:
        click.echo(
            f"error: another driver works on this grid: {error}; wait for it, or repeat the command later", err=True
        )
        sys.exit(EXIT_HELD)
    except (ConfigError, DataError, StoreError, ResourceError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BAD_REQUEST)
    except StoreUnavailable as error:
        click.echo(f"error: {error}; what is finished is kept, repeat the command when the store answers", err=True)
        sys.exit(EXIT_FAILED_CELLS)
    except ArtifactDamaged as error:
        click.echo(f"error: {error}; repeat the command to make it again", err=True)
        sys.exit(EXIT_FAILED_CELLS)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
