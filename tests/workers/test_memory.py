from __future__ import annotations

import os

import pytest

from neuroshell_orch.workers.memory import cgroup_memory, parse_rollup, read_memory

ROLLUP = """\
55d0-7fff ---p 00000000 00:00 0                          [rollup]
Rss:                2000 kB
Pss:                1500 kB
Pss_Dirty:           900 kB
Private_Dirty:       800 kB
Swap:                  0 kB
"""


def test_parse():
    sizes = parse_rollup(ROLLUP)
    assert (sizes["Rss"], sizes["Pss"], sizes["Private_Dirty"]) == (2048000, 1536000, 819200)


def test_of_this_process():
    descriptor = os.open("/proc/self/smaps_rollup", os.O_RDONLY)
    try:
        memory = read_memory(descriptor)
    finally:
        os.close(descriptor)
    assert memory.rss >= memory.pss > 1 << 20


@pytest.mark.parametrize(
    ("cgroup", "file", "expected"),
    [
        ("0::/user.slice/u.service\n", "user.slice/u.service/memory.current", 123),
        ("5:memory:/a/u.service\n0::/a/u.service\n", "memory/a/u.service/memory.usage_in_bytes", 123),
        ("5:cpu,memory:/a/u.service\n", "memory/a/u.service/memory.usage_in_bytes", 123),
        ("0::/user.slice/other.service\n", "user.slice/other.service/memory.current", None),
        ("4:memory:/\n1:name=systemd:/a/u.service\n", "memory/memory.usage_in_bytes", None),
    ],
    ids=["v2", "v1", "v1 together", "not its own", "v1 not its own"],
)
def test_cgroup(tmp_path, cgroup, file, expected):
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(cgroup)
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text("123\n")
    assert cgroup_memory(7, "u.service", tmp_path / "proc", tmp_path / "cgroup") == expected
    assert cgroup_memory(8, "u.service", tmp_path / "proc", tmp_path / "cgroup") is None
