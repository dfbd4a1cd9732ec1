"""Saving: whatever happens, a reader sees the old file or the new one, whole."""

import contextlib
import errno
import io
import mmap
import os
import signal
import stat
import subprocess
import sys

import pytest

from blox import atomic
from blox.atomic import atomic_write

fcntl = pytest.importorskip('fcntl')
resource = pytest.importorskip('resource')

# Other processes load the file itself, which is much faster than importing all of blox.
PRELUDE = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location('atomic', sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
target = sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def save(content, then=lambda: None):
    with atomic.atomic_write(target) as file:
        file.write(content)
        file.flush()
        then()
"""


def start(script, *arguments):
    """Another process that runs `script` after the prelude."""
    return subprocess.Popen(
        [sys.executable, '-c', PRELUDE + script, atomic.__file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Its exit status, once what it has to say on errors is nothing."""
    _, errors = process.communicate(timeout=60)
    assert errors == ''
    return process.returncode


def save(path, content):
    with atomic_write(path) as file:
        file.write(content)


@pytest.fixture
def folder(tmp_path):
    """An empty folder of its own."""
    (tmp_path / 'folder').mkdir()
    return tmp_path / 'folder'


@pytest.fixture
def old(folder):
    """A file that is there already, alone in its folder."""
    (folder / 'model').write_bytes(b'old')
    return folder / 'model'


def leftover(folder, name='model', token='0' * 16):
    """A file as a killed saver leaves it."""
    path = folder / f'.{name}.{token}.blox-tmp'
    path.write_bytes(b'half')
    return path


# What takes whose place.


def test_a_file_is_replaced_whole(old):
    save(old, b'new')
    assert old.read_bytes() == b'new'
    assert os.listdir(old.parent) == ['model']


def test_until_the_block_ends_readers_see_the_old_file(old):
    with atomic_write(old) as file:
        file.write(b'new')
        file.flush()
        assert old.read_bytes() == b'old'


def test_who_has_mapped_the_old_file_keeps_it(old):
    with open(old, 'rb') as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    save(old, b'newer')
    assert bytes(mapped) == b'old'


@pytest.mark.parametrize('mode', [0o600, 0o640, 0o444, 0o755])
def test_the_mode_of_the_old_file_is_kept(old, mode):
    old.chmod(mode)
    save(old, b'new')
    assert stat.S_IMODE(old.stat().st_mode) == mode


@pytest.mark.parametrize(('umask', 'mode'), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_new_file_is_that_of_the_umask(folder, umask, mode):
    previous = os.umask(umask)
    try:
        save(folder / 'model', b'new')
    finally:
        os.umask(previous)
    assert stat.S_IMODE((folder / 'model').stat().st_mode) == mode


def test_a_link_is_followed_and_stays_a_link(folder, old, tmp_path):
    link = tmp_path / 'link'
    link.symlink_to(os.path.join('folder', 'model'))
    save(link, b'new')
    assert link.is_symlink()
    assert old.read_bytes() == b'new'
    assert sorted(os.listdir(tmp_path)) == ['folder', 'link']
    assert os.listdir(folder) == ['model']


def test_where_a_link_leads_to_nothing_the_file_is_made(folder, tmp_path):
    (tmp_path / 'link').symlink_to(folder / 'model')
    save(tmp_path / 'link', b'new')
    assert (tmp_path / 'link').is_symlink()
    assert (folder / 'model').read_bytes() == b'new'


def test_a_path_may_be_relative(folder, monkeypatch):
    monkeypatch.chdir(folder)
    save('model', b'new')
    assert (folder / 'model').read_bytes() == b'new'


@pytest.mark.parametrize('name', ['m' * 255, 'ä' * 127, '\udcff model', '.model.', '-'])
def test_any_name_that_a_file_can_have_will_do(folder, name):
    for content in (b'old', b'new'):
        save(folder / name, content)
    assert (folder / name).read_bytes() == b'new'
    assert os.listdir(folder) == [name]


# What cannot be saved to.


def make_loop(path):
    path.symlink_to(path)


def make_link_to_folder(path):
    path.symlink_to(path.parent)


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo, make_loop, make_link_to_folder])
def test_what_is_no_regular_file_is_refused_and_stays(folder, make):
    make(folder / 'model')
    kind = stat.S_IFMT((folder / 'model').lstat().st_mode)
    with pytest.raises(OSError, match=r'folder/model.*regular file'):
        save(folder / 'model', b'new')
    assert stat.S_IFMT((folder / 'model').lstat().st_mode) == kind
    assert os.listdir(folder) == ['model']


def test_a_device_is_refused():
    with pytest.raises(OSError, match=r'null.*regular file'):
        save(os.devnull, b'new')


@pytest.mark.parametrize(
    ('path', 'error'),
    [
        ('nowhere/model', FileNotFoundError),
        ('model/model', NotADirectoryError),
        ('m' * 256, OSError),
    ],
)
def test_a_place_where_no_file_can_be_is_an_error_that_names_it(old, path, error):
    with pytest.raises(error) as caught:
        save(old.parent / path, b'new')
    assert caught.value.filename == str(old.parent / path)
    assert os.listdir(old.parent) == ['model']


