"""A stack of real processes, and clients on it."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import mimimi

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120
ACCOUNTS = 48


@dataclass
class Stack:
    """Relay, gateway, delivery service and issuer, as `make stack` runs them."""

    directory: Path
    used: int = field(default=0)

    @property
    def description(self) -> Path:
        return self.directory / "stack" / "stack.json"

    def account(self) -> Path:
        """The token of an account that nobody has used."""
        self.used += 1
        return self.directory / "stack" / "accounts" / f"account-{self.used:02}.jwt"

    async def client(self, name: str, handle: str | None = None) -> mimimi.Client:
        """A new client, with a handle unless it is to be linked."""
        client = await mimimi.Client.create(
            home=str(self.directory / "homes" / f"{name}-{self.used}"),
            endpoints=self.description.read_text(),
            account_token=self.account().read_text(),
            options=mimimi.Options(profile=mimimi.Profile.LIVE),
        )
        if handle is not None:
            await client.register_handle(handle)
        return client


def programs() -> Path:
    """Where the services are: what was built last, unless MIMIMI_BIN_DIR says otherwise."""
    given = os.environ.get("MIMIMI_BIN_DIR")
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
    places = [Path(given)] if given else [target / "tested", target / "release"]
    found = [place for place in places if (place / "ds").is_file()]
    if not found:
        pytest.exit("the services are not built: `make programs` builds them", 2)
    return max(found, key=lambda place: (place / "ds").stat().st_mtime)


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports() -> int:
    """The first of the sixteen ports that a stack may use."""
    for _ in range(100):
        first = random.randrange(20_000, 30_000)
        if all(is_free(first + offset) for offset in range(16)):
            return first
    raise RuntimeError("no ports")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    (directory / "homes").mkdir()
    running = Stack(directory)
    xtask = programs() / "xtask"
    said = directory / "stack.out"
    # Through `launch`, so that it ends with this process.
    command = [str(xtask), "launch", str(os.getpid()), str(xtask), "--", "stack"]
    command += ["--dir", str(directory / "stack"), "--port", str(free_ports())]
    command += ["--accounts", str(ACCOUNTS), "--store", "rocksdb"]
    with said.open("wb") as output:
        supervisor = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + READY_WITHIN_S
        while not running.description.exists():
            if supervisor.poll() is not None or time.monotonic() > end:
                pytest.exit(f"the stack does not start:\n{said.read_text()}", 2)
            time.sleep(0.1)
        json.loads(running.description.read_text())
        yield running
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60)


@dataclass
class Pair:
    """Two users who are contacts, and both in one group."""

    ann: mimimi.Client
    ben: mimimi.Client
    ann_handle: str
    ben_handle: str
    group: str = "climbing"


async def until(holds: Callable[[], bool], *clients: mimimi.Client) -> None:
    """Has clients catch up until something holds. It fails if that never comes."""
    async with asyncio.timeout(60):
        while not holds():
            for client in clients:
                await client.sync(100)
            await asyncio.sleep(0.05)


async def befriend(asker: mimimi.Client, other: mimimi.Client) -> None:
    handle = other.own_handle()
    assert handle is not None
    await asker.connect(handle)
    await other.check_inbox()
    [request] = other.incoming_requests()
    name = await other.accept_request(request.id)
    await until(lambda: any(one.handle == handle for one in asker.contacts()), asker)
    assert asker.safety_number(handle) == other.safety_number(name)


@pytest.fixture
async def pair(stack: Stack) -> AsyncIterator[Pair]:
    number = stack.used
    ann_handle, ben_handle = f"ann{number}", f"ben{number}"
    ann = await stack.client("ann", ann_handle)
    ben = await stack.client("ben", ben_handle)
    await befriend(ann, ben)
    pair = Pair(ann, ben, ann_handle, ben_handle)
    await ann.create_group(pair.group)
    await ann.add_to_group(pair.group, [ben_handle])
    await ben.sync(0)
    for client in (ann, ben):
        client.acknowledge([stored.id for stored in client.events()])
    yield pair
    for client in (ann, ben):
        await client.stop()
