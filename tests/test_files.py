"""Files appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from anovl.errors import OutputError
from anovl.files import differences, remove_temporary, replacing


def test_success_makes_folders_and_leaves_one_file(tmp_path):
    path = tmp_path / "a/b/c.txt"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        assert not path.exists()
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_success_replaces(tmp_path):
    path = tmp_path / "c"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_exception_keeps_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "c.txt"
    path.write_text("old")
    with pytest.raises(OutputError if error is OSError else error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error("no")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_output_error_from_inside_keeps_its_message(tmp_path):
    with pytest.raises(OutputError, match=r"^rows: line 3 is bad$"), replacing(tmp_path / "c.csv"):
        raise OutputError("rows: line 3 is bad")


def test_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "a").write_text("file")
    with pytest.raises(OutputError, match=r"c\.txt: cannot be written"), replacing(tmp_path / "a/c.txt"):
        pytest.fail("was entered")
    assert (tmp_path / "a").read_text() == "file"


def test_folder_in_the_way_of_the_file(tmp_path):
    path = tmp_path / "c.txt"
    path.mkdir()
    with pytest.raises(OutputError, match=r"c\.txt"), replacing(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"[Pp]ermission"), replacing(tmp_path / "c.txt"):
            pytest.fail("was entered")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_honour_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "c.txt") as temporary:
            temporary.write_text("new")
        assert os.umask(umask) == umask  # and leave it as it was
    finally:
        os.umask(before)
    assert (tmp_path / "c.txt").stat().st_mode & 0o777 == mode


def test_differences_name_the_setting_in_its_place():
    before = {"a": 1, "recipe": {"name": "x", "adaptation": {"steps": 5, "kinds": ["b"]}}, "gone": None, "profile": None}
    now = {"a": 1, "recipe": {"name": "x", "adaptation": {"steps": 7, "kinds": ("b",)}}, "new": 2, "profile": {"fpr": 0.1}}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "new: was None, is 2",
        "profile: was None, is {'fpr': 0.1}",
        "recipe.adaptation.steps: was 5, is 7",
    ]


def test_temporary_files_alone_are_removed(tmp_path):
    kept = [
        ".anovl-predictions.jsonl",
        ".anovl-lock",
        ".anovl-0123456789ab-mine.png",
        "0123456789ab.png",
        ".other-0123456789ab.png",
    ]
    for name in [*kept, ".anovl-0123456789ab.png", ".anovl-fedcba987654"]:
        (tmp_path / name).touch()
    remove_temporary(tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
