"""`wattcount sampler --listen`: lets a wattcount on another machine measure the GPUs of this one (docs/remote.md)."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import signal
import socket
from pathlib import Path

from wattcount.config.fields import HostPort
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.engines.http.discovery import serving
from wattcount.errors import EXIT_OK, NotStartedError, one_line
from wattcount.gpu.nvml import open_session
from wattcount.gpu.remote import wire
from wattcount.gpu.remote.listener import Listener
from wattcount.run.claims import HostLocks

LOOPBACK = f"127.0.0.1:{wire.DEFAULT_PORT}"
"""Where it listens unless told otherwise: only programs of this machine can connect."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        nargs="?",
        const=LOOPBACK,
        metavar="HOST:PORT",
        help=f"wait for a wattcount on another machine; default {LOOPBACK}, which only this machine can reach (as by ssh -L)",
    )
    parser.add_argument(
        "--new-secret",
        nargs="?",
        const="",
        metavar="FILE",
        help=f"make the secret that both machines must know; default {wire.secret_file()}",
    )
    parser.add_argument("--emulated", action="store_true", help="an emulated GPU, to try it out without one")


def main(args: argparse.Namespace) -> int:
    """Returns on SIGINT or SIGTERM. Raises `NotStartedError`."""
    if args.new_secret is not None:
        return new_secret(Path(args.new_secret).expanduser() if args.new_secret else wire.secret_file())
    if args.listen is None:
        raise NotStartedError("say what to do: wattcount sampler --listen, or --new-secret")
    try:
        address = HostPort.parts(args.listen, wire.DEFAULT_PORT)
    except ValueError as error:
        raise NotStartedError(f"--listen: {error}, such as 0.0.0.0:{wire.DEFAULT_PORT}") from None
    secret = wire.read_secret()
    backend = PowerBackend.emulated if args.emulated else PowerBackend.nvml
    with open_session(PowerConfig(backend=backend), GpuConfig()) as session:
        gpus = session.gpus()
        if not gpus:
            raise NotStartedError("NVML finds no GPU on this machine")
        try:
            listener = Listener(address, secret, session, HostLocks(session, _say), serving, _say)
        except (OSError, OverflowError) as error:
            raise NotStartedError(f"--listen: cannot listen at {args.listen}: {one_line(error)}") from None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: listener.stop())
        if not is_loopback(address[0]):
            _say(
                f"warning: every machine that can reach {args.listen} can try to connect. Who does not know the secret is refused, "
                "but what is sent is not encrypted: others on the way can read the power of these GPUs. In a network that you "
                f"do not trust, leave the address out and use ssh -L {wire.DEFAULT_PORT}:{LOOPBACK} from the other machine"
            )
        named = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus)
        _say(f"listening at {address[0]}:{listener.port} for {session.evidence} GPUs {named}; Ctrl-C ends it")
        listener.serve()
        _say("ended")
    return EXIT_OK


def new_secret(path: Path) -> int:
    """A new file with a secret, which only this user can read. Raises `NotStartedError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if path.exists():
            raise NotStartedError(f"{path} is there already; remove it first, on both machines") from None
        raise NotStartedError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask
        file.write(secrets.token_hex(32) + "\n")
    print(f"{path}\ncopy it to the other machine, to the same place (scp -p), and let nobody else read it")
    return EXIT_OK


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can connect to an address; a name counts by all its addresses."""
    try:
        found = {item[4][0] for item in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def _say(text: str) -> None:
    print(f"wattcount sampler: {text}", flush=True)
