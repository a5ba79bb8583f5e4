"""The promises over a World's whole history, each a small check that names what it found broken.

I1 at most one clone a target. I2 none lost. I3 none invented, and none called failed that exists or may come to be. I4
no POST without a durable record of its ids. I5 the manifest is a chain its reader accepts, and never another history.
I6 an end is final, unless it is retried. I7 healed, everything ends, in few POSTs. I8 the rate and the clones in
flight. I9 few fruitless retries. I10 logins. I11 no secret where people read. I12 no call to another host. I13 one
writer. I14 no POST after a failed write. I15 the exit code and the counts. I16 the same seed, the same trace. I17 bytes
without meaning are not believed and do no harm. I18 nothing to do: no byte.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Final

from batch.engine.policy import FLOOR, SHARE, Policy
from batch.errors import EndReason, ExitCode, ManifestError
from batch.manifest import read_finished
from batch.model import QUARANTINED, State
from batch.zstack.answers import ErrorClass, NoAnswer, NotSent, Refused
from tests.simulation.manifest_reader import intents, known_states, last_states, records
from tests.simulation.process import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from batch.model import Intent, Record
    from tests.simulation.command import Ended
    from tests.simulation.witness import Life, Post, Story
    from tests.simulation.world import World

_WINDOWS: Final = ((0.2, 3), (1.0, 0), (5.0, 0))
"""Seconds in which calls are counted, and the allowed excess: a slot that a timer missed by 0.05 s is made up for."""
_BUCKET: Final = 100
"""Retries that a full bucket pays for."""
_MOST_OVERDUE_POLLS: Final = 2
"""Polls after a job's deadline that find it: one, and one more where its clone is visible."""
_POLICY: Final = Policy()


def broken(world: World) -> list[str]:
    """Return everything found broken that can be checked at any moment, also during faults."""
    found = list(world.witness.broken)
    for path, story in world.witness.stories.items():
        found += resent(world, story)
        found += excess_attempts(world, story)
        found += excess_posts(world, story)
        found += torn_chain(world, path) or reopened(world, path)
        found += leaked_secrets(world, path)
    for _, life in world.witness.lives:
        found += rate(world, life)
        found += excess_calls(world, life)
        found += excess_retries(life)
    return found + duplicated(world)


def duplicated(world: World) -> list[str]:
    """I1: at most one clone per target, and none that was not requested."""
    made = world.node.ledger.clones
    twice = (source for source, count in Counter(row.source for row in made).items() if count > 1)
    wanted = {clone.resource_uuid for clone in world.ever.values()}
    strange = (row.uuid for row in made if row.uuid not in wanted)
    return [*(f"I1: duplicated {source}" for source in twice), *(f"I1: unexpected {uuid}" for uuid in strange)]


def lost_or_phantom(world: World, path: Path = MANIFEST) -> list[str]:
    """I2 and I3, once nothing is under way: cloned is exactly what the node has made."""
    states = last_states(world.manifest(path))
    last = {record.key: record for record in records(world.manifest(path))}
    found = []
    for clone in world.ever.values():
        is_made, state = world.is_made(clone.resource_uuid), states.get(clone.key)
        if is_made and state is not State.CLONED and not _is_anybodys(world, last.get(clone.key)):
            found.append(f"I2: lost {clone.key}: it was made and is {state}")
        if not is_made and state is State.CLONED:
            found.append(f"I3: phantom {clone.key}")
    return found


def _is_anybodys(world: World, record: Record | None) -> bool:
    """Return whether its only job found the uuid in use or its session ended, and its target left the job file.

    Then nothing can be compared. Only a second copy of the request, whose end is not known, may have made it.
    """
    if record is None or any(clone.key == record.key for clone in world.clones):
        return False
    return record.state is State.UNCERTAIN and record.error_code in {"SYS.1000", "ID.1001"}


def resent(world: World, story: Story) -> Iterator[str]:
    """Between two POSTs of a clone it was looked up, or the first was not executed; a new job uuid has a reason."""
    for posts in story.posts.values():
        for one, two in pairwise(posts):
            is_over = _is_refused(one) or any(one.order < at < two.order for at in _free_ends(story, one))
            if not (is_over or any(one.order < at < two.order for at in story.looks[one.uuid])):
                yield f"I7: {one.uuid} was sent again without a look"
            if one.job != two.job and not (is_over or _may_change(world, story, one, two)):
                yield f"the job uuid changed from {one.job} to {two.job} without a definite end"


def _is_refused(post: Post) -> bool:
    if isinstance(post.answer, Refused):
        return post.answer.error.error_class is not ErrorClass.AMBIGUOUS
    return isinstance(post.answer, NotSent)


def _free_ends(story: Story, post: Post) -> list[int]:
    job = story.jobs[post.job]
    return job.refused if job.is_free else []


