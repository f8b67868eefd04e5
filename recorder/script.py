"""Running a script or a module as ``python script.py`` and ``python -m module`` do, inside this process."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import NoReturn

from trajectory_tools.errors import BadArgument

__all__ = ["Script"]

PACKAGE = "trajectory_tools"
OURS = (f"{PACKAGE}.recorder.", f"{PACKAGE}.cli.")
"""Modules whose frames stand in no traceback of a script."""


class Script:
    """A script's file, a folder with a ``__main__.py``, or a module, with its arguments.

    ``BadArgument`` where there is nothing to run; what is wrong inside it, the script says itself when it runs.
    """

    def __init__(self, target: str, arguments: Sequence[str] = (), *, is_module: bool = False) -> None:
        self.target = target
        self.arguments = list(arguments)
        self.is_module = is_module
        if not is_module:
            _check_file(target)

    @property
    def name(self) -> str:
        """What the script is called: its file's or module's name without folder and ending."""
        path = Path(self.target)
        if self.is_module:
            return self.target.removesuffix(".__main__").rpartition(".")[2]
        return path.resolve().name if path.is_dir() else path.stem

    @property
    def words(self) -> list[str]:
        """How python would be told to run it."""
        return [*(["-m"] if self.is_module else []), self.target, *self.arguments]

    def run(self, *, at_start: Callable[[], None], at_end: Callable[[BaseException | None], None]) -> NoReturn:
        """Run it to its end, and end this process as it would have ended: exit code, traceback, Ctrl-C.

        ``at_start`` is called when it has been found; ``at_end`` with what ended it (``None``: it came to its last
        line), once its threads are done and before its own ``atexit`` callbacks. Raises ``SystemExit``; ``BadArgument``
        where a module cannot be found.
        """
        interrupted = False

        def die_of_interrupt() -> None:
            if interrupted and os.name == "posix":  # so that a shell's script that called this one ends, too
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)

        place = sys.path[0]
        try:
            main, compiled = self._prepare()
        except BadArgument:
            sys.path[0] = place
            raise
        atexit.register(die_of_interrupt)  # the first one registered is the last one called
        at_start()
        ended: BaseException | None = None
        try:
            exec(compiled(), main.__dict__)
        except SystemExit as end:
            ended = end
            _without_our_frames(end)
            raise
        except BaseException as error:
            ended = error
            interrupted = isinstance(error, KeyboardInterrupt)
            _print_as_python_does(error)
            raise SystemExit(130 if interrupted else 1) from None
        finally:
            atexit.register(at_end, ended)
        raise SystemExit(0)

    def _prepare(self) -> tuple[ModuleType, Callable[[], CodeType]]:
        """(a new ``__main__``, what compiles its code), once ``sys.argv`` and ``sys.path`` are as the script expects.

        Compiling is left to the run: a SyntaxError is the script's.
        """
        folder = Path.cwd() if self.is_module else _folder(self.target)
        if not sys.flags.safe_path:
            sys.path[0] = str(folder)  # there stood what python puts there for this command
            _forget_shadowed(folder)
        sys.argv[:] = [self.target, *self.arguments]
        main = ModuleType("__main__")
        main.__dict__["__builtins__"] = sys.modules["builtins"]
        if "__annotations__" in vars(sys.modules["__main__"]):  # not in every version of python
            main.__annotations__ = {}
        file = str(Path(self.target).absolute())
        if self.is_module or Path(file).is_dir():
            compiled = self._find_module(main, folder)
        else:
            main.__dict__.update(__file__=file, __cached__=None, __loader__=SourceFileLoader("__main__", file))
            compiled = partial(_compile, file)
        sys.modules["__main__"] = main
        return main, compiled

    def _find_module(self, main: ModuleType, folder: Path) -> Callable[[], CodeType]:
        """What compiles the module, once ``main`` says which one it is."""
        try:
            spec = _module_spec(self.target) if self.is_module else _main_of_folder(folder)
        except BadArgument:
            raise
        except BaseException as error:  # of a package that the module is in: it is the script's own
            return partial(_raise, error)
        if self.is_module:
            sys.argv[0] = str(spec.origin)
        main.__dict__.update(
            __file__=spec.origin,
            __cached__=spec.cached,
            __package__=spec.parent,
            __loader__=spec.loader,
            __spec__=spec,
        )
        return partial(_code_of, spec)


def _check_file(target: str) -> None:
    path = Path(target)
    if path.is_dir():
        if not (path / "__main__.py").is_file():
            raise BadArgument(f"{target} is a folder without a __main__.py; give the script's file")
    elif not path.exists():
        raise BadArgument(f"there is no script {target}; give the path of a .py file, or a module with -m")
    elif not path.is_file() or not os.access(path, os.R_OK):
        raise BadArgument(f"the script {target} cannot be read; give the path of a .py file")


def _folder(target: str) -> Path:
    """What python puts first on the path: the folder itself, or the one of the file that a link leads to."""
    path = Path(target).resolve()
    return path if path.is_dir() else path.parent


def _compile(file: str) -> CodeType:
    with io.open_code(file) as source:
        return compile(source.read(), file, "exec", dont_inherit=True)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _module_spec(name: str) -> ModuleSpec:
    """The module that ``python -m name`` runs."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ModuleNotFoundError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{name}.".startswith(f"{error.name}."):
            raise  # the package is there, and misses another one
        spec = None
    if spec is None or not hasattr(spec.loader, "get_code"):
        raise BadArgument(f"there is no module {name} to run, seen from {Path.cwd()}; check its name, and the folder")
    return spec


def _main_of_folder(folder: Path) -> ModuleSpec:
    spec = PathFinder.find_spec("__main__", [str(folder)])
    assert spec is not None, f"{folder} was found to have a __main__.py"
    return spec


def _code_of(spec: ModuleSpec) -> CodeType:
    code: CodeType | None = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
    if code is None:
        raise ImportError(f"no code object available for {spec.name}")
    return code


def _forget_shadowed(folder: Path) -> None:
    """Let the script find its own ``cli.py`` or ``rich.py`` where this program has imported another of that name."""
    for name in {module.partition(".")[0] for module in sys.modules} - {PACKAGE, "__main__"}:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if getattr(spec, "origin", None) in (None, "built-in", "frozen"):
            continue  # python has it before any script
        if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists():
            for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                del sys.modules[module]


def _print_as_python_does(error: BaseException) -> None:
    _without_our_frames(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    sys.excepthook(type(error), error, error.__traceback__)


def _without_our_frames(error: BaseException | None) -> None:
    """Take this package's frames out of the traceback, and out of those of the errors that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = _kept(error.__traceback__)
        error = error.__cause__ or error.__context__


def _kept(traceback: TracebackType | None) -> TracebackType | None:
    frames = []
    while traceback is not None:
        if not str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(OURS):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept: TracebackType | None = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept
