"""A real writer that is killed with SIGKILL at random moments; run as a program, one JSON line per kill.

    python -m tests.store_writer URL CACHE SEED NUM_KILLS

The moment is a random storage operation, counted in an undisturbed run, plus up to a few milliseconds.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.store import Key, Store, fingerprint, open_store
from tests.store_doubles import Wrapped

MAX_DELAY_S = 0.005


def key_of(number: int) -> Key:
    """What a round has to produce."""
    return Key("train", fingerprint("train", 1, {"round": number}, {}))


def content(key: Key, name: str) -> bytes:
    """The only right bytes of a file: up to 64 kB, a function of key and name."""
    digest = hashlib.sha256(f"{key} {name}".encode()).digest()
    return digest * (1 + digest[0] * 8)


def write(store: Store, key: Key) -> None:
    """Make what is missing, as a stage does: resume, save state, commit, forget the state."""
    if store.find(key) is not None:
        return
    states = store.state(key.stage, key.fingerprint)
    state = states.latest()
    for step in range(0 if state is None else state.step + 1, 2):
        states.save(step, {"weights.bin": content(key, f"state {step}")})
    with store.attempt(key, identity={}, inputs={}) as attempt:
        for name in ("weights.bin", "curve.bin"):
            attempt.path(name).write_bytes(content(key, name))
        attempt.commit()
    states.clear()


def problems(store: Store, key: Key, *, is_complete: bool) -> list[str]:
    """What a reader could see and should not."""
    artifact = store.find(key)
    if artifact is not None:
        return [f"{key.short} {name} differs" for name in artifact.files if artifact.read(name) != content(key, name)]
    found = [f"{key.short} is absent"] if is_complete else []
    state = store.state(key.stage, key.fingerprint).latest()
    if state is not None and state.read("weights.bin") != content(key, f"state {state.step}"):
        found.append(f"{key.short} has a wrong state")
    if state is not None and state.skipped:
        found.append(f"{key.short} had a torn state that counted")
    return found


def counting(store: Store, at_call: Callable[[int], None]) -> Store:
    """The same store, telling the number of each storage operation before it starts."""
    calls = [0]

    def around(operation: str, key: str, do: Callable[[], Any]) -> Any:
        calls[0] += 1
        at_call(calls[0])
        return do()

    return Store(Wrapped(store.objects.backend, around), cache=store.cache)


def kill_one(store: Store, key: Key, *, at: int, delay_s: float) -> bool:
    """Fork a writer and kill it soon after its n-th operation began; whether it died of that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            write(counting(store, lambda number: os.write(writing, b"x") if number == at else None), key)
        finally:
            os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(url: str, cache: str, seed: int, num_kills: int) -> None:
    """Kill, check, finish, check again; as often as asked."""
    store = open_store(url, cache=Path(cache))
    num_calls = [0]
    write(counting(store, lambda number: num_calls.__setitem__(0, number)), key_of(0))
    chance = random.Random(seed)
    for number in range(1, num_kills + 1):
        key = key_of(number)
        at, delay_s = chance.randint(1, num_calls[0]), chance.uniform(0.0, MAX_DELAY_S)
        is_killed = kill_one(store, key, at=at, delay_s=delay_s)
        torn = problems(store, key, is_complete=False)
        write(store, key)
        wrong = problems(store, key, is_complete=True)
        sys.stdout.write(json.dumps({"is_killed": is_killed, "at": at, "problems": torn + wrong}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
