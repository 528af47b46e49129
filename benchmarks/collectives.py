"""The collectives of a compiled JAX program: what devices send each other.

`collectives(compiled.as_text())` lists them with the loops that they are in, so
that one which runs for every token is told from one that runs once a step.
"""

import math
import re
from typing import NamedTuple

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|branch_computations|true_computation"
    r"|false_computation)=\{?(%[\w.-]+(?:, %[\w.-]+)*)"
)
_SHAPE = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective.

    Attributes:
        kind: str, such as `"all-reduce"`.
        shapes: tuple of strings such as `"f32[8,16]"`, the results on one
            device. XLA merges collectives that could run at once into one.
        loops: tuple of ints, the numbers of the loops around it, outermost
            first, in the order of the program.
        source: str, the operation that it came from.
    """

    kind: str
    shapes: tuple
    loops: tuple
    source: str

    @property
    def num_bytes(self) -> int:
        """The size of the results."""
        return sum(map(_num_bytes, self.shapes))


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a program, as `compiled.as_text()` gives it."""
    computations = _computations(hlo)
    loop_numbers: dict[str, int] = {}
    found = []

    def visit(name, loops):
        for line in computations[name]:
            match = _OPERATION.match(line)
            if match is None:
                continue
            shape, operation = match.groups()
            kind = operation.removesuffix("-start")
            if kind in _KINDS:
                found.append(
                    Collective(kind, _shapes(shape), loops, _source(line))
                )
                continue  # It calls no more than its sum.
            inner = loops
            if operation == "while":
                inner += (loop_numbers.setdefault(line, len(loop_numbers)),)
            for names in _CALLED.findall(line):
                for called in re.findall(r"%([\w.-]+)", names):
                    visit(called, inner)

    visit(_entry(hlo), ())
    return found


def _computations(hlo):
    """The lines of each computation, by its name."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        match = _COMPUTATION.match(line)
        if match is not None:
            lines = computations.setdefault(match[1], [])
        else:
            lines.append(line)
    return computations


def _entry(hlo):
    return re.search(r"^ENTRY %([\w.-]+)", hlo, re.MULTILINE)[1]


def _shapes(shape):
    return tuple(match[0] for match in _SHAPE.finditer(shape))


def _source(line):
    match = re.search(r'op_name="([^"]*)"', line)
    return "" if match is None else match[1]


def _num_bytes(shape):
    kind, bits, dimensions = _SHAPE.fullmatch(shape).groups()
    bits = 8 if kind == "pred" else int(bits)
    size = math.prod(int(n) for n in dimensions.split(",") if n)
    return size * bits // 8
