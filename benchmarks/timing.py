"""Time of a call, for the benchmarks."""

import time


def seconds(function, repeat=3):
    """Shortest time of several calls, in seconds: other work on the machine only adds time."""
    took = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        took.append(time.perf_counter() - start)
    return min(took)
