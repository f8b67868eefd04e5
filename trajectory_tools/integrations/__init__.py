"""Callbacks for other libraries' training loops; each module needs the library that it is called after."""
