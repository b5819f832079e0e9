"""What people run: command line, pipeline, run folders, export."""

import os
import time

from app.kernels import cache_folder, sources

STARTED = time.perf_counter()  # so that a run's seconds count the imports, which take several

# torch's OpenMP workers spin between parallel regions and fight the renderers' own threads; putting them to sleep
# at once costs the prior half of its speed. One draft step on two idle cores: 0.17 s with endless spinning, 0.18 s
# without any, 0.13 s with 20000 rounds. libgomp reads this once, when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if (_folder := cache_folder(sources(), os.environ)) is not None:
    os.environ["NUMBA_CACHE_DIR"] = _folder
