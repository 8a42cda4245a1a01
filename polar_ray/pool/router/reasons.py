"""Reasons: why a call of the pool has to wait, as a sentence for whoever made it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from polar_ray.pool.settings import TOKEN_HINT

WHY = f"Ray's own command `serve status` says why ({TOKEN_HINT})"


@dataclass(frozen=True, slots=True)
class State:
    """How a router's pool stands."""

    replicas: int
    """That Serve says run, or are about to."""

    loading: int = 0
    """Of these, those that have not said yet what they serve, or load another model."""

    unresponsive: int = 0
    """Of these, those that do not answer."""

    calls: int = 0
    """That have come and are not answered yet."""

    for_s: float = 0.0
    """For how long no replica has been able to work."""

    to_zero: bool = False
    """There may be none while there is nothing to do."""

    away: int = 0
    """Of the replicas, those whose engine waits for servers elsewhere."""

    missing: str = ""
    """What one of these says of its servers."""

    @property
    def able(self) -> int:
        """Replicas that can work."""
        return self.replicas - self.loading - self.unresponsive - self.away


def waiting_reason(state: State) -> str:
    """What a call waits for. Says nothing of what is scored."""
    if state.replicas == 0:
        if state.to_zero:
            return _starting(state)
        return f"the pool has no replica that runs ({state.for_s:.0f} s); {WHY}"
    if state.able == 0 and state.away:
        return f"{_unable(state)} ({state.for_s:.0f} s): {state.missing}"
    if state.able == 0:
        return f"{_unable(state)} ({state.for_s:.0f} s); {WHY}"
    all_able = state.able == state.replicas
    who = _all(state.replicas) if all_able else f"{state.able} of {_all(state.replicas)}"
    others = "" if all_able else f" ({', '.join(_others(state))})"
    if state.calls == 0:
        return f"{who} {_s('wait', state.able)} for calls{others}"
    return f"{who} {_s('work', state.able)} on {_calls(state.calls)}{others}"


def _starting(state: State) -> str:
    if state.calls == 0:
        return "the pool runs no replica while there is no call; the next one starts it"
    return f"the pool had no replica and starts one ({state.for_s:.0f} s); {WHY}"


def _unable(state: State) -> str:
    if state.loading == state.replicas:
        return f"{_all(state.replicas)} {_s('load', state.replicas)} a model"
    if state.unresponsive == state.replicas:
        return f"{_all(state.replicas)} {_does(state.replicas)} not answer"
    if state.away == state.replicas:
        return f"{_all(state.replicas)} {_s('wait', state.replicas)} for servers"
    return f"of {_all(state.replicas)} {' and '.join(_others(state))}"


def _others(state: State) -> list[str]:
    found = []
    if state.loading:
        found.append(f"{state.loading} {_s('load', state.loading)} a model")
    if state.away:
        found.append(f"{state.away} {_s('wait', state.away)} for servers")
    if state.unresponsive:
        found.append(f"{state.unresponsive} {_does(state.unresponsive)} not answer")
    return found


def _all(count: int) -> str:
    return "the pool's only replica" if count == 1 else f"the pool's {count} replicas"


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _s(verb: str, count: int) -> str:
    return f"{verb}s" if count == 1 else verb


def _does(count: int) -> str:
    return "does" if count == 1 else "do"
