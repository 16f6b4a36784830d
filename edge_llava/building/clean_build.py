"""A build that begins without what an earlier one left."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py


class CleanBuild(build_py):
    """setuptools packs all that is in its build folder, also modules that are deleted since."""

    def run(self) -> None:
        """Copies the modules to the build folder, into an empty directory of ours."""
        if not self.editable_mode:  # which copies nothing
            shutil.rmtree(Path(self.build_lib, "edge_llava"), ignore_errors=True)
        super().run()
