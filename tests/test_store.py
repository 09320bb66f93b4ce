from hypothesis import given
from hypothesis import strategies as st

from metainf_operator.store import Store


def recording() -> tuple[Store[str, int], list[tuple[str, int | None, int | None]]]:
    store: Store[str, int] = Store("nodes")
    changes: list[tuple[str, int | None, int | None]] = []
    store.listen(lambda key, old, new: changes.append((key, old, new)))
    return store, changes


def test_tells_listeners_what_was_and_what_is() -> None:
    store, changes = recording()
    assert store.upsert("a", 1)
    assert store.upsert("a", 2)
    assert store.delete("a")
    assert changes == [("a", None, 1), ("a", 1, 2), ("a", 2, None)]


def test_an_equal_projection_tells_nobody() -> None:
    store, changes = recording()
    store.upsert("a", 1, "5")
    assert not store.upsert("a", 1, "6")
    assert not store.delete("b")
    assert len(changes) == 1


def test_a_projection_that_is_nothing_is_still_there() -> None:
    store: Store[str, int | None] = Store("pods")
    assert store.upsert("a", None)
    assert "a" in store
    assert len(store) == 1
    assert store.delete("a")


def test_the_listeners_see_the_store_as_it_is_after_the_change() -> None:
    store, _ = recording()
    seen: list[int | None] = []
    store.listen(lambda key, old, new: seen.append(store.get(key)))
    store.upsert("a", 1)
    store.delete("a")
    assert seen == [1, None]


def test_a_listing_drops_what_it_did_not_show_and_counts_as_synced() -> None:
    store, changes = recording()
    for key in ("a", "b", "c"):
        store.upsert(key, 1)
    assert not store.synced.is_set()
    assert store.replace_keys({"b"}) == ("a", "c")
    assert store.synced.is_set()
    assert tuple(store) == ("b",)
    assert changes[3:] == [("a", 1, None), ("c", 1, None)]
    assert store.replace_keys({"b", "unknown"}) == ()


def test_an_older_listing_does_not_win_over_the_watch() -> None:
    store, _ = recording()
    store.upsert("a", 2, "20")
    assert not store.upsert("a", 1, "10")
    assert store.get("a") == 2
    assert store.upsert("a", 3, "21")


def test_an_older_listing_neither_drops_what_is_new_nor_brings_back_what_is_gone() -> None:
    store, _ = recording()
    store.upsert("old", 1, "5")
    store.upsert("gone", 1, "6")
    store.delete("gone", "12")
    store.upsert("new", 1, "13")
    assert not store.upsert("gone", 1, "6")  # the listing of version 10 is slow and shows it still
    assert store.replace_keys({"old", "gone"}, "10") == ()
    assert set(store) == {"old", "new"}
    assert store.replace_keys({"new"}, "20") == ("old",)
    assert store.upsert("gone", 2, "21")  # made anew


def test_versions_that_are_no_numbers_compare_with_nothing() -> None:
    store, _ = recording()
    store.upsert("a", 1, "abc")
    assert store.upsert("a", 2, "")
    assert store.replace_keys(set(), "abc") == ("a",)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 2)))),
    st.sets(st.sampled_from("abc")),
)
def test_a_listener_that_follows_ends_with_the_same_content(
    steps: list[tuple[str, int | None]], seen: set[str]
) -> None:
    store, changes = recording()
    for key, value in steps:
        if value is None:
            store.delete(key)
        else:
            store.upsert(key, value)
    store.replace_keys(seen)
    followed: dict[str, int] = {}
    for key, old, new in changes:
        assert followed.get(key) == old != new
        if new is None:
            del followed[key]
        else:
            followed[key] = new
    assert followed == dict(store.items())
    assert set(followed) <= seen
    assert sorted(store.values()) == sorted(followed.values())
