"""A device without hardware, that does its work in any order that its lanes allow.

It stands for streams of CUDA: what is enqueued on a lane is done in order, some time, at the latest
when the host waits. Nothing else orders lanes but `wait`. Memory of the device that was given back
is handed out again at once, and overwritten by what `CURRENT` did in between.
"""

import random
from collections import deque
from itertools import permutations
from weakref import WeakValueDictionary

import torch

from kq_optim.offloaded import Offloaded
from kq_optim.placement import RESIDENT
from kq_optim.transfers import Lane

ORDERS = list(permutations(Lane))
SCHEDULES = [*ORDERS, *range(10)]
"""All orders of preference, and seeds of random ones."""

WAITS = [
    (Lane.UPLOAD, Lane.CURRENT),
    (Lane.UPLOAD, Lane.DOWNLOAD),
    (Lane.CURRENT, Lane.UPLOAD),
    (Lane.CURRENT, Lane.DOWNLOAD),
    (Lane.DOWNLOAD, Lane.CURRENT),
]
GARBAGE = 0xA5


class ModelDevice:
    """See `kq_optim.transfers.Transfers`.

    With an order of preference, nothing is done before the host waits, and then always the next
    task of the first lane that can go on. With a seed, a lane is drawn each time, and tasks may be
    done at once.

    Args:
        schedule: one of `SCHEDULES`.
        without: a wait that is forgotten; or "synchronize".

    Attributes:
        allocated: sizes of what was allocated on the device.
        finished: the kinds of all tasks that are done.
    """

    def __init__(self, schedule, without=None):
        self._order = schedule if isinstance(schedule, tuple) else None
        self._random = None if self._order else random.Random(schedule)
        self._without = without
        self._queues = {lane: deque() for lane in Lane}
        self._enqueued = dict.fromkeys(Lane, 0)
        self._done = dict.fromkeys(Lane, 0)
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._host = WeakValueDictionary()
        self.allocated = []
        self.finished = []

    def host_empty(self, shape, dtype):
        tensor = torch.empty(shape, dtype=dtype)
        tensor.view(torch.uint8).fill_(GARBAGE)
        self._host[tensor.data_ptr()] = tensor
        return tensor

    def is_host_memory(self, tensor):
        return tensor.data_ptr() in self._host

    def device_empty(self, size):
        self.allocated.append(size)
        if size > len(self._memory):
            self._memory = torch.empty(size, dtype=torch.uint8)
        memory = self._memory[:size]
        self.enqueue(Lane.CURRENT, "others", lambda: memory.fill_(GARBAGE))
        return memory

    def copy(self, lane, target, source):
        self.enqueue(lane, lane.value, lambda: target.copy_(source))

    def mark(self, lane):
        return lane, self._enqueued[lane]

    def wait(self, lane, mark):
        if (lane, mark[0]) != self._without:
            self.enqueue(lane, mark)

    def synchronize(self):
        if self._without != "synchronize":
            self.finish()
            assert all(map(self.is_idle, Lane)), "lanes wait for each other"

    def enqueue(self, lane, kind, task=None):
        """Adds a task; one without a function waits for the number of tasks that it names."""
        self._queues[lane].append((kind, task))
        self._enqueued[lane] += 1
        while self._random and self._random.random() < 0.5 and self._run_one(Lane):
            pass

    def finish(self, lanes=tuple(Lane), until=lambda: False):
        """Does what lanes can do while the others stand still, until a condition holds."""
        while not until() and self._run_one(lanes):
            pass

    def is_idle(self, lane):
        return not self._queues[lane]

    def _can_go_on(self, lane):
        if not self._queues[lane]:
            return False
        kind, task = self._queues[lane][0]
        return task is not None or self._done[kind[0]] >= kind[1]

    def _run_one(self, lanes):
        ready = [lane for lane in self._order or Lane if lane in lanes and self._can_go_on(lane)]
        if not ready:
            return False
        lane = self._random.choice(ready) if self._random else ready[0]
        kind, task = self._queues[lane].popleft()
        if task is not None:
            task()
            self.finished.append(kind)
        self._done[lane] += 1
        return True


class _DeferringCodec:
    """Steps on the device."""

    def __init__(self, codec, device):
        self._codec, self._device = codec, device

    def step(self, rule, batch, arguments):
        self._device.enqueue(Lane.CURRENT, "step", lambda: self._codec.step(rule, batch, arguments))


def install(monkeypatch, device):
    """Makes paged parameters be on a model: their steps are done there, not at once."""
    from kq_optim import optimizer

    take_step = optimizer.take_step

    def deferred(work, kept):
        if isinstance(work.layout.placement, Offloaded):
            codec = _DeferringCodec(work.layout.codec, device)
            work = work._replace(layout=work.layout._replace(codec=codec))
        take_step(work, kept)

    def placement_for(options, _device):
        return Offloaded(device) if options["placement"] == "paged" else RESIDENT

    monkeypatch.setattr(optimizer, "take_step", deferred)
    monkeypatch.setattr(optimizer, "placement_for", placement_for)
    monkeypatch.setattr("kq_optim.layout.placement_for", placement_for)
