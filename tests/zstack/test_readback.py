"""Clones are read back in pages that fit a URL, and an answer that lacks rows is no proof."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from batch.zstack.calls import CloneReader
from batch.zstack.wire import CallFailedError
from tests.zstack.wire_server import Seen, WireServer, answer, client_of

UUIDS = [f"{number:032x}" for number in range(200)]


def query_of(seen: Seen) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(seen.target).query).items()}


async def test_two_hundred_clones_are_one_call_below_8_kib() -> None:
    """A page of 200 uuids is one request whose head fits the server's limit; other services are left out."""
    rows = [{"uuid": uuid, "name": "n"} for uuid in (*UUIDS[:150], "f" * 32)]

    def handler(_seen: Seen) -> bytes:
        return answer(200, {"inventories": rows, "total": len(rows)})

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = await CloneReader(client).services(UUIDS)
    assert (sorted(found.by_uuid), found.is_complete) == (UUIDS[:150], True)
    assert len(server.seen) == 1
    assert len(server.seen[0].target) < 7500
    assert (query_of(server.seen[0])["limit"], query_of(server.seen[0])["q"]) == ("200", f"uuid?={','.join(UUIDS)}")


@pytest.mark.parametrize(("total", "is_complete"), [(3, False), (2, True), (None, False)])
async def test_fewer_rows_than_the_total_are_not_complete(total: int | None, *, is_complete: bool) -> None:
    """If the server says that there are more, or omits the total, the answer proves no absence."""

    def handler(seen: Seen) -> bytes:
        rows: list[dict[str, Any]] = [{"uuid": uuid} for uuid in UUIDS[:2]] if query_of(seen)["start"] == "0" else []
        return answer(200, {"inventories": rows} | ({} if total is None else {"total": total}))

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = await CloneReader(client).services(UUIDS[:5])
    assert (len(found.by_uuid), found.is_complete) == (2, is_complete)


async def ask_for(what: str, readback: CloneReader) -> None:
    if what == "tags_with_prefix":
        assert [pair async for pair in readback.tags_with_prefix("zclone::")]
    else:
        await getattr(readback, what)(UUIDS[:2])


@pytest.mark.parametrize("total", [2, None])
@pytest.mark.parametrize("what", ["tags", "tags_with_prefix", "shares", "services_in_use"])
async def test_a_cut_answer_is_inconclusive(what: str, total: int | None) -> None:
    """What a cut answer lacks is neither a drift nor proof that no extra service exists."""
    row = {"resourceUuid": UUIDS[0], "tag": "zclone::j", "receiverAccountUuid": "a", "modelServiceUuid": UUIDS[0]}

    def handler(seen: Seen) -> bytes:
        rows = [row] if query_of(seen)["start"] == "0" else []
        return answer(200, {"inventories": rows} | ({} if total is None else {"total": total}))

    async with WireServer(handler) as server, client_of(server.url) as client:
        question = ask_for(what, CloneReader(client))
        with pytest.raises(CallFailedError, match="not complete"):
            await question


async def test_tags_of_the_run_are_paged_and_exact() -> None:
    """All pages are read, and what only the server's pattern matches, in case or by ``_``, is left out."""
    ours = [{"resourceUuid": uuid, "tag": f"zclone::a_b::r::{uuid}"} for uuid in UUIDS]
    rows = [
        *ours,
        {"resourceUuid": UUIDS[0], "tag": "zclone::a-b::r::x"},
        {"resourceUuid": UUIDS[0], "tag": "ZCLONE::"},
    ]

    def handler(seen: Seen) -> bytes:
        start = int(query_of(seen)["start"])
        return answer(200, {"inventories": rows[start : start + 90], "total": len(rows)})

    async with WireServer(handler) as server, client_of(server.url) as client:
        found = [pair async for pair in CloneReader(client).tags_with_prefix("zclone::a_b::r::")]
    assert found == [(uuid, f"zclone::a_b::r::{uuid}") for uuid in UUIDS]
    assert [query_of(seen)["start"] for seen in server.seen] == ["0", "90", "180"]


async def test_tags_and_shares_are_by_resource() -> None:
    """Each requested resource has its tags and accounts, none if the server shows none."""

    def handler(seen: Seen) -> bytes:
        row = {"resourceUuid": UUIDS[0], "tag": "t", "receiverAccountUuid": "acc"}
        assert query_of(seen)["sort"] in {"+uuid", "+resourceUuid"}
        return answer(200, {"inventories": [row, {**row, "resourceUuid": "other"}], "total": 2})

    async with WireServer(handler) as server, client_of(server.url) as client:
        assert await CloneReader(client).tags(UUIDS[:2]) == {UUIDS[0]: {"t"}, UUIDS[1]: set()}
        assert await CloneReader(client).shares(UUIDS[:2]) == {UUIDS[0]: {"acc"}, UUIDS[1]: set()}


async def test_an_answer_without_rows_is_inconclusive() -> None:
    """A 200 without a list of inventories is a failed query and not an empty answer."""

    def handler(_seen: Seen) -> bytes:
        return answer(200, {"total": 0})

    async with WireServer(handler) as server, client_of(server.url) as client:
        with pytest.raises(CallFailedError, match="no list of inventories"):
            await CloneReader(client).services(UUIDS[:1])
