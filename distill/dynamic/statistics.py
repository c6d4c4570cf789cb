"""BatchNorm statistics of the student's head on a dynamic teacher's features."""

from __future__ import annotations

from torch import Tensor, nn

PARTS = ("running_mean", "running_var", "num_batches_tracked")


class HeadStatistics(nn.Module):
    """A second set of a head's running statistics, kept by passes over features that are not the student's own.

    The head's weights are shared, its statistics must not be: the student's would no longer be those of its features,
    and the teacher's features, normalised by the student's statistics, would score badly outside training.

    Differs from the paper, whose heads have no BatchNorm.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        for name, buffer in head.named_buffers():
            if name.endswith(PARTS):
                self.register_buffer(self._flat(name), buffer.detach().clone())

    @staticmethod
    def _flat(name: str) -> str:
        return name.replace(".", "-")

    def buffers_for(self, head: nn.Module) -> dict[str, Tensor]:
        """All buffers of `head` by name: these statistics, written to in training mode, and copies of the others."""
        own = dict(self.named_buffers())
        return {name: own.get(self._flat(name), buffer) for name, buffer in copies_of(head).items()}


def copies_of(head: nn.Module) -> dict[str, Tensor]:
    """Copies of a head's buffers by name."""
    return {name: buffer.clone() for name, buffer in head.named_buffers()}