def _may_change(world: World, story: Story, one: Post, two: Post) -> bool:
    """Return whether the old job ended, was accepted and then lost or overdue, or cannot be executed any more."""
    job = story.jobs[one.job]
    if any(at < two.order for at in (*job.refused, *job.empty, *job.admitted)):
        return True
    longest = max(world.limits.timeout or 0.0, _longest(story)) + _POLICY.grace - 1.0
    if any(at < two.order for at in job.unknown) and two.wall - one.wall >= longest:
        return True
    # After the wall clock was set a job uuid looks older or younger than it is.
    return world.witness.clock_was_set or two.wall - one.wall >= _POLICY.job_memory - 1.0


def _longest(story: Story) -> float:
    """Return for how many seconds the server may work on a job, the longest it stated for any."""
    timeouts = (story.api_timeout, *(job.api_timeout for job in story.jobs.values()))
    return max(filter(None, timeouts), default=_POLICY.api_timeout)


def excess_attempts(world: World, story: Story) -> Iterator[str]:
    """I7: no target is charged more POSTs than its attempts, over all processes."""
    for uuid, posts in story.posts.items():
        charged = sum(1 for post in posts if not isinstance(post.answer, NotSent) and not story.jobs[post.job].is_free)
        if charged > world.limits.attempts:
            yield f"I7: {uuid} was sent {charged} times"


def excess_posts(world: World, story: Story) -> Iterator[str]:
    """I7: POSTs <= targets + ambiguous outcomes."""
    posts = sum(map(len, story.posts.values()))
    excused = sum(_is_excused(world, story, *pair) for posts in story.posts.values() for pair in pairwise(posts))
    if posts > len(story.posts) + excused:
        yield f"I7: {posts} POSTs for {len(story.posts)} targets and {excused} ambiguous outcomes"


def _is_excused(world: World, story: Story, one: Post, two: Post) -> bool:
    job = story.jobs[one.job]
    if isinstance(one.answer, NotSent | NoAnswer | Refused):
        return True
    if any(one.order < at < two.order for at in (*job.refused, *job.unknown, *job.empty)):
        return True
    is_admitted = any(one.order < at < two.order for at in job.admitted)
    return not is_admitted or world.witness.clock_was_set or two.wall >= one.deadline


def rate(world: World, life: Life) -> Iterator[str]:
    """I8: in any window of one process no more calls than the rate allows."""
    for window, burst in _WINDOWS:
        most = int(world.limits.rate * window) + burst
        calls = life.calls
        if any(calls[at + most] - calls[at] < window - 1e-6 for at in range(len(calls) - most)):
            yield f"I8: more than {most} calls in {window} s"


def excess_calls(world: World, life: Life) -> Iterator[str]:
    """I7, I8, I10: no endless polls when overdue, few clones in flight, one without proof, a login per expiry."""
    if not world.witness.clock_was_set:
        yield from _excess_overdue_polls(life)
    if life.most_flying > world.limits.concurrency:
        yield f"I8: {life.most_flying} in flight"
    if life.most_unproven > 1:
        yield f"I8: {life.most_unproven} in flight before the server was known to honour resourceUuid"
    if life.logins > 1 + len(life.dead_sessions) + life.lost_logins:
        yield f"I10: {life.logins} logins for {len(life.dead_sessions)} dead sessions"


def _excess_overdue_polls(life: Life) -> Iterator[str]:
    """I7: after its deadline a job is polled until several 404s show that the server forgot it, and no further."""
    if (polls := max(life.overdue_polls.values(), default=0)) > _MOST_OVERDUE_POLLS:
        yield f"I7: {polls} polls after the deadline"
    if (misses := max(life.overdue_misses.values(), default=0)) > _POLICY.misses:
        yield f"I7: {misses} polls after the deadline found no job"


def excess_retries(life: Life) -> Iterator[str]:
    """I9: in silence at most ten retries a minute, or a tenth of its first POSTs; in total what a bucket has."""
    fruitless = [post for post in life.posts if post.is_retry and isinstance(post.answer, NotSent | NoAnswer | None)]
    if len(fruitless) <= FLOOR:
        return
    firsts = [post.at for post in life.posts if not post.is_retry]
    began = life.posts[0].at
    for number, post in enumerate(fruitless, 1):
        if number > _BUCKET + len(firsts) / 5 + FLOOR * (1 + (post.at - began) / 60.0):
            yield f"I9: {number} fruitless retries in {post.at - began:.0f} s"
            return
    most = max(FLOOR, int(SHARE * max((_within_a_minute(firsts, at) for at in firsts), default=0)))
    for post in fruitless:
        silent_since = max((at for at in life.answers if at < post.order), default=0)
        count = _within_a_minute([other.at for other in fruitless if silent_since < other.order <= post.order], post.at)
        if count > most:
            yield f"I9: {count} retries within a minute of silence, {len(firsts)} first POSTs"
            return


def _within_a_minute(times: list[float], end: float) -> int:
    return sum(end - 60.0 + 1e-6 < at <= end for at in times)


