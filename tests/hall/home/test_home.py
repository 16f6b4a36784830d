"""The home: which names it takes, what it lists, which bundle is the default, and files that appear whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from edge_llava.errors import BundleError
from edge_llava.home import directories as house


@pytest.fixture
def add(home: Path, add_bundle: Callable[[Path], Path]) -> Callable[[str], Path]:
    """add(name): a bundle in the home."""
    return lambda name: add_bundle(home / "bundles" / name)


def refuse(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(BundleError) as caught:
        call(*arguments)
    return str(caught.value)


def test_variable_moves_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "elsewhere"))
    assert house.home_directory() == tmp_path / "elsewhere"
    assert house.bundles_directory() == tmp_path / "elsewhere" / "bundles"
    assert not (tmp_path / "elsewhere").exists(), "asking creates nothing"


def test_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_LLAVA_HOME", "here")
    assert house.home_directory() == tmp_path / "here"


def test_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("EDGE_LLAVA_HOME", "~/models")
    assert house.home_directory() == tmp_path / "models"


@pytest.mark.parametrize("value", ["", None])
def test_without_the_variable_the_system_decides(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("EDGE_LLAVA_HOME")
    else:
        monkeypatch.setenv("EDGE_LLAVA_HOME", value)
    assert house.home_directory() == platformdirs.user_data_path("edge-llava", appauthor=False)


@pytest.mark.parametrize("name", ["a", "llava-1.5-7b-hf-q4_k_m", "7B", "x.y", "a" * 128])
def test_names(name: str) -> None:
    assert house.check_bundle_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-m", "_x", "a/b", "a\\b", "a b", "a\n", "é", "a" * 129, "x.partial", "C:", "\0"],
)
def test_impossible_names(name: str) -> None:
    assert refuse(house.check_bundle_name, name) == (
        f"{name!r} cannot name a bundle: use letters, digits, '.', '_' and '-' (not '*.partial')."
    )


def test_lists_bundles_only(home: Path, add: Callable[[str], Path]) -> None:
    assert house.list_bundles() == []
    b, a = add("b"), add("a")
    add("c.partial")
    (home / "bundles" / "empty").mkdir()
    (home / "bundles" / "file").write_text("")
    assert house.list_bundles() == [a, b]


def test_home_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGE_LLAVA_HOME", str(tmp_path / "file"))
    assert house.list_bundles() == []
    assert house.default_bundle() is None
    assert refuse(house.find_bundle).startswith("no bundle was named and there is no default.")


def test_finds_by_name_and_by_path(add: Callable[[str], Path], small_bundle: Path) -> None:
    named = add("demo-q4_k_m")
    assert house.find_bundle("demo-q4_k_m") == named
    assert house.find_bundle(str(small_bundle)) == small_bundle
    assert house.find_bundle(small_bundle) == small_bundle


def test_finds_a_relative_path_and_a_tilde(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_bundle.parent)
    monkeypatch.setenv("HOME", str(small_bundle.parent))
    monkeypatch.setenv("USERPROFILE", str(small_bundle.parent))
    assert house.find_bundle("small") == small_bundle
    assert house.find_bundle("~/small") == small_bundle


def test_a_name_does_not_lead_out_of_the_home(home: Path, add_bundle: Callable[[Path], Path]) -> None:
    (home / "bundles").mkdir()
    add_bundle(home / "outside")
    assert "there is no bundle '../outside'" in refuse(house.find_bundle, "../outside")


def test_unknown_name_lists_the_others(add: Callable[[str], Path]) -> None:
    add("b")
    add("a")
    assert refuse(house.find_bundle, "c") == (
        "there is no bundle 'c', neither as a directory nor by name. "
        "Available: a, b. Choose one with -m NAME or 'edge-llava models default NAME'."
    )


@pytest.mark.parametrize("typed", ["mistral", "LLaVA-1.6", "llava-1.6-mistral-q4_k_m"])
def test_the_beginning_of_one_name_is_enough(add: Callable[[str], Path], typed: str) -> None:
    add("llava-1.5-7b-q4_k_m")
    wanted, small = add("llava-1.6-mistral-q4_k_m"), add("mistral-q8_0")
    assert house.find_bundle(typed) == (small if typed == "mistral" else wanted)


def test_the_beginning_of_several_names_is_refused(add: Callable[[str], Path]) -> None:
    add("mine-q4_k_m")
    add("mine-q8_0")
    assert refuse(house.find_bundle, "mine") == (
        "several bundles begin with 'mine': mine-q4_k_m, mine-q8_0. Type more of the name that you mean."
    )
    whole = add("mine")
    assert house.find_bundle("mine") == whole, "a whole name is not the beginning of others"


@pytest.mark.parametrize("typed", ["./mi", "mi/ne", ".", ""])
def test_a_path_is_not_the_beginning_of_a_name(
    add: Callable[[str], Path], typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = add("mine")
    monkeypatch.chdir(tmp_path)
    if typed in ("", "."):  # the current directory, as everywhere
        assert house.find_bundle(typed) == tmp_path
    else:
        assert "there is no bundle" in refuse(house.find_bundle, typed)
    assert refuse(house.remove_bundle, "min").startswith("the home has no bundle 'min'. Did you mean 'mine'?")
    assert mine.is_dir()


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("llava:7b", "Did you mean 'llava-1.5-7b-hf-q4_k_m'? "),
        ("bakllava", "Did you mean 'my-bakllava-q4_0' or 'my-bakllava-q8_0'? "),
        ("LAVA-1.5-7b-hf-q4_k_m", "Did you mean 'llava-1.5-7b-hf-q4_k_m'? "),
        ("dmeo", "Did you mean 'demo'? "),
        ("qwen", ""),
        (":", ""),
    ],
)
def test_a_name_that_is_nearly_right(add: Callable[[str], Path], typed: str, suggested: str) -> None:
    for name in ("llava-1.5-7b-hf-q4_k_m", "my-bakllava-q4_0", "my-bakllava-q8_0"):
        add(name)
    assert f"neither as a directory nor by name. {suggested}Available: " in refuse(house.find_bundle, typed)


def test_without_any_bundle_the_message_says_how_to_make_one() -> None:
    advice = "Make one: edge-llava convert CHECKPOINT. To try edge-llava first: edge-llava chat demo:1 (or -m demo)"
    assert refuse(house.find_bundle) == f"no bundle was named and there is no default. {advice}"
    assert refuse(house.find_bundle, "x") == (f"there is no bundle 'x', neither as a directory nor by name. {advice}")


@pytest.mark.parametrize("typed", ["x" * 5000, "~nobody-of-this-name/x", "a\0b"])
def test_name_that_a_file_cannot_have(typed: str) -> None:
    assert refuse(house.find_bundle, typed).startswith(f"there is no bundle {typed!r}")


def test_default_by_name(home: Path, add: Callable[[str], Path]) -> None:
    path = add("a")
    house.set_default_bundle("a")
    assert (home / "default").read_bytes() == b"a\n"
    assert house.default_bundle() == "a"
    assert house.find_bundle() == path


def test_default_by_path(home: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_bundle.parent)
    house.set_default_bundle("./small")
    assert house.default_bundle() == str(small_bundle)
    monkeypatch.chdir(home)
    assert house.find_bundle() == small_bundle


def test_default_by_path_into_the_home_is_kept_by_name(add: Callable[[str], Path]) -> None:
    house.set_default_bundle(str(add("a")))
    assert house.default_bundle() == "a"


def test_default_does_not_depend_on_the_current_directory(
    add: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add("a")
    house.set_default_bundle("a")
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    assert house.find_bundle() == path
    assert house.find_bundle("a") == path, "a directory that is not a bundle hides none"
    (tmp_path / "a" / "manifest.json").write_text("{}")
    assert house.find_bundle("a") == tmp_path / "a", "what is typed may be a directory"


def test_default_must_exist(home: Path) -> None:
    assert "there is no bundle 'x'" in refuse(house.set_default_bundle, "x")
    assert not (home / "default").exists()


def test_default_that_is_gone(add: Callable[[str], Path]) -> None:
    path = add("a")
    add("b")
    house.set_default_bundle("a")
    path.rename(path.with_name("c"))
    assert refuse(house.find_bundle) == (
        "the default bundle 'a' is gone. Available: b, c. Choose one with -m NAME or 'edge-llava models default NAME'."
    )


@pytest.mark.parametrize("damage", [b"", b"\n \n", b"\xff\xff"])
def test_damaged_default_is_ignored(home: Path, damage: bytes) -> None:
    (home / "default").write_bytes(damage)
    assert house.default_bundle() is None


def test_remove(home: Path, add: Callable[[str], Path]) -> None:
    a, b = add("a"), add("b")
    house.set_default_bundle("b")
    assert house.remove_bundle("a") == a
    assert list((home / "bundles").iterdir()) == [b]
    assert house.default_bundle() == "b"


def test_remove_forgets_the_default(home: Path, add: Callable[[str], Path]) -> None:
    add("a")
    house.set_default_bundle("a")
    house.remove_bundle("a")
    assert house.default_bundle() is None
    assert not (home / "default").exists()


def test_the_only_bundle_is_the_default_until_one_is_chosen(home: Path, add: Callable[[str], Path]) -> None:
    a, b = add("a"), add("b")
    assert house.default_bundle() is None
    assert refuse(house.find_bundle).startswith("no bundle was named and there is no default. Available: a, b.")
    house.set_default_bundle("a")
    house.remove_bundle("a")
    assert not a.exists()
    assert (house.default_bundle(), house.find_bundle()) == ("b", b)
    assert not (home / "default").exists(), "nothing was chosen"


def test_remove_refuses_paths(small_bundle: Path, add: Callable[[str], Path]) -> None:
    a = add("a")
    for path in (str(small_bundle), str(a), "../bundles/a", "./a", ".."):
        assert "cannot name a bundle" in refuse(house.remove_bundle, path)
    assert (small_bundle / "manifest.json").exists()
    assert (a / "manifest.json").exists()


def test_remove_refuses_what_is_not_a_bundle(home: Path, add: Callable[[str], Path]) -> None:
    add("a")
    (home / "bundles" / "notes").mkdir()
    for name in ("notes", "b"):
        assert refuse(house.remove_bundle, name).startswith(f"the home has no bundle {name!r}. Available: a.")
    assert (home / "bundles" / "notes").is_dir()


def test_remove_of_a_link_leaves_what_it_points_to(home: Path, small_bundle: Path) -> None:
    (home / "bundles").mkdir()
    (home / "bundles" / "linked").symlink_to(small_bundle, target_is_directory=True)
    house.remove_bundle("linked")
    assert list((home / "bundles").iterdir()) == []
    assert len(list(small_bundle.iterdir())) == 6
