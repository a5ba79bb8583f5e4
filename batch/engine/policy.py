"""The parameters of the retry policy, and the waits computed from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Parameters of the retry policy. Durations in seconds."""

    attempts: int = 4
    """POSTs per target, over all resumes."""
    timeout: float | None = None
    """Per clone from its first POST; None: the server's apiTimeout plus ``grace``."""
    grace: float = 60.0
    """Added to the server's apiTimeout before an unfinished api job is given up."""
    api_timeout: float = 1800.0
    """The server's default, for answers that carry none."""
    at_most_once: bool = False
    """Never send again after an unanswered POST: for servers that do not honour resourceUuid."""
    settle_delay: float = 1.0
    """Before the next look at a uuid that was not visible; doubles each time."""
    looks: int = 3
    """Looks that must show nothing before a POST is taken as not executed."""
    misses: int = 4
    """Consecutive 404 answers of an accepted api job that are tolerated (another node may lag behind)."""
    max_failed_looks: int = 8
    """Consecutive looks that may fail before the clone is left uncertain."""
    job_memory: float = 3600.0
    """How long after its POST a job uuid may be sent again; later the server may have purged its row."""
    uncharged_sends: int = 16
    """Consecutive POSTs that charge no attempt: after a dead session, or from a node that is not ready."""
    backoff_base: float = 0.5
    backoff_cap: float = 20.0

    def backoff(self, failures: int, chance: float) -> float:
        """Return a wait with full jitter after that many failures; ``chance``: a random number in [0, 1)."""
        return chance * min(self.backoff_cap, self.backoff_base * 2.0 ** min(failures, 16))

    def window(self, api_timeout: float | None) -> float:
        """Return the seconds from the first POST after which an api job is no longer polled."""
        if self.timeout is not None:
            return self.timeout
        return (self.api_timeout if api_timeout is None else api_timeout) + self.grace

    def expires_at(self, sent_at: float, api_timeout: float | None) -> float:
        """Return when the server can no longer execute a POST of ``sent_at``, in seconds since the epoch."""
        longest = self.api_timeout if api_timeout is None else api_timeout
        return sent_at + max(self.timeout or 0.0, longest) + self.grace
