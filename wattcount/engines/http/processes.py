"""Which processes of this machine serve at a URL, as far as this user may see them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

PROC = Path("/proc")
"""Where Linux shows its processes. Tests put another folder in its place."""
UVM = "/dev/nvidia-uvm"
"""The device that a process opens when it begins to compute with CUDA, and for nothing else."""

_CONTAINER = re.compile(r"[0-9a-f]{64}|kubepods|\.service$")
"""Control groups that hold one service: a container, a pod, a unit of systemd."""


@dataclass
class Found:
    """Processes of a server. `wider`: more of them, of whom it is less sure that they are its own."""

    local: bool
    pid: int | None = None
    pids: set[int] = field(default_factory=set)
    wider: set[int] = field(default_factory=set)


def processes(base_url: str, unknown: dict[str, str]) -> Found:
    """The processes behind a URL, as far as this user may see them."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = _addresses(str(parts.hostname))
    if not addresses & _own_addresses():
        for name in ("pid", "command", "gpu_uuids"):
            unknown[name] = "the server is on another machine"
        return Found(local=False)
    listening, unseen = _listeners(addresses, port)
    proxied = [pid for pid in listening if _name(pid) == "docker-proxy"]
    if proxied:
        behind = _behind_proxy(proxied[0])
        if not behind:
            why = "it runs in a container, whose processes only root can see: run as root, or name its GPUs with gpu.devices"
            unknown["pid"] = unknown["command"] = unknown["gpu_uuids"] = why
            return Found(local=True)
        listening = behind
    if not listening:
        why = (
            f"another user's or container's process listens on port {port}: run as that user or root, or name its GPUs "
            "with gpu.devices"
            if unseen
            else f"no process of this machine listens on port {port} as far as can be seen (a port that is forwarded?): "
            "name its GPUs with gpu.devices"
        )
        unknown["pid"] = unknown["command"] = unknown["gpu_uuids"] = why
        return Found(local=True)
    # Of several that share a socket, the one that the others come from.
    first = min(listening, key=lambda pid: (_parent(pid) in listening, pid))
    tree = _tree(listening)
    return Found(True, first, tree, _group(tree) - tree)


def _addresses(host: str) -> set[str]:
    with contextlib.suppress(OSError, UnicodeError):
        return {_bare(str(entry[4][0])) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return set()


def _own_addresses() -> set[str]:
    """Addresses of this machine."""
    found = {"127.0.0.1", "::1", "0.0.0.0", "::"}
    for entries in psutil.net_if_addrs().values():
        found |= {
            _bare(entry.address) for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)
        }
    return found


def _bare(address: str) -> str:
    """Without the zone, and an IPv4 address in IPv6's clothes as what it is."""
    return address.partition("%")[0].removeprefix("::ffff:")


def _listeners(addresses: set[str], port: int) -> tuple[set[int], bool]:
    """Processes that listen there, and whether one does that this user cannot see."""
    pids: set[int] = set()
    unseen = False
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections(kind="tcp"):
            if one.status != psutil.CONN_LISTEN or not one.laddr or one.laddr.port != port:
                continue
            if _bare(one.laddr.ip) not in addresses | {"0.0.0.0", "::"}:
                continue
            if one.pid is None:
                unseen = True
            else:
                pids.add(one.pid)
    return pids, unseen and not pids


def _behind_proxy(pid: int) -> set[int]:
    """Processes of the container that Docker's proxy passes a port on to; empty where they cannot be seen."""
    arguments = arguments_of(pid)
    told = dict(itertools.pairwise(arguments))
    address, port = told.get("-container-ip"), told.get("-container-port")
    if address is None or port is None or not port.isdigit():
        return set()
    own = _namespace(os.getpid(), "net")
    seen: set[str] = set()
    for other in psutil.pids():
        namespace = _namespace(other, "net")
        if namespace is None or namespace == own or namespace in seen:
            continue
        seen.add(namespace)
        sockets = _listening_sockets(PROC / str(other) / "net", int(port))
        if sockets and _has_address(PROC / str(other) / "net" / "fib_trie", address):
            return {p for p in psutil.pids() if _namespace(p, "net") == namespace and _holds(p, sockets)}
    return set()


def _listening_sockets(folder: Path, port: int) -> set[str]:
    """The sockets that listen on `port`, by a network namespace's `tcp` and `tcp6`."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (folder / name).read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if len(words) > 9 and words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{words[9]}]")
    return found


def _has_address(trie: Path, address: str) -> bool:
    with contextlib.suppress(OSError):
        return re.search(rf"\|-- {re.escape(address)}\n\s+/32 host LOCAL", trie.read_text()) is not None
    return False


def use_cuda(pids: Iterable[int]) -> bool:
    """Whether one of these processes computes with CUDA, and sees the same processes and so the same machine as this one."""
    own = _namespace(os.getpid(), "pid")
    return any(_holds(pid, {UVM}) for pid in pids if _namespace(pid, "pid") == own)


def _holds(pid: int, files: set[str]) -> bool:
    """Whether a process has one of these open: paths, or sockets as `socket:[INODE]`."""
    with contextlib.suppress(OSError):
        for link in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()) in files:
                    return True
    return False


def _tree(pids: Iterable[int]) -> set[int]:
    """The processes and all that come from them."""
    found = set(pids)
    for pid in list(found):
        with contextlib.suppress(psutil.Error):
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return found


def _group(tree: set[int]) -> set[int]:
    """Processes that belong with `tree` though they may not come from it: of its container or service, of its sessions.

    Workers of TensorRT-LLM come from MPI's daemon. A session counts where its leader is in the tree: that of a shell
    holds strangers. Nothing that wattcount's own process is part of counts.
    """
    me = os.getpid()
    groups = {name for pid in tree if (name := _control_group(pid)) is not None and _CONTAINER.search(name)}
    groups.discard(_control_group(me) or "")
    namespaces = {_namespace(pid, "pid") for pid in tree} - {_namespace(me, "pid"), None}
    found = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if (
                os.getsid(pid) in tree
                or os.getpgid(pid) in tree
                or (groups and _control_group(pid) in groups)
                or (namespaces and _namespace(pid, "pid") in namespaces)
            ):
                found.add(pid)
    return set() if me in found else found


def _control_group(pid: int) -> str | None:
    """Its path; None where it has none of its own."""
    with contextlib.suppress(OSError, UnicodeError):
        lines = (PROC / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines()
        paths = [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]
        return max(paths, key=len, default=None) or None
    return None


def _namespace(pid: int, kind: str) -> str | None:
    with contextlib.suppress(OSError):
        return str((PROC / str(pid) / "ns" / kind).readlink())
    return None


def _parent(pid: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).ppid()
    return None


def _name(pid: int) -> str | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).name()
    return None


def arguments_of(pid: int) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return []
