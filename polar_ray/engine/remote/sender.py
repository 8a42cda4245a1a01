"""Sender: has every request of a pack scored by some server. For one event loop.

Requests wait here until a server has room. What a server does not finish goes to another; a server
that fails, is silent or gives a wrong witness is put aside until it has given the known answers
again. Deadlines of callers, priorities and poison are the pool's affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from polar_ray.client.servers import ServerType
from polar_ray.config import RemoteEngineConfig
from polar_ray.engine.answers import KnownAnswers
from polar_ray.engine.protocol import Scores
from polar_ray.engine.remote.belief import Ask, Belief, ask_again, ask_all
from polar_ray.engine.remote.connection import Busy, Connections, Refused, Trouble, Unreached
from polar_ray.engine.remote.job import Job
from polar_ray.engine.remote.server import Server
from polar_ray.engine.remote.sharing import Load, assign
from polar_ray.engine.remote.trust import TOLERANCES
from polar_ray.errors import ConfigError, EngineClosed, EngineError, ServersAway
from polar_ray.planning import Ids

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Of one request, at whatever servers; then its records are taken to be at fault."""

LOOKAHEAD = 64
"""Waiting requests that are looked at for a server with room."""

TICK_S = 0.25
CHECK_S = 30.0
"""The longest that one request of a check of a server in use may take."""

IDLE_S = 5.0
"""A server that was silent for so long, with nothing to do, is asked for a witness."""


class _Disbelieved(Trouble):
    """A witness was wrong."""


