"""The order of training samples, endless, and the random numbers of each.

Both are written down here to the last bit, so that a run goes on with the same ones whatever the
versions of libraries. They are what grain 0.2 makes of `source(samples).seed(seed).shuffle()
.repeat()`, `mix` and `seed(seed).random_map(...)`. Grain walks along its permutation anew for every
sample and holds Python's lock meanwhile, 40 us for a slice of 2,700 and 2 ms for one of 50
patients; here a whole epoch takes 2 ms.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Order = Callable[[int], Any]  # a position from 0 on, without end, to the sample there

_WORD = (1 << 32) - 1


def shuffled(samples: Sequence[Any], seed: int) -> Order:
    """Return the samples, one or more, in an order drawn anew each epoch.

    Args:
        samples: what is ordered.
        seed: from 0; the order is a pure function of it and of how many there are.
    """
    n, first_epoch = len(samples), _seed_of(seed)

    def at(position: int) -> Any:
        epoch, place = divmod(position, n)
        return samples[permutation(n, first_epoch + epoch & _WORD)[place]]

    return at


def mixed(one: Order, other: Order, share: float) -> Order:
    """Return two orders as one, each sample in its place as evenly as can be.

    Args:
        one, other: each of them goes on where it was left.
        share: of `one`, above 0 and below 1; exact to a hundredth of the rarer of the two.
    """
    scale = 100 / min(share, 1 - share)
    parts, other_parts = int(share * scale), int((1 - share) * scale)

    def at(position: int) -> Any:
        before, after = (n * other_parts // (parts + other_parts) for n in (position, position + 1))
        return one(position - before) if before == after else other(before)

    return at


def generators(seed: int, positions: Iterable[int]) -> Iterator[np.random.Generator]:
    """Yield for each position a generator of numbers of its own; the next one ends its use.

    It is one Philox (Salmon et al. 2011), whose counter has the position as its highest word: to
    make one for each position takes as long as all else that Python does for a slice.
    """
    bits = np.random.Philox(_seed_of(seed))
    rng, start = np.random.Generator(bits), bits.state
    for position in positions:
        start["state"]["counter"][-1] = position
        bits.state = start
        yield rng


def _seed_of(seed: int) -> int:
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


@functools.lru_cache(maxsize=8)  # threads are in two epochs of two orders at once, at most
def permutation(n: int, seed: int) -> np.ndarray:
    """Return the numbers from 0 to n - 1 in another order, uint32 [n].

    A block cipher on the next even number of bits is a permutation of more numbers; from those
    beyond n it is applied again (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    The cipher is Simon (Beaulieu et al. 2013) with four rounds, as in grain and TensorFlow.

    Args:
        n: from 1.
        seed: 32 bits.
    """
    if n == 1:
        return np.zeros(1, np.uint32)
    to = _cipher(max(8, ((n - 1).bit_length() + 1) // 2), _round_keys(seed))
    order, on = to[:n], to.copy()
    on[:n] = np.arange(n)
    while order.max() >= n:  # twice as many steps each time
        order, on = on[order], on[on]
    return order


def _cipher(word: int, keys: Sequence[int]) -> np.ndarray:
    """Return what Simon makes of every number of two words of so many bits, uint32."""
    mask = (1 << word) - 1

    def mixed(x: np.ndarray) -> np.ndarray:
        once, twice, often = ((x << by | x >> word - by) & mask for by in (1, 2, 8))
        return once & often ^ twice

    numbers = np.arange(1 << 2 * word, dtype=np.uint32)
    left, right = numbers >> word, numbers & mask
    for for_left, for_right in (keys[:2], keys[2:]):
        left = left ^ mixed(right) ^ (for_left & mask)
        right = right ^ mixed(left) ^ (for_right & mask)
    return left << word | right


def _round_keys(seed: int) -> list[int]:
    """Return four numbers of 32 bits as std::seed_seq of C++ makes them of a seed."""
    keys = [0x8B8B8B8B] * 4

    def mixed(x: int) -> int:
        return (x ^ x >> 27) & _WORD

    for k in range(4):
        once = 1664525 * mixed(keys[k] ^ keys[(k + 1) % 4] ^ keys[k - 1]) & _WORD
        twice = once + (1, 1 + seed, 2, 3)[k] & _WORD
        keys[(k + 1) % 4] = keys[(k + 1) % 4] + once & _WORD
        keys[(k + 2) % 4] = keys[(k + 2) % 4] + twice & _WORD
        keys[k] = twice
    for k in range(4):
        once = 1566083941 * mixed(keys[k] + keys[(k + 1) % 4] + keys[k - 1] & _WORD) & _WORD
        twice = once - k & _WORD
        keys[(k + 1) % 4] ^= once
        keys[(k + 2) % 4] ^= twice
        keys[k] = twice
    return keys
