"""What the course builds, finished: later chapters and the labs import it.

Every file is one idea. How diffusion models work: ``schedules``, ``denoiser``, ``mixtures``, ``samplers``,
``guidance``, ``models``, ``training``, ``metrics``. Two views of one scene: ``geometry``. Around them: ``data``,
``plotting``, and the command ``train``. Importing the package itself costs nothing.
"""

__version__ = "0.1.0"
