"""Settings: CONTRACT section 5, over an environ mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.errors import UsageError
from batch.jobfile.job import AuthSettings, EndpointSettings, SecretRef
from batch.settings.files import read_config
from batch.settings.reader import SettingsResult, read_settings
from batch.settings.sources import NAMES, EndpointOptions, unknown_names
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, endpoint_url, is_link_local

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

URL = {"ZSTACK_API_URL": "http://zs:8080"}
SESSION = {"ZSTACK_SESSION_ID": "abc"}
BASE = URL | SESSION


def read(**environ: str) -> SettingsResult:
    return read_settings(EndpointOptions(environ))


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"ZSTACK_API_URL": "https://zs.example.com:8443/zstack"}, "https://zs.example.com:8443/zstack"),
        ({"ZSTACK_ENDPOINT": "http://zs:8080/"}, "http://zs:8080/zstack"),
        ({"ZSTACK_HOST": "10.0.0.1"}, "http://10.0.0.1:8080/zstack"),
        ({"ZSTACK_HOST": "10.0.0.1", "ZSTACK_PORT": "5000"}, "http://10.0.0.1:5000/zstack"),
        ({"ZSTACK_HOST": "fd00::1"}, "http://[fd00::1]:8080/zstack"),
        ({"ZSTACK_API_URL": "http://10.0.0.1:8080", "ZSTACK_HOST": "10.0.0.1"}, "http://10.0.0.1:8080/zstack"),
        ({"ZSTACK_API_URL": "", "ZSTACK_ENDPOINT": "http://zs:8080/zstack/"}, "http://zs:8080/zstack"),
    ],
)
def test_endpoint_names(environ: dict[str, str], url: str) -> None:
    """The endpoint is read from the first of its names that is set, with or without the context path."""
    assert read(**environ, **SESSION).settings.url == url


@pytest.mark.parametrize(
    ("environ", "auth"),
    [
        ({"ZSTACK_SESSION_ID": "s"}, SessionAuth("s")),
        ({"ZSTACK_ACCESS_KEY_ID": "i", "ZSTACK_ACCESS_KEY_SECRET": "k"}, AccessKeyAuth("i", "k")),
        ({"ZSTACK_ACCOUNT": "a", "ZSTACK_PASSWORD": "p"}, PasswordAuth("a", "p")),
        ({"ZSTACK_ACCOUNT_NAME": "a", "ZSTACK_ACCOUNT_PASSWORD": "p"}, PasswordAuth("a", "p")),
        ({"ZSTACK_ACCOUNT": "a", "ZSTACK_ACCOUNT_NAME": "a", "ZSTACK_PASSWORD": "p"}, PasswordAuth("a", "p")),
    ],
)
def test_credentials_names(environ: dict[str, str], auth: Auth) -> None:
    """Credentials are read under all their names."""
    assert read(**environ, **URL).settings.auth == auth


@pytest.mark.parametrize(
    "name",
    [
        "ZSTACK_SESSION_ID",
        "ZSTACK_ACCESS_KEY_ID",
        "ZSTACK_ACCESS_KEY_SECRET",
        "ZSTACK_PASSWORD",
        "ZSTACK_ACCOUNT_PASSWORD",
    ],
)
def test_secret_files(name: str, tmp_path: Path) -> None:
    """Every secret is also read from the file its _FILE twin names, without the line break at its end."""
    values = {
        "ZSTACK_SESSION_ID": {},
        "ZSTACK_ACCESS_KEY_ID": {"ZSTACK_ACCESS_KEY_SECRET": "x"},
        "ZSTACK_ACCESS_KEY_SECRET": {"ZSTACK_ACCESS_KEY_ID": "x"},
        "ZSTACK_PASSWORD": {"ZSTACK_ACCOUNT": "x"},
        "ZSTACK_ACCOUNT_PASSWORD": {"ZSTACK_ACCOUNT": "x"},
    }
    path = tmp_path / "s.secret"
    path.write_bytes(b"from-file\r\n")
    path.chmod(0o600)
    by_file = read(**URL, **values[name], **{f"{name}_FILE": str(path)}).settings
    assert by_file == read(**URL, **values[name], **{name: "from-file"}).settings


@pytest.mark.parametrize(
    ("environ", "first", "second"),
    [
        ({"ZSTACK_API_URL": "http://a:1", "ZSTACK_ENDPOINT": "http://b:1"}, "ZSTACK_API_URL", "ZSTACK_ENDPOINT"),
        ({"ZSTACK_API_URL": "http://a:8080", "ZSTACK_HOST": "b"}, "ZSTACK_API_URL", "ZSTACK_HOST"),
        ({"ZSTACK_ACCOUNT": "a", "ZSTACK_ACCOUNT_NAME": "b"}, "ZSTACK_ACCOUNT", "ZSTACK_ACCOUNT_NAME"),
        (
            {"ZSTACK_PASSWORD": "s3cr3t1", "ZSTACK_ACCOUNT_PASSWORD": "s3cr3t2"},
            "ZSTACK_PASSWORD",
            "ZSTACK_ACCOUNT_PASSWORD",
        ),
    ],
)
def test_disagreement_names_both(environ: dict[str, str], first: str, second: str) -> None:
    """Two names with different values are an error that names both and shows no value."""
    with pytest.raises(UsageError, match=f"{first} and {second} disagree") as caught:
        read(**environ)
    assert "s3cr3t" not in str(caught.value)


def test_variable_and_file_disagree(tmp_path: Path) -> None:
    """A secret and its file with different values are an error naming both; equal values are accepted."""
    path = tmp_path / "s.secret"
    path.write_text("abc\n")
    path.chmod(0o600)
    assert read(**BASE, ZSTACK_SESSION_ID_FILE=str(path)).settings.auth == SessionAuth("abc")
    path.write_text("other")
    with pytest.raises(UsageError, match="ZSTACK_SESSION_ID and ZSTACK_SESSION_ID_FILE disagree"):
        read(**BASE, ZSTACK_SESSION_ID_FILE=str(path))


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff", b"x" * 70_000])
def test_unusable_secret_file(content: bytes | None, tmp_path: Path) -> None:
    """A secret's file that is missing, empty, not text or huge is reported with its setting."""
    path = tmp_path / "s.secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(UsageError, match=r"ZSTACK_SESSION_ID_FILE: .*s\.secret"):
        read(**URL, ZSTACK_SESSION_ID_FILE=str(path))


