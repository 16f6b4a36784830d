"""Names of commands and options: those of Ollama, suggestions for others, and how the help shows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import click
import pytest

from edge_llava.cli import cli


def walk(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the names that lead to it, groups first."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, *path, name)
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("chatt", "No such command 'chatt'. Did you mean 'chat'?"),
        ("lst", "No such command 'lst'. Did you mean 'list' or 'ls'?"),
        ("Convert", "No such command 'Convert'. Did you mean 'convert'?"),
        ("xyzzy", "No such command 'xyzzy'.\n"),
        ("ps", "keeps no process in the background"),
        ("stop", "Ctrl-C ends it"),
        ("create", "edge-llava convert CHECKPOINT"),
        ("help", "edge-llava --help"),
    ],
)
def test_an_unknown_command_says_what_was_meant(run, typed, said):
    result = run(typed, "x")
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_names_of_ollama(run, seeded_q4, home):
    for name in ("one", "two"):
        shutil.copytree(seeded_q4, home / "bundles" / name)
    for name in ("list", "ls"):
        listed = json.loads(run(name, "--json").out)["bundles"]
        assert [bundle["name"] for bundle in listed] == ["one", "two"]
    assert run("show", "two").out == run("inspect", "two").out != ""
    assert run("rm", "two", "--yes").code == 0
    assert [path.name for path in (home / "bundles").iterdir()] == ["one"]
    assert run("rm").code == 2


@pytest.mark.parametrize("option", ["-m", "--model"])
def test_commands_with_a_bundle_argument_take_it_with_the_option_too(run, seeded_q4, home, option):
    for name in ("one", "two"):
        shutil.copytree(seeded_q4, home / "bundles" / name)
    for command in ("inspect", "fit", "show"):
        assert json.loads(run(command, option, "two", "--json").out)["bundle"].endswith("two")
    assert run("verify", option).code == 2


def test_run_takes_a_bundle_first_unless_it_is_an_image(run, seeded_q4, photo, home):
    shutil.copytree(seeded_q4, home / "bundles" / "small-q4_k_m")
    question = ("-p", "What?", "-n", 1, "--json")
    by_name = json.loads(run("run", "small", photo, *question).out)
    without = json.loads(run("run", photo, *question).out)
    assert [image["path"] for image in by_name["images"]] == [str(photo)]
    assert by_name["images"] == without["images"]
    ours, demos = (json.loads(run("run", name, "demo:1", *question).out)["images"] for name in ("small", "demo"))
    assert ours[0]["key"] != demos[0]["key"]
    unknown = run("run", "llama3", photo, *question)
    assert (unknown.code, unknown.out) == (6, "")
    assert "there is no bundle 'llama3'" in unknown.err


def test_no_summary_is_cut_at_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in walk(cli):
        if isinstance(command, click.Group):
            shown = run(*path, "--help").out
            assert not [line for line in shown.partition("Commands:")[2].splitlines() if line.endswith("...")]


def test_options_name_what_they_take(run, monkeypatch):
    n_numbers = 0
    for path, command in walk(cli):
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                shown = option.make_metavar(click.Context(command))
                assert not shown.startswith(("INTEGER", "FLOAT")), (path, option.opts)
                n_numbers += shown in ("N", "X")
    assert n_numbers > 50


def test_the_error_about_a_quantization_writes_the_names_as_the_help_does(run):
    refused = run("convert", "demo", "--quant", "q9_x")
    assert (refused.code, refused.out) == (2, "")
    assert "'q9_x' is not one of F32, F16, BF16, Q8_0, " in refused.err
