"""Stored optimizer trajectories and what is computed from them; importing this loads neither torch nor matplotlib."""
