"""Known rows: one question for many keys, taken late, and never an answer from before a change."""

from __future__ import annotations

from longshore.server.store.transaction.known import Found, Known


class Table:
    """Rows by key, which are read when a question is sent. `asked` has the keys of each question, `waits` counts those
    whose answer was waited for."""

    def __init__(self, **rows: int) -> None:
        self.rows = rows
        self.asked: list[list[str]] = []
        self.waits = 0

    def question(self, keys: list[str]) -> Found[str, int]:
        self.asked.append(keys)
        found = [(key, self.rows[key]) for key in keys if key in self.rows]

        def answer() -> list[tuple[str, int]]:
            self.waits += 1
            return found

        return answer

    def known(self, memory: dict[str, int] | None = None) -> Known[str, int]:
        return Known(self.question, absent=0, memory=memory)


def test_wanted_keys_are_asked_for_in_one_question_and_waited_for_when_one_is_needed() -> None:
    table = Table(a=1, b=2)
    known = table.known()
    known.wanted.update(("b", "nobody"))
    known.wanted.add("a")
    known.wanted.add("b")
    known.ask()
    assert (table.asked, table.waits) == ([["a", "b", "nobody"]], 0)
    assert "a" not in known, "its answer is still to come"
    assert [known.get(key) for key in ("a", "b", "nobody")] == [1, 2, 0]
    assert "a" in known
    known.ask(("a", "nobody"))
    assert (table.asked, table.waits) == ([["a", "b", "nobody"]], 1)


def test_a_key_that_nobody_wanted_is_asked_for_when_it_is_needed() -> None:
    table = Table(a=1)
    known = table.known()
    assert known.get("a") == 1
    known.ask()
    assert table.asked == [["a"]]


def test_an_answer_that_comes_late_overwrites_nothing() -> None:
    table = Table(a=1, b=2, c=3)
    known = table.known()
    known.ask(("a", "b", "c"))
    known.put("a", 10)
    known.forget("b")
    table.rows["b"] = 20
    assert [known.get(key) for key in ("c", "a", "b")] == [3, 10, 20]


def test_the_newest_answer_counts() -> None:
    table = Table(a=1)
    known = table.known()
    known.ask(("a",))
    known.forget("a")
    table.rows["a"] = 2
    known.ask(("a",))
    assert known.get("a") == 2
    known.clear()
    table.rows["a"] = 3
    assert known.get("a") == 3


def test_what_is_remembered_is_not_asked_for_until_it_is_forgotten() -> None:
    table = Table(a=1, b=2)
    memory: dict[str, int] = {}
    first = table.known(memory)
    assert first.get("a") == 1
    first.put("b", 5)
    assert memory == {}, "nothing is committed yet"
    first.remember()
    second = table.known(memory)
    second.ask(("a", "b"))
    assert "a" in second
    assert (second.get("a"), second.get("b"), len(table.asked)) == (1, 5, 1)
    second.forget("b")
    assert memory == {"a": 1}
    assert second.get("b") == 2
    second.clear()
    assert memory == {}
