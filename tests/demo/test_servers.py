"""The servers start, can be hurt, come back, and are gone with us whatever happens."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurechaos.clock import SystemClock
from featurechaos.demo.process import HeldPort, Server, ServerFailed
from featurechaos.demo.programs import valkey_binary
from featurechaos.demo.proxy import TrickleProxy
from featurechaos.demo.servers import S3Server, SeaweedServer, ValkeyServer
from featurechaos.demo.tempdir import TempDir, sweep
from featurechaos.errors import RequestError

pytestmark = pytest.mark.live

NOW = SystemClock().monotonic
WAIT_MOST_S = 20.0
SILENCE_S = 0.15


def ask(port: int, command: str = "PING", *, wait_s: float = 5.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), wait_s) as connection:
        return say(connection, command, wait_s=wait_s)


def say(connection: socket.socket, command: str, *, wait_s: float = 5.0) -> bytes:
    connection.settimeout(wait_s)
    connection.sendall(command.encode() + b"\r\n")
    reply = b""
    while not reply.endswith(b"\r\n"):
        if not (piece := connection.recv(4096)):
            break
        reply += piece
    return reply


def is_dead(pid: int) -> bool:
    """Gone, or a zombie that whoever adopted it has not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def die_within(pid: int, limit_s: float = WAIT_MOST_S) -> bool:
    until = NOW() + limit_s
    while not is_dead(pid) and NOW() < until:
        select.select([], [], [], 0.005)
    return is_dead(pid)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[TrickleProxy]:
    with TrickleProxy(valkey.port) as server:
        yield server


def test_a_killed_valkey_refuses_and_comes_back_empty_on_its_port() -> None:
    with ValkeyServer() as server:
        port, first = server.port, server.pid
        ask(port, "SET a 1")

        server.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(port)
        server.restart()

        assert server.port == port
        assert server.pid != first
        assert ask(port, "GET a") == b"$-1\r\n"


def test_a_valkey_that_keeps_its_data_has_it_after_a_kill() -> None:
    with ValkeyServer(keeps_data=True) as server:
        ask(server.port, "SET a 1")

        server.restart()

        assert ask(server.port, "GET a") == b"$1\r\n1\r\n"


def test_a_frozen_valkey_accepts_and_answers_once_thawed(valkey: ValkeyServer) -> None:
    valkey.freeze()
    with socket.create_connection(("127.0.0.1", valkey.port)) as connection:
        with pytest.raises(TimeoutError):
            say(connection, "PING", wait_s=SILENCE_S)
        valkey.thaw()

        assert connection.recv(64) == b"+PONG\r\n"


def test_stop_ends_a_frozen_server_at_once_and_removes_its_folder() -> None:
    server = ValkeyServer().start()
    pid, folder = server.pid, server.folder
    server.freeze()

    began = NOW()
    server.stop()
    server.stop()

    assert NOW() - began < 2
    assert is_dead(pid)
    assert not folder.exists()
    assert not server.is_running


def test_password_acl_and_socket_file_are_in_force_and_nowhere_to_be_seen() -> None:
    secret = 'p"w x'
    with ValkeyServer(password=secret, acl=["reader on >sesame ~* +get"], unixsocket=True) as server:
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(server.unixsocket_path))

            assert say(connection, "PING").startswith(b"-NOAUTH")
            assert say(connection, "AUTH reader sesame") == b"+OK\r\n"
            assert say(connection, "SET a 1").startswith(b"-NOPERM")
            assert say(connection, r'AUTH "p\"w x"') == b"+OK\r\n"
        assert server.url == f"redis://:p%22w%20x@127.0.0.1:{server.port}/0"
        assert secret.encode() not in arguments
        assert b"sesame" not in arguments
        assert secret not in repr(server)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = ValkeyServer(extra=["--no-such-option", "1"])

    with pytest.raises(ServerFailed, match=r"(?s)Valkey ended with code 1 instead of starting.*no-such-option"):
        server.start()

    assert not server.is_running
    with pytest.raises(ServerFailed, match="is not started"):
        _ = server.folder


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerFailed, match="wanted at /nowhere/valkey-server"):
        ValkeyServer(binary="/nowhere/valkey-server").start()


def test_an_explicit_program_is_used() -> None:
    with ValkeyServer(binary=valkey_binary()) as server:
        assert Path(f"/proc/{server.pid}/exe").resolve() == valkey_binary().resolve()


