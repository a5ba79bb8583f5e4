"""The numbers of the retry policy, and the waits computed from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a run is. Durations in seconds."""

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
    """Before a uuid that was not visible is looked for again; doubles each time."""
    looks: int = 3
    """How often a uuid must be invisible before a POST is taken as not executed."""
    misses: int = 4
    """How many 404 in a row an accepted api job may answer (another node may lag behind)."""
    blind_looks: int = 8
    """How many queries in a row may fail before the clone is left uncertain."""
    job_memory: float = 3600.0
    """How long after its POST a job uuid may be sent again; later the server may have forgotten it."""
    free_sends: int = 16
    """POSTs in a row that charge no attempt: after a dead session, or a node that was not ready."""
    backoff_base: float = 0.5
    backoff_cap: float = 20.0

    def backoff(self, failures: int, chance: float) -> float:
        """Full jitter: anything up to the doubled base; ``chance`` in [0, 1)."""
        return chance * min(self.backoff_cap, self.backoff_base * 2.0 ** min(failures, 16))

    def window(self, api_timeout: float | None) -> float:
        """Seconds from the first POST until an api job is no longer waited for."""
        if self.timeout is not None:
            return self.timeout
        return (self.api_timeout if api_timeout is None else api_timeout) + self.grace

    def over_at(self, sent_at: float, api_timeout: float | None) -> float:
        """When the server can no longer execute a POST of ``sent_at``, seconds since the epoch."""
        longest = self.api_timeout if api_timeout is None else api_timeout
        return sent_at + max(self.timeout or 0.0, longest) + self.grace
