"""The tree of errors, its exit codes, and the form of its messages."""

from __future__ import annotations

import inspect

import pytest

from edge_llava import errors
from edge_llava.errors import ContextOverflow, EdgeLlavaError, MissingExtra, list_faults
from edge_llava.home.installation import install_command

EXIT_CODES = {
    "EdgeLlavaError": 1,
    "MissingExtra": 3,
    "CheckpointError": 4,
    "ConversionError": 5,
    "BundleError": 6,
    "ImageError": 7,
    "ContextOverflow": 8,
    "BackendError": 9,
    "DataError": 10,
    "TrainingError": 11,
    "QueueFull": 12,
    "TransferError": 13,
}


def classes() -> dict[str, type[Exception]]:
    return {name: c for name, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)}


def test_tree_and_exit_codes() -> None:
    assert {name: c.exit_code for name, c in classes().items()} == EXIT_CODES


def test_every_class_stands_right_below_the_base() -> None:
    assert EdgeLlavaError.__bases__ == (Exception,)
    for name, class_ in classes().items():
        if name != "EdgeLlavaError":
            assert class_.__bases__ == (EdgeLlavaError,), name


def test_tree_is_drawn_as_it_is() -> None:
    drawn = [line.split() for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    codes = {words[words[0] in ("|--", "`--")]: words[1 + (words[0] in ("|--", "`--"))] for words in drawn}
    assert codes == {name: str(code) for name, code in EXIT_CODES.items()}


def test_no_code_is_taken_by_the_shell_or_click() -> None:
    codes = list(EXIT_CODES.values())
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 126, 127, 130} & set(codes)


def test_missing_extra_prints_the_pip_line() -> None:
    error = MissingExtra("convert", "converting a checkpoint", "torch")
    assert str(error) == (
        f"converting a checkpoint needs the package 'torch'. Install it: {install_command('convert')}"
    )
    assert error.extra == "convert"


def test_context_overflow_carries_its_numbers() -> None:
    error = ContextOverflow(5000, 4096, "2 images of 2304", "Take one image.")
    assert str(error) == (
        "the prompt needs 5000 positions (2 images of 2304) and the context has 4096. Take one image."
    )
    assert (error.n_needed, error.n_ctx) == (5000, 4096)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x is wrong:", ["a", "b"], "Do c."), "x is wrong:\n  - a\n  - b\nDo c."),
        (("x is wrong:", ["a"]), "x is wrong:\n  - a"),
        (("x is wrong:", []), "x is wrong:"),
    ],
)
def test_list_faults(arguments: tuple[str, list[str], str], text: str) -> None:
    assert list_faults(*arguments) == text