def test_signals_to_a_stopped_server_are_refused_in_one_sentence() -> None:
    server = ValkeyServer()

    with pytest.raises(ServerFailed, match="Valkey is not running, so SIGSTOP has no one to go to"):
        server.freeze()
    with pytest.raises(ServerFailed, match="never started"):
        _ = server.pid


def test_starting_twice_is_refused(valkey: ValkeyServer) -> None:
    with pytest.raises(ServerFailed, match=f"already running, with pid {valkey.pid}"):
        valkey.start()


def test_the_port_of_a_killed_server_goes_to_nobody_else() -> None:
    with ValkeyServer() as server:
        server.kill()

        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))


def test_held_ports_differ() -> None:
    ports = [HeldPort() for _ in range(200)]
    numbers = {port.number for port in ports}
    for port in ports:
        port.close()

    assert len(numbers) == 200


def test_a_server_outlives_the_thread_that_started_it() -> None:
    server = ValkeyServer()
    worker = threading.Thread(target=server.start)
    worker.start()
    worker.join()

    try:
        assert not die_within(server.pid, 0.2)
        assert ask(server.port) == b"+PONG\r\n"
    finally:
        server.stop()


PARENT = """
import sys, os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` hands on that it is ignored
from featurechaos.demo.servers import ValkeyServer
from featurechaos.demo.proxy import TrickleProxy
server = ValkeyServer().start()
proxy = TrickleProxy(server.port).start()
server.freeze()
print(server.pid, proxy.pid, server.folder, flush=True)
END
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go in this test, so that sweeping meets nobody else's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def parent(end: str, folders: Path) -> tuple[subprocess.Popen[str], list[int], Path]:
    """A process that has started two servers, one of them frozen, and then does `end`."""
    command = [sys.executable, "-c", PARENT.replace("END", end)]
    env = {**os.environ, "TMPDIR": str(folders)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert process.stdout is not None
    first, second, folder = process.stdout.readline().split()
    return process, [int(first), int(second)], Path(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_servers_die_with_a_parent_that_is_killed(number: signal.Signals, folders: Path) -> None:
    process, pids, folder = parent("time.sleep(60)", folders)
    with process:
        process.send_signal(number)
        process.wait(WAIT_MOST_S)

        assert [die_within(pid) for pid in pids] == [True, True]
    cleaned_up = number is signal.SIGINT
    assert folder.exists() is not cleaned_up
    sweep(older_than_s=0)
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("end", ["sys.exit(3)", "raise RuntimeError", "os.abort()", "pass"])
def test_servers_die_with_a_parent_that_ends(end: str, folders: Path) -> None:
    process, pids, folder = parent(end, folders)
    with process:
        process.wait(WAIT_MOST_S)

        assert [die_within(pid) for pid in pids] == [True, True]
    had_time = end != "os.abort()"
    assert folder.exists() is not had_time


def test_a_forked_child_that_ends_leaves_its_parents_servers_alone(folders: Path) -> None:
    fork = """
pid = os.fork()
if not pid:
    server.stop()
    sys.exit(0)
