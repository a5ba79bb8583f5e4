"""The conformance table, sections 6 to 8: queries, the APIs around the clone, rights and quotas."""

from __future__ import annotations

from typing import Final

from batch.simulator.options import ADMIN_UUID, NodeAccount, Source
from tests.contract.wire_table import (
    CENTER,
    CLONE,
    GROUP,
    IMAGE,
    NOBODY,
    OPTIONS,
    OTHER,
    PRIVATE,
    SERVICES,
    SOURCE,
    SPEC,
    TAG,
    TENANT,
    Absent,
    Has,
    Row,
    ask,
    clone,
    job_uuid,
    look,
    poll,
    row,
)

ACTIONS: Final = "/v1/management-nodes/actions"


def names(*wanted: str) -> dict[str, object]:
    return {"inventories|#": len(wanted)} | {f"inventories|{n}|name": name for n, name in enumerate(wanted)}


QUERIES: Final[tuple[Row, ...]] = (
    row("6", "by uuid is a list", look(SOURCE), is_=(200, names("alpha"))),
    row("6", "and empty where there is none", look(NOBODY), is_=(200, {"inventories": [], "schema": {}})),
    row("6", "condition is no parameter", ask(f"GET {SERVICES}?condition=name=alpha"), is_=(200, {"inventories|#": 3})),
    row("6", "conditions are joined", ask(f"GET {SERVICES}?q=type=App&q=requestCpu=1"), is_=(200, names("beta"))),
    row(
        "6",
        "?= is a list",
        ask(f"GET {SERVICES}?q=uuid?={SOURCE},{OTHER}&sort=%2Bname"),
        is_=(200, names("alpha", "beta")),
    ),
    row("6", "~= is like", ask(f"GET {SERVICES}?q=name~=al%25"), is_=(200, names("alpha"))),
    row("6", "!~= is not like", ask(f"GET {SERVICES}?q=name!~=%25a"), is_=(200, names("private"))),
    row(
        "6",
        "is null has no value",
        ask(f"GET {SERVICES}?q=zoneUuid%20is%20null&sort=name"),
        is_=(200, names("beta", "private")),
    ),
    row(
        "6",
        "an operator in a value changes the parse",
        ask(f"GET {SERVICES}?q=name=a>=b"),
        is_=(503, {"error|details": Has(("not having field[name=a]",))}),
    ),
    row(
        "6",
        "no operator is a 400",
        ask(f"GET {SERVICES}?q=name"),
        is_=(400, Has(("doesn't contain any query operator",))),
    ),
    row(
        "6",
        "a bad limit is a 400",
        ask(f"GET {SERVICES}?limit=x"),
        is_=(400, "Invalid query parameter. 'limit' must be an integer"),
    ),
    row(
        "6",
        "a bad start is a 400",
        ask(f"GET {SERVICES}?start="),
        is_=(400, "Invalid query parameter. 'start' must be an integer"),
    ),
    row(
        "6",
        "an unknown field is a 503",
        ask(f"GET {SERVICES}?q=nme=x"),
        is_=(503, {"error|code": "SYS.1000", "error|details": Has(("not having field[nme]",))}),
    ),
    row(
        "6",
        "replyWithCount counts all pages",
        ask(f"GET {SERVICES}?limit=1&replyWithCount=true"),
        is_=(200, {"inventories|#": 1, "total": 3}),
    ),
    row("6", "count gives the number alone", ask(f"GET {SERVICES}?count=true"), is_=(200, '{"total":3}')),
    row("6", "start and limit page", ask(f"GET {SERVICES}?start=1&limit=1&sort=name"), is_=(200, names("beta"))),
    row(
        "6",
        "fields cut the rows",
        ask(f"GET {SERVICES}?fields=uuid,name&q=name=alpha"),
        is_=(200, {"inventories": [{"uuid": SOURCE, "name": "alpha"}]}),
    ),
    row(
        "6",
        "a thousand rows and no word of more",
        ask(f"GET {SERVICES}"),
        is_=(200, {"inventories|#": 1000, "total": Absent}),
        sources=tuple(Source(f"{number:032x}") for number in range(1001)),
    ),
    row(
        "6",
        "groupBy gives one row a value",
        ask(f"GET {SERVICES}?groupBy=source&sort=name&fields=name"),
        is_=(200, {"inventories|#": 1}),
    ),
    row(
        "6",
        "another account sees nothing of what is not shared",
        look(PRIVATE),
        is_=(200, {"inventories": []}),
        accounts=(NodeAccount(ADMIN_UUID, "admin"), TENANT),
        sources=(Source(PRIVATE, owner="8" * 32, to_public=False),),
    ),
    row(
        "6",
        "schema names the class of each row",
        ask(f"GET {SERVICES}?fields=uuid&q=name=alpha"),
        is_=(200, {"schema|inventories[0]": "org.zstack.ai.entity.ModelServiceInventory"}),
    ),
)

