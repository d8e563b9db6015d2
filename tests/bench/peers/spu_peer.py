"""Intersects two sets with SecretFlow's SPU, one process a party over brpc; prints one JSON object.

Usage: python spu_peer.py (ecdh|rr22) COUNT FOLDER. The inputs are CSV files with one column. The clock of each party
runs from the call to its end, and the slower one's counts.
"""

import json
import multiprocessing
import socket
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from overlap_people import email_of, people_of


def take_part(rank: int, ports: list[int], protocol: str, folder: str, results: Any) -> None:
    from spu import psi
    from spu.libspu import link

    network = link.Desc()
    network.recv_timeout_ms = network.http_timeout_ms = 600_000
    for number, port in enumerate(ports):
        network.add_party(f"id_{number}", f"127.0.0.1:{port}")
    connection = link.create_brpc(network, rank)
    common = {"protocol": psi.parse_protocol(f"PROTOCOL_{protocol.upper()}"), "receiver_rank": 0}
    if protocol == "ecdh":
        own = {"ecdh_params": psi.EcdhParams(psi.parse_curve_type("CURVE_25519"))}
    else:
        own = {"rr22_params": psi.Rr22Rarams(False)}  # False: the fast mode
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(**common, **own, broadcast_result=False),
        input_params=psi.InputParams(path=f"{folder}/{rank}.csv", selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=f"{folder}/out{rank}.csv", disable_alignment=True),
    )
    started = time.perf_counter()
    report = psi.psi_execute(config, connection)
    results.put((rank, time.perf_counter() - started, report.intersection_count))
    connection.stop_link()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    protocol, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    for rank in range(2):
        lines = "\n".join(email_of(person) for person in people_of(rank, count))
        (folder / f"{rank}.csv").write_text(f"id\n{lines}\n")
    context = multiprocessing.get_context("spawn")
    results, ports = context.Queue(), [free_port(), free_port()]
    parties = [
        context.Process(target=take_part, args=(rank, ports, protocol, str(folder), results)) for rank in range(2)
    ]
    for party in parties:
        party.start()
    ends = sorted(results.get(timeout=900) for _ in parties)
    for party in parties:
        party.join()
    print(json.dumps({"wall_s": max(wall_s for _, wall_s, _ in ends), "found": ends[0][2]}))


if __name__ == "__main__":
    main()
