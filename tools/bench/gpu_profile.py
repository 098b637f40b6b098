"""What one training step asks of the host and of the device, by torch.profiler: for tools/bench/gpu.py --profile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "hipLaunchKernel", "hipExtModuleLaunchKernel")
COPIES = ("cudaMemcpyAsync", "hipMemcpyWithStream", "hipMemcpyAsync")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "hipStreamSynchronize")
ROWS = 12
"""Operations that are listed: those in which the host spends most time."""


class Profile:
    """A profile of some steps of a run."""

    def __init__(self, device: str) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]
        self.profiler = profile(activities=activities)

    def start(self) -> None:
        """Begin to record, at the first of the steps."""
        self.profiler.start()

    def stop(self) -> None:
        """End the recording, after the last of the steps."""
        self.profiler.stop()

    def rows(self, steps: int, seconds: float) -> Iterator[str]:
        """Yield what a step takes; times are longer than without a profiler, counts are the same."""
        events = self.profiler.key_averages()
        operators = sum(event.count for event in events if event.key.startswith("aten::"))
        launches, copies, waits = (_count(events, names) for names in (LAUNCHES, COPIES, WAITS))
        busy = sum(event.self_device_time_total for event in events if "cuda" in str(event.device_type).lower()) / 1e3
        yield (
            f"  a step: {seconds / steps * 1e3:.2f} ms, device busy {busy / steps:.2f} ms; "
            f"{operators / steps:,.0f} operators, {launches / steps:,.0f} launches, "
            f"{copies / steps:.1f} copies, {waits / steps:.1f} waits of the host"
        )
        host = sorted(events, key=lambda event: event.self_cpu_time_total, reverse=True)
        for event in host[:ROWS]:
            spent = event.self_cpu_time_total / steps / 1e3
            yield f"  {spent:7.3f} ms of the host  {event.count / steps:7.1f} x  {event.key:.60}"


def _count(events: Any, names: tuple[str, ...]) -> int:
    return sum(event.count for event in events if event.key.startswith(names))