# Errors in the middle.


def failing(code, real=None, calls=0):
    """A function that fails with an errno after `calls` calls of the real one."""
    left = [calls]

    def fail(*args, **kwargs):
        if real is None or not left[0]:
            raise OSError(code, os.strerror(code))
        left[0] -= 1
        return real(*args, **kwargs)

    return fail


def error_of_saving(old):
    with pytest.raises(OSError, match='old file is untouched') as caught:
        save(old, b'new' * 100_000)
    return caught.value


def check_untouched(old, error, code):
    """That an error has the code and names the file, which is as it was and alone."""
    assert (error.errno, error.filename) == (code, str(old))
    assert old.read_bytes() == b'old'
    assert os.listdir(old.parent) == ['model']


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize('call', ['fsync', 'replace', 'chmod', 'fstat'])
def test_an_error_leaves_the_old_file_and_names_it(old, monkeypatch, call, code):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        error = error_of_saving(old)
    check_untouched(old, error, code)


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EMFILE, errno.EROFS])
def test_an_error_of_open_leaves_the_old_file_and_names_it(old, monkeypatch, code):
    monkeypatch.setattr(atomic, 'open', failing(code), raising=False)
    check_untouched(old, error_of_saving(old), code)


class FullDisk(io.FileIO):
    """A file that takes some bytes and then no more."""

    room, code = 0, errno.ENOSPC

    def write(self, data, /):
        if self.tell() + len(data) > self.room:
            raise OSError(self.code, os.strerror(self.code))
        return super().write(data)


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize('room', [0, 1, 100_000])
def test_an_error_of_write_leaves_the_old_file_and_names_it(old, monkeypatch, room, code):
    disk = type('Disk', (FullDisk,), {'room': room, 'code': code})
    opened = lambda path, mode: io.BufferedWriter(disk(path, mode))  # noqa: E731
    monkeypatch.setattr(atomic, 'open', opened, raising=False)
    check_untouched(old, error_of_saving(old), code)


def test_a_small_file_that_fails_only_at_its_flush_leaves_the_old_one(old, monkeypatch):
    opened = lambda path, mode: io.BufferedWriter(FullDisk(path, mode))  # noqa: E731
    monkeypatch.setattr(atomic, 'open', opened, raising=False)
    with pytest.raises(OSError, match=r'No space left.*untouched'):
        save(old, b'new')
    assert old.read_bytes() == b'old'
    assert os.listdir(old.parent) == ['model']


@contextlib.contextmanager
def files_of_at_most(size):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_the_system_lets_grow_no_further_leaves_the_old_one(old):
    with files_of_at_most(1000):
        error = error_of_saving(old)
    check_untouched(old, error, errno.EFBIG)


@pytest.mark.parametrize('call', ['fsync', 'open'])
def test_an_error_of_the_folders_sync_names_the_file_which_is_whole(old, monkeypatch, call):
    calls = {'fsync': 1, 'open': 0}[call]
    monkeypatch.setattr(os, call, failing(errno.EIO, getattr(os, call), calls))
    with pytest.raises(OSError, match='saved, but') as caught:
        save(old, b'new')
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(old))
    assert old.read_bytes() == b'new'
    assert os.listdir(old.parent) == ['model']


def test_a_folder_that_cannot_be_listed_is_saved_to(old, monkeypatch):
    monkeypatch.setattr(os, 'listdir', failing(errno.EACCES))
    save(old, b'new')
    assert old.read_bytes() == b'new'


@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_files_have_no_locks_saving_works_and_sweeps_nothing(old, monkeypatch, code):
    left = leftover(old.parent)
    monkeypatch.setattr(fcntl, 'flock', failing(code))
    save(old, b'new')
    assert old.read_bytes() == b'new'
    assert sorted(os.listdir(old.parent)) == sorted([left.name, 'model'])


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, SystemExit, ValueError])
def test_an_error_of_the_callers_own_leaves_the_old_file_and_goes_on(old, error):
    with pytest.raises(error), atomic_write(old) as file:  # noqa: PT012
        file.write(b'new')
        raise error
    assert old.read_bytes() == b'old'
    assert os.listdir(old.parent) == ['model']


def test_an_os_error_that_has_only_a_text_keeps_it(old):
    with pytest.raises(OSError, match=r'cannot save: the disk is tired.*model'), atomic_write(old):
        raise OSError('the disk is tired')


@pytest.mark.skipif(not os.path.exists('/proc/self/fd'), reason='there is no list of open files')
@pytest.mark.parametrize('call', ['fstat', 'fsync', 'open'])
def test_a_failed_save_leaves_no_file_open(old, monkeypatch, call):
    before = len(os.listdir('/proc/self/fd'))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EIO))
        with pytest.raises(OSError, match='model'):
            save(old, b'new')
    assert len(os.listdir('/proc/self/fd')) == before


# Killed savers, and what they leave.

