"""The house rules: who may import whom, what a fresh process loads, what a wheel holds."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_llava

ROOT = Path(__file__).parents[2]
ROOMS = ("runtime", "converters")
# The parts of the hall that the rooms may import.
CONTRACT = {"errors", "bundle", "home", "device", "ggml"}
# The hall's own doors: apart from the commands and what uses a bundle, the only parts of it that import a room.
DOORS = {"conversion", "parity"}
# The folders that each folder of the runtime may import, and the files above them that all folders may import.
RUNTIME_ROOMS = {
    "lifetime": set[str](),
    "vision": {"lifetime"},
    "kv": {"lifetime"},
    "language": {"lifetime", "kv"},
    "dialogue": {"vision", "language"},
    "engine": {"lifetime", "vision", "kv", "language", "dialogue"},
}
SHARED_IN_RUNTIME = {"answer", "options", "runs", "request"}
CONVERTER_PACKAGES = ("torch", "transformers", "optimum", "onnx")
ENGINES = ("numpy", "llama_cpp", "onnxruntime", "PIL", "rich", "click")
HEAVY = ("platformdirs", "safetensors", "pydantic")
MAX_LINES = 340
# The only file that may catch everything, because parsers of files of unknown origin may raise anything.
CATCHES_ALL = {"edge_llava/home/border.py"}

SOURCES = sorted(
    path
    for directory in ("edge_llava", *ROOMS)
    for path in (ROOT / directory).rglob("*.py")
    if "__pycache__" not in path.parts
)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_room(room: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] == room]


def hall_part(path: Path) -> str:
    """The part of the hall a file belongs to: "bundle" for edge_llava/bundle/manifest.py, "errors" for errors.py."""
    return Path(path.relative_to(ROOT).parts[1]).stem


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of everything imported; `from a import b` is "a.b", a relative import begins with a dot."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """As `imports`, of a file."""
    return frozenset(imports(parse(path)))


def own(names: Iterable[str]) -> set[str]:
    """What of these is edge_llava's own: "errors" for edge_llava.errors.BundleError, "runtime.vision" for a room."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "edge_llava":
            found.add(".".join(parts[1:3]) if parts[1:2] and parts[1] in ROOMS else ".".join(parts[1:2]))
    return found


def packages(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def broad_handlers(tree: ast.Module) -> Iterator[int]:
    """Lines that catch, or suppress, everything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = list(node.args)
        else:
            continue
        names = [n for c in caught for n in (c.elts if isinstance(c, ast.Tuple) else [c])]
        if any(n is None or ast.unparse(n) in ("Exception", "BaseException") for n in names):
            yield node.lineno


def prints(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
            yield node.lineno


def openings_without_formats(tree: ast.Module) -> Iterator[int]:
    """Lines that let Pillow choose among all its readers, some of which start programs."""
    is_ours = "edge_llava.runtime.vision.image.Image" in imports(tree)  # whose `open` is another function
    openings = ("PIL.Image.open",) if is_ours else ("Image.open", "PIL.Image.open")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in openings:
            if not any(keyword.arg == "formats" for keyword in node.keywords):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module in ("PIL.Image", "PIL.ImageFile"):
            yield from (node.lineno for alias in node.names if alias.name in ("open", "Parser"))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("ImageFile.Parser", "PIL.ImageFile.Parser"):
            yield node.lineno


def open_signatures(tree: ast.Module) -> Iterator[int]:
    """Lines of functions that accept any keyword."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg is not None:
            yield node.lineno


def renames(tree: ast.Module) -> Iterator[int]:
    """Lines that rename a file or a directory. A string's `replace` takes two arguments, a path's takes one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        is_paths_own = node.func.attr == "rename" or (
            node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
        )
        if is_paths_own or ast.unparse(node.func) in ("os.replace", "os.rename", "os.renames", "shutil.move"):
            yield node.lineno


def digests_in_chunks(tree: ast.Module) -> Iterator[int]:
    """Lines of loops that read a file piece by piece and hash the pieces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.While | ast.For):
            calls = {
                n.func.attr for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
            }
            if "read" in calls and "update" in calls:
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("file_digest"):
            yield node.lineno


def found_in(paths: list[Path], check: Callable[[ast.Module], Iterator[int]]) -> list[str]:
    return [f"{place(path)}:{line}" for path in paths for line in check(parse(path))]


