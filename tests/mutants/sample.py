"""Which mutants are tried: a random sample of those that cosmic-ray's operators can make."""

from __future__ import annotations

import ast
import difflib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    path: Path
    """Relative to the repository."""
    line: int
    operator: str
    original: str
    code: str

    def diff(self) -> str:
        """Return the change as a unified diff."""
        before, after = (text.splitlines() for text in (self.original, self.code))
        return "\n".join(
            difflib.unified_diff(before, after, f"a/{self.path}", f"b/{self.path}", lineterm="")
        )


def sample(root: Path, modules: Sequence[Path], count: int, seed: int) -> Iterator[Mutant]:
    """Yield mutants; the same arguments yield the same ones.

    Each place in the code has the same chance, however many mutants there are of it. Changes of
    annotations are left out, because nothing evaluates them.
    """
    chance = random.Random(seed)
    places: dict[tuple[Path, int, int], list[tuple[str, int]]] = {}
    for path in modules:
        nodes = list(ast_nodes(get_ast(path.read_text())))
        for name in sorted(plugins.operator_names()):
            operator = plugins.get_operator(name)
            if operator.arguments():
                continue
            positions = (start for n in nodes for start, _ in operator().mutation_positions(n))
            for occurrence, (line, column) in enumerate(positions):
                places.setdefault((path, line, column), []).append((name, occurrence))
    left = count
    for place in chance.sample(sorted(places), len(places)):
        if not left:
            return
        path, line, _ = place
        name, occurrence = chance.choice(places[place])
        original = path.read_text()
        code = mutate_code(original, plugins.get_operator(name)(), occurrence)
        if code and _meaning(code) not in {None, _meaning(original)}:
            left -= 1
            short = name.removeprefix("core/")
            yield Mutant(path.relative_to(root), line, short, original, code)


def _meaning(code: str) -> str | None:
    """Return what is evaluated of a module; None if it is not valid Python."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # cosmic-ray takes the bare star among parameters for an operator
        return None
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign() | ast.arg():
                node.annotation = ast.Constant(None)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.returns = None
    return ast.dump(tree)
