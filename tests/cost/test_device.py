from keras_vit.cost import device


def test_a_container_limits_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    for folder, limit, current, cache in (
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / limit).write_text("1000000\n")
        (tmp_path / folder / current).write_text("400000\n")
        assert device.available_bytes() == 600_000
        (tmp_path / folder / "memory.stat").write_text(f"anon 1\n{cache} 100000\n")  # the kernel gives it up when it is needed
        assert device.available_bytes() == 700_000
        (tmp_path / folder / limit).write_text("max\n" if limit == "memory.max" else f"{2**63 - 4096}\n")
        assert device.available_bytes() > 700_000


def test_the_device_has_a_name_and_memory():
    found = device.this_device()
    assert found.name and found.free_bytes > 0
