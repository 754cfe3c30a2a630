"""Clients that keep a cluster busy."""

import threading
from contextlib import contextmanager

import httpx


@contextmanager
def clients(url, count, *, key):
    """`count` clients that ask for one answer after another until the context ends; errors of a lost stage are part
    of the game."""
    stop = threading.Event()

    def ask(number):
        with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=10, trust_env=False) as client:
            turn = 0
            while not stop.is_set():
                turn += 1
                prompt = [(7 * number + turn * k) % 256 for k in range(1, 12 + 17 * (number + turn) % 50)]
                body = {"prompt": prompt, "max_tokens": 50 + 25 * number, "ignore_eos": True, "seed": turn}
                try:
                    client.post(f"{url}/v1/completions", json=body)
                except httpx.TransportError:
                    stop.wait(0.2)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
