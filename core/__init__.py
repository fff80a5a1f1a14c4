"""LiDistill: LiDAR semantic segmentation that learns from cameras and from bigger teachers."""

import os

from core.environment import check_packages
from core.machine import provide_caches

check_packages()  # before anything else is imported
provide_caches()

# OpenMP threads that spin while they wait burn the cores that other processes (ranks, data workers) need: on a shared
# two-core machine a training step took 3 s spinning and 0.8 s sleeping. A short spin is kept: waking a
# sleeping virtual processor after every small operation cost an inference 8 %. Must be set before torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Large CPU tensors on huge pages: fewer page faults and TLB misses, a quarter off a wide sparse convolution. Read by
# torch at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
