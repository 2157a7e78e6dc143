"""Trains with 48 MiB of state in a process that may have 16 MiB more memory than before it.

python limited_training.py PLACEMENT LIMIT DIRECTORY, where LIMIT is "none", "data" (RLIMIT_DATA:
anonymous memory) or the folder of a memory cgroup of this process (pages of files count, too).
Prints the median seconds of a step.
"""

import os
import re
import statistics
import sys
import time

MORE = 16 << 20
SIZE, COUNT, STEPS = 1 << 19, 12, 4


def limit_cgroup(folder):
    with open(os.path.join(folder, "memory.usage_in_bytes")) as file:
        used = int(file.read())
    with open(os.path.join(folder, "memory.limit_in_bytes"), "w") as file:
        file.write(str(used + MORE))


def limit_data():
    import resource

    with open("/proc/self/status") as file:
        used = int(re.search(r"VmData:\s+(\d+) kB", file.read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MORE, used + MORE))


def main(placement, limit, directory):
    if os.path.isdir(limit):
        with open(os.path.join(limit, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
    import torch

    from kq_optim import AdamW

    def trained(count, size):
        params = [torch.nn.Parameter(torch.ones(size)) for _ in range(count)]
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        return AdamW(params, placement=placement, paged_directory=directory)

    trained(1, 1000).step()  # starts threads and loads what a step needs
    optimizer = trained(COUNT, SIZE)
    if limit == "data":
        limit_data()
    elif limit != "none":
        limit_cgroup(limit)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    states = [optimizer.state[param] for param in optimizer.param_groups[0]["params"]]
    assert sum(s["state1"].nbytes + s["state2"].nbytes for s in states) == 8 * SIZE * COUNT
    expected = 0.5 * (1 - 0.9**STEPS)  # the first moment of a constant gradient
    assert all((s["state1"] - expected).abs().max() < 1e-6 for s in states)
    print(statistics.median(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
