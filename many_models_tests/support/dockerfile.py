"""Carries out a Dockerfile where there is no container engine: every line of it, below an empty folder.

`python -m many_models_tests.support.dockerfile DOCKERFILE FOLDER` builds one from this repository, compiled loops and
all. What cannot be had is played: the base image is this Python with nothing installed, a path of the image is a path
below the folder, uv (which has a cache) installs what `pip install` says, with its hashes, users are written down, and
Debian's packages are those of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = re.compile(r"(?<![\w./-])/(?=(?:app|etc/many_models|var/cache/many_models)(?:[/\s:\"';]|$))")
NETWORK = ("UV_", "PIP_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy", "XDG_CACHE")  # how an index is reached
SYSTEM = "/usr/bin:/bin"
PROGRAMS = {  # in the place of those that ask a network for what is here, or that would change this machine
    "python": '#!/bin/sh\n[ "$1 $2" = "-m venv" ] || exec "{python}" "$@"\n"{python}" -m venv --without-pip "$3"\n'
    'cp "{tools}/pip" "$3/bin/pip"\n',
    "pip": '#!/bin/sh\nfor word; do shift; case "$word" in --no-cache-dir|--no-deps) ;;\n'
    '*) set -- "$@" "$word";; esac; done\n'
    'for_this="--quiet --python $(dirname "$0")/python"\n'
    '"{uv}" pip "$@" --no-deps $for_this && exec "{uv}" pip check $for_this\n',  # the lock file names everything
    "useradd": '#!/bin/sh\necho "$@" >> "{root}.users"\n',
    "install": '#!/bin/sh\n[ "$1 $2 $4" = "-d -o -g" ] && exec mkdir -p "$6"\nexit 64\n',
    "apt-get": "#!/bin/sh\n",
    "rm": "#!/bin/sh\n",  # of apt's lists, which are this machine's
}


@dataclass
class Image:
    """What a Dockerfile has made: a root folder, and how the container starts."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)

    def here(self, text: str) -> str:
        """`text` with paths of the image as paths of this machine."""
        return PLACES.sub(f"{self.root}/", text)

    def folder(self) -> Path:
        """Where RUN and ENTRYPOINT are carried out."""
        return self.root if self.workdir == "/" else Path(self.here(self.workdir))

    def start(self, *words: str, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """The container's process, with `env` as `docker run --env` gives it and no variable of this process."""
        command = [*(self.here(word) for word in self.entrypoint), *words]
        variables = {"PATH": SYSTEM, "HOME": str(self.root), **self.env, **env}
        program = shutil.which(command[0], path=variables["PATH"])
        assert program is not None, f"{command[0]} is not in the image"
        with log.open("wb") as told:
            return subprocess.Popen([program, *command[1:]], cwd=self.folder(), env=variables,
                                    stdout=told, stderr=told)  # fmt: skip


def lines(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows each, comments left out and continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def build(file: Path, root: Path, uv: Path, dist: Path, played: dict[str, str] | None = None) -> Image:
    """The image of `file`, whose root is the new folder `root`; the wheel is in `dist`.

    `played` has the commands that are carried out otherwise, each with what is done in its place.
    """
    left = dict(played or {})
    building = _Building(root, uv, dist, left)
    for what, rest in lines(file.read_text()):
        getattr(building, f"do_{what.lower()}")(rest)
    assert not left, f"no RUN line has {list(left)}"
    return building.image


class _Building:
    """A method for each instruction that our Dockerfiles have; another one is an AttributeError."""

    def __init__(self, root: Path, uv: Path, dist: Path, played: dict[str, str]) -> None:
        self.root, self.dist, self.played = root, dist, played
        self.image, self.stage, self.arguments = Image(root), "", dict[str, str]()
        self.tools = Path(f"{root}.tools")
        self.tools.mkdir(parents=True)
        python = getattr(sys, "_base_executable", sys.executable)
        for name, text in PROGRAMS.items():
            (self.tools / name).write_text(text.format(python=python, uv=uv, root=root, tools=self.tools))
            (self.tools / name).chmod(0o755)

    def do_arg(self, rest: str) -> None:
        self.arguments |= dict([rest.split("=", 1)])

    def do_from(self, rest: str) -> None:
        """An empty folder; the one of the stage before goes aside, and only what is copied from it comes back."""
        if self.root.exists():
            self.root.rename(f"{self.root}.{self.stage}")
        base, _, self.stage = rest.partition(" AS ")
        for name, value in self.arguments.items():
            base = base.replace(f"${{{name}}}", value)
        assert re.fullmatch(r"python:3\.\d+-slim", base)
        self.root.mkdir()
        self.image = Image(self.root)

    def do_workdir(self, rest: str) -> None:
        self.image.workdir = rest
        self.image.folder().mkdir(parents=True, exist_ok=True)

    def do_copy(self, rest: str) -> None:
        *sources, target = rest.split()
        to = Path(self.image.here(target)) if target.startswith("/") else self.image.folder()
        if sources[0].startswith("--from="):
            to.parent.mkdir(parents=True, exist_ok=True)
            Path(f"{self.root}.{sources[0].removeprefix('--from=')}{sources[1]}").rename(to)
            return
        for source in sources:
            folder, name = (self.dist, source[5:]) if source.startswith("dist/") else (ROOT, source)
            found = list(folder.glob(name))
            assert found, f"COPY finds no {source}"
            for one in found:
                shutil.copy(one, to)

    def do_run(self, rest: str) -> None:
        for command in [one for one in self.played if one in rest]:
            rest = rest.replace(command, self.played.pop(command))
        network = {name: value for name, value in os.environ.items() if name.startswith(NETWORK)}
        variables = {"PATH": f"{self.tools}:{SYSTEM}", "HOME": os.environ.get("HOME", "/"), **network, **self.image.env}
        command = ["/bin/sh", "-e", "-c", self.image.here(rest)]
        done = subprocess.run(command, cwd=self.image.folder(), env=variables, capture_output=True,
                              text=True, check=False, timeout=1200)  # fmt: skip
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

    def do_env(self, rest: str) -> None:
        for word in shlex.split(rest):
            name, value = word.split("=", 1)
            self.image.env[name] = self.image.here(value).replace("$PATH", SYSTEM)

    def do_user(self, rest: str) -> None:
        self.image.user = rest

    def do_expose(self, rest: str) -> None:
        assert rest.isdigit()

    def do_entrypoint(self, rest: str) -> None:
        self.image.entrypoint = json.loads(rest)


def wheel(uv: Path, dist: Path, python: Path) -> None:
    """What `make wheel` makes, in `dist`, by the environment of `python`."""
    command = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", python, "--out-dir", dist, ROOT]
    subprocess.run(command, check=True, timeout=600)


def lend_kernels(image: Image, cache: Path) -> None:
    """Put the loops that are compiled beside this repository's sources into the image's folder `cache`.

    It saves the minute of the image's own step. Those loops are of this processor: NUMBA_CPU_NAME is dropped.
    """
    from numba.core.caching import UserProvidedCacheLocator

    image.env.pop("NUMBA_CPU_NAME", None)
    (installed,) = image.root.glob("app/venv/lib/python3.*/site-packages/many_models")
    for index in (ROOT / "many_models").rglob("__pycache__/*.nbi"):
        source = index.parents[1] / f"{index.name.partition('.')[0]}.py"
        target = installed / source.relative_to(ROOT / "many_models")
        assert target.read_bytes() == source.read_bytes()
        os.utime(target, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
        folder = cache / UserProvidedCacheLocator.get_suitable_cache_subpath(str(target))
        folder.mkdir(parents=True, exist_ok=True)
        for file in index.parent.glob(f"{index.stem}*.nb[ic]"):
            shutil.copy2(file, folder)


if __name__ == "__main__":
    home, python = Path(sys.argv[2]).absolute(), Path(sys.executable)
    wheel(python.with_name("uv"), Path(f"{home}.dist"), python)
    build(Path(sys.argv[1]), home, python.with_name("uv"), Path(f"{home}.dist"))
