"""The port that a pool listens on: nobody else may.

Serve's proxies bind with SO_REUSEPORT, so that a second server on the same port starts without a
word, and the kernel gives callers to both by turns: scores of two models, and a way around the
tokens of one of them. Imports no ray.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

import psutil

from polar_ray.errors import ConfigError

HIGHEST = 65_535

CLUSTER = "--gcs-address="
"""An argument of raylets, the parents of all processes of a Ray node; tells clusters apart."""


def check_number(port: int) -> int:
    """The port; raises `ConfigError` for a number that is none."""
    if not 1 <= port <= HIGHEST:
        raise ConfigError(f"port {port}: take one from 1 to {HIGHEST} with --port")
    return port


def check_port(host: str, port: int) -> None:
    """Raises `ConfigError` for a port that somebody listens on, or that nobody can listen on.

    A listener counts if callers of `host` could get to it: on the same address or on all of them,
    not on another one of this machine. Where `host` is a name, all that it stands for counts.
    """
    problems = [_bind(family, address) for family, address in _addresses(host, port)]
    if errno.EADDRINUSE in problems:
        raise ConfigError(
            f"port {port} of {host} is taken{_by_whom(host, port)}: callers would get to either. "
            "Take another with --port, or end what listens there"
        )
    if 0 not in problems:
        reason = errno.errorcode.get(problems[0], str(problems[0]))
        raise ConfigError(f"nothing can listen on port {port} of {host} here: {reason}")


def check_alone(host: str, port: int) -> None:
    """Raises `ConfigError` where another server listens beside this Ray cluster's own proxies.

    For processes of the cluster, after its proxies have bound their port: `serve run` asks nobody
    before it starts, and of two that start at the same moment both find the port free. Whoever
    comes later to this check sees both.
    """
    own = _cluster(psutil.Process().pid)
    pids = _listeners(host, port)
    others = [pid for pid in pids if _cluster(pid) != own]
    if own is not None and others and len(others) < len(pids):
        raise ConfigError(
            f"port {port} of {host} is shared with {_names(others)}: callers get to either. "
            "Take another port, or end what listens there"
        )


def free_port() -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host {host!r} is no address to listen on: {error}") from None
    return [(family, (str(address[0]), port)) for family, *_, address in found]


def _bind(family: socket.AddressFamily, address: tuple[str, int]) -> int:
    """The error number of an attempt to bind, 0 if it went well.

    Without SO_REUSEPORT it fails beside any listener, also one that would share. With SO_REUSEADDR
    it does not fail for what is left of connections that a former server has closed.
    """
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _by_whom(host: str, port: int) -> str:
    names = _names(_listeners(host, port))
    return f" by {names}" if names else ""


def _listeners(host: str, port: int) -> list[int]:
    """Ids of the processes that listen where callers of `host` and `port` may get to, as far as
    this user may see."""
    wanted = {_plain(address) for _, (address, _) in _addresses(host, port)}
    try:
        found = psutil.net_connections(kind="tcp")
    except psutil.Error:  # not everywhere without special rights
        return []
    pids = {
        listener.pid
        for listener in found
        if listener.status == psutil.CONN_LISTEN
        and listener.laddr.port == port
        and any(_overlap(_plain(listener.laddr.ip), address) for address in wanted)
    }
    return sorted(pid for pid in pids if pid is not None)


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _overlap(
    first: ipaddress.IPv4Address | ipaddress.IPv6Address,
    second: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> bool:
    return first == second or first.is_unspecified or second.is_unspecified


def _names(pids: list[int]) -> str:
    return ", ".join(f"process {pid} ({_name(pid)})" for pid in pids[:3])


def _name(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:80].strip() or "?"
    except psutil.Error:
        return "?"


def _cluster(pid: int) -> str | None:
    """The Ray cluster that a process was started by; None if by none."""
    try:
        for process in psutil.Process(pid).parents():
            arguments: list[str] = process.cmdline()
            for argument in arguments:
                if argument.startswith(CLUSTER):
                    return argument
    except psutil.Error:
        return None
    return None
