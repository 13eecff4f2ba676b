"""One worker as the daemon sees it: operations to await, answers to iterate, and the ways it can end.

Owns the matching of requests and replies and the promise that each waiter hears exactly one thing. A worker can
end because it was stopped, because it died, because it broke the protocol, or because its socket closed; in every
case ``exited`` is resolved once, when the process is gone, after all that it had still said was heard. Must not
know how a process is started, nor decide when one should be.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from neuroshell_orch.errors import PROBLEMS, OrchError
from neuroshell_orch.workers.answer import Answer
from neuroshell_orch.workers.channel import Channel
from neuroshell_orch.workers.contract import Exit, Handle, Launcher, WorkerSpec
from neuroshell_orch.workers.memory import read_memory
from neuroshell_orch.workers.protocol import (
    HEADER,
    MAX_FRAME,
    Cancel,
    Done,
    Embed,
    Embedded,
    Failed,
    FromWorker,
    Generate,
    Hello,
    Hibernate,
    Hibernated,
    Hold,
    Infer,
    Load,
    Loaded,
    Outputs,
    Parked,
    Piece,
    Standby,
    ToWorker,
    Wake,
    Woken,
    encode,
)

if TYPE_CHECKING:
    from neuroshell_orch.api.schema import Memory

_Reply = TypeVar("_Reply", Parked, Loaded, Hibernated, Woken)

_DRAIN_SECONDS: Final = 2.0
"""How long the last words of a dead worker may take; its socket closes with it, so this is never reached."""


class Worker:
    """The parent side of one worker process. Made by ``start``; every method belongs to the event loop's thread."""

    def __init__(self, spec: WorkerSpec, handle: Handle, sock: socket.socket) -> None:
        self.number = spec.number
        self.model = spec.name
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.greeted: asyncio.Future[Hello | None] = loop.create_future()
        """Resolved by the worker's first frame, with None when it died before that."""
        self._handle = handle
        self._jobs = 0
        self._operations: deque[tuple[type[FromWorker], asyncio.Future[Any]]] = deque()
        self._answers: dict[int, Answer] = {}
        self._inferences: dict[int, asyncio.Future[Any]] = {}
        """Outputs or Embedded, by job."""
        self._rollup: int | None = None
        self._stopping = False
        self._broken: str | None = None
        self._channel = Channel(sock, self._received, self._closed)
        handle.exited.add_done_callback(self._process_gone)

    @classmethod
    async def start(cls, launcher: Launcher, spec: WorkerSpec) -> Self:
        """Start a process. Returns before it has said anything: requests may follow at once. Raises OrchError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                handle = await launcher.launch(spec, theirs)
        except BaseException:
            ours.close()
            raise
        return cls(spec, handle, ours)

    @property
    def pid(self) -> int | None:
        """The process id, or None once it is gone."""
        return self._handle.pid

    @property
    def unit(self) -> str | None:
        """The systemd unit, or None where the worker is a child process."""
        return self._handle.unit

    def next_job(self) -> int:
        """A number for the next Generate, Infer or Embed."""
        self._jobs += 1
        return self._jobs

    # ---- requests ----

    async def standby(self, runtime: str, path: str = "") -> Parked:
        """Import ``runtime``, run its dummy model, and make ready what is small of the model at ``path``."""
        return await self._operation(Standby(runtime=runtime, path=path), Parked)

    async def load(self, load: Load) -> Loaded:
        """Load a model. Giving up waiting does not stop the load: stop the worker."""
        return await self._operation(load, Loaded)

    def expect_loaded(self) -> asyncio.Future[Loaded]:
        """What will come of a Load that was sent before this object was made. Need not be awaited."""
        future: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._operations.append((Loaded, future))
        return future

    async def hibernate(self) -> Hibernated:
        """Give the weight pages back to the kernel."""
        return await self._operation(Hibernate(), Hibernated)

    async def wake(self) -> Woken:
        """Fault the weight pages in again."""
        return await self._operation(Wake(), Woken)

    def generate(self, request: Generate) -> Answer:
        """Send the request at once; iterate the result, and close it when leaving early."""
        answer = Answer(request.job, self.cancel, self._hold)
        if self._is_over():
            answer.fail(self._death())
            return answer
        self._answers[request.job] = answer
        self._send(request)
        return answer

    async def infer(self, request: Infer) -> Outputs:
        """Run a tensor model once. Giving up waiting cancels the job."""
        outputs: Outputs = await self._whole(request)
        return outputs

    async def embed(self, request: Embed) -> Embedded:
        """Turn texts into vectors. Giving up waiting cancels the job."""
        embedded: Embedded = await self._whole(request)
        return embedded

    async def _whole(self, request: Infer | Embed) -> Any:  # noqa: ANN401 - Outputs or Embedded
        try:
            return await self.begin(request)
        except asyncio.CancelledError:
            self.cancel(request.job)
            raise

    def begin(self, request: Infer | Embed) -> asyncio.Future[Any]:
        """Send it at once; the one frame that answers it. Giving up waiting does not cancel the job: see ``ending``."""
        if self._is_over():
            raise self._death()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send(request)
        self._inferences[request.job] = future
        return future

    def ending(self, job: int) -> asyncio.Future[Any]:
        """The end of a job for whose answer nobody waits any more; done at once where it has ended."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if job in self._inferences:
            self._inferences[job] = future
        else:
            future.set_result(None)
        return future

    def cancel(self, job: int) -> None:
        """Stop a job soon; unknown or ended ones are ignored. What it would still say is thrown away."""
        answer = self._answers.get(job)
        if answer is not None:
            answer.discard()
        elif job not in self._inferences:
            return
        self._channel.send(encode(Cancel(job=job)))

    async def stop(self, grace: float = 0.0) -> Exit:
        """End the process and wait until it is gone. With ``grace`` seconds it may first leave by itself."""
        self._stopping = True
        if grace <= 0:
            self._handle.kill()
        self._channel.close()
        if grace > 0 and not self._handle.exited.done():
            await asyncio.wait([self._handle.exited], timeout=grace)
            self._handle.kill()
        return await asyncio.shield(self.exited)

    def memory(self) -> Memory | None:
        """What it takes right now, or None when it is gone or has not started to speak."""
        return None if self._rollup is None else read_memory(self._rollup, self.pid, self.unit)

    # ---- replies ----

    async def _operation(self, request: ToWorker, reply: type[_Reply]) -> _Reply:
        if self._is_over():
            raise self._death()
        future: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._operations.append((reply, future))
        self._send(request)
        return await future

    def _send(self, request: ToWorker) -> None:
        frame = encode(request)
        if len(frame) > HEADER.size + MAX_FRAME:
            raise OrchError("bad-request", "This request is too large for a worker.", "Send less at a time.")
        self._channel.send(frame)

    def _received(self, message: FromWorker) -> None:
        kind = type(message)
        if kind is Piece or kind is Done:
            part = cast("Piece | Done", message)
            answer = self._answers.get(part.job)
            if answer is not None:
                answer.push(part)
                if kind is Done:
                    del self._answers[part.job]
        elif kind is Outputs or kind is Embedded:
            whole = cast("Outputs | Embedded", message)
            _resolve(self._inferences.pop(whole.job, None), whole)
        elif kind is Failed:
            self._failed(cast("Failed", message))
        elif kind is Hello:
            self._rollup = self._rollup if self._rollup is not None else self._channel.take_descriptor()
            _resolve(self.greeted, message)
        elif self._operations and self._operations[0][0] is kind:
            _resolve(self._operations.popleft()[1], message)
        else:
            self._break(f"sent {kind.__name__} when nobody had asked")

    def _failed(self, failed: Failed) -> None:
        problem = failed.problem if failed.problem in PROBLEMS else "internal"
        error = OrchError(problem, failed.message, failed.hint)
        if failed.job == 0:
            if self._operations:
                _reject(self._operations.popleft()[1], error)
            else:
                self._break("sent Failed when nobody had asked")
            return
        answer = self._answers.pop(failed.job, None)
        if answer is not None:
            answer.fail(error)
        else:
            _reject(self._inferences.pop(failed.job, None), error)

    def _hold(self, job: int, held: bool) -> None:
        if job in self._answers:
            self._channel.send(encode(Hold(job=job, held=held)))

    # ---- the end ----

    def _is_over(self) -> bool:
        return self._stopping or self.exited.done() or not self._channel.is_open

    def _break(self, what: str) -> None:
        self._channel.close(what)

    def _closed(self, problem: str | None) -> None:
        self._broken = self._broken or problem
        if self._handle.exited.done():
            self._finish()
        else:
            self._handle.kill() if problem else asyncio.get_running_loop().call_later(1.0, self._handle.kill)

    def _process_gone(self, _exited: asyncio.Future[Exit]) -> None:
        if self._channel.is_open:
            # What it still said is heard, then the end of file.
            asyncio.get_running_loop().call_later(_DRAIN_SECONDS, self._channel.close)
        else:
            self._finish()

    def _finish(self) -> None:
        if self.exited.done():
            return
        self.exited.set_result(self._handle.exited.result())
        if self._rollup is not None:
            os.close(self._rollup)
            self._rollup = None
        _resolve(self.greeted, None)
        for _reply, future in self._operations:
            _reject(future, self._death())
        for inference in self._inferences.values():
            _reject(inference, self._death())
        for answer in self._answers.values():
            answer.fail(self._death())
        self._operations.clear()
        self._inferences.clear()
        self._answers.clear()

    def _death(self) -> OrchError:
        if self._stopping:
            return OrchError("worker-died", f"The worker of {self.model} was stopped.", "Ask again to start it anew.")
        if self._broken is not None:
            return OrchError("worker-died", f"The worker of {self.model} {self._broken}.", "Is it of another version?")
        end = self.exited.result() if self.exited.done() else Exit(sentence="is ending")
        return OrchError("worker-died", f"The worker of {self.model} {end.sentence}.", end.hint)


def _resolve(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[Any] | None, error: OrchError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)
