"""Where credentials are sent, by the real command against a listener that records every byte of every request."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from typer.main import get_command

from batch.cli.app import app
from tests.conftest import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Planted

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCE: Final = "000000000001" + "4aaa8" + "000000000000001"
COMMANDS: Final = (
    ("run", "job.yaml"),
    ("retry", "job.yaml"),
    ("plan", "job.yaml"),
    ("plan", "job.yaml", "-o", "curl"),
    ("plan", "job.yaml", "--server-check"),
    ("doctor", "job.yaml"),
)
COMMANDS_BY_NAME: Final[dict[str, Any]] = dict(get_command(app).commands)  # type: ignore[attr-defined]
HOW: Final = ("session", "account", "key", "file", "env", "credential")
ids = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


@dataclass
class Listener:
    """Its address, and everything it received: request lines, heads and bodies."""

    url: str = ""
    came: list[str] = field(default_factory=list)
    at_first: Callable[[], None] = lambda: None


@contextmanager
def listening(*, by_tls: bool = False) -> Iterator[Listener]:
    """Answer like an ignorant server, and record; ``by_tls`` with a certificate of an unknown authority."""
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            if not found.came:
                found.at_first()
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            found.came.append(f"{self.requestline}\n{self.headers}\n{body}")
            refused = {"error": {"code": "SYS.1007", "details": "no"}}
            content = {"PUT": {"version": "5.3.46"}, "POST": refused}.get(self.command, {"inventories": []})
            data = json.dumps(content).encode()
            self.send_response(503 if self.command == "POST" else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the base class asks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if by_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    found.url = f"http{'s' * by_tls}://127.0.0.1:{server.server_port}/zstack"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_job(folder: Path, endpoint: dict[str, object]) -> None:
    job = {"version": 1, "name": "whose", "endpoint": endpoint, "targets": [SOURCE]}
    (folder / "job.yaml").write_text(json.dumps(job), encoding="utf-8")


def keep(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def got(server: Listener, secret: str) -> bool:
    return any(secret in request for request in server.came)


@pytest.mark.parametrize(
    ("command", "how"),
    [*((command, "session") for command in COMMANDS), *((("plan", "job.yaml"), how) for how in HOW[1:])],
    ids=str,
)
def test_a_job_files_url_gets_none_of_the_operators_credentials(
    command: tuple[str, ...], how: str, zclone: Run, tmp_path: Path, planted: Planted
) -> None:
    """No credentials of environment, {env: ZSTACK_…} or a service's folder: exit 2 names the flag, no byte is sent."""
    own = keep(tmp_path / "credentials" / "session.secret", planted.session)
    env = {
        "session": {"ZSTACK_SESSION_ID": planted.session},
        "account": {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": planted.password},
        "key": {"ZSTACK_ACCESS_KEY_ID": "AKID", "ZSTACK_ACCESS_KEY_SECRET": planted.key_secret},
        "file": {"ZSTACK_SESSION_ID_FILE": str(own)},
        "env": {"ZSTACK_OTHER": planted.session},
        "credential": {"CREDENTIALS_DIRECTORY": str(own.parent)},
    }[how]
    auth = {
        "env": {"auth": {"session": {"env": "ZSTACK_OTHER"}}},
        "credential": {"auth": {"session": {"file": str(own)}}},
    }
    with listening() as server:
        write_job(tmp_path, {"url": server.url, **auth.get(how, {})})
        done = zclone(*command, env=env)
        assert server.came == []
    assert done.returncode == 2, done.stderr
    assert f"--trust-endpoint {server.url}" in done.stdout + done.stderr
    assert "ZCLONE_TRUST_ENDPOINT" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.manifest.jsonl"))


@pytest.mark.parametrize(
    ("command", "by"),
    [
        (("run", "job.yaml"), "flag"),
        (("doctor", "job.yaml"), "variable"),
        (("plan", "job.yaml"), "ZSTACK_API_URL"),
        (("plan", "job.yaml", "--server-check"), "ZSTACK_HOST"),
    ],
    ids=str,
)
def test_a_trusted_url_of_a_job_file_gets_the_credentials(
    command: tuple[str, ...], by: str, zclone: Run, tmp_path: Path, planted: Planted
) -> None:
    """With --trust-endpoint, its variable, or the same url in a setting, the session goes to the job's url."""
    with listening() as server:
        write_job(tmp_path, {"url": server.url})
        host, port = server.url.removeprefix("http://").removesuffix("/zstack").split(":")
        env = {
            "variable": {"ZCLONE_TRUST_ENDPOINT": server.url},
            "ZSTACK_API_URL": {"ZSTACK_API_URL": server.url.removesuffix("/zstack")},
            "ZSTACK_HOST": {"ZSTACK_HOST": host, "ZSTACK_PORT": port},
        }.get(by, {})
        flag = ["--trust-endpoint", server.url.removesuffix("/zstack")] if by == "flag" else []
        done = zclone(*command, *flag, env=env | {"ZSTACK_SESSION_ID": planted.session})
        assert got(server, f"OAuth {planted.session}"), done.stdout + done.stderr
    assert "--trust-endpoint" not in done.stderr


def test_trust_applies_to_one_endpoint(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """--trust-endpoint is about one url: for another, also another port, nothing is sent."""
    with listening() as server, listening() as other:
        write_job(tmp_path, {"url": server.url})
        env = {"ZSTACK_SESSION_ID": planted.session}
        assert zclone("plan", "job.yaml", "--trust-endpoint", other.url, env=env).returncode == 2
        assert server.came == other.came == []


@ids
def test_a_job_files_own_credentials_go_to_its_url(
    command: tuple[str, ...], zclone: Run, tmp_path: Path, planted: Planted
) -> None:
    """A secret's file below the job's folder is the job's own; the operator's session is still not sent."""
    keep(tmp_path / "sub" / "own.secret", "0123456789abcdef" * 2)
    with listening() as server:
        write_job(tmp_path, {"url": server.url, "auth": {"session": {"file": "sub/own.secret"}}})
        done = zclone(*command, env={"ZSTACK_SESSION_ID": planted.session})
        is_shell = "curl" in command
        assert bool(server.came) is not (is_shell or command[0] == "retry")
        assert not got(server, planted.session)
    assert "ZSTACK_SESSION_ID" in done.stdout + done.stderr


@pytest.mark.parametrize("what", ["variable", "absolute", "parent", "link", "job folder's look-alike"])
def test_a_job_file_reaches_no_other_secret(what: str, zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """Other variables and files outside the job's folder are refused, at any endpoint: no byte is sent."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    private = keep(tmp_path / "jobs-private" / "key.secret", planted.key_secret)
    (folder / "link.secret").symlink_to(private)
    ref = {
        "variable": {"env": "AWS_SECRET_ACCESS_KEY"},
        "absolute": {"file": str(private)},
        "parent": {"file": "../jobs-private/key.secret"},
        "link": {"file": "link.secret"},
        "job folder's look-alike": {"file": f"{folder}-private/key.secret"},
    }[what]
    with listening() as server:
        write_job(folder, {"url": server.url, "auth": {"session": ref}})
        for command in (("run", "job.yaml"), ("doctor", "job.yaml")):
            trust = ["--trust-endpoint", server.url]
            done = zclone(*command, *trust, cwd=folder, env={"AWS_SECRET_ACCESS_KEY": planted.key_secret})
            assert done.returncode == 2, done.stdout + done.stderr
            assert server.came == []


def test_a_contexts_credentials_stay_at_its_own_endpoint(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """The current context's session goes to its own endpoint, also if a job file names that, and to no other."""
    with listening() as lab, listening() as other:
        text = f"current-context: lab\ncontexts:\n  lab: {{endpoint: '{lab.url}', session_uuid: {planted.session}}}\n"
        env = {"ZSTACK_CONFIG": str(keep(tmp_path / "config.secret", text))}
        write_job(tmp_path, {"url": other.url})
        zclone("plan", "job.yaml", env=env)
        assert (lab.came, other.came) == ([], [])
        write_job(tmp_path, {"url": lab.url})
        zclone("plan", "job.yaml", env=env)
        assert got(lab, planted.session)


@pytest.mark.parametrize(
    "command", [("run", "job.yaml"), ("plan", "job.yaml"), ("doctor",), ("discover",)], ids=" ".join
)
def test_an_unchecked_transport_is_reported_before_the_first_byte(
    command: tuple[str, ...], child_env: dict[str, str], tmp_path: Path, planted: Planted
) -> None:
    """stderr or stdout says that the certificate is not checked when the first request arrives."""
    seen: list[str] = []
    with listening(by_tls=True) as server, (tmp_path / "err").open("wb") as err:
        write_job(tmp_path, {})
        server.at_first = lambda: seen.append((tmp_path / "err").read_text(encoding="utf-8"))
        env = child_env | {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        line = [sys.executable, "-m", "batch", *command, "--insecure"]
        subprocess.run(line, cwd=tmp_path, env=env, stdout=err, stderr=err, timeout=60, check=False)
    assert "certificate is NOT checked" in seen[0]


def test_a_job_files_tls_settings_count_for_its_own_url_only(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """For the operator's endpoint a job's ca_file and insecure do not count: one line each names --ca-file."""
    (tmp_path / "ca.pem").touch()
    with listening() as server:
        write_job(tmp_path, {"ca_file": "ca.pem", "insecure": "true"})
        env = {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        done = zclone("plan", "job.yaml", env=env)
    warnings = [line for line in done.stderr.splitlines() if "is ignored" in line]
    assert len(warnings) == 2
    assert all("--ca-file" in line for line in warnings)
    assert "NOT checked" not in done.stderr


@pytest.mark.parametrize("command", ["run", "retry", "plan", "doctor", "discover"])
def test_every_command_that_connects_takes_a_ca_file(command: str) -> None:
    """Each of them has --ca-file and ZCLONE_CA_FILE, and each that takes a job file has --trust-endpoint."""
    flags = {flag for param in COMMANDS_BY_NAME[command].params for flag in param.opts}
    assert {"--ca-file", "--insecure"} <= flags
    assert ("--trust-endpoint" in flags) is (command != "discover")


def test_an_invalid_ca_file_exits_before_any_byte(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """Flag and variable are read, and have to name a file."""
    with listening() as server:
        env = {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        assert "none.pem" in zclone("doctor", "--ca-file", "none.pem", env=env).stdout
        assert "none.pem" in zclone("discover", env=env | {"ZCLONE_CA_FILE": "none.pem"}).stderr
        assert server.came == []


def test_a_pipe_as_config_is_refused(zclone: Run, tmp_path: Path) -> None:
    """A FIFO as ZSTACK_CONFIG hangs nothing: exit 2 names it."""
    os.mkfifo(tmp_path / "config.yaml")
    done = zclone("doctor", env={"ZSTACK_CONFIG": str(tmp_path / "config.yaml")})
    assert done.returncode == 2
    assert "config.yaml: cannot be used: is not a regular file" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_config_of_another_user_is_reported(zclone: Run, tmp_path: Path) -> None:
    """The owner of zstack-cli's config decides where calls go: users other than root and oneself are reported."""
    with listening() as server:
        text = f"current-context: a\ncontexts:\n  a: {{endpoint: '{server.url}', session_uuid: '0123'}}\n"
        path = keep(tmp_path / "config.secret", text)
        os.chown(path, 12345, -1)
        output = zclone("doctor", env={"ZSTACK_CONFIG": str(path)}).stdout
        assert "belongs to another user (12345)" in output
        os.chown(path, 0, -1)
        assert "another user" not in zclone("doctor", env={"ZSTACK_CONFIG": str(path)}).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_printed_command_shows_no_header_to_ps(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """The commands of ``plan -o curl`` give the session to curl on stdin, not as an argument."""
    write_job(tmp_path, {})
    fake = tmp_path / "bin" / "curl"
    keep(fake, '#!/bin/sh\nprintf "%s\\n" "$@" >"$OUT.arguments"\ncat >"$OUT.input.secret"\n').chmod(0o700)
    with listening() as server:
        printed = zclone("plan", "job.yaml", "-o", "curl", env={"ZSTACK_API_URL": server.url}).stdout
    env = os.environ | {"ZSTACK_SESSION_ID": planted.session, "OUT": str(tmp_path / "out")}
    env["PATH"] = f"{fake.parent}:{env['PATH']}"
    subprocess.run(["/bin/sh", "-eu", "-c", printed], env=env, check=True, timeout=90)
    assert not leaks((tmp_path / "out.arguments").read_bytes())
    assert planted.session in (tmp_path / "out.input.secret").read_text(encoding="utf-8")


def test_every_command_redacts_its_credentials(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """What a server quotes of the session is redacted by each command that calls it, on stdout too."""
    write_job(tmp_path, {})

    class EchoServer(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            quoted = self.headers.get("Authorization", "")
            service = {"uuid": SOURCE, "name": quoted}
            answer = {"version": "5.3.46", "inventories": [service], "total": 1}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the base class asks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), EchoServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        env = {"ZSTACK_API_URL": f"http://127.0.0.1:{server.server_port}", "ZSTACK_SESSION_ID": planted.session}
        for command in (("discover",), ("doctor",), ("plan", "job.yaml"), ("plan", "job.yaml", "-o", "json")):
            done = zclone(*command, env=env)
            assert not leaks((done.stdout + done.stderr).encode()), command
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
