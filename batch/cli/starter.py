"""The job file that ``zclone init`` writes."""

from typing import Final

STARTER: Final = """\
# yaml-language-server: $schema=./job.schema.json
# `zclone schema > job.schema.json` makes the schema that editors complete from.
version: 1
name: my-clones                   # identity of the job: letters, digits, . _ -
# run: default                    # identity of this run; the same run never clones a target twice

# endpoint:                       # or the settings ZSTACK_API_URL, ZSTACK_SESSION_ID and so on; never a secret here
#   url: https://zstack.example.com:8080
#   auth: {session: {env: ZSTACK_SESSION_ID}}

limits:
  rate: 10/s                      # every call counts: submit, poll, query, retry; also 600/min
  concurrency: 8                  # clones in flight on the server
  attempts: 4                     # POSTs per target, over all resumes

defaults:                         # under every target; a target's own value wins, null takes one away
  params: {}
  userTags: []

targets:
  - 21cb9f654e9d3feab962ce3f5eec5796                   # a source uuid: an exact copy
  - uuid: d76744cb53f9378abf42b907df3efb6e             # a source uuid with overrides
    id: chat-copy                                      # the target's name in lists and in the manifest
    params:                                            # the parameters of CloneModelService
      name: chat-copy
      requestCpu: 4
  # - from: services.csv                               # one target a row; columns uuid, id, params.name, ...
"""
