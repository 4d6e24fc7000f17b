"""What an author did wrong, said with the file and the line."""

from pathlib import Path


class AuthoringError(Exception):
    """A mistake in a lab's or a page's source; its text is `file:line: what is wrong and what to do`."""

    def __init__(self, path, line, message):
        self.path, self.line = Path(path), line
        super().__init__(f"{'/'.join(self.path.parts[-2:])}:{line}: {message}")
