"""What `models.environment` sets for the process."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of the later of 20 steps, each of which makes eight maps of 8 MiB, writes them, and frees them all.
STEPS = """
import resource, numpy as np, models.environment
def step():
    return [np.ones(2**20) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep memory")
@pytest.mark.parametrize(("given", "least", "most"), [({}, 0, 500), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, 20_000, 10**9)])
def test_a_step_has_the_memory_of_the_one_before_unless_the_environment_says_otherwise(given, least, most):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "TANDEM_"))}
    run = subprocess.run([sys.executable, "-c", STEPS], env=clean | given, capture_output=True, text=True, check=True)
    assert least <= int(run.stdout.split()[-1]) <= most
