"""Trains with 24 MiB of state in a process that may have 8 MiB more memory than before it.

python limited_training.py LIMIT DIRECTORY PLACEMENT..., where LIMIT is "data" (RLIMIT_DATA:
anonymous memory) or the folder of a memory cgroup of this process (pages of files count, too).
Prints, as JSON, the median seconds of a step by placement, null if memory was not enough, and of
the resident optimizer without limit.
"""

import json
import os
import re
import resource
import statistics
import sys
import time

MORE = 8 << 20
SIZE, COUNT, STEPS = 1 << 18, 12, 3


def join(folder):
    with open(os.path.join(folder, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))


def set_limit(limit):
    if limit == "data":
        with open("/proc/self/status") as file:
            used = int(re.search(r"VmData:\s+(\d+) kB", file.read())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + MORE, resource.RLIM_INFINITY))
        return
    with open(os.path.join(limit, "memory.usage_in_bytes")) as file:
        used = int(file.read())
    write_limit(limit, used + MORE)


def lift_limit(limit):
    if limit == "data":
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
    else:
        write_limit(limit, -1)


def write_limit(folder, size):
    with open(os.path.join(folder, "memory.limit_in_bytes"), "w") as file:
        file.write(str(size))


def main(limit, directory, *placements):
    if limit != "data":
        join(limit)  # before torch is loaded, so that its memory counts
    import torch

    from kq_optim import AdamW

    params = [torch.nn.Parameter(torch.ones(SIZE)) for _ in range(COUNT)]
    for param in params:
        param.grad = torch.full_like(param, 0.5)

    def train(placement):
        optimizer = AdamW(params, placement=placement, paged_directory=directory)
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        states = [optimizer.state[param] for param in params]
        assert sum(s["state1"].nbytes + s["state2"].nbytes for s in states) == 8 * SIZE * COUNT
        expected = 0.5 * (1 - 0.9**STEPS)  # the first moment of a constant gradient
        assert all((s["state1"] - expected).abs().max() < 1e-6 for s in states)
        return statistics.median(seconds)

    AdamW(params[:1]).step()  # starts threads and loads what a step needs
    set_limit(limit)
    results = {}
    for placement in placements:
        try:
            results[placement] = train(placement)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            results[placement] = None
    lift_limit(limit)
    print(json.dumps({**results, "unlimited": train("resident")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
