"""An embedded ZStack management node that answers as strictly as the real one, with faults and a ledger.

``Node`` is the pure core, driven by the owner of the clock; ``serve`` and ``running`` put it behind a socket;
``run_forever`` is the process that ``zclone simulate`` starts. Of zclone it uses only the table of parameters.
"""

from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.ledger import Ledger
from batch.simulator.node import Node
from batch.simulator.options import (
    ADMIN_UUID,
    CALM,
    CHAOS,
    FLAKY,
    PRESETS,
    SESSION,
    NodeAccessKey,
    NodeAccount,
    NodeOptions,
    Source,
)
from batch.simulator.script import ScriptError, load_faults, read_script
from batch.simulator.server import NodeServer, running, serve
from batch.simulator.state import StateError, read_events
from batch.simulator.wire import Delivery, Drop, Later, Request, Response, WebHook

__all__ = [
    "ADMIN_UUID",
    "CALM",
    "CHAOS",
    "FLAKY",
    "PRESETS",
    "SESSION",
    "Delivery",
    "Drop",
    "Fault",
    "FaultKind",
    "FaultRule",
    "Later",
    "Ledger",
    "Node",
    "NodeAccessKey",
    "NodeAccount",
    "NodeOptions",
    "NodeServer",
    "Request",
    "Response",
    "ScriptError",
    "Source",
    "StateError",
    "WebHook",
    "load_faults",
    "read_events",
    "read_script",
    "running",
    "serve",
]
