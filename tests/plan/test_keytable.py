"""The compact table of hashes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batch.keytable import KeyTable

HASHES = st.integers(-(2**63), 2**63 - 1).map(lambda value: value or 1)


@given(st.lists(st.tuples(st.one_of(HASHES, st.integers(1, 40).map(lambda low: low << 40)), st.integers(0, 255))))
def test_it_equals_a_dict_of_hashes(pairs: list[tuple[int, int]]) -> None:
    """Get, put, length and iteration agree with a dict, colliding slots included."""
    table, model = KeyTable(1), dict[int, int]()
    for key, value in pairs:
        assert table.put(key, value) is (key not in model)
        model[key] = value
    assert (len(table), dict(table)) == (len(model), model)
    assert all(table.get(key) == value for key, value in model.items())


def test_it_grows() -> None:
    """Entries survive growth, foreseen or not, absent ones stay absent, and wide values are kept whole."""
    table = KeyTable(8)
    keys = [number * 0x9E3779B97F4A7C15 % 2**64 - 2**63 for number in range(1, 20_000)]
    for number, key in enumerate(keys):
        if number == 5_000:
            table.reserve(15_000)
        table.put(key, 2**64 - 1 - number)
    assert len(table) == len(keys)
    assert all(table.get(key) == 2**64 - 1 - number for number, key in enumerate(keys))
    assert table.get(12345) is None
