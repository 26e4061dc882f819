"""The kinds of house that the simulation plays in, by name."""

from __future__ import annotations

from tests.sim.world import Options

HOUSES: dict[str, Options] = {
    "plain": Options(),
    "total-order": Options(serial=False),
    "stormy": Options(faults_per_s=3),
    "five-nodes": Options(nodes=5, faults_per_s=2),
    "twins": Options(twins=True),
    "other-secret": Options(secrets=True),
    "other-config": Options(mixed=True),
    "racing": Options(ranked=False, favourites=("node-crash", "broker-crash"), faults_per_s=2),
    "restless": Options(favourites=("want", "hand-over", "reload"), faults_per_s=3),
    "slow-removal": Options(favourites=("want",), faults_per_s=4, slow_removal=True),
    "haunted": Options(favourites=("rogue", "hand-over"), faults_per_s=3),
    "crowded": Options(
        queue=75, noise_per_s=60, favourites=("pause", "want", "hand-over"), faults_per_s=2
    ),
    "clogged": Options(
        queue=75, noise_per_s=60, favourites=("clog", "want", "hand-over"), faults_per_s=2
    ),
    "three-brokers": Options(brokers=3),
    "three-brokers-total-order": Options(brokers=3, serial=False, faults_per_s=3),
    "three-brokers-racing": Options(
        brokers=3, keys=1, ranked=False, favourites=("partition", "node-crash"), faults_per_s=3
    ),
    "five-brokers": Options(brokers=5, keys=1, faults_per_s=3),
}
