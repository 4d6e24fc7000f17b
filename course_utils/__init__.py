"""What the course builds, finished: later chapters and the labs import it.

Every file is one idea: ``schedules``, ``denoiser``, ``mixtures``, ``samplers``, ``guidance``, ``models``,
``training``, ``data``, ``metrics``, ``plotting``. Importing the package itself costs nothing.
"""

__version__ = "0.1.0"
