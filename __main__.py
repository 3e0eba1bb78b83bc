"""Where Pulumi's language host enters: it runs the package `infra` with the project's root on the path."""

import runpy

runpy.run_module("infra", run_name="__main__")