def leaked_secrets(world: World, path: Path) -> Iterator[str]:
    """I11: neither the manifest nor a process's last message has a session or the password."""
    data = world.manifest(path)
    for secret in world.witness.secrets:
        if secret and secret in data:
            yield "I11: a secret in the manifest"


def secrets_in_reason(world: World, ended: Ended) -> list[str]:
    """I11: the reason a process gives has no session, no password and no job uuid."""
    reason = (ended.reason or "").encode()
    jobs = (job.encode() for story in world.witness.stories.values() for job in story.jobs)
    return (
        ["I11: a secret in the reason"] if reason and any(s in reason for s in (*world.witness.secrets, *jobs)) else []
    )


def torn_chain(world: World, path: Path) -> list[str]:
    """I5: the disk has a chain that the manifest's own reader accepts, whatever happened."""
    try:
        last_states(world.manifest(path))
    except ManifestError as error:
        return [f"I5: {error}"]
    return []


def reopened(world: World, path: Path) -> list[str]:
    """I6: after a target's end nothing else is recorded of it, unless it was retried or undone."""
    ends: dict[str, Record] = {}
    found = []
    for record in records(world.manifest(path)):
        end = ends.get(record.key)
        if end is not None and not (record.retried or record.state in {end.state, State.UNDONE}):
            found.append(f"I6: {record.key} is {end.state} and then {record.state}")
        ends.pop(record.key, None)
        if record.state.is_final:
            ends[record.key] = record
    return found


def finished_too_soon(world: World, path: Path) -> list[str]:
    """I15: a rerun that reads only the last line may take a run for finished only if every record agrees."""
    data = world.manifest(path)
    if b'"ended"' not in data[data.rfind(b"\n", 0, -1) + 1 :]:
        return []
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        found = read_finished(Path(file.name))
    if found is None or found.plan.inputs != world.plan().inputs:
        return []
    states = known_states(data)
    counts = Counter(states.get(key, State.PLANNED) for key in (*states, *(world.keys() - states.keys())))
    is_true = counts == found.counts and all(state.is_final or state is State.WITHDRAWN for state in counts)
    return [] if is_true else [f"I15: finished with {dict(found.counts)}, but it is {dict(counts)}"]


def misreported(
    world: World, ended: Ended, path: Path = MANIFEST, *, is_part_of: Callable[[str], bool] | None = None
) -> list[str]:
    """I15: the exit code and the counts agree with the manifest.

    I11: no secret is reported. ``is_part_of``: whether a target is in the part of --only; for a whole run every record
    counts.
    """
    if telling := secrets_in_reason(world, ended) or finished_too_soon(world, path):
        return telling
    if ended.code not in {ExitCode.OK, ExitCode.FAILED, ExitCode.UNFINISHED} or not ended.counts:
        return []
    data, in_file = world.manifest(path), [clone.key for clone in world.clones]
    known = known_states(data)
    states = {key: known.get(key, State.PLANNED) for key in (*known, *in_file)}
    if is_part_of is not None:
        states = {key: states[key] for key in in_file if is_part_of(key)}
    counts = Counter(states.values())
    wanted = _exit_code(counts, [intent for key, intent in intents(data).items() if key in states], ended)
    found = [] if ended.code == wanted else [f"I15: exit {ended.code} for {dict(counts)}"]
    return found if counts == ended.counts else [*found, f"I15: reported {dict(ended.counts)} for {dict(counts)}"]


def _exit_code(counts: Counter[State], known: Iterable[Intent], ended: Ended) -> ExitCode:
    """Return the exit code of a process: 4 while a rerun settles anything, 3 if only the operator can."""
    is_refused = ended.code_of_reason in {EndReason.DENIED, EndReason.RESOURCE_UUID}
    in_doubt = sum(_is_in_doubt(intent, ended.at, is_refused=is_refused) for intent in known)
    if ended.code_of_reason is EndReason.RESOURCE_UUID or (ended.code_of_reason is EndReason.DENIED and not in_doubt):
        return ExitCode.FAILED
    if in_doubt:
        return ExitCode.UNFINISHED
    if counts[State.PLANNED] and ended.code_of_reason not in {EndReason.WAVE, EndReason.MAX_FAILURES}:
        return ExitCode.UNFINISHED
    return ExitCode.OK if set(counts) <= {State.CLONED, State.WITHDRAWN} else ExitCode.FAILED


def _is_in_doubt(intent: Intent, now: float, *, is_refused: bool) -> bool:
    """Return whether a rerun may learn more about an attempt; against a refusing server only until it is overdue."""
    if intent.state in {State.SENT, State.ACCEPTED}:
        return not (is_refused and intent.deadline is not None and intent.deadline <= now)
    is_given_up = intent.error_code == QUARANTINED or (intent.until is not None and intent.until <= now)
    return intent.state is State.UNCERTAIN and not is_given_up