class Sender:
    """`start` it, `score` jobs, `close` it."""

    def __init__(
        self, config: RemoteEngineConfig, connections: Connections, known: KnownAnswers
    ) -> None:
        self._config, self._connections, self._known = config, connections, known
        self._tolerance = config.tolerance or TOLERANCES[config.dtype]
        self._beliefs: dict[Server, Belief] = {}
        """Of those that were believed once."""

        self.servers = [Server(cast(ServerType, kind), url) for kind, url in config.kinds_and_urls]
        self._waiting: deque[Job] = deque()
        self._open: dict[Job, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checks: dict[tuple[Server, bool], asyncio.Task[str | None]] = {}
        self._away_since: float | None = None
        self._closed = False
        self.counts = {"requests": 0, "requests_failed": 0, "tokens_sent": 0, "servers_aside": 0}

    async def start(self) -> None:
        """Asks all servers for the known answers; raises `ConfigError` if none gives them."""
        await asyncio.gather(*(self._begin_to_believe(server) for server in self.servers))
        if (reason := self.waits_for) is not None:
            raise ConfigError(f"engine.addresses: {reason}")
        self._spawn(self._watch())
        for server in self.servers:
            if server.aside is not None:
                self._spawn(self._tend(server))

    async def _begin_to_believe(self, server: Server) -> None:
        problem = await self._problem(server, self._config.timeout_s, anew=True, twice=True)
        if problem is None:
            server.believe(self._now)
            return
        server.put_aside(problem)
        logger.error("%s is not used: %s", server.name, problem)

    @property
    def waits_for(self) -> str | None:
        """Why nothing can be scored at present; None while a server is believed."""
        if any(server.aside is None for server in self.servers):
            return None
        said = "; ".join(f"{server.name}: {server.aside:.300}" for server in self.servers)
        return f"no server can be used: {said:.1000}"

    @property
    def num_believed(self) -> int:
        """Servers that can be given work, now or soon."""
        return sum(server.aside is None for server in self.servers)

    async def score(self, jobs: Sequence[Job]) -> list[Scores]:
        """The scores of each job's records, those that go ahead first. Raises `EngineError` where
        servers refuse one or fail on it repeatedly, `ServersAway` where none is there."""
        for job in jobs:
            self._open[job] = None
            self._waiting.append(job)
        self._pump()
        try:
            if self._closed:
                raise EngineClosed("the engine was closed")
            return list(await asyncio.gather(*(job.done for job in jobs)))
        finally:
            for job in jobs:
                self._end(job)

    async def close(self) -> None:
        """Ends everything: who waits for scores gets an `EngineClosed`."""
        self._closed = True
        for job in list(self._open):
            job.fail(EngineClosed("the engine was closed"))
        tasks = [*self._tasks, *self._checks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    # Requests.

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            logger.error("a bug in the sender", exc_info=bug)
            for job in list(self._open):
                job.fail(EngineError(f"{type(bug).__name__}: {bug}"))

    def _end(self, job: Job) -> None:
        """Nobody waits for it any more."""
        self._open.pop(job, None)
        if not job.done.done():
            job.done.cancel()
        elif not job.done.cancelled():
            job.done.exception()  # it is known
        if job in self._waiting:
            self._waiting.remove(job)
        for task in list(job.at.values()):
            task.cancel()

    def _pump(self) -> None:
        """Gives waiting requests to servers that have room."""
        now = self._now
        able = [server for server in self.servers if server.able(now)]
        fastest = max((server.speed(now) for server in able), default=0.0)
        most = self._config.requests_per_address
        loads = {
            server: Load(server.num_tokens, server.speed(now, fastest), most - server.num_requests)
            for server in able
        }
        first = [self._waiting[at] for at in range(min(LOOKAHEAD, len(self._waiting)))]
        begin = assign([(job.num_tokens, self._allowed(job)) for job in first], loads)
        for number, server in begin:
            job = first[number]
            self._waiting.remove(job)
            server.begin(job, job.num_tokens, now)
            job.at[server] = task = self._spawn(self._attempt(job, server))
            # A task that is cancelled before it begins never comes to its own end.
            task.add_done_callback(partial(self._release, job, server))

    def _allowed(self, job: Job) -> list[Server]:
        return [s for s in self.servers if s not in job.at and s not in job.refused_by]

    def _release(self, job: Job, server: Server, _: object, *, done: bool = False) -> None:
        """The server does not have the job any more."""
        if job.at.pop(server, None) is not None:
            server.end(job, self._now, done=done)

    async def _attempt(self, job: Job, server: Server) -> None:
        """One job at one server, whatever becomes of it."""
        self.counts["requests"] += 1
        self.counts["tokens_sent"] += job.num_tokens
        try:
            scores = await self._ask(server, job)
        except Trouble as error:
            self._release(job, server, None)
            self.counts["requests_failed"] += 1
            await self._recover(job, server, error)
        else:
            self._release(job, server, None, done=True)
            server.succeeded(self._now)
            if not job.done.done():
                job.done.set_result(scores)
        self._pump()

    async def _ask(self, server: Server, job: Job) -> Scores:
        found = []
        for turn in job.turns:
            guarded = self._beliefs[server].witnesses.guard(turn)
            scores = await self._connections.score(
                server.kind, server.address, guarded.ids, self._config.timeout_s
            )
            if (problem := guarded.problem(scores)) is not None:
                raise _Disbelieved(problem)
            found.append(guarded.own(scores))
        return np.concatenate(found)

    async def _recover(self, job: Job, server: Server, error: Trouble) -> None:
        """A job came back without scores."""
        if isinstance(error, Busy):
            rests_s = max(server.rest(error.retry_s, self._now), job.busy_for_s(self._now))
            if rests_s > self._config.patience_s:
                job.busy_since = None
                await self._blame(job, server)
        elif isinstance(error, Refused):
            # It may refuse everything by now, which is no record's fault.
            if (problem := await self._check(server)) is None:
                job.refused_by[server] = str(error)
            else:
                self._put_aside(server, problem)
        elif isinstance(error, Unreached | _Disbelieved):
            await self._blame(job, server, anew=isinstance(error, _Disbelieved))
        else:
            job.failures += 1
            self._put_aside(server, str(error))
        if job.refused_by and not any(s.aside is None for s in (*self._allowed(job), *job.at)):
            by, said = next(iter(job.refused_by.items()))
            job.fail(EngineError(f"{by.name} {said}"))
        elif job.failures >= MAX_FAILURES:
            job.fail(
                EngineError(f"{job.failures} servers failed on it, last {server.name}: {error}")
            )
        else:
            self._wait_again(job)

    async def _blame(self, job: Job, server: Server, *, anew: bool = False) -> None:
        """Most often the server is away, full, or another one by now. If it is not, whatever stands
        before it, or how it takes this request, is at fault."""
        if (problem := await self._check(server, anew=anew)) is None:
            job.failures += 1
        else:
            self._put_aside(server, problem)

    def _wait_again(self, job: Job) -> None:
        """Another server may take it; first, as it has waited the longest."""
        if not job.done.done() and job not in self._waiting:
            self._waiting.appendleft(job)

    # Servers.

    def _put_aside(self, server: Server, reason: str, *, silent: bool = False) -> None:
        """No work for it until it has given the known answers again."""
        if server.aside is not None or self._closed:
            return
        server.put_aside(reason, silent=silent)
        self.counts["servers_aside"] += 1
        logger.warning("%s is put aside: %s", server.name, reason)
        self._spawn(self._tend(server))

    async def _tend(self, server: Server) -> None:
        """Asks a server that is put aside until it can be believed again."""
        while server.aside is not None:
            await asyncio.sleep(server.pause_s)
            problem = await self._check(server, anew=True)
            if problem is None:
                server.believe(self._now)
                logger.warning("%s is used again", server.name)
                self._pump()
                return
            if problem != server.aside:
                logger.warning("%s stays aside: %s", server.name, problem)
            server.put_aside(problem)

    async def _check(self, server: Server, *, anew: bool = False) -> str | None:
        """Why a server cannot be believed now, or None; those who ask at once share one answer.
        `anew`: it is asked as one that nobody knows yet."""
        key = (server, anew)
        if key not in self._checks:
            limit_s = min(CHECK_S, self._config.timeout_s)
            asking = self._problem(server, limit_s, anew=anew)
            self._checks[key] = check = asyncio.get_running_loop().create_task(asking)
            check.add_done_callback(lambda _: self._checks.pop(key, None))
        return await asyncio.shield(self._checks[key])

    async def _problem(
        self, server: Server, limit_s: float, *, anew: bool, twice: bool = False
    ) -> str | None:
        """What a server's answers to the known questions show."""
        try:
            self._connections.read_token()
            if anew:
                await self._ask_all(server, limit_s, twice=twice)
            else:
                ask = self._asking(server, limit_s)
                await ask_again(ask, self._beliefs[server], self._tolerance)
        except (Trouble, ConfigError) as error:
            return str(error)
        return None

    async def _ask_all(self, server: Server, limit_s: float, *, twice: bool = False) -> None:
        """Believes what a server shows in all known answers. Raises as `ask_all`."""
        began, ask = self._now, self._asking(server, limit_s)
        self._note(server, await ask_all(ask, self._known, self._tolerance, twice=twice))
        server.questioned(began, self._now)

    def _asking(self, server: Server, limit_s: float) -> Ask:
        async def ask(ids: Sequence[Ids]) -> Scores:
            return await self._connections.score(server.kind, server.address, ids, limit_s)

        return ask

    def _note(self, server: Server, belief: Belief) -> None:
        """It has given all known answers that it takes."""
        before = self._beliefs.get(server)
        self._beliefs[server] = belief
        if belief.refusal is not None and (before is None or before.refusal is None):
            logger.warning(
                "%s scores %d tokens, but not many more; a longer record gets an error unless "
                "another server takes it: %s",
                server.name,
                belief.known.longest,
                belief.refusal,
            )

    async def _watch(self) -> None:
        """What only the clock tells."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._now
            for server in self.servers:
                if server.aside is None:
                    self._watch_server(server, now)
            self._watch_patience(now)
            self._pump()  # who rested may be able again

    def _watch_server(self, server: Server, now: float) -> None:
        others = any(other.able(now) for other in self.servers if other is not server)
        if (silence := server.silent_s(now)) is not None:
            if not others:
                self._spawn(self._suspect(server))
                return
            self._put_aside(server, f"it has finished nothing for {silence:.1f} s", silent=True)
            # It may answer all the same; the first answer counts.
            for job in self._open:
                if server in job.at and len(job.at) == 1:
                    self._wait_again(job)
        elif not server.num_requests and now - server.heard_at > IDLE_S:
            server.heard_at = now
            self._spawn(self._look_after(server))
        elif server.is_to_be_questioned(now):
            server.questioned(now, now)  # no second time meanwhile
            self._spawn(self._question(server))

    async def _question(self, server: Server) -> None:
        """Asks a server in use everything again, beside what it is at, which may take its time."""
        try:
            await self._ask_all(server, self._config.timeout_s)
        except Busy:
            return
        except (Trouble, ConfigError) as error:
            self._put_aside(server, str(error))

    async def _suspect(self, server: Server) -> None:
        """Asks the only server whether it is still there, beside what it is at."""
        if (server, False) in self._checks or (server, True) in self._checks:
            return
        if (problem := await self._check(server)) is None:
            server.vouch(self._now)
        else:
            self._put_aside(server, problem, silent=True)

    async def _look_after(self, server: Server) -> None:
        """Asks a server that has nothing to do whether it is still there."""
        witness = self._beliefs[server].witnesses.next()
        try:
            scores = await self._connections.score(
                server.kind, server.address, [witness.ids], min(CHECK_S, self._config.timeout_s)
            )
        except Busy:
            return
        except Trouble as error:
            self._put_aside(server, str(error))
            return
        if (problem := witness.problem(float(scores[0]))) is not None:
            self._put_aside(server, problem)

    def _watch_patience(self, now: float) -> None:
        """Gives work back that no server has come for."""
        reason = self.waits_for
        if reason is None:
            self._away_since = None
            return
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since >= self._config.patience_s:
            for job in self._open:
                job.fail(ServersAway(reason))
