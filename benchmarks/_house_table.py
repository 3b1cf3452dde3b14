"""The shape of the source, of any tree: `python -m benchmarks._house_table [ROOT of the repository]`."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path


def figures(repository: Path) -> dict[str, object]:
    """Files at the root, layers, largest module and function, files with Dagster's private API, `fmt: skip`."""
    root = repository / "many_models"
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    functions = {
        f"{name}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    contracts = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    private = re.compile(r"(from|import) dagster\._|import_module\(.dagster\._|[\"']dagster\._")
    return {
        "files at the root": sum("/" not in name for name in texts),
        "layers": next(len(one["layers"]) for one in contracts["contracts"] if "layers" in one),
        "largest modules": dict(sorted(lines.items(), key=lambda found: -found[1])[:3]),
        "largest functions": dict(sorted(functions.items(), key=lambda found: -found[1])[:8]),
        "files with Dagster's private API": [name for name, text in texts.items() if private.search(text)],
        "fmt: skip": sum(text.count("# fmt: skip") for text in texts.values()),
    }


if __name__ == "__main__":
    print(json.dumps(figures(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), indent=1))
