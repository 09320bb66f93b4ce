"""The distinct ones among requests' block hashes, and the place of each hash among them.

Separate from `engine`, which needs it once per simulation: what a general function sorts for a second, thousands of
requests with prefixes of thousands of blocks, is mostly rows of consecutive numbers, of which only the first is looked
at here. Drawn prefixes are such rows, and so are the ids that traces give to blocks that nobody had before.
"""

import numpy as np

from metainf.simulator.contract import IntArray

__all__ = ["distinct_hashes"]


def distinct_hashes(hashes: IntArray) -> tuple[IntArray, IntArray]:
    """`np.unique(hashes, return_inverse=True)`, by rows of consecutive numbers.

    Parameters
    ----------
    hashes : array of at least one number, each below 2^62 in size
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(hashes) != 1) + 1])
    lengths = np.diff(starts, append=len(hashes))
    firsts, row_first = np.unique(hashes[starts], return_inverse=True)
    longest = np.zeros(len(firsts), dtype=np.int64)
    np.maximum.at(longest, row_first, lengths)
    # Rows from each first number on, in rising order: where one reaches into the next, they share numbers.
    reached = np.maximum.accumulate(firsts + longest)
    before = np.concatenate([firsts[:1], reached[:-1]])
    begins = np.maximum(firsts, before)
    added = np.cumsum(reached - begins)
    place = np.concatenate([[0], added[:-1]]) - np.maximum(0, before - firsts)
    places = np.arange(len(hashes))
    places += np.repeat(place[row_first] - starts, lengths)
    distinct = np.arange(added[-1])
    distinct += np.repeat(begins - np.concatenate([[0], added[:-1]]), reached - begins)
    return distinct, places