AROUND: Final[tuple[Row, ...]] = (
    row(
        "6.1",
        "the version is the database's",
        ask(f"PUT {ACTIONS}", {"getVersion": {}}, session=None),
        is_=(200, {"version": "5.5.22"}),
    ),
    row("6.1", "ready is an empty object", ask("GET /v1/management-nodes/ready", session=None), is_=(200, "{}")),
    row(
        "6.1",
        "the APIs are named by class",
        ask(f"PUT {ACTIONS}", {"getSupportAPIs": {}}, session=None),
        is_=(200, Has(("APICloneModelServiceMsg", "APIUpdateModelServiceMsg"))),
    ),
    row(
        "6.1",
        "a delete is a job with an empty result",
        ask(f"DELETE {SERVICES}/{OTHER}?deleteMode=Permissive", X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, "{}"),
    ),
    row(
        "6.1",
        "what is deleted is no longer seen",
        ask(f"DELETE {SERVICES}/{OTHER}", X_Job_UUID=job_uuid()),
        poll(),
        look(OTHER),
        is_=(200, {"inventories": []}),
    ),
    row(
        "6.1",
        "to delete nothing succeeds",
        ask(f"DELETE {SERVICES}/{NOBODY}", X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, "{}"),
    ),
    row(
        "6.1",
        "a delete mode has choices",
        ask(f"DELETE {SERVICES}/{OTHER}?deleteMode=Gently", X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1007"}),
    ),
    row(
        "6.1",
        "several are deleted by the query string",
        ask(f"DELETE {SERVICES}/?uuids={OTHER}&uuids={NOBODY}", X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"results|#": 2, "results|0|uuid": OTHER, "results|1|success": True}),
    ),
    row(
        "6.1",
        "and not by a body",
        ask(f"DELETE {SERVICES}/", {"uuids": [OTHER]}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1007", "error|details": Has(("field[uuids]",))}),
    ),
    row(
        "6.1",
        "images have an architecture and a status",
        ask(f"GET /v1/images/{IMAGE}"),
        is_=(
            200,
            {
                "inventories|0|architecture": "aarch64",
                "inventories|0|status": "Ready",
                "inventories|0|state": "Enabled",
            },
        ),
    ),
    row("6.1", "images are queried by uuid", ask(f"GET /v1/images?q=uuid?={IMAGE},{NOBODY}"), is_=(200, names("arm"))),
    row(
        "6.1",
        "model centres have a status",
        ask(f"GET /v1/ai/model-centers/{CENTER}"),
        is_=(200, {"inventories|0|status": "Connected"}),
    ),
    row("6.1", "models are queried", ask("GET /v1/ai/models"), is_=(200, {"inventories": []})),
    row(
        "13.9",
        "GPU specs are PCI device specs",
        ask(f"GET /v1/pci-device-specs?q=uuid={SPEC}"),
        is_=(200, names("A100")),
    ),
    row(
        "6.1",
        "accounts are queried",
        ask("GET /v1/accounts?q=name=tenant"),
        is_=(200, {"inventories|0|uuid": TENANT.uuid}),
    ),
    row("6.1", "an account by uuid", ask(f"GET /v1/accounts/{TENANT.uuid}"), is_=(200, names("tenant"))),
    row(
        "6.1",
        "quotas are an account's",
        ask(f"GET /v1/accounts/quotas?q=identityUuid={TENANT.uuid}"),
        is_=(200, {"inventories|0|name": "ai.modelService.num", "inventories|0|value": 1}),
    ),
    row(
        "6.1",
        "with their use",
        ask(f"GET /v1/accounts/quota/{TENANT.uuid}/usages"),
        is_=(200, {"usages|0|total": 1, "usages|0|used": 0}),
    ),
    row(
        "6.1",
        "an owner is changed below account",
        ask(f"POST /v1/account/{TENANT.uuid}/resources", {"params": {"resourceUuid": SOURCE}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"inventory|accountUuid": TENANT.uuid, "inventory|resourceUuid": SOURCE}),
    ),
    row(
        "6.1",
        "a share is an action",
        ask(
            "PUT /v1/accounts/resources/actions",
            {"shareResource": {"resourceUuids": [PRIVATE], "accountUuids": [TENANT.uuid]}},
            X_Job_UUID=job_uuid(),
        ),
        poll(),
        is_=(200, "{}"),
    ),
    row(
        "6.1",
        "a share is taken back",
        ask(
            "PUT /v1/accounts/resources/actions",
            {"revokeResourceSharing": {"resourceUuids": [PRIVATE], "all": True}},
            X_Job_UUID=job_uuid(),
        ),
        poll(),
        is_=(200, "{}"),
    ),
    row(
        "6.1",
        "owners are asked for by uuid",
        ask(f"GET /v1/resources/accounts?resourceUuids={SOURCE}&resourceUuids={OTHER}"),
        is_=(200, {f"inventories|{SOURCE}|name": "admin", f"inventories|{OTHER}|name": "admin"}),
    ),
    row(
        "6.1",
        "permission is asked for by class",
        ask(
            "PUT /v1/accounts/permissions/actions",
            {"checkApiPermission": {"apiNames": ["org.zstack.ai.message.APICloneModelServiceMsg"]}},
        ),
        is_=(200, {"inventory|org.zstack.ai.message.APICloneModelServiceMsg": "Allow"}),
    ),
    row(
        "6.1",
        "a user tag is made by a job",
        ask(
            "POST /v1/user-tags",
            {"params": {"resourceType": "ModelServiceVO", "resourceUuid": SOURCE, "tag": "a"}},
            X_Job_UUID=job_uuid(),
        ),
        poll(),
        is_=(200, {"inventory|tag": "a", "inventory|resourceUuid": SOURCE}),
    ),
    row(
        "6.1",
        "user tags are queried by resource and text, in pages",
        clone({"resourceUuid": CLONE}, tags={"userTags": ["zs::1", "zs::2", "other"]}),
        poll(),
        ask(
            f"GET /v1/user-tags?q=resourceUuid?={CLONE},{SOURCE}&q=tag~=zs::%25"
            "&sort=tag&start=1&limit=1&replyWithCount=true"
        ),
        is_=(200, {"inventories|#": 1, "inventories|0|tag": "zs::2", "total": 2}),
    ),
    row(
        "6.1",
        "shares are queried by resource",
        ask(
            "PUT /v1/accounts/resources/actions",
            {"shareResource": {"resourceUuids": [PRIVATE], "accountUuids": [TENANT.uuid]}},
            X_Job_UUID=job_uuid(),
        ),
        poll(),
        ask(f"GET /v1/accounts/resources?q=resourceUuid?={PRIVATE}"),
        is_=(200, {"inventories|0|receiverAccountUuid": TENANT.uuid, "inventories|0|toPublic": False}),
    ),
    row("6.1", "tag patterns are tags", ask(f"GET /v1/tags/{TAG}"), is_=(200, {"inventories|0|uuid": TAG})),
    row(
        "6.1",
        "a tag pattern is made by a job",
        ask("POST /v1/tags", {"params": {"name": "n", "value": "v"}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"inventory|name": "n", "inventory|value": "v"}),
    ),
    row(
        "6.1",
        "and attached to resources",
        ask(f"POST /v1/tags/{TAG}/resources", {"params": {"resourceUuids": [SOURCE]}}, X_Job_UUID=job_uuid()),
        poll(),
        ask(f"GET {SERVICES}?q=__tagUuid__={TAG}"),
        is_=(200, names("alpha")),
    ),
    row(
        "6.1",
        "the API is newer than its server",
        ask(f"PUT {ACTIONS}", {"getVersion": {}}, session=None),
        is_=(200, {"version": "5.3.20"}),
        version="5.3.20",
    ),
    row(
        "6.1",
        "answers write architectures in lower case",
        clone({"cpuArchitectures": ["AARCH64"]}),
        poll(),
        is_=(200, {"inventory|cpuArchitectures": ["aarch64"]}),
    ),
    row(
        "13.15",
        "instance groups stand behind a slash",
        ask(f"GET /v1/ai/model-services/instances/groups/?q=modelServiceUuid?={SOURCE},{OTHER}"),
        is_=(200, {"inventories|0|uuid": GROUP, "inventories|0|modelServiceUuid": SOURCE, "inventories|#": 1}),
    ),
    row(
        "13.15",
        "without it they are unknown",
        ask("GET /v1/ai/model-services/instances/groups"),
        is_=(404, Has(("no api mapping",))),
    ),
    row(
        "13.15",
        "one group by uuid",
        ask(f"GET /v1/ai/model-services/instances/groups/{GROUP}"),
        is_=(200, names("serving")),
    ),
)

RIGHTS: Final[tuple[Row, ...]] = tuple(
    row(
        "7",
        fact,
        *asks,
        is_=(503, members),
        accounts=(NodeAccount(ADMIN_UUID, "admin", quota=0, denied=frozenset(denied)), TENANT),
        sources=(*OPTIONS.sources, Source("a" * 32, owner=TENANT.uuid, to_public=False)),
    )
    for fact, asks, members, denied in (
        (
            "a source that is not shared is no access",
            (clone(source="a" * 32), poll()),
            {"error|code": "SYS.1006", "error|details": Has(("has no access to the resources",))},
            (),
        ),
        (
            "another's service is not deleted",
            (ask(f"DELETE {SERVICES}/{'a' * 32}", X_Job_UUID=job_uuid()), poll()),
            {"error|code": "SYS.1006", "error|details": Has(("is not the owner",))},
            (),
        ),
        (
            "a denied API is a failed operation",
            (clone(), poll()),
            {"error|code": "SYS.1006", "error|details": Has(("is denied by default",))},
            ("CloneModelService",),
        ),
        (
            "an admin's API is permission denied",
            (
                ask(
                    f"POST /v1/account/{TENANT.uuid}/resources",
                    {"params": {"resourceUuid": SOURCE}},
                    X_Job_UUID=job_uuid(),
                ),
                poll(),
            ),
            {"error|code": "ID.1002"},
            (),
        ),
        (
            "a quota is exceeded",
            (clone(), poll()),
            {"error|code": "ID.1003", "error|details": Has(("quota exceeding",))},
            (),
        ),
    )
)

ROWS: Final = (*QUERIES, *AROUND, *RIGHTS)
