"""The course's public address, read from _config.yml: notebooks, pages and the package are found from it."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import AuthoringError


@dataclass(frozen=True)
class Address:
    """Links into the repository, its website and Colab."""

    repository: str  # https://github.com/owner/name
    branch: str
    website: str  # ends with /

    @classmethod
    def read(cls, root):
        """Read the address from `root`/_config.yml; raises AuthoringError where its links would be dead."""
        path = Path(root) / "_config.yml"
        text = path.read_text("utf-8")
        config = yaml.safe_load(text)
        repository = config["repository"]["url"].rstrip("/")
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+(?<!\.git)", repository):
            line = text.partition(repository)[0].count("\n") + 1
            message = f"the repository's url has the form https://github.com/OWNER/NAME; {repository!r} has not"
            raise AuthoringError(path, line, message)
        organisation, name = repository.split("/")[-2:]
        website = config.get("html", {}).get("baseurl") or f"https://{organisation.lower()}.github.io/{name}"
        return cls(repository, config["repository"].get("branch", "main"), website.rstrip("/") + "/")

    def colab(self, path):
        """Where a notebook of the repository opens in Colab."""
        owner_and_name = "/".join(self.repository.split("/")[-2:])
        return f"https://colab.research.google.com/github/{owner_and_name}/blob/{self.branch}/{path}"

    def raw(self, path):
        """A file of the repository as it is: for pictures."""
        owner_and_name = "/".join(self.repository.split("/")[-2:])
        return f"https://raw.githubusercontent.com/{owner_and_name}/{self.branch}/{path}"

    def page(self, name, anchor=None):
        """A page of the website, by its source's path without suffix (`book/ddpm_2d`)."""
        return f"{self.website}{name}.html" + (f"#{anchor}" if anchor else "")
