"""Finds the machines that train together in TF_CONFIG or SLURM's variables, and waits until all of them answer."""

import json
import os
import re
import socket
import time
from typing import NamedTuple


class Cluster(NamedTuple):
    """`addresses`: "host:port" of every worker, the chief first. `index`: the place of this worker among them."""

    addresses: tuple
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (a tuple has a method of this name)


def find() -> Cluster | None:
    """Returns the `Cluster` that TF_CONFIG or SLURM's variables describe, or None without either.

    Raises:
        ValueError: if these variables are malformed.
    """
    if os.environ.get("TF_CONFIG"):
        return of_tf_config(os.environ["TF_CONFIG"])
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        return of_slurm(dict(os.environ))
    return None


def of_tf_config(text: str) -> Cluster | None:
    """Returns the `Cluster` that the value of TF_CONFIG describes.

    Example:
    >>> of_tf_config('{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 1}}')
    Cluster(addresses=('a:2222', 'b:2222'), index=1)
    """

    def wrong(rule):
        return ValueError(f"TF_CONFIG {rule}. Received: TF_CONFIG={text}")

    try:
        config = json.loads(text)
        cluster, (kind, index) = config["cluster"], (config["task"][key] for key in ("type", "index"))
        jobs = {job: list(cluster[job]) for job in ("chief", "worker") if job in cluster}
    except (ValueError, TypeError, KeyError):
        example = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise wrong(f"must be JSON of the form {example}") from None
    if unknown := sorted(set(cluster) - set(jobs)):
        raise wrong(f"may have the jobs chief and worker, not {', '.join(unknown)}")
    addresses = [address for job in jobs.values() for address in job]
    for address in addresses:
        if not re.fullmatch(r"[^:\s]+:\d{1,5}", str(address)):
            raise wrong(f"must give each worker as host:port, not {address!r}")
    if len(set(addresses)) < len(addresses):
        raise wrong("must not give two workers the same address")
    if kind not in jobs or not isinstance(index, int) or not 0 <= index < len(jobs[kind]):
        raise wrong(f"names a task that is not in its cluster: {kind} {index}")
    return Cluster(tuple(addresses), index + (len(jobs["chief"]) if kind == "worker" and "chief" in jobs else 0))


def of_slurm(environment: dict[str, str]) -> Cluster | None:
    """Returns the `Cluster` that the variables of `srun` describe. Ports follow from the job's number: two jobs can share a machine.

    Example:
    >>> of_slurm(dict(SLURM_STEP_NODELIST="gpu[08-09],login", SLURM_STEP_TASKS_PER_NODE="2(x2),1", SLURM_PROCID="3", SLURM_JOB_ID="7"))
    Cluster(addresses=('gpu08:20007', 'gpu08:20008', 'gpu09:20007', 'gpu09:20008', 'login:20007'), index=3)
    """
    from ClusterShell.NodeSet import NodeSet, NodeSetException

    try:
        nodes, tasks, process, job = (environment[f"SLURM_{name}"] for name in ("STEP_NODELIST", "STEP_TASKS_PER_NODE", "PROCID", "JOB_ID"))
    except KeyError as error:
        raise ValueError(f"A job step of SLURM sets {error}; start the program with `srun`. Received: no {error}") from None
    try:
        # Pattern by pattern, because ClusterShell sorts the names of a list, and SLURM counts tasks in the list's order.
        hosts = [host for pattern in re.split(r",(?![^\[]*\])", nodes) for host in NodeSet(pattern)]
    except NodeSetException as error:
        raise ValueError(f"SLURM_STEP_NODELIST must be a list of nodes: {error}. Received: {nodes}") from None
    counts = [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    port = 20_000 + int(job) % 10_000
    return Cluster(tuple(f"{host}:{port + task}" for host, count in zip(hosts, counts) for task in range(count)), int(process))


def wait_for(cluster: Cluster, seconds: float) -> None:
    """Waits until every worker of the cluster answers at its address. TensorFlow itself would wait silently and forever.

    Raises:
        ValueError: if this worker's own address is in use, or naming the workers that do not answer within `seconds`.
    """
    mine, end = cluster.addresses[cluster.index], time.monotonic() + seconds
    try:
        server = socket.create_server(("", int(mine.rpartition(":")[2])), backlog=4 * len(cluster.addresses))
    except OSError as error:
        raise ValueError(f"Worker {cluster.index} cannot listen at its address ({error.strerror}). Received: {mine}") from None
    with server:  # accepts connections without further code, until TensorFlow's server takes its place
        missing = {i: address for i, address in enumerate(cluster.addresses) if i != cluster.index}
        while missing:
            reason = "no answer"
            for number, address in list(missing.items()):
                host, _, port = address.rpartition(":")
                try:
                    socket.create_connection((host, int(port)), timeout=1.0).close()
                    del missing[number]
                except OSError as error:
                    reason = error.strerror or error
            if missing and time.monotonic() > end:
                named = ", ".join(f"worker {number} at {address}" for number, address in missing.items())
                raise ValueError(f"All workers must answer within {seconds:g} seconds. Received: nothing from {named} ({reason})")
            if missing:
                time.sleep(0.1)
