"""Types that users declare, known by the name that the server's Type message gives.

* A **domain** is announced under its base type's name, through every level (logicalrep_write_typ in
  src/backend/replication/logical/proto.c), and is that type; so is a domain over an array.
* An **enum** is the label that the value had when the row was written. Labels are values, never looked up, so
  ADD VALUE and RENAME VALUE need nothing from us.
* A **composite** stays Postgres' text, `(1,)` against `(1,"")`. pgoutput does not send its attributes,
  and ALTER TYPE … RENAME, ADD or DROP ATTRIBUTE makes no new Relation message of the tables that use it:
  no place in the stream tells where a shape begins. Looked up with the table's layout, it would be that
  of some moment. A look before some rows and one behind them that agree (attribute numbers never come
  again, and every change of an entry has its xid) do prove the shape of the rows in between. But where
  they differ, since the type was altered while capture was behind, nothing tells which rows came first,
  and `(1,3)` can be of either shape. Such rows would have to stay text or stop everything, and a column
  that is an object on good days is no better than text. So whoever wants objects says the attributes: the
  step `composite`.
* An **array** is `_name`, and a list of what `name` is; a **range** is text.
"""

from collections.abc import Callable

from cdcflow.types import hstore, ltree, postgis, text, vector
from cdcflow.types.arrays import Array
from cdcflow.types.base import Family, Known, PgType
from cdcflow.types.builtin import BY_NAME
from cdcflow.types.text import Text

#: Families with types of extensions, which have no fixed OID.
EXTENSIONS: tuple[Family, ...] = (hstore.FAMILY, ltree.FAMILY, vector.FAMILY, postgis.FAMILY)

_KNOWN: dict[str, Known] = {
    known.typname: known for family in (text.FAMILY, *EXTENSIONS) for known in family.types if not known.oid
}


class PresumedArray(Array):
    """An array as far as its name says. A text that does not read as one (a label of somebody's enum `_mood`)
    stays text."""

    def _nested(self, text: str, element: Callable[[str], object]) -> object:
        try:
            return super()._nested(text, element)
        except (ValueError, IndexError):
            return text


def named(type_name: str) -> PgType:
    """The type of a column that is not built in, from `schema.name`; a name that is not known is text."""
    schema, _, name = type_name.rpartition(".")
    # pgoutput sends the empty schema for pg_catalog; `cdcflow.decode` writes it out.
    if schema in ("", "pg_catalog") and name in BY_NAME:
        return BY_NAME[name]
    if name in _KNOWN:
        return _KNOWN[name].kind
    if name.startswith("_"):
        element = _KNOWN.get(name[1:])
        return (
            PresumedArray.of(element.kind, element.delimiter)
            if element
            else PresumedArray.of(Text.of(name[1:]))
        )
    return Text.of(type_name)


FAMILY = Family(
    "Types that users declare",
    (
        Known("domain over int8", BY_NAME["int8"], "9007199254740993"),
        text.as_text("enum", "so so"),
        text.as_text("composite", '(1,"so, so",)'),
        text.as_text("range over float8", "[0.5,1)"),
    ),
    notes="""\
* A domain is its base type, through every level, over arrays too; the precision of a domain over
  `numeric(p,s)` is not announced, so that is `VARCHAR` in the warehouse.
* An enum is the label that it had when the row was written. `ADD VALUE` needs nothing. `RENAME VALUE` changes
  no row, so nothing is sent for it: the warehouse keeps the old label until the row is written again.
* A composite is Postgres' text, in which NULL (nothing) and the empty string (`""`) differ. Its
  attributes are not taken apart by themselves: the stream does not name them, and does not say when
  `ALTER TYPE` renames, adds or drops one. The catalog shows the present and not the place in the stream,
  so names from there would be put to wrong values whenever a type was altered while capture was behind,
  without a word. Say the attributes yourself, with the step `composite` in a flow's `transforms`, and get
  objects by attribute; a value with another number of attributes is refused.""",
)
