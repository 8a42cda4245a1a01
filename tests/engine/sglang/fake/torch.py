"""As much of torch as `child.resolve` asks for."""


class cuda:
    """A machine without a GPU."""

    @staticmethod
    def is_available() -> bool:
        return False
