"""The command line, ``traj``: one file per command, each a thin call into the library."""
