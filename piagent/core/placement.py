"""Which node should own which VIP: the order in which candidates claim it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence


def rank(key: str, node: str, candidates: Sequence[str], known: Collection[str] = ()) -> int:
    """Tell the node's place among the candidates of the key; 0 claims first.

    Candidates named in the file stand in order of preference; who is not among them comes last.
    Without names each key has an order of its own over the `known` nodes and this one (rendezvous
    hashing: Thaler and Ravishankar, 1998), so that VIPs spread over the nodes, and a node that
    leaves changes the first claimer of no VIP but its own.
    """
    if candidates:
        return candidates.index(node) if node in candidates else len(candidates)
    order = sorted({node, *known}, key=lambda other: _score(key, other))
    return order.index(node)


def _score(key: str, node: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{key}\0{node}".encode()).digest(), node
