"""How much of the processors other programs use while something is measured."""

import os
import time


def share_of_others(*processes):
    """Starts to watch, and returns a function that returns the share of all processors' time that other programs have used since then.

    Args:
        *processes: ids of the processes that are measured, or "self".
    """
    begun, busy, own = time.perf_counter(), all_ticks(), sum(map(ticks, processes))

    def share():
        passed = (time.perf_counter() - begun) * os.sysconf("SC_CLK_TCK") * os.cpu_count()
        return max(0.0, (all_ticks() - busy - (sum(map(ticks, processes)) - own)) / passed)

    return share


def all_ticks():
    """Returns the busy clock ticks of all processors, including those that the hypervisor took."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return user + nice + system + irq + softirq + steal


def ticks(process):
    """Returns the clock ticks of a process, and of its children that have ended."""
    with open(f"/proc/{process}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
