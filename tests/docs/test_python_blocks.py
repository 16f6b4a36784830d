"""The Python blocks of README.md and docs/ run, against the demo and a server that serves it."""

from __future__ import annotations

import ast
import asyncio
import builtins
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blocks
import pytest
from blocks import DOCUMENTS, Block

import edge_llava

PYTHON = [block for document in DOCUMENTS for block in blocks.find_blocks(document) if block.language == "python"]
# Blocks that do not run here, by what they contain, and why. They are compiled, and their calls of edge_llava checked.
NOT_RUN = {
    "messages=[...]": "abbreviated",
    "coco_pope_popular.json": "needs published data and another run",
}


class Socket:
    """Of a web framework: it has `send`."""

    async def send(self, text: str) -> None:
        assert isinstance(text, str)


# What a block uses and leaves to the reader's program.
GIVEN: dict[str, Callable[[edge_llava.LlavaModel], Any]] = {
    "chat": lambda model: model.session(),
    "image": lambda model: model.embed_image("img.jpg"),
    "show": lambda model: lambda event: None,
    "sys": lambda model: types.SimpleNamespace(argv=["app"], executable=sys.executable),
    "websocket": lambda model: Socket(),
    "window": lambda model: [],
}


def parse(block: Block) -> ast.Module:
    """The block's tree; `await` may stand at its top."""
    compile(block.text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return ast.parse(block.text, block.place)


def missing_names(tree: ast.Module) -> set[str]:
    """Names that the block reads and nothing in it binds."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return {name.id for name in names if isinstance(name.ctx, ast.Load)} - bound - set(dir(builtins))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Yields the modules that a block imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def check_calls(tree: ast.Module) -> None:
    """Fails if `edge_llava.x` does not exist, or does not accept the keywords that it is called with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_llava"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"edge_llava\.\w+", ast.unparse(node)):
            assert hasattr(edge_llava, node.attr), f"edge_llava has no {node.attr}"
        elif isinstance(node, ast.Call) and re.fullmatch(r"edge_llava\.\w+", ast.unparse(node.func)):
            called = getattr(edge_llava, ast.unparse(node.func).split(".")[1], None)
            assert called is not None, f"{ast.unparse(node.func)} does not exist"
            inspect.signature(called).bind_partial(**{word.arg: None for word in node.keywords if word.arg})


@pytest.fixture
def given_model(workplace: Path) -> Iterator[edge_llava.LlavaModel]:
    """The model behind what is GIVEN."""
    with edge_llava.load("my-llava-q4_k_m") as model:
        yield model


@pytest.mark.parametrize("text", ["edge_llava.lod('x')", "edge_llava.load('x', paralel=4)", "from edge_llava import x"])
def test_wrong_calls_are_seen(text) -> None:
    with pytest.raises((AssertionError, TypeError)):
        check_calls(ast.parse(text))


def test_names_of_the_reader_are_seen() -> None:
    text = "import a.b\nfor x in a.b.c(y): print(x, [z for z in w])\ndef f(k): return k + f(g)\n"
    assert missing_names(ast.parse(text)) == {"y", "w", "g"}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_blocks_compile_and_call_what_exists(block) -> None:
    tree = parse(block)
    check_calls(tree)
    if not any(part in block.text for part in NOT_RUN):
        assert missing_names(tree) <= GIVEN.keys(), "import or define these names, or add them to GIVEN"


@pytest.mark.parametrize(
    "block",
    [block for block in PYTHON if not any(part in block.text for part in NOT_RUN)],
    ids=lambda block: block.place,
)
def test_blocks_run(block, workplace, given_model, server_url) -> None:
    tree = parse(block)
    for module in imported_modules(tree):
        if importlib.util.find_spec(module.split(".")[0]) is None:
            pytest.skip(f"{module} is not installed")
    namespace = {name: GIVEN[name](given_model) for name in missing_names(tree)}
    text = block.text.replace("http://127.0.0.1:8080", server_url)
    code = compile(text, block.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, namespace)
    if inspect.iscoroutine(running):
        asyncio.run(running)


def test_the_server_answers_as_the_how_to_says(workplace, server_url, capsys) -> None:
    pytest.importorskip("openai")
    (block,) = (block for block in PYTHON if block.place.startswith("docs/howto/openai.md"))
    exec(block.text.replace("http://127.0.0.1:8080", server_url), {})
    assert capsys.readouterr().out == "Blue.\n"
