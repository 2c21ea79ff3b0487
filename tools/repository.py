"""Where the repository lies on the web: `_config.yml` says it, and what links there asks here."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent

# The first cell of every notebook.  The build of the book does not see it.
INSTALL_CELL = """\
# On Colab, this installs the library of the book. Anywhere else, it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet "promptbayes @ git+{url}.git@{branch}"
"""


class Repository:
    """Its address and its branch, and the settings of which they are a part."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.config = yaml.safe_load((root / "_config.yml").read_text("utf8"))
        self.url: str = self.config["repository"]["url"]
        self.branch: str = self.config["repository"]["branch"]
        self.install_cell = INSTALL_CELL.format(url=self.url, branch=self.branch)

    def file(self, path: str) -> str:
        """The address of a file."""
        return f"{self.url}/blob/{self.branch}/{path}"
