"""One run of the DAG at a time in a work folder: Snakemake removes outputs before it makes them.

Its own lock outlives a run that is killed; this one is free as soon as its holder is gone.

Nor is its limit of jobs per second needed here, where cores or queue slots limit them. Under it
every job that ends wakes the scheduler once a second more, for good: in a run of hours Snakemake
took a sixth of a core after a hundred jobs.
"""

from filelock import FileLock, Timeout

WORK_LOCK = FileLock(Path(WORK) / "dag.lock")


onstart:
    try:
        WORK_LOCK.acquire(timeout=0)
    except Timeout:
        sys.exit(
            f"error: another run of the DAG is at work in {WORK}; wait for its end, or set "
            "REPRO_WORK to another folder"
        )
    workflow.scheduler.job_rate_limiter = None
