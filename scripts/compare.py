#!/usr/bin/env python3
"""What a message costs a server that reads everything, on this machine: ejabberd from Debian, rooms
with an archive on PostgreSQL, on loopback, in the clear. Processor time of ejabberd and of PostgreSQL
per message and per recipient, and latency.

`make compare`. Nothing is installed: the packages are unpacked into a temporary directory, which is
removed at the end (COMPARE_PACKAGES keeps what was downloaded). MEMBERS are the sizes of rooms.
"""

import base64
import contextlib
import os
import pathlib
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SIZES = [int(size) for size in os.environ.get("MEMBERS", "2,10,100").split(",")]
# As a message of ours is on its way: the ciphertext of 300 bytes of text, in base64 for XML.
BODY = base64.b64encode(secrets.token_bytes(840)).decode()
WARM_UP = 10
SETTLED_S = 0.2


def say(text):
    print(text, flush=True)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def unpack(work):
    """Downloads ejabberd and what it needs, and unpacks it."""
    kept = os.environ.get("COMPARE_PACKAGES")
    packages = pathlib.Path(kept) if kept else work / "packages"
    (packages / "partial").mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["apt-get", "-y", "-qq", "--download-only", "--no-install-recommends",
         "-o", f"Dir::Cache::archives={packages}/", "-o", "Debug::NoLocking=1",
         "install", "ejabberd", "erlang-p1-pgsql"],
        check=True, stdout=subprocess.DEVNULL)
    root = work / "root"
    for package in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    return root / "usr"


