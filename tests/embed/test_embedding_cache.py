"""The cache of embeddings: what it gives is what was kept, whoever writes, dies or damages files; and it stays within its limit."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from embed import cache_writers
from embed.cache_writers import DIM, vectors_of

from chroma_gpu.embed.memory import segments
from chroma_gpu.embed.memory.cache import EmbeddingCache

LARGE = 8 << 20
RECORD = 24 + 4 * DIM


def texts(start, stop):
    return [f"text {n}" for n in range(start, stop)]


def kept(cache, wanted, model="model", dim=DIM):
    """Which texts are known; their vectors are checked."""
    known, vectors = cache.of(model, dim).find(wanted)
    assert np.array_equal(vectors, vectors_of(wanted, dim)[known])
    assert vectors.dtype == np.float32
    return known


def keep(cache, given, model="model", dim=DIM):
    cache.of(model, dim).keep(given, vectors_of(given, dim))


def on_disk(cache):
    return sum(path.stat().st_size for path in cache.directory.iterdir())


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "embeddings", LARGE)


def test_what_was_kept_is_found(cache):
    assert not kept(cache, texts(0, 5)).any()
    assert not cache.directory.exists()
    keep(cache, texts(0, 100))
    mixed = [*texts(95, 105), *texts(0, 3), "text 0"]
    assert kept(cache, mixed).tolist() == [True] * 5 + [False] * 5 + [True] * 4


def test_nothing_is_asked_and_nothing_kept(cache):
    known, vectors = cache.of("model", DIM).find([])
    assert (known.shape, vectors.shape) == ((0,), (0, DIM))
    keep(cache, [])
    assert not cache.directory.exists()


@pytest.mark.parametrize("text", ["", " ", "\0", "ü", "😀", "\ud800", "\udfff and more", "x" * 100_000])
def test_texts_of_every_kind(cache, text):
    keep(cache, [text, "other"])
    assert kept(cache, ["another", text]).tolist() == [False, True]


@pytest.mark.parametrize("dim", [1, 3, 384, 4096])
def test_lengths_of_every_kind(cache, dim):
    keep(cache, texts(0, 20), dim=dim)
    assert kept(cache, texts(5, 25), dim=dim).tolist() == [True] * 15 + [False] * 5
    assert cache.dim_of("model") == dim
    assert EmbeddingCache(cache.directory, LARGE).dim_of("model") == dim
    assert cache.dim_of("another") is None


def test_bits_are_kept(cache):
    """Signs of zero, subnormals, the largest numbers."""
    vectors = np.array([[0.0, -0.0, 1e-45, 3.4e38]], np.float32)
    cache.of("model", 4).keep(["text"], vectors)
    assert cache.of("model", 4).find(["text"])[1].tobytes() == vectors.tobytes()


def test_models_have_vectors_of_their_own(cache):
    keep(cache, texts(0, 10), "one")
    assert not kept(cache, texts(0, 10), "two").any()
    assert kept(cache, texts(0, 10), "one").all()


def test_a_model_with_vectors_of_another_length_takes_the_place(cache):
    keep(cache, texts(0, 10), dim=8)
    assert not kept(cache, texts(0, 10), dim=6).any()
    keep(cache, texts(0, 10), dim=6)
    again = EmbeddingCache(cache.directory, LARGE)
    assert again.dim_of("model") == 6
    assert kept(again, texts(0, 10), dim=6).all()


def test_what_is_not_finite_is_not_kept(cache):
    vectors = vectors_of(texts(0, 3))
    vectors[1, 2] = np.nan
    cache.of("model", DIM).keep(texts(0, 3), vectors)
    assert kept(cache, texts(0, 3)).tolist() == [True, False, True]


def test_other_shapes_are_refused(cache):
    with pytest.raises(ValueError, match="expected 2 vectors of 24 numbers"):
        cache.of("model", DIM).keep(["a", "b"], np.zeros((2, 3), np.float32))


def test_it_is_there_again(cache):
    keep(cache, texts(0, 3_000))
    again = EmbeddingCache(cache.directory, LARGE)
    assert kept(again, texts(0, 3_000)).all()
    assert kept(again, texts(2_990, 3_010)).sum() == 10
    keep(again, texts(3_000, 3_010))
    assert kept(cache, texts(0, 3_010)).all()


def test_random_orders_and_gaps(cache):
    """Near places are read at once, others one by one."""
    everything = texts(0, 5_000)
    for start, stop in pairwise([0, 1, 2, 700, 5_000]):
        keep(cache, everything[start:stop])
    order = np.random.default_rng(0).permutation(5_000)
    assert kept(cache, [everything[n] for n in order]).all()
    assert kept(cache, [everything[n] for n in order[:3]]).all()
    assert kept(cache, ["text 4999", "text 0"]).all()


def test_texts_that_are_known_are_not_kept_twice(cache):
    keep(cache, texts(0, 100))
    keep(EmbeddingCache(cache.directory, LARGE), texts(50, 150))
    keep(cache, texts(0, 150))
    assert [use.entries for use in cache.models()] == [150]


def test_only_its_owner_may_read_it(cache):
    keep(cache, texts(0, 10))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in cache.directory.iterdir()}
    assert (modes, stat.S_IMODE(cache.directory.stat().st_mode)) == ({0o600}, 0o700)


# ---- the limit


@pytest.mark.parametrize("limit", [1, 1_000, 10_000, 100_000, 333_333])
def test_all_files_stay_below_the_limit(tmp_path, limit):
    cache = EmbeddingCache(tmp_path / "embeddings", limit)
    for start in range(0, 5_000, 170):
        keep(cache, texts(start, start + 170), f"model {start % 3}")
        assert not cache.directory.exists() or on_disk(cache) <= limit
    found = sum(kept(cache, texts(start, start + 170), f"model {start % 3}").sum() for start in range(0, 5_000, 170))
    assert found <= limit // RECORD
    if limit >= 10_000:
        assert found > limit // RECORD // 3
    assert not cache.off


def test_more_than_fits_at_once(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 50_000)
    keep(cache, texts(0, 5_000))
    known = kept(cache, texts(0, 5_000))
    assert 0 < known.sum() <= 50_000 // RECORD
    assert known[-20:].all()
    assert on_disk(cache) <= 50_000


def test_one_model_may_have_all_of_it(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 100_000)
    keep(cache, texts(0, 2_000))
    assert kept(cache, texts(0, 2_000)).sum() > 0.8 * 100_000 // RECORD


def test_the_least_recently_used_goes_first(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 100_000)
    for model in ("old", "new"):
        keep(cache, texts(0, 60), model)
    [old] = [path for path in cache.files() if segments.Segment.open(path, cache.of("old", DIM)._digest, DIM)]
    os.utime(old, (1, 1))
    keep(cache, texts(0, 700), "third")
    assert not kept(cache, texts(0, 60), "old").any()
    assert kept(cache, texts(0, 60), "new").any()


def test_being_found_is_being_used(cache):
    keep(cache, texts(0, 10))
    [path] = cache.files()
    os.utime(path, (1, 1))
    again = EmbeddingCache(cache.directory, LARGE)
    assert not kept(again, ["unknown"]).any()
    assert path.stat().st_mtime == 1
    assert kept(again, texts(0, 1)).all()
    assert path.stat().st_mtime > 1


def test_a_smaller_limit_is_held_and_vectors_are_kept_again(tmp_path):
    keep(EmbeddingCache(tmp_path / "e", LARGE), texts(0, 4_000))
    small = EmbeddingCache(tmp_path / "e", 100_000)
    assert on_disk(small) > 400_000
    keep(small, texts(5_000, 5_100))
    assert kept(small, texts(5_000, 5_100)).all()
    assert on_disk(small) <= 100_000


def test_what_is_no_file_is_left_alone(cache):
    keep(cache, texts(0, 5))
    (file,) = cache.files()
    names = [file.with_name(f"{file.name[:32]}-{at}.vectors") for at in ("7", "8", "9")]
    names[0].mkdir()
    os.mkfifo(names[1])
    names[2].symlink_to(file.name)
    again = EmbeddingCache(cache.directory, LARGE)
    assert kept(again, texts(0, 5)).all()
    assert [use.entries for use in again.models()] == [5]
    assert again.dim_of("model") == DIM
    again.clear()
    assert not again.off
    assert {each for each in cache.directory.iterdir() if each.name != "lock"} == set(names)


def test_a_file_that_was_not_finished_makes_room(cache, monkeypatch):
    keep(cache, texts(0, 5))
    left = cache.directory / "of a process that died.tmp"
    left.write_bytes(bytes(100))
    keep(cache, texts(0, 5), model="another")
    assert not left.exists()
    monkeypatch.setattr(os, "replace", _full)
    with pytest.warns(RuntimeWarning, match="is off for this process"):
        keep(cache, texts(0, 5), model="a third")
    assert not list(cache.directory.glob("*.tmp"))


def _full(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


def _open_files(cache):
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link) and str(cache.directory) in os.readlink(link)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are listed by Linux only")
def test_what_is_removed_or_closed_is_not_held_open(tmp_path):
    cache = EmbeddingCache(tmp_path / "e", 100_000)
    keep(cache, texts(0, 600), model="old")
    keep(cache, texts(0, 2_000), model="new")
    assert all(not link.endswith("(deleted)") for link in _open_files(cache))
    assert _open_files(cache)
    cache.clear()
    assert not _open_files(cache)
    keep(cache, texts(0, 5))
    assert _open_files(cache)
    cache.close()
    assert not _open_files(cache)
    assert kept(cache, texts(0, 5)).all()


def test_files_that_go_while_they_are_listed(cache, monkeypatch):
    keep(cache, texts(0, 5))
    keep(cache, texts(0, 3), model="another")
    files = cache.files()
    opened = segments.Segment.open.__func__

    def vanished(cls, path, digest, dim):
        path.unlink(missing_ok=True)
        return opened(cls, path, digest, dim)

    monkeypatch.setattr(segments.Segment, "open", classmethod(vanished))
    assert cache.models() == []
    assert cache.files() == []
    monkeypatch.setattr(cache, "files", lambda digest=None: files)
    assert cache.models() == []


def test_what_others_removed_is_forgotten(cache):
    keep(cache, texts(0, 10))
    assert kept(cache, texts(0, 10)).all()
    EmbeddingCache(cache.directory, LARGE).clear()
    assert not kept(cache, texts(0, 10)).any()
    keep(cache, texts(5, 15))
    assert kept(cache, texts(0, 15)).tolist() == [False] * 5 + [True] * 10


def test_prune_and_clear(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 200_000)
    assert cache.prune(0) == 0
    keep(cache, texts(0, 1_000), "one")
    keep(cache, texts(0, 100), "two")
    before = on_disk(cache)
    assert [use.name for use in cache.models()] == ["two", "one"]
    assert cache.prune(before // 2) > 0
    assert 0 < on_disk(cache) <= before // 2
    cache.clear()
    assert (cache.models(), on_disk(cache)) == ([], 0)


# ---- damage


def test_flipped_bits_are_misses(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 8 * (512 + 200 * RECORD))
    keep(cache, texts(0, 200))
    [path] = cache.files()
    whole, random = path.read_bytes(), np.random.default_rng(1)
    missed = 0
    for _ in range(150):
        at, bit = int(random.integers(len(whole))), int(random.integers(8))
        content = bytearray(whole)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        missed += 200 - kept(EmbeddingCache(cache.directory, LARGE), texts(0, 200)).sum()
        path.write_bytes(whole)
    assert missed > 140


def test_damaged_vectors_are_made_anew(tmp_path):
    cache = EmbeddingCache(tmp_path / "embeddings", 8 * (512 + 100 * RECORD))
    keep(cache, texts(0, 50))
    [path] = cache.files()
    content = bytearray(path.read_bytes())
    first = 512 + 100 * 24
    content[first : first + 2_000] = bytes(2_000)
    path.write_bytes(content)
    again = EmbeddingCache(cache.directory, LARGE)
    missing = [text for text, known in zip(texts(0, 50), kept(again, texts(0, 50)), strict=True) if not known]
    assert missing
    keep(again, missing)
    assert kept(again, texts(0, 50)).all()
    assert kept(EmbeddingCache(cache.directory, LARGE), texts(0, 50)).all()


@pytest.mark.parametrize("size", [0, 100, 511, 512, 1_000, 10_000, 200_000])
def test_files_that_were_cut_are_misses(tmp_path, size):
    """Also while they are open."""
    cache = EmbeddingCache(tmp_path / "embeddings", LARGE)
    keep(cache, texts(0, 2_000))
    [path] = cache.files()
    os.truncate(path, size)
    kept(cache, texts(0, 2_000))
    again = EmbeddingCache(cache.directory, LARGE)
    assert not kept(again, texts(0, 2_000)).all()
    keep(again, texts(0, 2_000))
    assert kept(again, texts(0, 2_000)).all()


@pytest.mark.parametrize("content", [b"", b"something else" * 100, b"cgpuvecs" + bytes(1_000)])
def test_files_of_another_form_are_replaced(cache, content):
    keep(cache, texts(0, 10))
    [path] = cache.files()
    path.write_bytes(content)
    again = EmbeddingCache(cache.directory, LARGE)
    assert not kept(again, texts(0, 10)).any()
    keep(again, texts(0, 10))
    assert kept(again, texts(0, 10)).all()
    assert path not in again.files()


def test_a_newer_format_is_replaced(cache, monkeypatch):
    monkeypatch.setattr(segments, "FORMAT", 2)
    keep(cache, texts(0, 10))
    monkeypatch.undo()
    assert not kept(EmbeddingCache(cache.directory, LARGE), texts(0, 10)).any()


# ---- where it cannot write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_switches_it_off_with_one_warning(cache, monkeypatch, number):
    keep(cache, texts(0, 10))

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(segments.os, "pwrite", refused)
    with pytest.warns(RuntimeWarning, match="is off for this process") as warned:
        keep(cache, texts(10, 20))
    assert len(warned) == 1
    keep(cache, texts(10, 20))
    assert not kept(cache, texts(0, 10)).any()
    monkeypatch.undo()
    assert kept(EmbeddingCache(cache.directory, LARGE), texts(0, 20)).tolist() == [True] * 10 + [False] * 10


def test_a_directory_that_cannot_be_made_switches_it_off(tmp_path):
    (tmp_path / "file").write_text("")
    cache = EmbeddingCache(tmp_path / "file" / "embeddings", LARGE)
    with pytest.warns(RuntimeWarning, match="is off for this process"):
        keep(cache, texts(0, 10))
    assert not kept(cache, texts(0, 10)).any()


def test_a_writer_that_does_not_let_go_costs_a_miss(cache, monkeypatch):
    monkeypatch.setattr("chroma_gpu.embed.memory.cache._WAIT_SECONDS", 0.01)
    keep(cache, texts(0, 10))
    other = EmbeddingCache(cache.directory, LARGE)
    with other.locked() as held:
        assert held
        keep(cache, texts(10, 20))
    assert kept(cache, texts(0, 20)).tolist() == [True] * 10 + [False] * 10


# ---- many at once


def test_threads(cache):
    failures = []

    def work(seed):
        random = np.random.default_rng(seed)
        try:
            for _ in range(30):
                some = [f"text {n}" for n in random.choice(2_000, 100, replace=False).tolist()]
                known = kept(cache, some)
                keep(cache, [text for text, is_known in zip(some, known, strict=True) if not is_known])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    [use] = cache.models()
    assert use.entries == kept(cache, texts(0, 2_000)).sum() > 1_000


@pytest.mark.parametrize("limit", [LARGE, 60_000], ids=["room for all", "little room"])
def test_processes_write_at_once(tmp_path, limit):
    context = multiprocessing.get_context("spawn")
    pipes = []
    for seed in range(3):
        mine, theirs = context.Pipe(duplex=False)
        context.Process(target=cache_writers.report, args=(theirs, tmp_path / "embeddings", limit, seed, 40)).start()
        theirs.close()
        pipes.append(mine)
    said = [pipe.recv() for pipe in pipes]
    assert all(isinstance(each, int) and each > 0 for each in said), said
    cache = EmbeddingCache(tmp_path / "embeddings", limit)
    assert on_disk(cache) <= limit
    if limit == LARGE:
        world = [f"0 {n}" for n in range(400)]
        assert kept(cache, world, "model 0").sum() == next(use.entries for use in cache.models() if use.name == "model 0")


def test_kill_9(tmp_path):
    """What is left is right, and the next one goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chroma_gpu.embed.memory.cache", "embed.cache_writers"])
    random = np.random.default_rng(3)
    for seed in range(25):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=cache_writers.write, args=(tmp_path / "embeddings", 60_000, seed, 10_000, theirs))
        process.start()
        theirs.close()
        assert mine.recv() == "open"
        time.sleep(random.uniform(0, 0.04))
        process.kill()
        process.join()
        cache = EmbeddingCache(tmp_path / "embeddings", 60_000)
        for model in (0, 1):
            kept(cache, [f"{model} {n}" for n in range(400)], f"model {model}")
    assert cache_writers.write(tmp_path / "embeddings", 60_000, 99, 20) > 0


def test_a_child_that_was_forked_goes_on(cache):
    keep(cache, texts(0, 10))
    child = os.fork()
    if child == 0:
        try:
            keep(cache, texts(10, 20))
            os._exit(0 if kept(cache, texts(0, 20)).all() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert kept(cache, texts(0, 20)).all()
