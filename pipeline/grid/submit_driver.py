"""What a cluster runs for a submission: the driver as a child, and after it, however it ended, its logs into the store.

python -m pipeline.grid.submit_driver SUBMISSION GRID STORE -- VERB ARGUMENTS...
"""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)
SIGNALLED = 128


def main(arguments: Sequence[str]) -> int:
    """Run the driver; its exit code. Ray signals every process of a job, so nothing is passed on to the child."""
    submission, grid, store, separator, *command = arguments
    if separator != "--" or not command:
        raise SystemExit(f"usage: {__doc__}")
    started = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _noted)
    code = subprocess.call([sys.executable, "-m", "pipeline", *command])
    code = code if code >= 0 else SIGNALLED - code
    try:
        from pipeline.grid.submit_logs import keep_logs

        kept = keep_logs(store, grid, submission, exit_code=code, since_s=time.monotonic() - started)
        print(f"logs and events of {kept.num_hosts} hosts are kept in {kept.place}", flush=True)  # noqa: T201
    except Exception as error:  # logs are worth a try; they never change how a grid ended
        print(f"warning: logs could not be kept: {error}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _noted(number: int, frame: Any) -> None:
    """The child has had the signal as well and ends by itself."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