class Postgres:
    """The server of scripts/postgres.sh, and a port that leads to its socket: ejabberd knows no
    other way."""

    def __init__(self):
        self.script = subprocess.Popen(
            ["sh", HERE / "postgres.sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        words = self.script.stdout.readline().split()
        if not words or words[0] != "ready":
            sys.exit("PostgreSQL does not start")
        self.sockets = words[1]
        self.password = pathlib.Path(words[2]).read_text().strip()
        pid_file = pathlib.Path(words[3]) / "postmaster.pid"
        self.pid = int(pid_file.read_text().split("\n", 1)[0])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self.sockets}/.s.PGSQL.5432")
            for pair in [(client, server), (server, client)]:
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    @staticmethod
    def copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def psql(self, *arguments):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/psql"))
        done = subprocess.run(
            [found[-1] if found else "psql", "-h", self.sockets, "-U", "mimimi", "-d", "mimimi", "-q",
             "-v", "ON_ERROR_STOP=1", *arguments],
            env={**os.environ, "PGPASSWORD": self.password}, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def processes(self):
        return [self.pid, *children(self.pid)]

    def stop(self):
        self.script.stdin.close()
        self.script.wait(30)


class Ejabberd:
    def __init__(self, usr, work, postgres):
        home = work / "ejabberd"
        home.mkdir()
        self.port = free_port()
        (home / "ejabberd.yml").write_text(f"""
hosts: [localhost]
loglevel: error
listen:
  - {{port: {self.port}, ip: "127.0.0.1", module: ejabberd_c2s, starttls: false, max_stanza_size: 1000000}}
auth_method: [anonymous]
anonymous_protocol: login_anon
default_db: sql
sql_type: pgsql
sql_server: 127.0.0.1
sql_port: {postgres.port}
sql_database: mimimi
sql_username: mimimi
sql_password: "{postgres.password}"
acl: {{}}
access_rules: {{}}
modules:
  mod_disco: {{}}
  mod_mam: {{db_type: sql, default: always, user_mucsub_from_muc_archive: false}}
  mod_muc:
    db_type: sql
    host: rooms.localhost
    access: all
    access_admin: none
    access_create: all
    access_mam: all
    max_users: 1000
    max_user_conferences: 1000
    default_room_options: {{mam: true, persistent: true, max_users: 1000, logging: false}}
""")
        libraries = usr / "lib/x86_64-linux-gnu"
        if not libraries.is_dir():
            libraries = next((usr / "lib").glob("*-linux-gnu"))
        erlang = usr / "lib/erlang"
        program = next(erlang.glob("erts-*")) / "bin"
        boot = next(erlang.glob("releases/*/start_clean.boot"), None) or erlang / "bin/start_clean.boot"
        environment = {
            **os.environ,
            "ROOTDIR": str(erlang), "BINDIR": str(program), "EMU": "beam", "PROGNAME": "erl",
            "ERL_LIBS": str(libraries), "LD_LIBRARY_PATH": str(libraries), "HOME": str(home),
            "EJABBERD_CONFIG_PATH": str(home / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(home / "ejabberd.log"),
            "SPOOL_DIR": str(home / "spool"), "CONTRIB_MODULES_PATH": str(home),
        }
        self.log = home / "ejabberd.log"
        self.process = subprocess.Popen(
            [program / "erlexec", "-boot", str(boot).removesuffix(".boot"), "-noinput", "-noshell",
             "-mnesia", "dir", f'"{home}/spool"', "-s", "ejabberd", "-smp", "auto"],
            env=environment, cwd=home, stdin=subprocess.DEVNULL,
            stdout=(home / "out").open("w"), stderr=subprocess.STDOUT)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        out = (home / "out").read_text()[-2000:]
        logged = self.log.read_text()[-3000:] if self.log.exists() else ""
        sys.exit(f"ejabberd does not start:\n{out}\n{logged}")

    def processes(self):
        return [self.process.pid]

    def stop(self):
        self.process.kill()
        self.process.wait()


def children(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def cpu_us(processes):
    """Processor time of all threads of these processes."""
    total = 0
    for pid in processes:
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass
    return total / 1e3


class Member:
    """A client in a room."""

    def __init__(self, port, name):
        self.name = name
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.held = ""
        self.open("</stream:features>")
        login = base64.b64encode(f"\0{name}\0password".encode()).decode()
        self.ask("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>"
                 f"{login}</auth>", "<success")
        self.open("</stream:features>")
        self.ask("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
                 "<resource>r</resource></bind></iq>", "</iq>")

    def open(self, until):
        self.held = ""
        self.ask("<?xml version='1.0'?><stream:stream to='localhost' xmlns='jabber:client' "
                 "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>", until)

    def send(self, text):
        self.socket.sendall(text.encode())

    def ask(self, text, until):
        self.send(text)
        return self.wait(until)

    def wait(self, until):
        """Reads until this has come; what came before it is dropped."""
        self.socket.settimeout(30)
        while until not in self.held:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                sys.exit(f"ejabberd does not say {until!r}: {self.held[-500:]!r}")
            if not data:
                sys.exit(f"ejabberd has closed a connection: {self.held[-500:]}")
            self.held += data.decode(errors="replace")
            if "failure" in self.held or "<stream:error" in self.held:
                sys.exit(f"ejabberd refuses: {self.held[-500:]}")
        before, self.held = self.held.split(until, 1)
        return before

    def join(self, room):
        self.ask(f"<presence to='{room}@rooms.localhost/{self.name}'>"
                 "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>",
                 "code='110'")

    def unlock(self, room):
        """A new room opens when its maker has accepted its configuration (XEP-0045 §10.1.2)."""
        self.ask(f"<iq type='set' id='u' to='{room}@rooms.localhost'>"
                 "<query xmlns='http://jabber.org/protocol/muc#owner'>"
                 "<x xmlns='jabber:x:data' type='submit'/></query></iq>", "id='u'")


def measure(size, ejabberd, postgres):
    room = f"room{size}"
    members = []
    for number in range(size):
        member = Member(ejabberd.port, f"member{size}x{number}")
        member.join(room)
        if number == 0:
            member.unlock(room)
        members.append(member)
    time.sleep(2)
    rounds = 60
    spent, latencies = {"ejabberd": [], "PostgreSQL": []}, []
    servers = {"ejabberd": ejabberd.processes, "PostgreSQL": postgres.processes}
    for number in range(WARM_UP + rounds):
        mark = f"m{number:06}-{secrets.token_hex(4)}"
        time.sleep(SETTLED_S)
        before = {name: cpu_us(processes()) for name, processes in servers.items()}
        began = time.monotonic()
        members[0].send(f"<message type='groupchat' id='{mark}' to='{room}@rooms.localhost'>"
                        f"<body>{BODY}</body></message>")
        for member in members[1:]:
            member.wait(mark)
            if number >= WARM_UP:
                latencies.append((time.monotonic() - began) * 1e3)
        members[0].wait(mark)
        time.sleep(SETTLED_S)
        if number >= WARM_UP:
            for name, processes in servers.items():
                spent[name].append(cpu_us(processes()) - before[name])
    recipients = size - 1
    say(f"\nn = {size:<36} {'us a message':>12} {'a recipient':>12}")
    both = [sum(pair) for pair in zip(*spent.values())]
    for name, figures in [("both", both), *spent.items()]:
        middle = statistics.median(figures)
        say(f"{name:<40} {middle:>12.0f} {middle / recipients:>12.0f}")
    latencies.sort()
    p50, p99 = (latencies[len(latencies) * part // 100] for part in (50, 99))
    say(f"{'latency, ms: p50, p99':<40} {p50:>12.1f} {p99:>12.1f}")
    for member in members:
        member.socket.close()


def main():
    work = pathlib.Path(tempfile.mkdtemp(prefix="compare-"))
    postgres = ejabberd = None
    try:
        usr = unpack(work)
        postgres = Postgres()
        postgres.psql("-f", usr / "share/ejabberd/sql/pg.sql")
        ejabberd = Ejabberd(usr, work, postgres)
        for size in SIZES:
            measure(size, ejabberd, postgres)
        count = postgres.psql("-Atc", "SELECT count(*) FROM archive").strip()
        say(f"\nmessages in the archive: {count}")
    finally:
        if ejabberd:
            ejabberd.stop()
        if postgres:
            postgres.stop()
        shutil.rmtree(work, ignore_errors=True)


main()
