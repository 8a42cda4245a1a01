"""Hosts with addresses of their own, on one machine: each has its own network, processes, Ray
folder and shared memory, and hangs on one bridge. All of it is in namespaces that end with the
test, so this machine's own network is not touched. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.slow_link import Link
from processes import titled

SUBNET = "10.77.0"
TOOLS = ("ip", "nsenter", "unshare")
NAMESPACES = ("--net", "--mount", "--pid")
FORWARDER = Path(__file__).with_name("slow_link.py")

# The first process of a host waits for the end of its input, which comes with the end of the test,
# whatever ends it: then the kernel ends all others. It also takes in what Ray leaves to itself.
LIFE = """
mkdir -p /tmp/ray
mount -t tmpfs -o size=2g tmpfs /tmp/ray
mount -t tmpfs -o size=1g tmpfs /dev/shm
ip link set lo up
echo ready
cat > /dev/null
"""


def why_not() -> str | None:
    """Why there can be no hosts here; None: there can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"hosts of their own need {', '.join(missing)}"
    if os.geteuid() != 0:
        return "hosts of their own need root"
    probe = ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "probe", "type", "bridge"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no bridge can be made here: {done.stderr.strip()}" if done.returncode else None


@dataclass(frozen=True, slots=True)
class Host:
    """One host, known by its first process."""

    address: str
    pid: int
    holder: subprocess.Popen[str] = field(repr=False)

    def command(self, *words: str) -> list[str]:
        """A command, as it is run in this host."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, *words]

    def titled(self, title: bytes) -> set[int]:
        """This host's processes with a title, by their ids outside of it."""
        here = _network_of(self.pid)
        return set() if here is None else {p for p in titled(title) if _network_of(p) == here}

    def kill(self) -> None:
        """SIGKILL to the first process, and with it, by the kernel, to all."""
        if self.holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.holder.communicate()


@dataclass(slots=True)
class Network:
    """A bridge, and the hosts that hang on it."""

    switch: Host
    hosts: list[Host] = field(default_factory=list)
    wires: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def host(self, number: int, *, by_wire: bool = False) -> Host:
        """A new host, under the address of that number, which a host that is gone may have had.
        `by_wire`: what it sends and gets goes through a process, see `spoil`."""
        host = _hold(f"{SUBNET}.{number}")
        self.hosts.append(host)
        port = f"port{len(self.hosts)}"  # that of a host that has just gone is there for a while
        if by_wire:
            self._wire(host, port)
        else:
            self._ip("link", "add", port, "type", "veth", "peer", "eth0", "netns", str(host.pid))
        self._ip("link", "set", port, "master", "bridge", "up")
        for words in (
            f"link set eth0 address 02:00:00:00:00:{number:02x} up",
            f"address add {host.address}/24 dev eth0",
            # Ray learns a machine's address by asking for its way out.
            "route add default dev eth0",
        ):
            subprocess.run(host.command("ip", *words.split()), check=True)
        return host

    def spoil(self, host: Host, link: Link) -> None:
        """Makes the way to a host, which hangs by wire, a worse one."""
        wire = self.wires[host.address].stdin
        assert wire is not None
        wire.write(link.as_json() + "\n")
        wire.flush()

    def close(self) -> None:
        """Ends all hosts, and what runs in them; the wires first, which are the bridge's."""
        for host in (self.switch, *self.hosts):
            host.kill()
        for wire in self.wires.values():
            wire.communicate()

    def _wire(self, host: Host, port: str) -> None:
        far = f"{port}far"
        program = self.switch.command(sys.executable, str(FORWARDER), port, far)
        wire = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wires[host.address] = wire
        assert wire.stdout is not None
        assert wire.stdout.readline() == "ready\n", "the wire did not start"
        self._ip("link", "set", far, "netns", str(host.pid), "name", "eth0")

    def _ip(self, *words: str) -> None:
        """Runs `ip` on the bridge's side, where processes of all hosts can be named."""
        subprocess.run(
            ["nsenter", f"--target={self.switch.pid}", "--net", "ip", *words], check=True
        )


@contextmanager
def network() -> Iterator[Network]:
    """A bridge without hosts; those that it gets end with it."""
    found = Network(_hold("the bridge"))
    try:
        found._ip("link", "add", "bridge", "type", "bridge")
        found._ip("link", "set", "bridge", "up")
        yield found
    finally:
        found.close()


def _hold(address: str) -> Host:
    """The first process of a host that has no network yet."""
    holder = subprocess.Popen(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-ec", LIFE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    if holder.stdout.readline() != "ready\n":
        raise OSError(f"no host for {address}: {holder.communicate()[1]}")
    [child] = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return Host(address, int(child), holder)


def _network_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None
