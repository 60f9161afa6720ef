class Failure(Exception):
    """A message for the user; `code` is one of Millrace's error codes."""

    def __init__(self, message, code="invalid_argument"):
        super().__init__(message)
        self.code = code