def test_every_room_is_read() -> None:
    """The rules below need something to apply to."""
    assert {path.name for path in in_room("runtime")} >= {"model.py", "session.py", "encoder.py", "engine.py"}
    assert {path.name for path in in_room("converters")} >= {"pipeline.py", "checkpoint.py", "vision_onnx.py"}
    files = in_room("edge_llava")
    assert {hall_part(path) for path in files} >= CONTRACT | DOORS


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("try: x()\nexcept: y()", broad_handlers),
        ("try: x()\nexcept Exception as e: y()", broad_handlers),
        ("try: x()\nexcept (OSError, BaseException): y()", broad_handlers),
        ("with contextlib.suppress(Exception): y()", broad_handlers),
        ("def f():\n  print('x')", prints),
        ("Image.open(path)", openings_without_formats),
        ("PIL.Image.open(path, 'r')", openings_without_formats),
        ("from PIL.Image import open as read", openings_without_formats),
        (
            "from edge_llava.runtime.vision.image import Image\nPIL.Image.open(Image.open(path))",
            openings_without_formats,
        ),
        ("parser = ImageFile.Parser()", openings_without_formats),
        ("def f(a, **kwargs): ...", open_signatures),
        ("f = lambda **kw: 0", open_signatures),
        ("os.replace(a, b)", renames),
        ("shutil.move(a, b)", renames),
        ("path.rename(other)", renames),
        ("path.replace(other)", renames),
        ("while data := file.read(9): digest.update(data)", digests_in_chunks),
        ("hashlib.file_digest(file, 'sha256')", digests_in_chunks),
    ],
)
def test_rules_see_what_they_forbid(source: str, check: Callable[[ast.Module], Iterator[int]]) -> None:
    assert len(list(check(ast.parse(source)))) == 1
    assert list(check(ast.parse("try: x.replace(a, **b)\nexcept (OSError, ValueError): replace('print(1)')"))) == []


