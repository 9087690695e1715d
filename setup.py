"""What a wheel holds: the library, and in it the presets and weights that lie beside it here.

pyproject.toml says all the rest; it can either find packages or name them, and not do both.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["lavps_jax*"]),
        "lavps_jax.configs",
        "lavps_jax.pretrained",
    ],
    package_dir={"lavps_jax.configs": "configs", "lavps_jax.pretrained": "pretrained"},
)
