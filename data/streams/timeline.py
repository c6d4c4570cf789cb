"""When the frames of a video are shown, and what that says about frames that are missing."""

from __future__ import annotations

from collections import Counter


class Timeline:
    """The times of a video's frames, for one whose header does not count them.

    Args:
        fps: frames per second by its header; for how long the last frame is shown.

    Attributes:
        frames: how many were noted.
        began, until: seconds at which the first frame begins and the last one ends.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.frames = 0
        self.began = self.until = self.last = 0.0
        self.steps: Counter[int] = Counter()  # milliseconds from frame to frame, and how often

    def note(self, seconds: float, duration: float) -> None:
        """Note the next frame, shown at `seconds`, for `duration` or, where that is 0, until the next one is due."""
        if self.frames:
            self.steps[round(1000 * (seconds - self.last))] += 1
        else:
            self.began = seconds
        self.frames += 1
        self.last, self.until = seconds, seconds + (duration or 1 / self.fps)

    @property
    def missing(self) -> int:
        """Frames missing between others; 0 for a video whose frames come at no fixed rate, where a pause is no loss."""
        usual = max(1, self.steps.most_common(1)[0][0]) if self.steps else 1
        holes = {step: number for step, number in self.steps.items() if step >= 1.5 * usual}
        fixed = all(abs(step / usual - round(step / usual)) < 0.1 for step in self.steps)
        if not fixed or sum(holes.values()) > max(1, self.frames // 50):
            return 0
        return sum((round(step / usual) - 1) * number for step, number in holes.items())
