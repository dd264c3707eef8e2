"""Many jobs, each a process of its own, here or on a Ray cluster: one that fails, hangs or is killed costs no other anything.

A job is known by its folder, whose name tells it from every other: whoever makes the jobs puts a digest of their inputs there. A
job whose record is there is done and is never started again, wherever it ran; so a fleet that was interrupted, or whose machines
died, goes on with what is missing. Nothing here knows what the jobs are about.
"""

from __future__ import annotations

from orthogon.fleet.job import Ended, Job, Terms
from orthogon.fleet.local import run_here
from orthogon.fleet.ray_cluster import run_on_ray

__all__ = ["Ended", "Job", "Terms", "run_here", "run_on_ray"]