# Where a saver is killed: the code that has it die there, and what the file then holds.
DEATHS = {
    'before anything': ('atomic.os.listdir = die', b'old'),
    'when its temporary is there': ('atomic.lock = die', b'old'),
    'when it has locked it': ('atomic.os.fstat = die', b'old'),
    'in the middle of writing': ('save(b"ne", die)', b'old'),
    'before it sets the mode': ('atomic.os.chmod = die', b'old'),
    'before it syncs': ('atomic.os.fsync = die', b'old'),
    'before it replaces': ('atomic.os.replace = die', b'old'),
    'when it has replaced': ('atomic._sync_folder = die', b'new'),
}


@pytest.mark.parametrize('death', DEATHS)
def test_a_killed_saver_leaves_a_whole_file_and_the_next_one_sweeps(old, death):
    code, content = DEATHS[death]
    assert finish(start(f'{code}\nsave(b"new")', old)) == -signal.SIGKILL
    assert old.read_bytes() == content
    save(old, b'newer')
    assert old.read_bytes() == b'newer'
    assert os.listdir(old.parent) == ['model']


@pytest.mark.parametrize('point', ['write', 'rename'])
def test_a_live_savers_temporary_is_not_swept(old, point):
    waiting = 'print("here", flush=True); sys.stdin.read()'
    script = {
        'write': f'def wait(): {waiting}\nsave(b"theirs", wait)',
        'rename': f'real = os.replace\ndef wait(*names): {waiting}; real(*names)\n'
        'os.replace = wait\nsave(b"theirs")',
    }[point]
    process = start(script, old)
    assert process.stdout is not None
    assert process.stdout.readline() == 'here\n'
    save(old, b'ours')
    assert len(os.listdir(old.parent)) == 2
    assert finish(process) == 0
    assert old.read_bytes() == b'theirs'
    assert os.listdir(old.parent) == ['model']


@pytest.mark.parametrize('reached', ['locked', 'removed', 'done'])
def test_a_saver_whose_new_temporary_a_sweep_takes_starts_again(old, monkeypatch, reached):
    taken = take_first_temporary(old.parent, monkeypatch, reached)
    with atomic_write(old) as file:
        file.write(b'new')
        # The sweep that had but locked it goes on.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(taken[0].name)
        taken[0].close()
    assert old.read_bytes() == b'new'
    assert os.listdir(old.parent) == ['model']


def take_first_temporary(folder, monkeypatch, reached):
    """Has a sweep come between creation and lock, and get as far as `reached`.

    Returns a list of the file that the sweep has locked, once it has.
    """
    real, taken = fcntl.flock, []

    def flock(descriptor, operation):
        monkeypatch.setattr(fcntl, 'flock', real)
        (name,) = set(os.listdir(folder)) - {'model'}
        taken.append(open(folder / name, 'rb'))  # noqa: SIM115
        real(taken[0].fileno(), operation)
        if reached != 'locked':
            os.unlink(folder / name)
        if reached == 'done':
            taken[0].close()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, 'flock', flock)
    return taken


def test_nothing_but_this_files_leftovers_is_swept(old):
    kept = ['.model', '.model.blox-tmp', '.model.txt', f'.other.{"0" * 16}.blox-tmp', 'model.tmp']
    for name in kept:
        (old.parent / name).write_bytes(b'mine')
    for token in 'ab':
        leftover(old.parent, token=token * 16)
    save(old, b'new')
    assert sorted(os.listdir(old.parent)) == sorted([*kept, 'model'])


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, make_loop])
def test_what_only_looks_like_a_leftover_neither_stops_nor_hangs_a_save(old, make):
    make(old.parent / f'.model.{"0" * 16}.blox-tmp')
    process = start('save(b"new")', old)
    assert finish(process) == 0
    assert old.read_bytes() == b'new'


def test_a_link_that_looks_like_a_leftover_costs_nothing_that_it_leads_to(old, tmp_path):
    (tmp_path / 'mine').write_bytes(b'mine')
    (old.parent / f'.model.{"0" * 16}.blox-tmp').symlink_to(tmp_path / 'mine')
    save(old, b'new')
    assert (tmp_path / 'mine').read_bytes() == b'mine'


# Many at once. A generation is one number, again and again; whole means one number, all of it.

SAVER = """
for i in range(100):
    save(f'{os.getpid()}.{i:04}\\n'.encode() * 20_000)
"""
READER = """
seen = set()
for i in range(int(sys.argv[3])):
    lines = open(target, 'rb').read().splitlines()
    assert len(lines) == 20_000 and len(set(lines)) == 1, (len(lines), set(lines))
    seen.add(lines[0])
"""
CRASHER = """
for i in range(40):
    if os.fork() == 0:
        save(b'0.0000\\n' * 20_000, die if i % 2 else lambda: None)
        os._exit(0)
    os.wait()
"""


def test_every_read_among_savers_and_crashes_is_whole(folder):
    path = folder / 'model'
    save(path, b'0.0000\n' * 20_000)
    savers = [start(script, path) for script in (SAVER, SAVER, CRASHER)]
    readers = [start(READER, path, 500) for _ in range(2)]
    assert [finish(process) for process in savers + readers] == [0] * 5
    save(path, b'last')
    assert os.listdir(folder) == ['model']