@pytest.mark.parametrize(
    ("value", "warning"),
    [
        ("abc\n", "a line break at the end"),
        ("abc\r\n\n", "a line break at the end"),
        ("\ufeffabc", "a byte order mark at the start"),
        ("\ufeffabc\n", "a byte order mark at the start"),
    ],
)
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("ZSTACK_SESSION_ID", {}),
        ("ZSTACK_ACCESS_KEY_ID", {"ZSTACK_ACCESS_KEY_SECRET": "x"}),
        ("ZSTACK_ACCESS_KEY_SECRET", {"ZSTACK_ACCESS_KEY_ID": "x"}),
        ("ZSTACK_PASSWORD", {"ZSTACK_ACCOUNT": "x"}),
    ],
)
def test_a_secret_with_a_line_break_or_a_mark(
    name: str, others: dict[str, str], value: str, warning: str, tmp_path: Path
) -> None:
    """A line break at a secret's end and a byte order mark at its start are removed with a warning."""
    clean = read(**URL, **others, **{name: "abc"})
    found = read(**URL, **others, **{name: value})
    assert found.settings == clean.settings
    assert [text for text in found.warnings if text.startswith(f"{name}: {warning}")]
    assert not clean.warnings
    path = tmp_path / "s.secret"
    path.write_text(value, encoding="utf-8", newline="")
    path.chmod(0o600)
    by_file = read(**URL, **others, **{f"{name}_FILE": str(path)})
    assert by_file.settings == clean.settings
    # One line break at the end is how every editor ends a file.
    assert bool(by_file.warnings) == (value != "abc\n")


