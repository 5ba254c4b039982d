"""Places in the source's history: LSNs and positions. A position is the only identity of a change."""

from typing import NamedTuple, Self

#: Where the part begins in an ordinal: a transaction has fewer than 2^48 changes.
PART_SHIFT = 48
#: How many parts a change can have.
PARTS = 1 << (64 - PART_SHIFT)


class Position(NamedTuple):
    """`(commit_lsn, ordinal)`: a transaction's place in commit order and a change's place in it.

    `commit_lsn` is the LSN of the commit record, which the Begin message already announces, so that a
    huge transaction can be journaled while it arrives. Positions are unique and compare in delivery
    order. Rows read by a backfill stand at the byte before the snapshot's consistent point, where no
    commit record can start (records are 8-byte aligned), hence before everything the stream brings.

    A message that is not transactional stands at the LSN behind its own WAL record, with ordinal 0. That
    is in order too: the server sends it when it reads that record, and whole transactions when it reads
    their commit records, which lie before that record's end or start at that LSN at the earliest.

    `ordinal` counts from 1: every change, and every transactional message that the server sends. It is
    never a row's own LSN: two changes may share one, and later transactions carry lower ones.

    Where a flow's transforms make several changes of one, the upper bits of `ordinal` say which part of it
    each is, from 0: `16/B374D848:7`, `16/B374D848:7+1`. Such positions tell changes apart, not their order.
    """

    commit_lsn: int
    ordinal: int

    def __str__(self) -> str:
        return f"{format_lsn(self.commit_lsn)}:{format_ordinal(self.ordinal)}"

    @property
    def whole(self) -> "Position":
        """Of the change that this one is a part of."""
        return Position(self.commit_lsn, self.ordinal & (1 << PART_SHIFT) - 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes: `1A/2B3C:7`. Raises ValueError for anything else."""
        lsn, _, ordinal = text.partition(":")
        number, _, part = ordinal.partition("+")
        return cls(parse_lsn(lsn), int(number) | int(part or 0) << PART_SHIFT)


#: Before every change.
ORIGIN = Position(0, 0)


def format_ordinal(ordinal: int) -> str:
    """`7`, or `7+1` for the second part of change 7."""
    return (
        str(ordinal)
        if ordinal < 1 << PART_SHIFT
        else f"{ordinal & (1 << PART_SHIFT) - 1}+{ordinal >> PART_SHIFT}"
    )


def format_lsn(lsn: int) -> str:
    """Postgres' way of writing an LSN: two hexadecimal halves, `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The 64-bit number of `16/B374D848`. Raises ValueError when the text is no LSN."""
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:
        raise ValueError(f"not an LSN: {text!r}")
    return int(high, 16) << 32 | int(low, 16)
