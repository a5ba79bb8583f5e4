"""The conformance table, section 13: newer servers, and the requests of clients by others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.options import ADMIN_UUID, SESSION, NodeAccount, Source
from tests.contract.wire_table import (
    CENTER,
    CLONE,
    IMAGE,
    NOBODY,
    NOW,
    OTHER,
    SERVICES,
    SOURCE,
    TENANT,
    Absent,
    Ask,
    Has,
    Row,
    ask,
    clone,
    job_uuid,
    login,
    look,
    poll,
    row,
)

ACTIONS: Final = "/v1/management-nodes/actions"
SCHEMA: Final = "org.zstack.ai.entity"
AI: Final = "org.zstack.ai.message"
IDENTITY: Final = "org.zstack.header.identity"
IMAGES: Final = [
    {"cpuArchitecture": "AARCH64", "vmImageUuid": IMAGE, "dockerImage": "r/a:1"},
    {"cpuArchitecture": "AARCH64", "vmImageUuid": IMAGE, "dockerImage": "r/b:1"},
]
KEY: Final = "ZStack AKID:c2ln"
ADDED: Final = {
    "name": "added",
    "yaml": "a: 1",
    "modelCenterUuid": CENTER,
    "requestCpu": 1,
    "requestMemory": 1,
    "installPath": "/m",
    "startCommand": "run",
}


def fails(code: str, **how: Any) -> tuple[FaultRule, ...]:
    return (FaultRule(Fault(FaultKind.FAIL, code=code, **how)),)


def text_body(text: str) -> Ask:
    """Send a clone request with a literal body."""
    return ask(f"POST {SERVICES}/{SOURCE}", text.encode(), X_Job_UUID=job_uuid())


def legacy(name: str, /, **fields: Any) -> Ask:
    return ask("POST /zstack/api/", {name: fields}, session=None)


def result(uuid: str = job_uuid()) -> Ask:
    return replace(ask(f"GET /zstack/api/result/{uuid}", session=None), is_poll=True)


OWN: Final = {"session": {"uuid": SESSION}}

NEWER: Final[tuple[Row, ...]] = (
    row(
        "13.1",
        "beyond the limit everything is a plain 429",
        look(),
        look(),
        is_=(429, "Rate limit exceeded"),
        requests_per_minute=1,
    ),
    row("13.1", "without Retry-After", look(), look(), is_=(429, {"@retry-after": Absent}), requests_per_minute=1),
    row("13.1", "polls count too", poll(), poll(), is_=(429, "Rate limit exceeded"), requests_per_minute=1),
    row(
        "13.1",
        "another address has its own budget",
        look(X_Forwarded_For="192.0.2.1"),
        look(X_Forwarded_For="192.0.2.2"),
        is_=(200, None),
        requests_per_minute=1,
    ),
    row(
        "13.2",
        "a numeric offset is read",
        look(Authorization=KEY, Date="Tue, 25 Nov 2014 11:51:50 +0800"),
        is_=(403, "requestTimeTooSkewed"),
        newer_access_keys=True,
    ),
    row(
        "13.2",
        "ISO 8601 is read",
        look(Authorization=KEY, Date="2014-11-25T11:51:50+08:00"),
        is_=(403, "requestTimeTooSkewed"),
        newer_access_keys=True,
    ),
    row(
        "13.2",
        "GMT with an offset is read",
        look(Authorization=KEY, Date="Tue, 25 Nov 2014 11:51:50 GMT+08:00"),
        is_=(403, "requestTimeTooSkewed"),
        newer_access_keys=True,
    ),
    row(
        "13.2",
        "and by older servers too",
        look(Authorization=KEY, Date="Tue, 25 Nov 2014 11:51:50 GMT+08:00"),
        is_=(403, "requestTimeTooSkewed"),
    ),
    row(
        "13.2",
        "other dates are refused in newer words",
        look(Authorization=KEY, Date="today"),
        is_=(400, Has(("Date format error. The 'Date' header must conform to",))),
        newer_access_keys=True,
    ),
    row(
        "13.3",
        "message is in the caller's language at the poll",
        clone(source=NOBODY),
        poll(Accept_Language="zh-CN,en;q=0.5"),
        is_=(503, {"error|message": Has(("未找到",)), "error|details": Has(("not found",))}),
        global_error_codes=True,
    ),
    row(
        "13.3",
        "and in English for English",
        clone(source=NOBODY),
        poll(Accept_Language="en-US"),
        is_=(503, {"error|message": Has(("not found",)), "error|details": Has(("未找到",))}),
        global_error_codes=True,
        locale="zh_CN",
    ),
    row(
        "13.3",
        "in every node of the tree",
        clone(),
        poll(Accept_Language="zh"),
        is_=(503, {"error|cause|message": Has(("无法连接",)), "error|causes|0|message": Has(("无法连接",))}),
        global_error_codes=True,
        faults=fails("SYS.1006", cause="SYS.1015"),
    ),
    row(
        "13.3",
        "and of sync calls",
        look(session=NOBODY, Accept_Language="zh"),
        is_=(503, {"error|message": "会话已过期"}),
        global_error_codes=True,
    ),
    row(
        "13.4",
        "primitives are always written",
        clone(source=NOBODY),
        poll(),
        is_=(503, {"error|retryable": False, "error|httpStatus": 0, "error|causes": []}),
        global_error_codes=True,
    ),
    row(
        "13.4",
        "an error has a global code",
        look(session=NOBODY),
        is_=(
            503,
            {"error|globalErrorCode": "ORG_ZSTACK_IDENTITY_10020", "error|messageKey": "ORG_ZSTACK_IDENTITY_10020"},
        ),
        global_error_codes=True,
    ),
    row(
        "13.4",
        "older ones have none of it",
        look(session=NOBODY),
        is_=(503, {"error|message": Absent, "error|retryable": Absent}),
    ),
    row(
        "13.5",
        "a whole API is denied with SYS.1019",
        clone(),
        poll(),
        is_=(503, {"error|code": "SYS.1019"}),
        newer_codes=True,
        accounts=(NodeAccount(ADMIN_UUID, "admin", denied=frozenset({"CloneModelService"})), TENANT),
    ),
    row(
        "13.5",
        "a resource is denied with SYS.1018",
        ask(f"DELETE {SERVICES}/{OTHER}", X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1018"}),
        newer_codes=True,
        accounts=(NodeAccount(ADMIN_UUID, "admin"), TENANT),
        sources=(Source(OTHER, owner=TENANT.uuid),),
    ),
    row(
        "13.5",
        "a tag given twice is TAG.1001",
        clone(tags={"userTags": ["a", "a"]}),
        poll(),
        is_=(503, {"error|code": "TAG.1001"}),
        newer_codes=True,
    ),
    row(
        "13.5",
        "the quota of tags is TAG.1002",
        clone(),
        poll(),
        is_=(503, {"error|code": "TAG.1002"}),
        faults=fails("TAG.1002"),
    ),
    row(
        "13.5",
        "a disabled account is ID.1007",
        look(),
        is_=(503, {"error|code": "ID.1007"}),
        accounts=(NodeAccount(ADMIN_UUID, "admin", enabled=False), TENANT),
    ),
    row(
        "13.6",
        "an access key without signature",
        look(Authorization="ZStack AKID", Date=NOW),
        is_=(400, "Invalid authKey format"),
        newer_access_keys=True,
    ),
    row(
        "13.6",
        "a colon in the signature is its own",
        look(Authorization="ZStack AKID:b:c", Date=NOW),
        is_=(403, "wrong accessKey signature"),
        newer_access_keys=True,
    ),
    row(
        "13.6",
        "an unknown backend",
        look(Authorization="Basic x"),
        is_=(400, Has(("unable to find RestAuthenticationBackend",))),
        newer_access_keys=True,
    ),
    row(
        "13.7",
        "location may be https",
        clone(),
        is_=(202, {"location": f"https://vip.example.com/zstack/v1/api-jobs/{job_uuid()}"}),
        management_url="https://vip.example.com",
    ),
    row(
        "13.8",
        "AddModelService has param",
        ask(f"POST {SERVICES}", {"param": ADDED}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"inventory|name": "added", "inventory|modelCenterUuid": CENTER}),
    ),
    row(
        "13.8",
        "and not params",
        ask(f"POST {SERVICES}", {"params": ADDED}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1007"}),
    ),
    row(
        "13.8",
        "a doubled user tag fails its job too",
        ask(f"POST {SERVICES}", {"param": ADDED, "userTags": ["a", "a"]}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1006"}),
    ),
    row(
        "13.8",
        "its model centre exists",
        ask(f"POST {SERVICES}", {"param": ADDED | {"modelCenterUuid": NOBODY}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1003"}),
    ),
    row(
        "13.8",
        "UpdateModelService takes what no inventory shows",
        ask(
            f"PUT {SERVICES}/{SOURCE}",
            {"updateModelService": {"servicePorts": [80], "serviceLivez": "/l"}},
            X_Job_UUID=job_uuid(),
        ),
        poll(),
        is_=(200, {"inventory|name": "alpha", "inventory|servicePorts": Absent}),
    ),
    row(
        "13.11",
        "two images of one architecture meet a unique key",
        clone({"architectureImages": IMAGES}),
        poll(),
        is_=(503, {"error|code": "SYS.1000", "error|details": Has(("Duplicate entry",))}),
        unique_images=True,
    ),
    row(
        "13.11",
        "where the migration has one",
        clone({"architectureImages": IMAGES}),
        poll(),
        is_=(200, {"inventory|modelServiceImages|#": 2}),
    ),
    row(
        "13.12",
        "a clone stays in its source's zone",
        clone({"zoneUuid": "y" * 32}),
        poll(),
        is_=(200, {"inventory|zoneUuid": "z" * 32}),
    ),
    row(
        "13.13",
        "the explorer's curl loses what stands on top",
        ask(f"POST {SERVICES}/{SOURCE}", {"name": "lost", "params": {"containerArgs": "kept"}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"inventory|name": "alpha", "inventory|containerArgs": "kept"}),
    ),
    row(
        "13.16",
        "an update sets fields",
        ask(
            f"PUT {SERVICES}/{SOURCE}", {"updateModelService": {"name": "new", "requestCpu": 9}}, X_Job_UUID=job_uuid()
        ),
        poll(),
        look(SOURCE),
        is_=(200, {"inventories|0|name": "new", "inventories|0|requestCpu": 9}),
    ),
    row(
        "13.16",
        "and not those it does not know",
        ask(f"PUT {SERVICES}/{SOURCE}", {"updateModelService": {"readme": "r", "size": 5}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(200, {"inventory|readme": Absent}),
    ),
    row(
        "13.16",
        "of a service that is not there it fails",
        ask(f"PUT {SERVICES}/{NOBODY}", {"updateModelService": {"name": "n"}}, X_Job_UUID=job_uuid()),
        poll(),
        is_=(503, {"error|code": "SYS.1003"}),
    ),
)

CLIENTS: Final[tuple[Row, ...]] = (
    row(
        "13.9",
        "X-JSON-Schema names nested paths",
        clone({"architectureImages": IMAGES[:1]}),
        poll(X_JSON_Schema="true"),
        is_=(
            200,
            {
                "schema|inventory": f"{SCHEMA}.ModelServiceInventory",
                "schema|inventory.modelServiceImages[0]": f"{SCHEMA}.ModelServiceImageInventory",
            },
        ),
    ),
    row(
        "13.9",
        "queries name them always",
        look(SOURCE),
        is_=(200, {"schema|inventories[0].modelServiceImages[0]": f"{SCHEMA}.ModelServiceImageInventory"}),
    ),
    row("13.9", "without the header a result has no schema", clone(), poll(), is_=(200, {"schema": Absent})),
    row(
        "13.9",
        "sort needs no sign",
        ask(f"GET {SERVICES}?sort=name&fields=name&limit=1"),
        is_=(200, {"inventories|0|name": "alpha"}),
    ),
    row(
        "13.9",
        "a plus that is not escaped is none",
        ask(f"GET {SERVICES}?sort=+name&fields=name&limit=1"),
        is_=(200, {"inventories|0|name": "alpha"}),
    ),
    row(
        "13.9",
        "minus is descending",
        ask(f"GET {SERVICES}?sort=-name&fields=name&limit=1"),
        is_=(200, {"inventories|0|name": "private"}),
    ),
    row("13.9", "an integer may be a text", clone({"requestCpu": "4"}), poll(), is_=(200, {"inventory|requestCpu": 4})),
    row("13.9", "a boolean may be a text", clone({"system": "true"}), poll(), is_=(200, {"inventory|system": True})),
    row("13.9", "whatever its case", clone({"system": "TRUE"}), poll(), is_=(200, {"inventory|system": True})),
    row(
        "13.9",
        "another text is no boolean",
        clone({"system": "yes"}),
        is_=(400, "Invalid value for boolean field [system], [yes] is not a valid boolean string[true, false]."),
    ),
    row(
        "13.9",
        "a path with one API takes any verb",
        replace(login(), method="POST"),
        is_=(200, {"inventory|userType": "account"}),
    ),
    row(
        "13.9", "also the verb of a query string", ask("GET /v1/management-nodes/ready", session=None), is_=(200, "{}")
    ),
    row(
        "13.9",
        "no creation at a shared path",
        ask("POST /v1/accounts", {}),
        is_=(500, "No creational API found for the path[/zstack/v1/accounts]"),
    ),
    row(
        "13.9",
        "no query at a shared path",
        ask(f"GET {ACTIONS}"),
        is_=(500, f"No query API found for the path[/zstack{ACTIONS}]"),
    ),
    row(
        "13.9",
        "no deletion at a shared path",
        ask("DELETE /v1/accounts"),
        is_=(500, "No delete API found for the path[/zstack/v1/accounts]"),
    ),
    row(
        "13.9",
        "an unknown action is a 400",
        ask(f"PUT {ACTIONS}", {"other": {}}),
        is_=(400, f"the body doesn't contain action mapping to the URL[{ACTIONS}]"),
    ),
    row(
        "13.9",
        "PATCH is not allowed",
        ask(f"PATCH {SERVICES}/{SOURCE}", {}),
        is_=(405, f"The method[PATCH] is not allowed for the path[/zstack{SERVICES}/{SOURCE}]"),
    ),
    row(
        "13.9",
        "by uuid every parameter is ignored",
        look(f"{SOURCE}?q=nme&limit=x&fields=name"),
        is_=(200, {"inventories|0|uuid": SOURCE}),
    ),
    row(
        "13.9", "a query is answered before X-Job-UUID is looked at", look(SOURCE, X_Job_UUID="short"), is_=(200, None)
    ),
    row("13.9", "and before X-API-Timeout", look(SOURCE, X_API_Timeout="30m"), is_=(200, None)),
    row(
        "13.9",
        "another sync call is not",
        ask(f"PUT {ACTIONS}", {"getVersion": {}}, X_Job_UUID="short"),
        is_=(400, Has(("X-Job-UUID",))),
    ),
    row(
        "13.9",
        "a condition without value is a 400",
        ask(f"GET {SERVICES}?q=name="),
        is_=(400, "Invalid query parameter. The 'name=' in parameter[q] is not a key-value pair split by ="),
    ),
    row("13.9", "told by the operator's own name", ask(f"GET {SERVICES}?q=name~="), is_=(400, Has(("split by like",)))),
    row("13.9", "limit may be negative", ask(f"GET {SERVICES}?limit=-1"), is_=(200, {"inventories|#": 3})),
    row("13.9", "limit may have blanks", ask(f"GET {SERVICES}?limit=%202"), is_=(200, {"inventories|#": 2})),
    row(
        "13.9",
        "limit ends at 2^31-1",
        ask(f"GET {SERVICES}?limit=2147483648"),
        is_=(400, Has(("'limit' must be an integer",))),
    ),
    row("13.9", "OAuth needs no blank", look(SOURCE, Authorization=f"OAuth{SESSION}"), is_=(200, None)),
    row(
        "13.9",
        "OAuth alone is an empty session",
        look(SOURCE, Authorization="OAuth"),
        is_=(503, {"error|code": "ID.1001"}),
    ),
    row(
        "13.9",
        "an access key has two parts",
        look(Authorization="ZStack a:b:c", Date=NOW),
        is_=(400, "accessKey format is 'ZStack AccessKeyId:Signature'"),
    ),
    row(
        "13.9",
        "JSON may have comments",
        text_body('/* a */ {"params": {"name": "n"}} '),
        poll(),
        is_=(200, {"inventory|name": "n"}),
    ),
    row("13.9", "single quotes", text_body("{'params': {'name': 'n'}}"), poll(), is_=(200, {"inventory|name": "n"})),
    row("13.9", "names without quotes", text_body("{params: {name: n}}"), poll(), is_=(200, {"inventory|name": "n"})),
    row(
        "13.9",
        "other separators",
        text_body("{params = {name => n; requestCpu: 3}}"),
        poll(),
        is_=(200, {"inventory|name": "n", "inventory|requestCpu": 3}),
    ),
    row(
        "13.9",
        "nulls for what is left out of a list",
        text_body('{"params": {"cpuArchitectures": ["X86_64",]}}'),
        poll(),
        is_=(503, {"error|code": "SYS.1007"}),
    ),
    row(
        "13.9",
        "and no comma behind the last member",
        text_body('{"params": {"name": "n",}}'),
        is_=(500, Has(("Expected name",))),
    ),
    row("13.9", "nor anything behind the document", text_body("{} x"), is_=(500, Has(("JsonSyntaxException",)))),
    row(
        "13.9",
        "a path below a job is no API",
        ask("GET /v1/api-jobs/a/b"),
        is_=(404, "no api mapping to /v1/api-jobs/a/b"),
    ),
    row(
        "13.9",
        "jobs are asked for by GET",
        ask("POST /v1/api-jobs/a"),
        is_=(405, "only GET method is allowed for querying job status"),
    ),
    row(
        "13.9",
        "a user tag's row is complete",
        clone({"resourceUuid": CLONE}, tags={"userTags": ["a"]}),
        poll(),
        ask(f"GET /v1/user-tags?q=resourceUuid={CLONE}"),
        is_=(
            200,
            {
                "inventories|0|uuid": Has(("4",)),
                "inventories|0|createDate": Has((",",)),
                "inventories|0|lastOpDate": Has((",",)),
                "inventories|0|type": "User",
                "inventories|0|resourceType": "ModelServiceVO",
            },
        ),
    ),
    row(
        "13.9",
        "images are queried with a dot",
        ask(f"GET {SERVICES}?q=modelServiceImages.cpuArchitecture=X86_64&sort=name"),
        is_=(200, {"inventories|#": 3}),
    ),
    row(
        "13.9",
        "of fields they have",
        ask(f"GET {SERVICES}?q=modelServiceImages.arch=X86_64"),
        is_=(503, {"error|code": "SYS.1000"}),
    ),
)

LEGACY: Final[tuple[Row, ...]] = (
    row(
        "13.10",
        "a login is done at once",
        legacy(
            f"{IDENTITY}.APILogInByAccountMsg",
            accountName="admin",
            password=json.loads(login().body)["logInByAccount"]["password"],
        ),
        is_=(200, {"state": "Done", "result": Has((f"{IDENTITY}.APILogInReply", '"success":true', '"inventory"'))}),
    ),
    row(
        "13.10",
        "a wrong password is a result too",
        legacy(f"{IDENTITY}.APILogInByAccountMsg", accountName="admin", password="x"),
        is_=(200, {"state": "Done", "result": Has(('"success":false', "ID.1000"))}),
    ),
    row(
        "13.10",
        "a query has conditions",
        legacy(f"{AI}.APIQueryModelServiceMsg", **OWN, conditions=[{"name": "name", "op": "like", "value": "al%"}]),
        is_=(200, {"state": "Done", "result": Has(("alpha", "APIQueryModelServiceReply"))}),
    ),
    row(
        "13.10",
        "a query without session is refused in the result",
        legacy(f"{AI}.APIQueryModelServiceMsg", conditions=[]),
        is_=(200, {"result": Has(("ID.1001",))}),
    ),
    row(
        "13.10",
        "a clone is processed",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, uuid=SOURCE, id=job_uuid()),
        is_=(200, {"uuid": job_uuid(), "state": "Processing", "result": Absent}),
    ),
    row(
        "13.10",
        "and has a result",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, uuid=SOURCE, id=job_uuid(), name="n"),
        result(),
        is_=(
            200,
            {"state": "Done", "result": Has((f"{AI}.APICloneModelServiceEvent", '"name":"n"', '"success":true'))},
        ),
    ),
    row(
        "13.10",
        "a failure is a result",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, uuid=NOBODY, id=job_uuid()),
        result(),
        is_=(200, {"state": "Done", "result": Has(('"success":false', "SYS.1003"))}),
    ),
    row(
        "13.10",
        "conditions that are no list are refused in text",
        legacy(f"{AI}.APIQueryModelServiceMsg", **OWN, conditions={"name": "al%"}),
        is_=(200, Has(("Expected BEGIN_ARRAY", "$.conditions"))),
    ),
    row(
        "13.10",
        "a condition that is no object is refused in text",
        legacy(f"{AI}.APIQueryModelServiceMsg", **OWN, conditions=["name=al"]),
        is_=(200, Has(("Expected BEGIN_OBJECT", "$.conditions"))),
    ),
    row(
        "13.10",
        "tags that are no list are refused in text",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, uuid=SOURCE, userTags="t"),
        is_=(200, Has(("Expected BEGIN_ARRAY", "$.userTags"))),
    ),
    row(
        "13.10",
        "its job is no api job",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, uuid=SOURCE, id=job_uuid()),
        result(),
        poll(),
        is_=(404, "the job has been expired"),
    ),
    row(
        "13.10",
        "a class that is not there is answered in text",
        legacy("org.zstack.APINothingMsg"),
        is_=(200, "Unable to deserialize class org.zstack.APINothingMsg"),
    ),
    row(
        "13.10",
        "an unknown result is Tomcat's 404",
        result(NOBODY),
        is_=(404, Has(("<html>", f"No api result[uuid:{NOBODY}] found"))),
    ),
    row(
        "13.10",
        "the last slash may be left out",
        replace(legacy(f"{AI}.APIQueryModelServiceMsg", **OWN, conditions=[]), path="/zstack/api"),
        is_=(200, {"state": "Done"}),
    ),
    row(
        "13.10",
        "a logout names the session",
        legacy(f"{IDENTITY}.APILogOutMsg", sessionUuid=SESSION),
        look(OTHER),
        is_=(503, {"error|code": "ID.1001"}),
    ),
    row(
        "13.10",
        "a message without its path's uuid lacks a field",
        legacy(f"{AI}.APICloneModelServiceMsg", **OWN, id=job_uuid()),
        result(),
        is_=(200, {"result": Has(("SYS.1007", "field[uuid]"))}),
    ),
)

ROWS: Final = (*NEWER, *CLIENTS, *LEGACY)
