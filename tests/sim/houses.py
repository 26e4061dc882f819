"""The kinds of house that the simulation plays in, by name."""

from __future__ import annotations

from tests.sim.world import FAST, Options, S

HOUSES: dict[str, Options] = {
    # one broker
    "plain": Options(),
    "total-order": Options(serial=False),
    "stormy": Options(faults_per_s=3),
    "five-nodes": Options(nodes=5, faults_per_s=2),
    "racing": Options(ranked=False, favourites=("node-crash", "broker-crash"), faults_per_s=2),
    "restless": Options(favourites=("want", "hand-over", "drain", "reload"), faults_per_s=3),
    "slow-removal": Options(favourites=("want",), faults_per_s=4, slow_removal=True),
    "deadly": Options(favourites=("node-crash", "power"), faults_per_s=3),
    "sleepy": Options(favourites=("suspend", "freeze", "pause"), faults_per_s=2),
    "unplugged": Options(favourites=("unplug", "one-way"), faults_per_s=2),
    # somebody else, and mistakes
    "twins": Options(twins=True),
    "same-ids": Options(same_ids=True, favourites=("reset",), faults_per_s=2),
    "other-secret": Options(secrets=True),
    "other-config": Options(mixed=True),
    "haunted": Options(favourites=("rogue", "hand-over"), faults_per_s=3),
    "persistent": Options(persistent=True, favourites=("broker-crash", "reset"), faults_per_s=2),
    "squatted": Options(
        timing=FAST, probes=True, favourites=("squat", "node-crash"), faults_per_s=2
    ),
    # brokers that lose what a subscriber is slow to take (R9)
    "crowded": Options(
        queue=75, noise_per_s=60, favourites=("pause", "want", "hand-over"), faults_per_s=2
    ),
    "clogged": Options(
        queue=75, noise_per_s=60, favourites=("clog", "want", "hand-over"), faults_per_s=2
    ),
    # several brokers
    "three-brokers": Options(brokers=3),
    "three-brokers-total-order": Options(brokers=3, serial=False, faults_per_s=3),
    "three-brokers-racing": Options(
        brokers=3, keys=1, ranked=False, favourites=("partition", "node-crash"), faults_per_s=3
    ),
    "three-brokers-haunted": Options(
        brokers=3,
        keys=1,
        persistent=True,
        favourites=("rogue", "one-way", "broker-crash"),
        faults_per_s=3,
    ),
    "five-brokers": Options(brokers=5, keys=1, faults_per_s=3),
    # whole agents
    "leader": Options(leader=True, keys=1),
    "placed": Options(placed=True, keys=5, settle_ns=12 * S),
    "placed-three-brokers": Options(
        placed=True, brokers=3, keys=3, favourites=("power",), settle_ns=12 * S
    ),
    "hold": Options(
        hold=True,
        timing=FAST,
        probes=True,
        keys=1,
        favourites=("broker-crash", "partition", "hand-over", "unplug"),
        faults_per_s=2,
    ),
    "hold-three-brokers": Options(
        hold=True,
        timing=FAST,
        probes=True,
        brokers=3,
        keys=1,
        favourites=("broker-crash", "partition"),
    ),
    "hold-leader": Options(
        hold=True,
        timing=FAST,
        probes=True,
        brokers=3,
        keys=1,
        leader=True,
        favourites=("broker-crash", "partition"),
    ),
    # moves have causes
    "calm": Options(faults_per_s=0, quick=True, keys=3),
    "gentle": Options(faults_per_s=0.1, quick=True, storm_ns=60 * S),
}
