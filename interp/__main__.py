"""``python -m interp``: the command line ``interp``, which lives in `probes.cli`, where the studies are."""

import runpy

if __name__ == "__main__":
    runpy.run_module("probes.cli", run_name="__main__")
