"""Worker processes: a backend that crashes, exits or hangs loses the case at hand, and no other.

The parent process never loads a backend, nor torch. Each worker loads a backend once by its name.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from queue import SimpleQueue
from typing import Any, NamedTuple

from pebble import ProcessExpired, ProcessPool

from kq_conformance.cases import by_id
from kq_conformance.discovery import BackendError, describe_backend, find_backend, in_words
from kq_conformance.runner import Finding, Settings, Verdict, run_case

__all__ = ["Description", "Task", "ask", "describe", "open_pool", "run_tasks"]

_PATIENCE_WITH_LARGE = 20  # times the timeout, for cases of gigabytes
_ENDED = 86  # exit code of a worker whose backend asked for 0


class Task(NamedTuple):
    """One question to one backend.

    Attributes:
        backend: name of the entry point, or "package.module:object".
        case_id: the question.
        settings: how to ask it.
    """

    backend: str
    case_id: str
    settings: Settings


class Description(NamedTuple):
    """What a backend says of itself, and what it ran on.

    Attributes:
        name: of the backend.
        version: of the backend.
        description: the result of its `describe()`.
        environment: "torch" and "accelerator".
    """

    name: str
    version: str
    description: dict[str, str]
    environment: dict[str, str]


def describe(backend: str, device: str, timeout: float) -> Description:
    """Load a backend in a worker and let it describe itself.

    Raises:
        BackendError: if it cannot be loaded, or ends or hangs its process.
    """
    with open_pool(1) as pool:
        future = pool.schedule(_describe, args=(backend, device), timeout=timeout)
        try:
            return future.result()
        except TimeoutError:
            raise BackendError(
                f"loading backend {backend!r} took more than {timeout:g} s"
            ) from None
        except ProcessExpired as error:
            how = _last_words(error.exitcode)
            raise BackendError(f"loading backend {backend!r} {how}") from None


def run_tasks(
    tasks: Sequence[Task], workers: int, timeout: float
) -> Iterator[tuple[Task, Finding]]:
    """Answer questions, in the order in which the answers come.

    Cases that need gigabytes run last and one at a time.

    Args:
        tasks: the questions.
        workers: number of processes.
        timeout: seconds that an answer may take.
    """
    large = [task for task in tasks if by_id(task.case_id).memory]
    small = [task for task in tasks if not by_id(task.case_id).memory]
    yield from _run(small, workers, timeout)
    yield from _run(large, 1, timeout * _PATIENCE_WITH_LARGE)


def ask(pool: ProcessPool, task: Task, timeout: float) -> Finding:
    """Answer one question in a pool that stays open."""
    return _finding(task, _schedule(pool, task, timeout), timeout)


def _schedule(pool: ProcessPool, task: Task, timeout: float) -> Future[Finding]:
    return pool.schedule(_answer, args=(task,), timeout=timeout)


def _run(tasks: Sequence[Task], workers: int, timeout: float) -> Iterator[tuple[Task, Finding]]:
    if not tasks:
        return
    answered: SimpleQueue[tuple[Task, Future[Finding]]] = SimpleQueue()
    with open_pool(min(workers, len(tasks))) as pool:
        for task in tasks:
            future = _schedule(pool, task, timeout)
            future.add_done_callback(partial(_put, answered, task))
        for _ in tasks:
            task, future = answered.get()
            yield task, _finding(task, future, timeout)


def _put(
    answered: "SimpleQueue[tuple[Task, Future[Finding]]]", task: Task, future: Future[Finding]
) -> None:
    answered.put((task, future))


def _finding(task: Task, future: Future[Finding], timeout: float) -> Finding:
    try:
        return future.result()
    except TimeoutError:
        # A fault is noted by Python code, which a foreign thread cannot run while the call holds on
        # to the interpreter.
        message = (
            f"no answer in {timeout:g} s (so ends, too, a thread that touches a guard page while"
            " the call holds the GIL: release it, or ask again with OMP_NUM_THREADS=1)"
        )
        return Finding(task.case_id, Verdict.TIMEOUT, message=message, seconds=timeout)
    except ProcessExpired as error:
        message = _last_words(error.exitcode)
        return Finding(task.case_id, Verdict.CRASH, message=message)
    except BackendError as error:  # loaded before, and not again after a crash
        return Finding(task.case_id, Verdict.CRASH, message=str(error))


def _last_words(code: int) -> str:
    if code >= 0:
        return f"ended the process with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"ended the process by {name}"


@contextmanager
def open_pool(workers: int) -> Iterator[ProcessPool]:
    """A pool whose processes share the cores, and which is stopped when the context is left."""
    share = max(multiprocessing.cpu_count() // workers, 1)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(workers, initializer=_prepare, initargs=(share,), context=context)
    try:
        yield pool
        pool.close()
    finally:
        pool.stop()
        pool.join()


# What follows runs in a worker.


def _prepare(threads: int) -> None:
    """Set a new worker up; the clock of its first case does not run yet.

    Args:
        threads: for OpenMP, unless the environment says otherwise.
    """
    # Read when torch loads. Threads of two workers share cores: let idle ones sleep.
    for name, value in (("OMP_NUM_THREADS", str(threads)), ("OMP_WAIT_POLICY", "passive")):
        os.environ.setdefault(name, value)
    # A worker that ends with exit code 0 is taken for one that was told to end.
    leave = os._exit
    os._exit = lambda status: leave(status or _ENDED)
    sys.path.insert(0, "")  # a module in the working folder needs no installation
    with suppress(ImportError):  # said when a backend is loaded
        import_module("kq_conformance.adapter")


@cache
def _loaded(backend: str, device: str) -> tuple[Any, Any]:
    """The backend and its adapter."""
    found = find_backend(backend)
    from kq_conformance.adapter import Adapter

    return found, Adapter(found, device, backend)


def _describe(backend: str, device: str) -> Description:
    try:
        found, _ = _loaded(backend, device)
        described = describe_backend(backend, found)
    except (SystemExit, KeyboardInterrupt) as error:
        raise BackendError(f"loading backend {backend!r} ended with {in_words(error)}") from None
    from kq_conformance.adapter import torch_environment

    return Description(*described, torch_environment(device))


def _answer(task: Task) -> Finding:
    try:
        found, subject = _loaded(task.backend, task.settings.device)
        return run_case(found, subject, by_id(task.case_id), task.settings)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        return Finding(task.case_id, Verdict.CRASH, message=in_words(error))
