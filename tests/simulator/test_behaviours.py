"""The 18 behaviours that the node copies: how each is configured, and which tests cover it."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from batch.simulator.faults import FaultKind
from batch.simulator.options import NodeOptions


class Behaviour(NamedTuple):
    """One behaviour of the server."""

    number: int
    what: str
    switches: str
    """Options of the node and kinds of faults that cause or change it."""
    tests: str


BEHAVIOURS: Final = (
    Behaviour(
        1,
        "context path, unknown routes, methods, queries by uuid, schema",
        "context_path",
        "test_refusals_of_the_rest_layer_are_plain_text test_paths_outside_the_context_path_are_unknown "
        "test_a_query_by_uuid_answers_a_list_even_when_empty test_totals_counts_fields_and_schema",
    ),
    Behaviour(
        2,
        "order of checks: JSON, headers, parameters, session; 202, then 503",
        "session_first accounts access_keys session",
        "test_checks_come_in_the_servers_order test_parameters_are_checked_before_the_session "
        "test_a_server_may_check_the_session_first "
        "test_a_dead_session_is_reported_at_the_poll_for_posts_and_at_once_for_queries",
    ),
    Behaviour(
        3,
        "bytes of answers and bodies",
        "content_type html_escape http_sessions latin1_bodies",
        "test_answers_name_no_content_type_by_default test_json_is_html_escaped_without_nulls "
        "test_cookieless_requests_get_an_http_session_each test_bodies_without_charset_are_read_as_latin_1",
    ),
    Behaviour(
        4,
        "job rows, their purge, the result cache",
        "row_retention scan_interval cache_size orphan result_lost purged",
        "test_a_job_is_202_until_done_and_then_repeats_its_result "
        "test_done_rows_are_purged_by_creation_and_processing_ones_never "
        "test_a_purged_row_still_answers_from_the_cache_and_misleads_after_a_second_post "
        "test_the_cache_forgets_the_least_recently_used",
    ),
    Behaviour(
        5,
        "X-Job-UUID: length, duplicates, the window, lost rows",
        "duplicate_window loses_rows row_missing",
        "test_a_used_job_uuid_is_refused_for_calls_that_change test_a_failed_job_uses_its_uuid_up "
        "test_the_duplicate_check_is_not_atomic test_a_lost_row_answers_404_though_the_job_ran",
    ),
    Behaviour(
        6,
        "polls without credentials, Tomcat's page, a result written over",
        "html_500 two_runs twice",
        "test_a_job_is_202_until_done_and_then_repeats_its_result test_each_fault_of_a_job "
        "test_each_cut_between_request_and_answer",
    ),
    Behaviour(
        7,
        "location of another host, apiTimeout",
        "management_url api_timeout_ms foreign_location",
        "test_location_names_the_management_node",
    ),
    Behaviour(
        8,
        "sessions: sliding, limited, unique, dead",
        "session_timeout max_sessions unique_sessions session expire_sessions",
        "test_only_authorised_calls_slide_a_session test_sessions_are_limited_per_user "
        "test_unique_sessions_end_each_other test_wrong_credentials_are_an_immediate_503 "
        "test_a_dead_session_is_reported_at_the_poll_for_posts_and_at_once_for_queries",
    ),
    Behaviour(
        9,
        "AccessKey: signature, date, zone",
        "access_keys access_key_window check_time_zone timezone utc_offset",
        "test_access_keys test_instants_are_compared_when_the_zone_is_checked test_disabled_keys_are_refused",
    ),
    Behaviour(
        10,
        "resourceUuid: form, collisions, soft delete; names repeat",
        "strict_resource_uuid soft_delete honours_resource_uuid sources",
        "test_a_resource_uuid_is_lower_case_with_version_and_variant test_a_server_may_accept_any_resource_uuid "
        "test_a_resource_uuid_collides_with_every_kind_of_resource "
        "test_a_deleted_uuid_stays_occupied_when_deleted_softly test_names_are_not_unique",
    ),
    Behaviour(
        11,
        "sources, choices, types, version gates, defaults, column lengths",
        "invent_sources version column_overflow three_byte_utf8",
        "test_a_missing_source_is_reported_at_the_poll test_choices_have_exact_case_and_lists_no_nulls "
        "test_wrong_types_are_refused_at_once test_older_servers_drop_newer_fields_silently "
        "test_size_and_system_are_not_copied_from_the_source test_values_longer_than_their_column_fail_inside "
        "test_columns_may_truncate_instead",
    ),
    Behaviour(
        12,
        "tags: validation only, unknown, stored, doubled",
        "system_tags tags honours_validation_only",
        "test_validation_only_runs_every_check_and_makes_nothing "
        "test_a_server_that_ignores_the_tag_clones test_unknown_system_tags_are_refused "
        "test_user_tags_are_stored_and_can_be_queried test_duplicate_user_tags_fail_a_job_whose_clone_exists",
    ),
    Behaviour(
        13,
        "permissions and quotas, in both languages",
        "accounts locale",
        "test_a_source_that_is_not_shared_cannot_be_cloned test_only_the_owner_deletes "
        "test_a_denied_api_is_reported_as_a_failed_operation test_admin_only_apis_are_refused_to_others "
        "test_quotas_apply_to_normal_accounts_only",
    ),
    Behaviour(
        14,
        "localised details, causes, newer codes",
        "locale global_error_codes",
        "test_details_are_localised_and_descriptions_are_not test_errors_nest_their_cause "
        "test_newer_servers_write_global_codes_and_causes",
    ),
    Behaviour(
        15,
        "faults at each cut",
        "drop orphan orphan_500 lost_reply slow late delayed fail_created fail_then_create result_lost restart proxy "
        "error_500 truncated rate_limited",
        "test_each_cut_between_request_and_answer test_each_fault_of_a_job "
        "test_a_late_execution_does_not_depend_on_the_client test_the_original_arrives_after_its_repetition "
        "test_a_restart_leaves_orphans_and_refuses_for_a_while test_a_restart_refuses_connections_and_comes_back "
        "test_proxy_pages_are_html",
    ),
    Behaviour(
        16,
        "concurrency and what is counted",
        "workers check_seconds latency",
        "test_the_check_stage_has_a_thread_limit test_sync_calls_wait_for_a_thread_too "
        "test_the_ledger_counts_calls_and_clones test_the_peak_counts_any_window",
    ),
    Behaviour(
        17,
        "web hook",
        "hook_tries hook_pause hooks_anywhere",
        "test_a_web_hook_gives_up_after_its_tries test_an_accepted_web_hook_is_not_repeated "
        "test_web_hooks_are_called test_web_hooks_reach_this_machine_only test_a_hooks_redirect_is_not_followed",
    ),
    Behaviour(
        18,
        "the APIs around the clone",
        "version timezone invent_accounts",
        "test_open_apis_need_no_credential test_supported_apis_are_named_by_class "
        "test_deleting_an_unknown_service_succeeds test_owners_change_and_resources_are_shared "
        "test_owner_and_share_need_existing_accounts_and_resources test_an_owner_is_not_made_owner_again "
        "test_the_new_owner_needs_quota test_accounts_are_invented_if_enabled",
    ),
)

TESTS: Final = {
    node.name
    for path in Path(__file__).parent.glob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
}
SWITCHES: Final = {row.name for row in dataclasses.fields(NodeOptions)} | {kind.value for kind in FaultKind}
SET_UP: Final = {"seed", "keep_params", "faults"}
"""Options that are no behaviour of the server: chance, memory, and the faults themselves."""
NEWER: Final = {
    "requests_per_minute",
    "limit_window",
    "newer_codes",
    "newer_access_keys",
    "unique_images",
    "lock_after",
}
"""Switches of newer servers, which the conformance table and test_newer_servers.py cover."""
UNSEEN: Final = {"row_appears"}
"""Not confirmed by the source: covered by test_node_jobs.py."""


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: str(behaviour.number))
def test_each_behaviour_has_switches_and_tests(behaviour: Behaviour) -> None:
    """Each behaviour can be configured on the node and is covered by tests that exist."""
    assert behaviour.switches
    assert set(behaviour.switches.split()) <= SWITCHES
    assert behaviour.tests
    assert set(behaviour.tests.split()) <= TESTS


def test_all_eighteen_are_here() -> None:
    """Section 11 has 18 points, and every switch and fault of the node belongs to one of them."""
    assert [behaviour.number for behaviour in BEHAVIOURS] == list(range(1, 19))
    used = {switch for behaviour in BEHAVIOURS for switch in behaviour.switches.split()}
    assert SWITCHES - used - SET_UP - NEWER - UNSEEN == {"fail"}
