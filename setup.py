"""The compiled part of the package; all else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "trajectory_tools.recorder._one_pass",
            ["recorder/one_pass.c"],
            depends=["recorder/one_pass_values.h"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,  # where no compiler is found, NumPy does the same in several times the time
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # one wheel for every Python from 3.11 on
)
