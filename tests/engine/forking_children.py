"""What other processes do in the tests of forks and rebuilds."""

from __future__ import annotations

import random

T, D = "default_tenant", "default_database"
IDS = "abcdefghijklmnop"


def open_engine(path):
    from chroma_gpu.config import Settings
    from chroma_gpu.engine.engine import Engine

    return Engine.at(path, Settings(device="cpu"))


def batch(ids, seed, dim=4):
    import numpy as np

    from chroma_gpu.records import RecordBatch

    vectors = np.random.default_rng(seed).standard_normal((len(ids), dim), dtype=np.float32)
    return RecordBatch(list(ids), vectors, [f"{each} of {seed}" for each in ids])


def step_of(seed, step, models):
    """What happens at a step, given what there is then: (kind, collection, argument)."""
    chosen = random.Random(seed * 1_000_003 + step)
    names = sorted(models)
    if not names:
        return "create", f"c{step}", None
    kind = chosen.choices(["write", "delete", "fork", "compact", "drop"], [8, 3, 4, 1, 2 if len(names) > 4 else 0])[0]
    argument = f"c{step}" if kind == "fork" else chosen.sample(IDS, chosen.randint(1, 4))
    return kind, chosen.choice(names), argument


def apply(models, step, kind, name, argument):
    """The same to dicts from id to document."""
    if kind == "create":
        models[name] = {}
    elif kind == "fork":
        models[argument] = dict(models[name])
    elif kind == "drop":
        del models[name]
    elif kind == "delete":
        for each in argument:
            models[name].pop(each, None)
    elif kind == "write":
        models[name].update({each: f"{each} of {step}" for each in argument})


def perform(engine, step, kind, name, argument):
    from chroma_gpu.records import Metric, Mode

    if kind == "create":
        engine.catalog.create_collection(name, T, D, metric=Metric.L2, params={}, metadata=None, configuration={})
        return
    which = engine.catalog.collection(name, T, D).id
    if kind == "fork":
        engine.fork(which, argument)
    elif kind == "drop":
        engine.drop([engine.catalog.delete_collection(name, T, D)])
    elif kind == "delete":
        engine.delete(which, None, argument, None)
    elif kind == "compact":
        engine.compact(which)
    else:
        engine.write(which, batch(argument, step), Mode.UPSERT)


def contents(engine):
    """name -> {id: document} of every collection, in insertion order."""
    from chroma_gpu.records import Column

    found = {}
    for entry in engine.catalog.collections(T, D):
        with engine.table(entry.id) as table:
            records = table.fetch(None, frozenset({Column.DOCUMENT, Column.VECTOR}))
        found[entry.name] = dict(zip(records.ids, records.documents, strict=True))
    return found


def act_until_killed(path, seed, step, models, pipe):
    """Tell each step that was acknowledged."""
    engine = open_engine(path)
    pipe.send("open")
    while True:
        what = step_of(seed, step, models)
        perform(engine, step, *what)
        pipe.send(step)
        apply(models, step, *what)
        step += 1


def vectors_of(given):
    import numpy as np

    return np.stack([np.random.default_rng(list(each.encode())).standard_normal(7, dtype=np.float32) for each in given.documents])


def rebuild(path, collection, log, batch_size, pipe):
    """Rebuild a collection, note in a file which records get a vector, and say when it is done."""
    engine = open_engine(path)
    pipe.send("open")

    def work(given):
        with log.open("a") as file:
            file.writelines(f"{each}\n" for each in given.ids)
        return vectors_of(given)

    engine.rebuild(collection, work, "k", lambda _: {}, batch_size=batch_size)
    pipe.send("done")


def write_many(path, collection, owner, n, pipe):
    """Write records one after the other, once told to begin."""
    from chroma_gpu.records import Mode

    engine = open_engine(path)
    pipe.send("open")
    pipe.recv()
    for at in range(n):
        engine.write(collection, batch([f"{owner}{at}"], at), Mode.ADD)
    engine.close()
    pipe.send("done")


def fork_many(path, collection, owner, n, pipe):
    """Fork a collection that others write to, write to the forks; what each fork has to hold."""
    from chroma_gpu.records import Mode

    engine = open_engine(path)
    pipe.send("open")
    pipe.recv()
    made = {}
    for at in range(n):
        name = f"{owner}{at}"
        fork = engine.fork(collection, name).id
        before = list(contents(engine)[name])
        engine.write(fork, batch([f"own{name}"], at), Mode.ADD)
        made[name] = [*before, f"own{name}"]
    engine.close()
    pipe.send(made)
