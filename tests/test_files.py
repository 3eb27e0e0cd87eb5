import errno
import os
import subprocess
import sys

import pytest

from keras_vit.files import disown, own, replacing, require_space


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_new_folder(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for each in (path, tmp_path / "new" / "folder" / "b.txt"):
        with pytest.raises(error), replacing(each) as temporary:
            temporary.write_text("ne")
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_between_the_two_names_keeps_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()

    def interrupt(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.mkdir()
    assert (path / "old").exists() and list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_and_of_what_a_kill_left(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    killed = tmp_path / ".unfinished-model" / "model"
    killed.mkdir(parents=True)
    (killed / "half").touch()
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("whole")
    assert [path.name for path in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_between_the_two_names_loses_nothing(tmp_path):
    """The old folder had already left its place, and the next writing fails."""
    path = tmp_path / "replaced"
    left = tmp_path / ".unfinished-replaced" / "replaced.replaced"
    left.mkdir(parents=True)
    (left / "old").touch()
    with pytest.raises(RuntimeError), replacing(path):
        raise RuntimeError
    assert (path / "old").exists() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: errno = 28, 'No space left on device'")]
)
def test_a_full_disk_is_said_with_path_and_space_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "new" / "folder" / "model.keras"
    with pytest.raises(OSError, match=r"No space left on device: [\d,]+ bytes are free in .*, and nothing was written") as caught:
        with replacing(path) as temporary:
            temporary.write_text("half")
            (temporary.parent / "of_a_library.h5").write_text("half")
            raise error
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"1,000,000,000,000,000,000 bytes are needed, and [\d,]+ are free"):
        require_space(path, 10**18)
    require_space(path, 1)


def test_bytes_and_name_reach_the_disk_in_this_order(tmp_path, monkeypatch):
    calls, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert calls == [str(temporary), "replace", str(tmp_path)]


def in_another_process(folder):
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['own'](sys.argv[2])"
    return subprocess.run([sys.executable, "-c", code, own.__code__.co_filename, folder], capture_output=True, text=True)


def test_a_folder_belongs_to_one_process(tmp_path):
    folder = tmp_path / "new"
    own(folder)
    own(folder)  # this process may, again: after an error in a notebook
    refused = in_another_process(folder)
    assert refused.returncode and f"Another process writes into this folder; it must end first. Received: {folder}" in refused.stderr
    disown(folder)
    (folder / ".unfinished-a.npz").write_text("half")
    assert not in_another_process(folder).returncode
    assert [path.name for path in folder.iterdir()] == [".lock"]
    own(folder)  # the other process has ended, and its lock with it
    disown(folder)
