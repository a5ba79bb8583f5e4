"""The job file that ``zclone init`` writes."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """\
# yaml-language-server: $schema=./job.schema.json
# `zclone schema > job.schema.json` writes the schema; editors then complete keys and show what they mean.
# `zclone validate FILE` checks this file, `zclone plan FILE` shows what would be sent,
# `zclone run --simulate FILE` rehearses it without a server, `zclone run FILE` does it; run it again until it exits 0.
version: 1
name: my-clones                 # identity of the job: letters, digits, . _ -
run: default                    # identity of this run: the same run never clones a target twice; nightly-${date} works

# endpoint:                     # or the ZSTACK_* settings; never a secret in this file
#   url: https://zstack.example.com:8080/zstack
#   auth: {session: {env: ZSTACK_SESSION_ID}}

limits:
  rate: 10/s                    # every call counts: submit, poll, query and retry; also 600/min
  concurrency: 8                # clones in flight on the server
  # max_failures: 20%           # stop once more than this fail
  # deadline: 2h                # stop sending in time
  # waves: [1, 5, 20%, rest]    # the next wave starts when the one before went well

vars:
  registry: registry.example.com

defaults:                       # under every target
  params:
    description: cloned by zclone
  userTags: []

targets:
  - d76744cb53f9378abf42b907df3efb6e          # a source uuid: a plain copy
  - uuid: 21cb9f654e9d3feab962ce3f5eec5796    # a source uuid with overrides
    id: qwen-small                            # the target's key; default: the uuid
    params:
      name: qwen-small
      requestCpu: 4
      requestMemory: 8192
  # - uuid: 8d3c5b3a1f0e4b6c9d2e7f8a1b2c3d4e  # one source for many tenants
  #   matrix: {tenant: [acme, globex]}
  #   params: {name: "${tenant}-chat"}
  #   owner: 9f2d7e1c4b5a4c3d8e6f7a8b9c0d1e2f  # account that the clone is given to; share_with: [...] shares it
  # - from: services.csv                      # streamed; also .jsonl. Columns: uuid, id, params.name, …
"""


def init_text() -> str:
    """Return a commented job file that is valid as it stands."""
    return _TEXT
