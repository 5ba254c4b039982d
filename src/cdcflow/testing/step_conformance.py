"""What every step must do, as tests that anybody can run against a step of their own.

Subclass `StepConformance` in a test module, say which step and what it makes of a row, and run pytest:

    from cdcflow.testing.step_conformance import StepConformance

    class TestUpper(StepConformance):
        options = {"upper": ["status"]}       # as in a flow file; or override `make_chain`

        def expected(self, row):
            return {**row, "status": row["status"] and row["status"].upper()}

Each test plays changes of one table (`cdcflow.testing.things`), once with its key as replica identity and
once under REPLICA IDENTITY FULL; `identities` says which of them the step takes. `expected` says what a step
that looks at rows makes of one: another row, several, or none. The suite then holds what the changes come to
against what the rows come to: first the step and then the table must be what first the table and then the
step is. A step that looks at changes has no `expected`, and is asked for the rest only: that offsets, order
and identity survive, that it gives the shapes that it has promised, and the same whatever the batches are cut
like.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from cdcflow.errors import ConfigurationError, Permanent
from cdcflow.model import UNCHANGED, Batch, Op, Relation, Value, concat
from cdcflow.testing.batches import Made, batch_of, made_message
from cdcflow.testing.history import History, expected_rows
from cdcflow.testing.steps import chain, through
from cdcflow.testing.things import FULL, KEYED, LEAST, WIDER, Row, Things
from cdcflow.transform import Chain


class StepConformance:
    """The suite. See the module's docstring for how to use it."""

    #: The step, as a flow file has it.
    options: ClassVar[Mapping[str, Any]]
    #: Which replica identities it takes: the key, FULL.
    identities: ClassVar[Sequence[str]] = ("d", "f")
    #: Whether updates that leave `body` alone may come without it, where only the key is sent of old rows.
    takes_unchanged: ClassVar[bool] = True
    #: Whether all shapes of the output are known before rows flow.
    known_shapes: ClassVar[bool] = True
    #: Whether it may leave changes out by what stands beside them in the batch.
    gathers: ClassVar[bool] = False
    #: Whether a truncate passes.
    truncates: ClassVar[bool] = True

    def make_chain(self) -> Chain:
        """A new chain of the step alone."""
        return chain(self.options)

    def expected(self, row: Row) -> Row | list[Row] | None:
        """What the step makes of a row, where that depends on the row alone."""
        raise NotImplementedError

    def at_source(self, rows: Sequence[Row]) -> None:
        """Told before a history is played: what the source's table holds by its end, for a step that asks."""

    # How it is asked.

    @pytest.fixture(params=["d", "f"], ids=["key", "full"])
    def relation(self, request: pytest.FixtureRequest) -> Relation:
        if request.param not in self.identities:
            pytest.skip("the step says that it does not take this replica identity")
        return KEYED if request.param == "d" else FULL

    @pytest.fixture
    def made(self) -> Iterator[Chain]:
        one = self.make_chain()
        yield one
        one.close()

    @property
    def of_rows(self) -> bool:
        return type(self).expected is not StepConformance.expected

    def batches(
        self, relation: Relation, seed: int, *, steps: int = 60, history: History | None = None
    ) -> list[Batch]:
        """A history of the table, by chance: every kind of change, keys that change, values not sent."""
        chance = random.Random(seed)  # noqa: S311 - no secret hangs on it
        things = Things(chance, relation, unsent=self.takes_unchanged, truncates=self.truncates)
        found = things.batches(history or History(base=1_000), steps)
        self.at_source(list(things.rows.values()))
        return found

    # What it is asked.

    @pytest.mark.parametrize("seed", range(8))
    def test_the_table_behind_the_step_is_the_step_over_the_table(
        self, relation: Relation, made: Chain, seed: int
    ) -> None:
        if not self.of_rows:
            pytest.skip("the step looks at changes")
        self._compare(made, self.batches(relation, seed))

    @pytest.mark.parametrize("seed", range(2))
    def test_the_same_holds_for_a_shape_that_came_in_the_middle(
        self, relation: Relation, made: Chain, seed: int
    ) -> None:
        if not self.of_rows:
            pytest.skip("the step looks at changes")
        history = History(base=1_000)
        for batch in self.batches(relation, seed, steps=20, history=history):
            self._whole(made, batch)
        self._compare(made, self.batches(WIDER[relation], seed + 100, history=history))

    def _compare(self, made: Chain, batches: Sequence[Batch]) -> None:
        out = [self._whole(made, batch) for batch in batches]
        found = Counter(_frozen(row) for rows in expected_rows(out).values() for row in rows)
        before = next(iter(expected_rows(batches).values()), [])
        wanted = Counter(_frozen(row) for one in before for row in _listed(self.expected(one)))
        assert found == wanted

    @pytest.mark.parametrize("seed", range(3))
    def test_offsets_positions_and_order_survive(self, relation: Relation, made: Chain, seed: int) -> None:
        for batch in self.batches(relation, seed):
            out = self._whole(made, batch)
            assert (out.base, out.count, out.last, out.committed) == (
                batch.base,
                batch.count,
                batch.last,
                batch.committed,
            )
            given = {c.index: c for c in batch.changes()}
            changes = list(out.changes())
            assert [c.index for c in changes] == sorted(c.index for c in changes)
            assert len({str(c.position) for c in changes}) == len(changes), "positions tell changes apart"
            for change in changes:
                assert str(change.position).partition("+")[0] == str(given[change.index].position)
            assert set(out.refused) <= set(given)
            assert not set(out.refused) & {c.index for c in changes}, "what is refused is not passed on too"

    @pytest.mark.parametrize("seed", range(3))
    def test_it_gives_the_shapes_that_it_has_promised(
        self, relation: Relation, made: Chain, seed: int
    ) -> None:
        promised = {shape.fingerprint for shape in made.output(relation)}
        for batch in self.batches(relation, seed):
            for group in self._whole(made, batch).groups:
                known = group.relation.fingerprint in promised
                assert known or not self.known_shapes, f"{group.relation.qualified} was not promised"
                schema = type(group).schema(group.relation, old=group.old, unchanged=group.unchanged)
                assert group.data.schema == schema
                group.data.validate(full=True)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_gives_the_same_however_batches_are_cut(
        self, relation: Relation, made: Chain, seed: int
    ) -> None:
        if self.gathers:
            pytest.skip("the step looks at what stands beside a change")
        batches = self.batches(relation, seed)
        apart = [row for batch in batches for row in through(made, batch)]
        assert through(self.make_chain(), concat(batches)) == apart
        assert [row for batch in batches for row in through(made, batch)] == apart

    def test_a_shape_that_changes_in_the_middle_is_followed(self, relation: Relation, made: Chain) -> None:
        history = History()
        row: Row = {"id": "1", "status": "paid", "amount": "5", "body": "b", "tags": "{a}", "doc": "{}"}
        row["place"] = "(Graz,4)"
        self.at_source([row])
        wider = WIDER[relation]
        first = history.batch((relation, Op.INSERT, row, None))
        second = history.batch((wider, Op.INSERT, {**row, "id": "2", "extra": "e"}, None))
        for batch, shape in ((first, relation), (second, wider), (first, relation)):
            out = self._whole(made, batch)
            promised = {one.fingerprint for one in made.output(shape)}
            assert not self.known_shapes or {g.relation.fingerprint for g in out.groups} <= promised
            assert not out.refused

    def test_a_shape_that_it_does_not_fit_any_more_stops_the_flow_with_place_and_remedy(
        self, relation: Relation, made: Chain
    ) -> None:
        history = History()
        self.at_source([])
        self._whole(made, history.batch((relation, Op.INSERT, {"id": "1"}, None)))
        batch = history.batch((LEAST[relation], Op.INSERT, {"id": "2"}, None))
        try:
            promised = {one.fingerprint for one in made.output(LEAST[relation])}
        except ConfigurationError:
            with pytest.raises(Permanent, match=r"flow\.yaml:") as stopped:
                self._whole(made, batch)
            assert stopped.value.hint
            return
        out = self._whole(made, batch)
        assert [change.index for change in out.changes()] in ([0], [])
        assert not self.known_shapes or {group.relation.fingerprint for group in out.groups} <= promised

    def test_a_replica_identity_that_it_does_not_take_is_refused_before_rows_flow(self, made: Chain) -> None:
        for identity, relation in (("d", KEYED), ("f", FULL)):
            if identity not in self.identities:
                with pytest.raises(ConfigurationError, match=r"flow\.yaml:") as refused:
                    made.output(relation)
                assert refused.value.hint

    def test_messages_and_the_changes_of_other_tables_are_left_alone(self, made: Chain) -> None:
        batch = batch_of([made_message("orders.paid", b"x")])
        assert [(c.op, c.new) for c in self._whole(made, batch).changes()] == [
            (c.op, c.new) for c in batch.changes()
        ]
        other = chain({**self.options, "tables": ["public.nothing"]}) if self._by_options() else None
        if other is not None:
            row = Made(KEYED, Op.INSERT, {"id": "1"})
            assert through(other, batch_of([row])) == through(Chain(), batch_of([row]))

    def test_a_truncate_passes_or_is_refused(self, relation: Relation, made: Chain) -> None:
        batch = History().batch((relation, Op.TRUNCATE, None, None))
        out = self._whole(made, batch)
        if self.truncates:
            assert [c.op for c in out.changes()] == [Op.TRUNCATE]
        else:
            assert list(out.refused) == [0]

    def test_a_value_that_was_not_sent_is_never_null(self, relation: Relation, made: Chain) -> None:
        row: dict[str, Value] = {"id": "1", "status": "paid", "amount": "5", "tags": "{a}", "doc": "{}"}
        row["place"] = None
        self.at_source([])
        old = {**row, "body": "b"} if relation.full else None
        batch = History().batch((relation, Op.UPDATE, {**row, "body": UNCHANGED}, old))
        out = self._whole(made, batch)
        for change in out.changes():
            if change.new is not None and "body" in change.new and "body" in made.output(relation)[0].names:
                assert change.new["body"] is not None

    # Helpers of the tests.

    def _by_options(self) -> bool:
        return type(self).make_chain is StepConformance.make_chain

    def _whole(self, made: Chain, batch: Batch) -> Batch:
        return made.finish(made(batch))


def _listed(rows: Row | list[Row] | None) -> list[Row]:
    return [] if rows is None else rows if isinstance(rows, list) else [rows]


def _frozen(row: Mapping[str, str | None]) -> tuple[tuple[str, str | None], ...]:
    return tuple(sorted(row.items()))
