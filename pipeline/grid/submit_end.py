"""Before a head goes: its live submissions are asked to end, so that the drivers end well and their logs are kept.

python -m pipeline.grid.submit_end [ADDRESS] is the preStop hook of a head; the default is its own job server. It always
ends with 0: nothing may keep a head from going.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from pipeline.grid.submit_ray import prepare_client

OWN_SERVER = "http://127.0.0.1:8265"
BUDGET_S = 100.0
LOOK_EVERY_S = 1.0


def end_submissions(client: Any, *, budget_s: float = BUDGET_S) -> dict[str, str]:
    """Ask every live job to end, and wait; the state of each by its id.

    Args:
        client: of a job server.
        budget_s: longest wait for all of them together.
    """
    deadline = time.monotonic() + budget_s
    live = [job.submission_id for job in client.list_jobs() if job.submission_id and not job.status.is_terminal()]
    for identity in live:
        client.stop_job(identity)
    while True:
        found = {identity: client.get_job_status(identity) for identity in live}
        if all(status.is_terminal() for status in found.values()) or time.monotonic() > deadline:
            return {identity: status.value for identity, status in found.items()}
        time.sleep(LOOK_EVERY_S)


def main(arguments: Sequence[str]) -> int:
    """End what runs on a head and say so."""
    prepare_client()
    from ray.job_submission import JobSubmissionClient

    try:
        states = end_submissions(JobSubmissionClient(arguments[0] if arguments else OWN_SERVER))
    except Exception as error:
        print(f"warning: submissions could not be ended: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 0
    for identity, state in states.items():
        print(f"{identity}: {state}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