@pytest.mark.parametrize("value", ["\n", "\r\n", "\ufeff", "\ufeff\n"])
def test_a_secret_without_characters_is_an_error(value: str) -> None:
    """A secret that is empty after this is an error that names it."""
    with pytest.raises(UsageError, match="ZSTACK_SESSION_ID: is empty"):
        read(**URL, ZSTACK_SESSION_ID=value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ZCLONE_LOGFILE", "did you mean ZCLONE_LOG_FILE?"),
        ("ZCLONE_RATES", "did you mean ZCLONE_RATE?"),
        ("ZCLONE_PING", ""),
        ("ZCLONE_XYZ", ""),
    ],
)
def test_an_unknown_flag_in_the_environment_is_warned_of(name: str, hint: str, zclone: Run) -> None:
    """A ZCLONE_* variable that is no flag of any command is warned of, with the most similar one."""
    done = zclone("schema", env={name: "s3cret", "ZCLONE_RATE": "1/s", "ZCLONE_PING_URL": "http://127.0.0.1:9"})
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "s3cret" in line] == []
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {name} is not a variable of zclone")
    assert line.endswith(hint)


def test_first_kind_of_credentials_wins() -> None:
    """A session goes before an AccessKey before an account; unused ones are reported."""
    found = read(
        **BASE, ZSTACK_ACCESS_KEY_ID="i", ZSTACK_ACCESS_KEY_SECRET="k", ZSTACK_ACCOUNT="a", ZSTACK_PASSWORD="p"
    )
    assert found.settings.auth == SessionAuth("abc")
    assert [warning.partition(" ")[0] for warning in found.warnings] == ["ZSTACK_ACCESS_KEY_ID", "ZSTACK_ACCOUNT"]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (SESSION, "no endpoint.*ZSTACK_API_URL"),
        (URL, "no credentials.*ZSTACK_SESSION_ID"),
        (URL | {"ZSTACK_ACCOUNT": "a"}, "ZSTACK_ACCOUNT is set, but ZSTACK_PASSWORD is not"),
        (URL | {"ZSTACK_PASSWORD": "a"}, "ZSTACK_PASSWORD is set, but ZSTACK_ACCOUNT is not"),
        (URL | {"ZSTACK_ACCESS_KEY_ID": "a"}, "ZSTACK_ACCESS_KEY_SECRET is not"),
        (URL | {"ZSTACK_SESSION_ID": "a\nb"}, "invalid in a header"),
        ({"ZSTACK_API_URL": "ftp://zs"} | SESSION, "ZSTACK_API_URL: .*http"),
        ({"ZSTACK_HOST": "zs/evil?"} | SESSION, "ZSTACK_HOST: "),
    ],
)
def test_missing_and_unusable(environ: dict[str, str], message: str) -> None:
    """Missing, incomplete or unusable settings are reported by name."""
    with pytest.raises(UsageError, match=message):
        read(**environ)


@pytest.mark.parametrize(
    "url",
    [
        "zs:8080",
        "file:///etc/passwd",
        "http://",
        "http://user:planted@zs/zstack",
        "http://zs/zstack?x=1",
        "http://zs/zstack#x",
        "http://zs/../x",
        "http://zs/a b",
        "http://zs/%2e%2e/x",
        "http://zs:99999",
        "http://zs\n.evil",
        "http://[::1/zstack",
        "http://zs:8080/zstack/v1",
        "",
    ],
)
def test_refused_endpoints(url: str) -> None:
    """An endpoint is http or https, host, port and a plain path, and nothing else."""
    with pytest.raises(UsageError) as caught:
        endpoint_url(url)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("HTTP://Zs.Example.com", "http://zs.example.com/zstack"),
        ("https://[fe80::1]:8443/zstack/", "https://[fe80::1]:8443/zstack"),
        ("http://169.254.169.254", "http://169.254.169.254/zstack"),
        ("https://gw/aios/zstack", "https://gw/aios/zstack"),
    ],
)
def test_accepted_endpoints(url: str, kept: str) -> None:
    """Addresses given literally are accepted, and another context path is kept."""
    assert endpoint_url(url) == kept


