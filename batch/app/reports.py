"""Output files and pings of a run, and templates in the names of files; a failure here never changes the exit code."""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from batch import outputs
from batch.app.messages import language, say
from batch.errors import ExitCode, ManifestLostError, UsageError, ZcloneError
from batch.manifest import summary
from batch.plan.render import RenderError, RunNames, render

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batch.app.options import RunOptions
    from batch.jobfile import Job
    from batch.manifest import Manifest

_TIMEOUT: Final = 5.0
"""Timeout of a ping, in seconds."""


def require_usable_outputs(options: RunOptions) -> None:
    """Raise UsageError for unusable output files and addresses, before anything is sent."""
    if options.report is not None:
        from batch.report.write import require_ending

        require_ending(options.report)
    for path in (options.report, options.metrics_file):
        if path is not None and is_template(path):
            # Checked again once the template is rendered.
            continue
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist")
        if path is not None:
            outputs.require_replaceable(path)
    if options.ping_url is not None and urlsplit(options.ping_url).scheme not in {"http", "https"}:
        raise UsageError("--ping-url: must begin with http:// or https://")


def ping(url: str | None, what: str) -> None:
    """Ping a dead man's switch: POST to ``url``/start or ``url``/EXITCODE, without proxy or redirects.

    Takes at most five seconds. A failure is reported without the url, which is a secret.
    """
    if url is None:
        return
    failures: list[str] = []

    def deliver() -> None:
        try:
            _post(f"{url.rstrip('/')}/{what}")
        except (OSError, ValueError, HTTPException) as error:
            failures.append(_why(error))
        else:
            failures.append("")

    # A socket timeout bounds each wait but not their number, and name resolution has none.
    thread = threading.Thread(target=deliver, name="ping", daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    failure = failures[0] if failures else "timed out"
    if failure:
        say(f"the ping {what} was not delivered: {failure}")


def _why(error: Exception) -> str:
    """Return the reason of a failure, without any part of the url."""
    if isinstance(error, HTTPError):
        return f"HTTP status {error.code}"
    reason = error.reason if isinstance(error, URLError) else error
    match reason:
        case TimeoutError():
            return "timed out"
        case ssl.SSLCertVerificationError():
            # The part after the comma names the host.
            return f"the certificate is not valid: {reason.verify_message.partition(',')[0]}"
        case OSError(strerror=str(text)):
            return text
        case ValueError() | InvalidURL():
            return "the url is not usable"
        case HTTPException():
            return f"the answer is not HTTP ({type(reason).__name__})"
        case _:
            return type(reason).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an error, because the ping is meant for one address only."""

    def redirect_request(self, *_: object) -> None:
        """Do not follow the redirect."""


def _post(url: str) -> None:
    """POST nothing to ``url``. Raises OSError, ValueError and HTTPException."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    request = urllib.request.Request(url, data=b"", method="POST")  # noqa: S310 - http or https, as ``require_usable_outputs`` found
    with opener.open(request, timeout=_TIMEOUT):
        pass


@contextmanager
def write_outputs(manifest: Path, options: RunOptions) -> Iterator[None]:
    """Write report and metrics when the block ends, unless the manifest was lost and they are already written."""
    is_lost = False
    try:
        yield
    except ManifestLostError:
        is_lost = True
        raise
    finally:
        if not is_lost and manifest.exists():
            _write(options, manifest, lambda: _final_metrics(manifest))


def _final_metrics(manifest: Path) -> Iterable[str]:
    from batch.report.metrics import final_metrics

    return final_metrics(summary(manifest), at=time.time())


def write_outputs_of_lost(manifest: Manifest, lost_file: Path, options: RunOptions) -> None:
    """Write metrics from memory and the report from the open file for a manifest that was moved or deleted."""
    job, counts = manifest.header.job, manifest.past.counts

    def metrics() -> Iterable[str]:
        from batch.report.metrics import lost_metrics

        return lost_metrics(job, counts, exit_code=int(ExitCode.BROKEN), at=time.time())

    _write(options, lost_file, metrics)


def _write(options: RunOptions, manifest: Path, metrics: Callable[[], Iterable[str]]) -> None:
    if options.metrics_file is None and options.report is None:
        return
    from batch.report.write import write_report

    try:
        if options.metrics_file is not None:
            outputs.replace(options.metrics_file, metrics(), mode=outputs.PUBLIC)
        if options.report is not None:
            spoken = language(options.endpoint.environ)
            write_report(manifest, options.report, at=time.time(), language=spoken, is_over=True)
    except ZcloneError as error:
        say(f"zclone: {error}")


def is_template(path: Path) -> bool:
    """Return whether the name depends on the run."""
    return "${" in str(path)


def name_outputs(options: RunOptions, job: Job, *, run: str, began: float) -> RunOptions:
    """Return ``options`` with the names of report, metrics and log file rendered.

    ``began``: start of the run, seconds since the epoch, so that a run past midnight keeps writing the same files.
    Raises UsageError for an unknown name.
    """
    names = {"run": run, "date": RunNames.at(began, job.name, job.timezone).date, "name": job.name}

    def render_path(flag: str, path: Path | None) -> Path | None:
        if path is None or not is_template(path):
            return path
        try:
            return Path(render(str(path), names))
        except RenderError as error:
            raise UsageError(f"{flag} {path}: {error}") from None

    return replace(
        options,
        report=render_path("--report", options.report),
        metrics_file=render_path("--metrics-file", options.metrics_file),
        log_file=render_path("--log-file", options.log_file),
    )
