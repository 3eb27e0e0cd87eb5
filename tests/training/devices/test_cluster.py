import json
import socket

import pytest

from keras_vit.training.devices import cluster


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def config(workers=("a:1", "b:2"), kind="worker", index=0, **jobs):
    return json.dumps({"cluster": {"worker": list(workers), **jobs}, "task": {"type": kind, "index": index}})


def test_a_chief_comes_first():
    assert cluster.of_tf_config(config(chief=["c:3"])) == (("c:3", "a:1", "b:2"), 1)
    assert cluster.of_tf_config(config(chief=["c:3"], kind="chief")).index == 0


@pytest.mark.parametrize(
    "text, rule",
    [
        ("{", "must be JSON of the form"),
        ("[]", "must be JSON of the form"),
        ('{"cluster": {"worker": ["a:1"]}}', "must be JSON of the form"),
        (config(ps=["d:4"]), "may have the jobs chief and worker, not ps"),
        (config(["a:1", "b"]), "host:port, not 'b'"),
        (config(["a:1", "a:1"]), "must not give two workers the same address"),
        (config(index=2), "names a task that is not in its cluster: worker 2"),
        (config(kind="chief"), "names a task that is not in its cluster: chief 0"),
    ],
)
def test_wrong_tf_config(text, rule):
    with pytest.raises(ValueError, match=rule) as caught:
        cluster.of_tf_config(text)
    assert "Received: TF_CONFIG=" in str(caught.value)


def test_the_environment(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.find() is None
    for name, value in dict(STEP_NUM_TASKS="3", PROCID="2", STEP_NODELIST="n[1-2]", STEP_TASKS_PER_NODE="2,1").items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match="start the program with `srun`. Received: no 'SLURM_JOB_ID'"):
        cluster.find()
    monkeypatch.setenv("SLURM_JOB_ID", "10005")
    assert cluster.find() == (("n1:20005", "n1:20006", "n2:20005"), 2)
    monkeypatch.setenv("TF_CONFIG", config())
    assert cluster.find() == (("a:1", "b:2"), 0)


@pytest.mark.parametrize(
    "nodes, hosts",
    [
        ("rack[1-2]n[01-02]", "rack1n01 rack1n02 rack2n01 rack2n02"),
        ("n[01-02,10],login", "n01 n02 n10 login"),
        ("gpu[08-11]-ib,b[1-2],a", "gpu08-ib gpu09-ib gpu10-ib gpu11-ib b1 b2 a"),
        ("r[1-2]c[1,3]n[7-8]", "r1c1n7 r1c1n8 r1c3n7 r1c3n8 r2c1n7 r2c1n8 r2c3n7 r2c3n8"),
    ],
)
def test_node_lists_of_slurm(nodes, hosts):
    hosts = hosts.split()
    environment = dict(SLURM_STEP_NODELIST=nodes, SLURM_STEP_TASKS_PER_NODE=f"1(x{len(hosts)})", SLURM_PROCID="0", SLURM_JOB_ID="1")
    found = [address.partition(":")[0] for address in cluster.of_slurm(environment).addresses]
    assert found == hosts


def test_a_node_list_that_is_none():
    environment = dict(SLURM_STEP_NODELIST="n[1-", SLURM_STEP_TASKS_PER_NODE="1", SLURM_PROCID="0", SLURM_JOB_ID="1")
    with pytest.raises(ValueError, match=r"SLURM_STEP_NODELIST must be a list of nodes: .* Received: n\[1-"):
        cluster.of_slurm(environment)


def test_a_worker_that_does_not_answer_is_named():
    mine, other, missing = (f"127.0.0.1:{port}" for port in free_ports(3))
    host, port = other.split(":")
    with socket.create_server((host, int(port))):
        cluster.wait_for(cluster.Cluster((mine, other), 0), 5)
        with pytest.raises(ValueError, match=f"within 0.2 seconds. Received: nothing from worker 2 at {missing}"):
            cluster.wait_for(cluster.Cluster((mine, other, missing), 0), 0.2)
        with pytest.raises(ValueError, match=f"Worker 1 cannot listen at its address .*Received: {other}"):
            cluster.wait_for(cluster.Cluster((mine, other), 1), 0.2)