def test_link_local_addresses() -> None:
    """The addresses of the machine's own link are recognised in every spelling."""
    for address in ("169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254"):
        assert is_link_local(address)
    for address in ("10.0.0.1", "127.0.0.1", "::1", "no address"):
        assert not is_link_local(address)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ZSTACK_ACCOUN_TNAME", "ZSTACK_ACCOUNT_NAME"),
        ("ZSTACK_ACCOUNTP_ASSWORD", "ZSTACK_ACCOUNT_PASSWORD"),
        ("ZSTACK_SESSIONID", "ZSTACK_SESSION_ID"),
        ("ZSTACK_ALLOW_ALL_API", None),
    ],
)
def test_unknown_names(name: str, near: str | None) -> None:
    """An unknown ZSTACK_* variable is warned about, with the name that was probably meant."""
    (warning,) = unknown_names({name: "s3cr3t"})
    assert warning.startswith(name)
    assert "s3cr3t" not in warning
    assert (near is not None) == ("did you mean" in warning)
    assert near is None or near in warning


def test_known_names_are_not_warned_about() -> None:
    """No name that is read, nor one that a job file refers to, is called unknown."""
    job = EndpointSettings(auth=AuthSettings(session=SecretRef(env="ZSTACK_MY_OWN")))
    assert unknown_names(dict.fromkeys((*NAMES, "ZSTACK_MY_OWN", "PATH"), "x"), job) == ()


def test_job_file_is_below_the_environment(tmp_path: Path) -> None:
    """The job file's endpoint and credentials are used if the environment has none."""
    (tmp_path / "ca.pem").touch()
    auth = AuthSettings(account="a", password=SecretRef(file=own_secret(tmp_path)))
    job = EndpointSettings("https://job:8443", tmp_path / "ca.pem", insecure=False, auth=auth, folder=tmp_path)
    found = read_settings(EndpointOptions({}), job=job).settings
    assert (found.url, found.auth) == ("https://job:8443/zstack", PasswordAuth("a", "k"))
    assert found.ca_file == tmp_path / "ca.pem"
    over = read_settings(EndpointOptions(BASE, insecure=True), job=job).settings
    assert (over.url, over.auth, over.insecure) == ("http://zs:8080/zstack", SessionAuth("abc"), True)


def test_job_files_secrets(tmp_path: Path) -> None:
    """A job file's secrets come from the variable or the file it names, and a missing one is reported by name."""
    key = AuthSettings(access_key_id="i", access_key_secret=SecretRef(file=own_secret(tmp_path)))
    job = EndpointSettings("http://job", auth=key, folder=tmp_path)
    assert read_settings(EndpointOptions({}), job=job).settings.auth == AccessKeyAuth("i", "k")
    session = EndpointSettings(auth=AuthSettings(session=SecretRef(env="ZSTACK_MINE")))
    assert read_settings(EndpointOptions(URL | {"ZSTACK_MINE": "m"}), job=session).settings.auth == SessionAuth("m")
    with pytest.raises(UsageError, match="ZSTACK_MINE"):
        read_settings(EndpointOptions(URL), job=session)


def own_secret(folder: Path) -> Path:
    """Make a private file of a secret."""
    path = folder / "k.secret"
    path.write_text("k")
    path.chmod(0o600)
    return path


