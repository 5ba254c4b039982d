"""Typed expressions at random, made from the table of what is supported: every variant of every entry is
reached."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from cdcflow.transform.expression import catalog
from cdcflow.transform.expression.catalog import Signature
from cdcflow.transform.expression.table import FUNCTIONS, OPERATORS
from differential.arguments import ARGUMENTS, MOMENTS, SYNTAX
from differential.values import BY_KEY, COLUMNS

#: Type keys that a polymorphic argument may stand for.
_ELEMENTS = ("int4", "text")
_ANYTHING = ("int4", "text", "numeric", "bool", "date", "jsonb", "float8", "timestamp", "_int4")


@dataclass(frozen=True)
class Producer:
    """One variant of an entry: what it takes and gives."""

    name: str
    signature: Signature
    operator: bool

    @property
    def label(self) -> str:
        return f"{self.name}({','.join(self.signature.args)})"


def producers() -> list[Producer]:
    found = []
    for operator, table, signatures in (
        (True, OPERATORS, catalog.OPERATOR_SIGNATURES),
        (False, FUNCTIONS, catalog.FUNCTION_SIGNATURES),
    ):
        for name, entry in table.items():
            for signature in signatures[name]:
                key = ",".join(signature.args)
                if key in entry.variants or (
                    signature.args and signature.args[-1] == "any" and "any" in entry.variants
                ):
                    found.append(Producer(name, signature, operator))
                for left_out in range(1, signature.defaults + 1):
                    args = signature.args[:-left_out]
                    if ",".join(args) in entry.variants:
                        found.append(Producer(name, Signature(args, signature.result), operator))
    return found


#: What needs a change, which plain rows have not.
_OF_THE_CHANGE = ("now",)

PRODUCERS = [producer for producer in producers() if producer.name not in _OF_THE_CHANGE]


@dataclass
class Made:
    """An expression, and the variants in it."""

    text: str
    used: Counter[str] = field(default_factory=Counter)


class Generator:
    def __init__(self, r: Random) -> None:
        self.r = r
        self.used: Counter[str] = Counter()
        #: Variants that still wait for their turn: the next one to be the outermost.
        self.queue: list[Producer] = []
        self.by_result: dict[str, list[Producer]] = {}
        for producer in PRODUCERS:
            self.by_result.setdefault(producer.signature.result, []).append(producer)

    def expression(self) -> Made:
        """The next one. Every variant takes its turn as the outermost call, so that all are reached."""
        self.used = Counter()
        if not self.queue:
            self.queue = [*PRODUCERS]
            self.r.shuffle(self.queue)
        if self.r.random() < 0.55:
            text = self.call(self.queue.pop(), self.r.choice((0, 1, 1, 2)))
        else:
            text = self.of(self.r.choice([*BY_KEY]), self.r.choice((1, 2, 2, 3)))
        return Made(text, self.used)

    # --- values of a type ---

    def of(self, key: str, depth: int) -> str:
        r = self.r
        if depth <= 0 or r.random() < 0.12:
            return self.leaf(key)
        choices: list[Callable[[], str]] = [lambda: self.form(key, depth)]
        if key in self.by_result:
            choices += [lambda: self.call(r.choice(self.by_result[key]), depth - 1)] * 4
        if key == "bool":
            choices += [lambda: self.condition(depth)] * 4
        choices.append(lambda: self.cast(key, depth))
        return r.choice(choices)()

    def leaf(self, key: str) -> str:
        r = self.r
        columns = [column.name for column in COLUMNS if column.kind.key == key]
        if columns and r.random() < 0.75:
            return r.choice(columns)
        return self.literal(key)

    def literal(self, key: str, *, bare: bool = False) -> str:
        r = self.r
        if r.random() < 0.05:
            return "null" if bare else f"null::{key_name(key)}"
        if key not in BY_KEY:
            return f"null::{key_name(key)}"
        value = BY_KEY[key].value(r)
        if key in ("int4", "numeric") and r.random() < 0.7 and value[-1].isdigit() and "e" not in value:
            return value if not value.startswith("-") else f"({value})"
        if key == "bool" and r.random() < 0.7:
            return "true" if value == "t" else "false"
        quoted = "'" + value.replace("'", "''") + "'"
        return quoted if bare or (key == "text" and r.random() < 0.7) else f"{quoted}::{key_name(key)}"

    def form(self, key: str, depth: int) -> str:
        """What has a syntax of its own and gives any type."""
        r = self.r
        a, b = self.of(key, depth - 1), self.of(key, depth - 1)
        if f"_{key}" in BY_KEY and r.random() < 0.25:
            self.used["subscript"] += 1
            return f"({self.of(f'_{key}', depth - 1)})[{r.choice(('1', '2', '0', '-1', 'small_1'))}]"
        if key.startswith("_") and r.random() < 0.4:
            self.used["array"] += 1
            return f"array[{self.of(key[1:], depth - 1)}, {self.leaf(key[1:])}]"
        match r.randint(0, 4):
            case 0:
                self.used["case"] += 1
                return f"case when {self.condition(depth - 1)} then {a} else {b} end"
            case 1:
                self.used["case operand"] += 1
                other = r.choice(("int4", "text", "date", "numeric"))
                first, second = self.leaf(other), self.literal(other, bare=True)
                return f"case {self.of(other, depth - 1)} when {first} then {a} when {second} then {b} end"
            case 2:
                self.used["coalesce"] += 1
                return f"coalesce({a}, {b})"
            case 3:
                self.used["nullif"] += 1
                return f"nullif({a}, {b})"
            case _:
                self.used["greatest"] += 1
                collate = ' collate "C"' if key in ("text", "varchar", "bpchar") else ""
                return f"{r.choice(('greatest', 'least'))}({a}{collate}, {b}, {self.leaf(key)})"

    def condition(self, depth: int) -> str:
        r = self.r
        if depth <= 0:
            return self.leaf("bool")
        key = r.choice(
            (
                "int4",
                "int8",
                "numeric",
                "text",
                "date",
                "timestamp",
                "float8",
                "bool",
                "uuid",
                "int2",
                "bpchar",
                "varchar",
                "timestamptz",
                "interval",
                "inet",
                "macaddr",
                "bytea",
            )
        )
        a, b = self.of(key, depth - 1), self.leaf(key)
        if r.random() < 0.3:
            b = self.literal(key, bare=True)
        if r.random() < 0.1:
            key = r.choice(("int4", "text"))
            self.used["any"] += 1
            name = r.choice(("=", "<>")) if key == "text" else r.choice(("=", "<>", "<", ">="))
            many = self.of(f"_{key}", depth - 1)
            return f"({self.of(key, depth - 1)} {name} {r.choice(('any', 'all'))} ({many}))"
        choice = r.randint(0, 9)
        self.used[f"condition {choice}"] += 1
        collate = ' collate "C"' if key in ("text", "varchar", "bpchar") else ""
        match choice:
            case 0:
                return f"({self.condition(depth - 1)} {r.choice(('and', 'or'))} {self.condition(depth - 1)})"
            case 1:
                return f"(not {self.condition(depth - 1)})"
            case 2:
                return f"({a} is {r.choice(('', 'not '))}null)"
            case 3:
                return f"({a} is {r.choice(('', 'not '))}distinct from {b})"
            case 4:
                items = ", ".join(
                    r.choice((self.literal(key, bare=True), self.leaf(key))) for _ in range(r.randint(1, 4))
                )
                return f"({a} {r.choice(('', 'not '))}in ({items}))"
            case 5:
                kind = r.choice(("between", "not between", "between symmetric", "not between symmetric"))
                return f"({a}{collate} {kind} {b} and {self.leaf(key)})"
            case 6:
                test = r.choice(("true", "false", "unknown"))
                return f"({self.condition(depth - 1)} is {r.choice(('', 'not '))}{test})"
            case 7:
                other = key
                if key in ("int4", "int8", "int2", "numeric"):
                    other = r.choice(("int4", "int8", "int2", "numeric", "float8"))
                return f"({a} {r.choice(('=', '<>', '='))} {self.leaf(other)})"
            case _:
                return f"({a}{collate} {r.choice(('<', '<=', '>', '>='))} {b})"

    def cast(self, key: str, depth: int) -> str:
        sources = [s for s, t in catalog.CAST_CONTEXT if t == key and s in BY_KEY]
        if key in ("text", "varchar") or (key not in ("bytea", "json", "jsonb") and self.r.random() < 0.15):
            sources += ["text"] if key != "text" else [*BY_KEY]
        if not sources:
            return self.leaf(key)
        source = self.r.choice(sources)
        self.used[f"cast {source}>{key}"] += 1
        name = key_name(key)
        if key == "numeric" and self.r.random() < 0.4:
            name = self.r.choice(
                ("numeric(10,2)", "numeric(5)", "numeric(20,5)", "numeric(3,-1)", "numeric(4,6)")
            )
        if key in ("varchar", "bpchar") and self.r.random() < 0.5:
            name += f"({self.r.randint(1, 6)})"
        return f"({self.of(source, depth - 1)})::{name}"

    # --- calls ---

    def call(self, producer: Producer, depth: int) -> str:
        r = self.r
        self.used[producer.label] += 1
        types = self._real(producer.signature)
        if producer.name == "to_char" and types[0].startswith("timestamp"):
            return f"to_char({self.of(types[0], depth)}, {r.choice(MOMENTS)})"
        given = ARGUMENTS.get((producer.name, len(types)), ARGUMENTS.get((producer.name, 0), {}))
        args = []
        for i, key in enumerate(types):
            made = given.get(i)
            if made is not None and (callable(made) or r.random() < 0.9):
                args.append(made(self, key, depth) if callable(made) else r.choice(made))
            else:
                args.append(self.of(key, depth))
        if producer.operator:
            return self._operation(producer.name, args, types)
        syntax = SYNTAX.get((producer.name, len(args)))
        if syntax and r.random() < 0.5:
            return r.choice(syntax).format(*args)
        if producer.name == "extract":
            return f"extract({args[0]} from {args[1]})"
        if producer.name == "position":
            return f"position({args[1]} in {args[0]})"
        return f"{producer.name}({', '.join(args)})"

    def _real(self, signature: Signature) -> list[str]:
        element = self.r.choice(_ELEMENTS)
        types: list[str] = []
        for key in signature.args:
            if key in ("anyarray", "anycompatiblearray"):
                types.append(f"_{element}")
            elif key in ("anyelement", "anycompatible", "anynonarray", "anyenum", "anycompatiblenonarray"):
                types.append(
                    element if key != "anynonarray" else self.r.choice(("int4", "numeric", "bool", "date"))
                )
            elif key == "any":
                types.append(self.r.choice(_ANYTHING))
            else:
                types.append(key)
        if signature.variadic:
            last = types.pop()
            count = self.r.randint(1, 3)
            if signature.args[-1] == "any":
                types += [self.r.choice(_ANYTHING) for _ in range(count)]
            else:
                types += [last.removeprefix("_")] * count
        return types

    def _operation(self, name: str, args: Sequence[str], types: Sequence[str]) -> str:
        if len(args) == 1:
            return f"({name} {args[0]})"
        left, right = args
        if name in ("<", "<=", ">", ">=") and types[0] in ("text", "varchar", "bpchar"):
            left = f'{left} collate "C"'
        if name in ("->", "->>", "#>", "#>>"):
            left = f"({left})"
        return f"({left} {name} {right})"


def key_name(key: str) -> str:
    return f"{key[1:]}[]" if key.startswith("_") else key
