"""Decoys: rows of nobody among an origin's own, by which the gateway sees whether hops gave back what they were given.

Nothing proves that a hop multiplied every row by its key. One that puts r_1 P, r_2 P, ... in the places of other rows,
and r_1 H(x), r_2 H(x), ... among its own, makes one person of the origin count as often as it likes, and reads through
noise that was measured for once. So a part of every batch is random points, which to a hop look like any other, and the
same points go round once more in a batch of their own, under another key (``own_key.renewed``), so that no hop can tell
which they are (it would have to decide whether four points are a Diffie-Hellman quadruple). At the end of the way, when
all points are under all keys, the gateway must find in each batch as many of them as its origin says. On the
switchboard it must find each with its handle.

What it is worth: whoever does not give back f of the n rows of a batch with d decoys is not seen with a chance of at
most (1 - f/n)^d, so at most exp(-f d / n). With one decoy in ``ROWS_PER_DECOY`` rows and ``LEAST`` more, to count
somebody N times who is the only one with a label takes f = N (LEAST + 1) rows, since the decoys of that batch must be
taken along: the chance not to be seen is below exp(-N (LEAST + 1) / (ROWS_PER_DECOY + 1)), for 30 times below 2 %. An
epoch, or a delta, of which decoys are missing is refused. This deters a partner that would not be found cheating; it is
no proof, as that of a verifiable shuffle would be (Neff, CCS 2001). And with several key types, rows that share a point
are known to be no decoys.

What is found depends on the origin's own rows and on what hops did, never on who else has somebody: an origin that
calls real rows decoys learns nothing from it.
"""

from federation.overlap.plan import CHECK
from federation.v1 import overlap_pb2 as pb

LEAST, ROWS_PER_DECOY = 8, 64


def decoys_of(rows: int, pad_to: int) -> int:
    """How many decoys go with so many rows: the share that is due, and what fills up a multiple of ``pad_to``."""
    wanted = rows + LEAST + rows // ROWS_PER_DECOY
    return -(-wanted // pad_to) * pad_to - rows


def most_decoys(count: int, pad_to: int) -> int:
    """How many can be among so many rows at most. Only where ``pad_to`` is 1 a hop can work out how many there are."""
    return LEAST + count // ROWS_PER_DECOY + pad_to - 1


def enough(manifest: pb.Manifest, decoys: int) -> bool:
    """Whether a batch has the decoys that are due; one of decoys may hold anything beside them."""
    return (
        manifest.operation == CHECK or manifest.count >= decoys >= LEAST + (manifest.count - decoys) // ROWS_PER_DECOY
    )