os.waitpid(pid, 0)
server.thaw()
print("still", server.is_running, flush=True)
"""
    process, pids, _ = parent(fork, folders)
    with process:
        out, _err = process.communicate(timeout=WAIT_MOST_S)

    assert out.split() == ["still", "True"]
    assert [die_within(pid) for pid in pids] == [True, True]


def test_sweep_leaves_a_folder_that_is_in_use(folders: Path) -> None:
    ours = TempDir()

    swept = sweep(older_than_s=0)

    assert ours.path not in swept
    assert ours.path.exists()
    ours.close()
    assert not ours.path.exists()


def test_the_proxy_passes_bytes_through(proxy: TrickleProxy) -> None:
    value = bytes(199_999) + b"x"
    assert ask(proxy.port, "SETRANGE big 199999 x") == b":200000\r\n"

    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"GET big\r\n")
        got = b""
        while len(got) < len(value) + 11:
            got += connection.recv(1 << 16)

    assert got == b"$200000\r\n" + value + b"\r\n"


def test_a_trickle_sends_one_byte_at_a_time_on_open_connections(proxy: TrickleProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        assert say(connection, "PING") == b"+PONG\r\n"

        proxy.turn("trickle", every_s=0.02)
        began = NOW()
        reply = say(connection, "PING")
        took_s = NOW() - began

        assert reply == b"+PONG\r\n"
        assert took_s >= 6 * 0.02


def test_a_trickle_ends_at_once_when_told(proxy: TrickleProxy) -> None:
    proxy.turn("trickle", every_s=1)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+"

        proxy.turn("pass")
        began = NOW()

        assert connection.recv(64) == b"PONG\r\n"
        assert NOW() - began < 0.9


def test_a_hang_answers_once_it_is_over(proxy: TrickleProxy) -> None:
    proxy.turn("hang")
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        with pytest.raises(TimeoutError):
            say(connection, "PING", wait_s=SILENCE_S)

        proxy.turn("pass")
        connection.settimeout(5)

        assert connection.recv(64) == b"+PONG\r\n"


def test_a_reset_hits_open_and_new_connections(proxy: TrickleProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as connection:
        assert say(connection, "PING") == b"+PONG\r\n"
        proxy.turn("reset")

        with pytest.raises(ConnectionResetError):
            connection.recv(64)
    with pytest.raises(ConnectionResetError):
        ask(proxy.port)
    proxy.turn("pass")
    assert ask(proxy.port) == b"+PONG\r\n"


def test_a_proxy_before_a_dead_server_resets_and_recovers() -> None:
    with ValkeyServer() as server, TrickleProxy(server.port) as proxy:
        server.kill()
        with pytest.raises(ConnectionResetError):
            ask(proxy.port)

        server.restart()

        assert ask(proxy.port) == b"+PONG\r\n"


def test_a_restarted_proxy_has_its_port_and_passes(proxy: TrickleProxy) -> None:
    port = proxy.port
    proxy.turn("hang")

    proxy.restart()

    assert (proxy.port, proxy.mode) == (port, "pass")
    assert ask(port) == b"+PONG\r\n"


def test_a_proxy_refuses_what_it_cannot_do(proxy: TrickleProxy) -> None:
    with pytest.raises(RequestError, match="one of pass, trickle, hang, reset, got 'slow'"):
        proxy.turn("slow")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="every_s wants seconds within 0 and 1, got 0"):
        proxy.turn("trickle", every_s=0)
    proxy.kill()
    with pytest.raises(ServerFailed, match="not running"):
        proxy.turn("pass")


def the_s3_face(server: S3Server | SeaweedServer) -> None:
    client = server.client()
    client.put_object(Bucket="features", Key="k", Body=b"one", IfNoneMatch="*")
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="features", Key="k", Body=b"two", IfNoneMatch="*")

    assert client.get_object(Bucket="features", Key="k")["Body"].read() == b"one"

    client.close()
    server.freeze()
    with socket.create_connection(("127.0.0.1", server.port)) as connection, pytest.raises(TimeoutError):
        say(connection, "GET / HTTP/1.0\r\n", wait_s=SILENCE_S)
    server.thaw()
    server.restart()
    client = server.client()
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["features"]
    client.close()


def test_moto_as_an_s3_server() -> None:
    with S3Server(buckets=["features"]) as server:
        the_s3_face(server)


def test_seaweed_as_an_s3_server_that_checks_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    with SeaweedServer(buckets=["features"]) as server:
        the_s3_face(server)
        monkeypatch.setattr(SeaweedServer, "secret_key", "wrong")
        client = server.client()

        with pytest.raises(client.exceptions.ClientError, match="SignatureDoesNotMatch"):
            client.list_buckets()

        client.close()
        ports = [port.number for port in server._ports.values()]
    assert not [port for port in ports for _ in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


@pytest.mark.parametrize("kind", [S3Server, SeaweedServer])
def test_credentials_are_the_environment_of_boto3(kind: type[S3Server | SeaweedServer]) -> None:
    credentials = kind().credentials()

    assert credentials["AWS_ACCESS_KEY_ID"] == kind.access_key
    assert credentials["AWS_SECRET_ACCESS_KEY"] == kind.secret_key
    assert credentials["AWS_DEFAULT_REGION"] == kind.region


def test_an_interrupted_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Server) -> bool:
        raise KeyboardInterrupt

    server = ValkeyServer()
    monkeypatch.setattr(ValkeyServer, "_is_ready", interrupted)

    with pytest.raises(KeyboardInterrupt):
        server.start()

    assert is_dead(server.pid)
    assert os.getpid() != server.pid
