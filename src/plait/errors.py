"""What can go wrong, told in one sentence: what was expected, what came, what to do.

The command line prints the sentence and exits with 2; a traceback is only shown with ``--debug``.
"""


class PlaitError(Exception):
    """Something the user can put right; its text is one sentence for a person."""


class ConfigurationError(PlaitError, ValueError):
    """A recipe, an option or a combination of parts that cannot work."""


class DataError(PlaitError, ValueError):
    """A file or folder that is not what its loader expects; the text names the file."""


class CheckpointError(PlaitError, ValueError):
    """A checkpoint or weight file that is damaged, foreign or does not fit the network."""


class DiskFullError(PlaitError):
    """The disk, or the user's quota on it, is full; what was saved before is intact."""


class WeightsUnavailableError(PlaitError, RuntimeError):
    """Pretrained weights were asked for and could not be had."""


class NonFiniteLossError(PlaitError, ArithmeticError):
    """A loss became NaN or infinite; the text names task, step and image ids."""


class ExportError(PlaitError, RuntimeError):
    """A network that cannot be exported, or an exported model that disagrees with it; nothing was written."""


class MissingExtraError(PlaitError, ImportError):
    """An optional part of plait is not installed; the text names the command that installs it."""
