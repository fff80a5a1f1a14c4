"""The parts of torchpack in use, imported without the notices its dependencies print on the way."""

import contextlib
import io

with contextlib.redirect_stdout(
    io.StringIO()
):  # tensorpack says that TensorFlow is missing; nobody wants it
    from torchpack.callbacks import Callback, SummaryWriter, TFEventWriter
    from torchpack.distributed import context
    from torchpack.train import Trainer

__all__ = ["Callback", "SummaryWriter", "TFEventWriter", "Trainer", "context"]
