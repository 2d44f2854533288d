"""From the options of a command to the cluster and the submission that they name."""

from collections.abc import Sequence
from typing import Any

from pipeline.config import ConfigError
from pipeline.grid.submit import Cluster, Submission, Verb, read_submission


def prepared(
    request: Any,
    *,
    kuberay: str | None,
    namespace: str | None,
    verb: Verb,
    working_dir: str,
    env: Sequence[str],
) -> tuple[Cluster, Submission]:
    """The cluster, which is not asked for anything yet, and the checked submission.

    Args:
        request: grid, store, tracking, overrides, data, address (of the job server) and units, as for `run`.
        kuberay: template of a RayJob; None means the job server.
        namespace: of the RayJob.
        verb: what the driver does.
        working_dir: what is uploaded to the job server.
        env: `NAME=VALUE` each.

    Raises:
        ConfigError: the request contradicts itself, or cannot mean anything on a cluster.
    """
    if kuberay is not None and request.address is not None:
        raise ConfigError("--address and --kuberay name two clusters; give one of them")
    if kuberay is None and namespace is not None:
        raise ConfigError("--namespace goes with --kuberay")
    submission = read_submission(
        request.grid,
        store=request.store,
        verb=verb,
        overrides=request.overrides,
        data=request.data,
        tracking=request.tracking,
        max_units=request.max_units,
        single_driver=request.single_driver,
        env=env,
    )
    if kuberay is not None:
        from pipeline.grid.submit_kuberay import KubeRayJobs

        return KubeRayJobs(kuberay, namespace), submission
    from pipeline.grid.submit_ray import RayJobs, job_server

    return RayJobs(job_server(request.address), working_dir), submission