CONFIG = """
current-context: lab
contexts:
  lab: {endpoint: "http://lab:8080", username: admin, password: pw}
  prod: {endpoint: "https://prod:8443/zstack", session_uuid: 0123456789}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".zstack-cli").mkdir()
    (tmp_path / ".zstack-cli" / "config.yaml").write_text(CONFIG)
    return tmp_path


def test_contexts_of_zstack_cli(home: Path) -> None:
    """Without settings the current context of zstack-cli is used; a named one takes precedence."""
    environ = {"HOME": str(home)}
    current = read_settings(EndpointOptions(environ)).settings
    assert (current.url, current.auth) == ("http://lab:8080/zstack", PasswordAuth("admin", "pw"))
    named = read_settings(EndpointOptions(environ | BASE, context="prod")).settings
    assert (named.url, named.auth) == ("https://prod:8443/zstack", SessionAuth("0123456789"))
    assert read_settings(EndpointOptions(environ | BASE)).settings.auth == SessionAuth("abc")
    with pytest.raises(UsageError, match="has no context test; it has: lab, prod"):
        read_settings(EndpointOptions(environ, context="test"))


def test_a_contexts_credentials_stay_at_its_endpoint(home: Path) -> None:
    """A job file that names another endpoint does not get the context's credentials."""
    with pytest.raises(UsageError, match="no credentials"):
        read_settings(EndpointOptions({"HOME": str(home)}), job=EndpointSettings("http://evil:8080"))
    same = read_settings(EndpointOptions({"HOME": str(home)}), job=EndpointSettings("http://lab:8080/zstack"))
    assert same.settings.auth == PasswordAuth("admin", "pw")


def test_a_config_others_can_read_is_warned_about(home: Path) -> None:
    """A zstack-cli config that others on the machine can read is used with a warning, a private one without."""
    path = home / ".zstack-cli" / "config.yaml"
    path.chmod(0o644)
    (warning,) = read_settings(EndpointOptions({"HOME": str(home)})).warnings
    assert "chmod 600" in warning
    assert str(path) in warning
    assert "pw" not in warning
    assert read_settings(EndpointOptions({"HOME": str(home)} | BASE)).warnings == ()
    path.chmod(0o600)
    assert read_settings(EndpointOptions({"HOME": str(home)})).warnings == ()


def test_config_elsewhere(tmp_path: Path) -> None:
    """ZSTACK_CONFIG names another file, which must exist; contexts may be a list as well."""
    path = tmp_path / "zs.yaml"
    with pytest.raises(UsageError, match=r"zs\.yaml"):
        read_settings(EndpointOptions({"ZSTACK_CONFIG": str(path)}))
    path.write_text("current-context: a\ncontexts:\n- {name: a, endpoint: 'http://a:1', session_uuid: s}\n")
    assert read_settings(EndpointOptions({"ZSTACK_CONFIG": str(path)})).settings.auth == SessionAuth("s")
    path.write_text("a: [")
    with pytest.raises(UsageError, match=r"zs\.yaml:2:1"):
        read_config(path)


def test_nothing_shows_a_secret() -> None:
    """No repr of settings shows a secret."""
    for environ in (
        {"ZSTACK_SESSION_ID": "s3cr3t"},
        {"ZSTACK_ACCESS_KEY_ID": "i", "ZSTACK_ACCESS_KEY_SECRET": "s3cr3t"},
        {"ZSTACK_ACCOUNT": "a", "ZSTACK_PASSWORD": "s3cr3t"},
    ):
        assert "s3cr3t" not in repr(read(**URL, **environ))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ZSTACK_SESSION_ID", "session"),
        ("ZSTACK_ACCOUNT", "account"),
        ("ZSTACK_PASSWORD", "password"),
        ("ZSTACK_ACCESS_KEY_ID", "access key id"),
        ("ZSTACK_ACCESS_KEY_SECRET", "access key secret"),
    ],
)
def test_a_credential_that_is_not_utf8_is_refused(name: str, what: str) -> None:
    """A credential with bytes of another encoding is refused by its kind, without quoting it."""
    words = name.split("_")[1]
    pairs = {"SESSION": {}, "ACCOUNT": {"ZSTACK_PASSWORD": "p"}, "PASSWORD": {"ZSTACK_ACCOUNT": "a"}}
    keys = {"ZSTACK_ACCESS_KEY_ID": "i", "ZSTACK_ACCESS_KEY_SECRET": "k"}
    with pytest.raises(UsageError, match=f"^the {what} is ") as caught:
        read(**URL, **(pairs.get(words, keys) | {name: "tok\udcffen"}))
    assert "tok" not in str(caught.value)
