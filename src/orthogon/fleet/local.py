"""Jobs in processes of this machine, so many at once."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from queue import SimpleQueue

from orthogon.fleet.children import Children
from orthogon.fleet.job import Ended, Job, Terms
from orthogon.machine import cores


def run_here(
    jobs: Iterator[Job], terms: Terms, at_once: int, gpus: Sequence[str] = ()
) -> Generator[tuple[Job, Ended], None, None]:
    """Do the jobs and tell how each ended, in the order in which they end; closing the iterator ends what still runs.

    Args:
        jobs: taken one by one, as places become free.
        terms: for each.
        at_once: places. Each gets its share of the cores, unless OMP_NUM_THREADS is set.
        gpus: as CUDA_VISIBLE_DEVICES has them, handed out in turn to the places; each process sees one.

    Raises:
        ValueError: no place.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
    children, places = Children(), SimpleQueue[dict[str, str]]()
    for number in range(at_once):
        places.put(_changes(at_once, gpus[number % len(gpus)] if gpus else None))

    def done(job: Job) -> Ended:
        place = places.get()
        try:
            return children.run(job, terms, place)
        finally:
            places.put(place)

    pool, running = ThreadPoolExecutor(at_once), dict[Future[Ended], Job]()
    try:
        running |= {pool.submit(done, job): job for job in islice(jobs, at_once)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                running |= {pool.submit(done, following): following for following in islice(jobs, 1)}
                yield job, future.result()
    finally:
        children.stop()
        pool.shutdown(cancel_futures=True)


def _changes(at_once: int, gpu: str | None) -> dict[str, str]:
    changes = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    if at_once > 1 and "OMP_NUM_THREADS" not in os.environ:
        changes["OMP_NUM_THREADS"] = str(max(1, cores() // at_once))
    return changes
