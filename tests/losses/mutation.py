"""Do the tests of the core cross-entropies notice a change of the code? Changes it in many places, one at a time.

    python tests/losses/mutation.py --mutants 200 --seed 0

prints each mutant that no test noticed, as a line to look at, and the share of those that were noticed ("killed"). A
mutant is a copy of a module, in memory, with one change: a number, an operator, a comparison, a condition, an argument
left out, a function taken for its neighbour. Each runs the tests in a process of its own until the first failure. It
takes about an hour on two cores; an environment variable JAX_COMPILATION_CACHE_DIR saves half of it.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOFTMAX = ["test_categorical", "test_softmax_cross_entropy", "test_modifiers"]
BINARY = ["test_binary"]
TESTS = {
    "categorical": SOFTMAX, "_cross_entropy": SOFTMAX, "_softmax": SOFTMAX, "_top": SOFTMAX, "_modifiers": SOFTMAX,
    "binary": BINARY, "_elementwise": BINARY,
}  # fmt: skip
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
NEIGHBOURS = {
    "maximum": "minimum", "minimum": "maximum", "max": "min", "exp": "expm1", "log1p": "log", "any": "all",
    "abs": "negative", "floor": "ceil", "softplus": "sigmoid", "sigmoid": "softplus", "isfinite": "isnan",
    "non_negative": "positive", "positive": "non_negative",
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """Every mutant of a module: the line, what it was and what it became, and the changed module."""
    tree = ast.parse(source)
    types = _annotations(tree)
    places = [node for node in ast.walk(tree) if node not in types]
    for node in places:
        for field, value in changes(node):
            before, kept = ast.unparse(node), getattr(node, field)
            setattr(node, field, value)
            yield node.lineno, f"{before}  ->  {ast.unparse(node)}", ast.fix_missing_locations(copy.deepcopy(tree))
            setattr(node, field, kept)


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """What can be changed in a node: a field, and its other value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield "value", (not node.value) if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield "op", SWAPPED[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        yield "ops", [SWAPPED[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield "op", ast.Not() if isinstance(node.op, ast.Invert) else ast.UAdd()
    elif isinstance(node, ast.Call):
        if node.keywords:
            yield "keywords", node.keywords[:-1]
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name == "where" and len(node.args) == 3:
            yield "args", [node.args[0], node.args[2], node.args[1]]
        if name in NEIGHBOURS and isinstance(node.func, ast.Attribute):
            yield "func", ast.Attribute(node.func.value, NEIGHBOURS[name], ast.Load())
        elif name in NEIGHBOURS:
            yield "func", ast.Name(NEIGHBOURS[name], ast.Load())


def _annotations(tree: ast.Module) -> set[ast.AST]:
    """Types are no behaviour: annotations, and the aliases that they are made of."""
    roots = [node.annotation for node in ast.walk(tree) if getattr(node, "annotation", None) is not None]
    roots += [node.returns for node in ast.walk(tree) if getattr(node, "returns", None) is not None]
    roots += [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return {node for root in roots for node in ast.walk(root)}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant in the place of the module."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def is_killed(module: str, tree: ast.Module, limit: int) -> bool:
    """Whether a test fails, or takes for ever, with the mutant."""

    def run() -> None:
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        sys.meta_path.insert(0, Finder(f"xent.losses.{module}", ROOT / f"losses/{module}.py", tree))
        files = [str(ROOT / f"tests/losses/{name}.py") for name in TESTS[module]]
        os._exit(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", *files]))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode != 0


def main() -> None:
    """Sample mutants over all modules, and try them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1800, help="seconds of CPU that the tests of one mutant may take")
    parser.add_argument("--share", default="0/1", help="i/n: try the i-th of every n mutants, to use several cores")
    given = parser.parse_args()
    every = [(name, *each) for name in TESTS for each in mutants((ROOT / f"losses/{name}.py").read_text())]
    chosen = random.Random(given.seed).sample(every, min(given.mutants, len(every)))
    first, stride = (int(number) for number in given.share.split("/"))
    chosen = chosen[first::stride]
    os.chdir(ROOT)
    for module in ("categorical", "binary"):
        unchanged = ast.parse((ROOT / f"losses/{module}.py").read_text())
        if is_killed(module, unchanged, given.limit):
            sys.exit(f"the tests of {module}.py fail without any change: {', '.join(TESTS[module])}")
    began, killed = time.monotonic(), 0
    for count, (module, line, change, tree) in enumerate(chosen, 1):
        dead = is_killed(module, tree, given.limit)
        killed += dead
        print(
            f"{'killed  ' if dead else 'SURVIVED'} {module}.py:{line}  {change[:150]!r}"
            f"  [{killed}/{count}, {time.monotonic() - began:.0f} s]", flush=True,
        )  # fmt: skip
    print(f"{killed} of {len(chosen)} mutants killed ({killed / len(chosen):.1%}), of {len(every)} that there are")


if __name__ == "__main__":
    main()
