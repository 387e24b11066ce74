"""Time and memory of a call on a device, without a wait inside the call."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


class Clock:
    """Measures calls on one device.

    On a GPU times are those of events on its stream and memory is what its allocator handed out;
    on the CPU, where this serves to try the benchmark out, memory is not measured.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"

    def measure(self, call: Callable[[], Any], seconds: float, most: int = 50) -> dict[str, Any]:
        """Call once to warm up, once more for the memory, then for about ``seconds``.

        Args:
            call: what to measure.
            seconds: for all timed calls; at least three are made, or one that takes longer.
            most: how many calls at most.

        Returns:
            ms: the median of a call. bytes: the growth of the peak memory. calls: how many.
        """
        call()
        extra = self._memory(call)
        times = [self.once(call)]
        while len(times) < most and (sum(times) < 1e3 * seconds or len(times) < 3):
            if times[0] > 1e3 * seconds:
                break
            times.append(self.once(call))
        return {"ms": statistics.median(times), "bytes": extra, "calls": len(times)}

    def once(self, call: Callable[[], Any]) -> float:
        """Return the milliseconds of one call."""
        if not self.cuda:
            start = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - start)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def _memory(self, call: Callable[[], Any]) -> int | None:
        if not self.cuda:
            call()
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before

    def forget(self) -> None:
        """Hand back what the allocator keeps; end the command if the device is lost.

        After an error of its own a GPU does nothing more for this process, and all that is tried
        on it fails, whatever it is.
        """
        if not self.cuda:
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            raise SystemExit(f"the device is lost; the same command goes on ({error})") from error
