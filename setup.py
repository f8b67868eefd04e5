"""The compiled part of the package; all else is in pyproject.toml."""

import sysconfig

from setuptools import Extension, setup

# One wheel for every Python from 3.11 on, but those without the interpreter's lock.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "trajectory_tools.recorder._one_pass",
            ["recorder/one_pass.c"],
            depends=["recorder/one_pass_values.h"],
            extra_compile_args=["-O3", "-ffp-contract=off"],
            py_limited_api=abi3,
            optional=True,  # where no compiler is found, NumPy does the same, more slowly
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if abi3 else {},
)