def test_imports_are_seen() -> None:
    tree = ast.parse("import a.b, c\nfrom edge_llava.errors import X\ndef f():\n  from . import y\n  from .z import w")
    assert imports(tree) == {"a.b", "c", "edge_llava.errors.X", "..y", ".z.w"}
    tree = ast.parse("from edge_llava import runtime, home\nfrom edge_llava.converters import pipeline")
    assert own(imports(tree)) == {"runtime", "home", "converters.pipeline"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_the_contract_and_itself(room: str) -> None:
    for path in in_room(room):
        names = own(imported(path))
        foreign = {name for name in names - CONTRACT if not name.startswith(f"{room}.") and name != room}
        assert not foreign, f"{place(path)} imports {foreign}"


def test_the_contract_imports_no_room() -> None:
    for path in in_room("edge_llava"):
        if hall_part(path) in CONTRACT:
            rooms = {name for name in own(imported(path)) if name.split(".")[0] in ROOMS}
            assert not rooms, f"{place(path)} imports {rooms}"


def test_training_imports_no_runtime_and_users_of_bundles_no_converters() -> None:
    forbidden = {
        "training": "runtime",
        "evaluation": "converters",
        "measuring": "converters",
        "captioning": "converters",
        "selftest": "converters",
        "doctor": "converters",
        "server": "converters",
        "conversion": "neither",
        "parity": "neither",
    }
    for path in in_room("edge_llava"):
        other = forbidden.get(hall_part(path), "neither")
        assert not {name for name in own(imported(path)) if name.split(".")[0] == other}, place(path)


def test_scenes_know_only_themselves_and_who_uses_a_bundle_neither_torch_nor_training() -> None:
    scenes, evaluation, measuring, captioning, selftest, doctor, server = (
        [path for path in SOURCES if path.is_relative_to(ROOT / "edge_llava" / name)]
        for name in ("scenes", "evaluation", "measuring", "captioning", "selftest", "doctor", "server")
    )
    users = (*evaluation, *measuring, *captioning, *selftest, *doctor, *server)
    names = {path.name for path in (*scenes, *users)}
    assert names >= {"scene.py", "questions.py", "exam.py", "tuning.py", "job.py", "checks.py", "app.py"}
    for path in scenes:
        assert own(imported(path)) <= {"scenes", "errors"}, place(path)
        assert not packages(imported(path)) & {*CONVERTER_PACKAGES, "llama_cpp", "onnxruntime"}, place(path)
    for path in users:
        assert "training" not in own(imported(path)), place(path)
        assert not packages(imported(path)) & {*CONVERTER_PACKAGES, "gguf", "sentencepiece"}, place(path)


def test_the_server_alone_knows_pydantic() -> None:
    users = {path for path in SOURCES if packages(imported(path)) & {"pydantic", "pydantic_core"}}
    server = ROOT / "edge_llava" / "server"
    assert users
    assert {place(path) for path in users if not path.is_relative_to(server)} == set()


@pytest.mark.parametrize(
    ("room", "others"), [("http", ("images", "openai", "ollama", "page")), ("images", ("openai", "ollama", "page"))]
)
def test_rooms_of_the_server_know_those_below_them(room: str, others: tuple[str, ...]) -> None:
    paths = [path for path in SOURCES if path.is_relative_to(ROOT / "edge_llava" / "server" / room)]
    assert len(paths) > 3
    for path in paths:
        names = imported(path)
        above = {name for name in names for other in others if name.startswith(f"edge_llava.server.{other}.")}
        assert not above, f"{place(path)} imports {above}"


def test_runtime_never_imports_what_makes_a_bundle() -> None:
    for path in in_room("runtime"):
        assert not packages(imported(path)) & {*CONVERTER_PACKAGES, "gguf", "sentencepiece"}, place(path)


def test_tests_of_the_runtime_need_only_what_a_device_installs() -> None:
    extras = {*CONVERTER_PACKAGES, "gguf", "sentencepiece", "peft", "hypothesis", "httpx", "starlette", "jsonschema"}
    for path in (ROOT / "tests" / "runtime").rglob("*.py"):
        skipping = re.findall(r'importorskip\("(\w+)"', path.read_text(encoding="utf-8"))
        assert not packages(imported(path)) & extras - set(skipping), place(path)
        assert not {name for name in imported(path) if name.startswith("edge_llava.conver")}, place(path)


@pytest.mark.parametrize("folder", RUNTIME_ROOMS)
def test_folders_of_the_runtime_know_only_those_below_them(folder: str) -> None:
    paths = [path for path in in_room("runtime") if path.is_relative_to(ROOT / "runtime" / folder)]
    assert len(paths) > 3
    allowed = RUNTIME_ROOMS[folder] | SHARED_IN_RUNTIME | {folder}
    for path in paths:
        known = {name.split(".")[2] for name in imported(path) if name.startswith("edge_llava.runtime.")}
        assert known <= allowed, place(path)


def test_vision_imports_no_llama_cpp_and_language_no_onnxruntime() -> None:
    for folder, engine in (("vision", "llama_cpp"), ("language", "onnxruntime")):
        for path in in_room("runtime"):
            if path.is_relative_to(ROOT / "runtime" / folder):
                assert engine not in packages(imported(path)), place(path)


def test_the_files_above_the_folders_have_no_import_cycle() -> None:
    """Each may import those before it in this list, also for type checking."""
    order = ["answer", "options", "runs", "request", "turn", "answer_reader", "async_answer", "session", "model"]
    paths = [path for path in in_room("runtime") if path.parent.name == "runtime" and path.stem != "__init__"]
    assert {path.stem for path in paths} == set(order)
    for path in paths:
        known = {name.split(".")[2] for name in imported(path) if name.startswith("edge_llava.runtime.")}
        assert not known & set(order[order.index(path.stem) :]), place(path)


def test_llguidance_is_imported_for_json_alone() -> None:
    assert {place(p) for p in in_room("runtime") if "llguidance" in packages(imported(p))} == {
        "runtime/language/json_grammar.py",
        "runtime/language/language_model.py",  # its type
    }


def test_one_file_of_the_runtime_imports_onnxruntime() -> None:
    assert [place(p) for p in in_room("runtime") if "onnxruntime" in packages(imported(p))] == [
        "runtime/vision/onnx_runtime.py"
    ]


def test_rooms_are_imported_by_their_full_name() -> None:
    for path in SOURCES:
        names = imported(path)
        relative = {name for name in names if name.startswith(".") or name.split(".")[0] in ROOMS}
        assert not relative, f"{place(path)} imports {relative}"


def test_the_library_prints_nothing() -> None:
    library = [path for path in SOURCES if "cli" not in path.relative_to(ROOT).parts]
    assert found_in(library, prints) == []


def test_nothing_catches_everything() -> None:
    assert found_in([path for path in SOURCES if place(path) not in CATCHES_ALL], broad_handlers) == []
    assert all(list(broad_handlers(parse(ROOT / name))) for name in CATCHES_ALL), "an exception that is not needed"


def test_every_image_file_is_opened_as_one_of_the_formats_that_are_read() -> None:
    others = [path for name in ("benchmarks", "examples") for path in (ROOT / name).rglob("*.py")]
    assert found_in([*SOURCES, *others], openings_without_formats) == []


def test_no_file_calls_two_things_image() -> None:
    both = {"PIL.Image", "edge_llava.runtime.vision.image.Image"}
    for path in SOURCES:
        froms = {
            f"{node.module}.{alias.asname or alias.name}"
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert not both <= froms, place(path)


def test_every_option_has_a_name() -> None:
    assert found_in(SOURCES, open_signatures) == []


def test_only_the_home_renames_locks_and_hashes_files() -> None:
    home = {path for path in in_room("edge_llava") if hall_part(path) == "home"}
    others = [path for path in SOURCES if path not in home]
    assert found_in(others, renames) == found_in(others, digests_in_chunks) == []
    assert [place(path) for path in SOURCES if packages(imported(path)) & {"fcntl", "msvcrt"}] == [
        "edge_llava/home/lock.py"
    ]
    for check, users in (
        (renames, {"atomic_directory.py", "files.py"}),
        (digests_in_chunks, {"files.py"}),
    ):
        assert {path.name for path in home if list(check(parse(path)))} == users


def test_files_stay_readable() -> None:
    lengths = {place(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_public_names_are_the_lazy_table() -> None:
    assert edge_llava.__all__ == sorted(edge_llava._HOMES)
    assert dir(edge_llava) == edge_llava.__all__
    with pytest.raises(AttributeError, match="module 'edge_llava' has no attribute 'lload'"):
        _ = edge_llava.lload


def test_the_version_is_that_of_the_distribution() -> None:
    assert edge_llava.__version__ == version("edge-llava")
    assert "importlib.metadata" not in loaded_by("import edge_llava"), "it costs time, and is needed by few"


@pytest.mark.parametrize("name", edge_llava.__all__)
def test_public_name_lives_where_the_table_says(name: str) -> None:
    if edge_llava._HOMES[name].startswith("converters"):
        pytest.importorskip("torch")
    value = getattr(edge_llava, name)
    assert value.__module__ == f"edge_llava.{edge_llava._HOMES[name]}"
    assert value is getattr(import_module(value.__module__), name)
    assert value.__doc__


def test_public_names_are_known_to_type_checkers() -> None:
    ifs = [node for node in parse(ROOT / "edge_llava/__init__.py").body if isinstance(node, ast.If)]
    (block,) = (node for node in ifs if isinstance(node.test, ast.Name))  # TYPE_CHECKING
    typed = {
        alias.name: (node.module or "").removeprefix("edge_llava.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == edge_llava._HOMES


def loaded_by(code: str, *arguments: object) -> set[str]:
    """Modules that a fresh process has loaded after `code`, run outside the repository."""
    tail = "\nimport sys, json; print(); print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + tail, *map(str, arguments)],
        cwd=os.environ["EDGE_LLAVA_HOME"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_house_loads_no_engine() -> None:
    assert not loaded_by("import edge_llava") & {*ENGINES, *CONVERTER_PACKAGES, *HEAVY}


def test_importing_the_runtime_room_loads_no_converter() -> None:
    modules = loaded_by("import edge_llava, edge_llava.runtime")
    assert not modules & {*CONVERTER_PACKAGES, *ROOMS}
    assert "edge_llava.runtime" in modules


@pytest.mark.convert
def test_a_whole_answer_loads_no_converter(seeded_q4: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "picture.png")
    code = """
import sys, edge_llava
with edge_llava.load(sys.argv[1]) as model:
    chat = model.session(edge_llava.SamplingOptions(temperature=0, max_new_tokens=3))
    tokens = list(chat.ask("What is on the table?", image=sys.argv[2]))
    assert tokens and tokens[-1].finish_reason, tokens
"""
    modules = loaded_by(code, seeded_q4, tmp_path / "picture.png")
    assert not modules & {
        *CONVERTER_PACKAGES,
        *ROOMS,
        "gguf",
        "sentencepiece",
        "edge_llava.converters",
        "rich",
        "click",
    }
    assert modules >= {"llama_cpp", "onnxruntime", "edge_llava.runtime.session"}


@pytest.fixture
def wheel(wheel_path: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel_path) as opened:
        yield opened


def test_wheel_claims_no_generic_name(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = top - {"edge_llava"}
    assert info.startswith("edge_llava-")
    assert info.endswith(".dist-info")


def test_wheel_contains_nothing_that_an_earlier_build_left(wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if "deleted_since" in name]


def test_wheel_contains_every_file(wheel: zipfile.ZipFile) -> None:
    """A command is loaded only when it is used, so its absence would not be noticed before."""
    expected = set()
    for directory in ("edge_llava", *ROOMS):
        for path in (ROOT / directory).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = place(path)
                expected.add(name if directory == "edge_llava" else f"edge_llava/{name}")
    assert expected >= {f"edge_llava/{name}" for name in ("py.typed", "runtime/model.py", "converters/pipeline.py")}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(entry_points).decode().split() == [
        *("[console_scripts]", "edge-llava", "=", "edge_llava.cli:main"),
        *("edge-llava-selftest", "=", "edge_llava.cli.selftest:main"),
        *("[pyinstaller40]", "hook-dirs", "=", "edge_llava.pyinstaller:get_hook_dirs"),
    ]
