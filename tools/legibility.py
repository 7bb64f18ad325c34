"""Describes in five numbers per folder how its code reads: `python tools/legibility.py FOLDER ...`.

It reads the Python files of a folder except its tests, and counts

- the share of functions with 12 or more lines, without the docstring, that have a blank line;
- the share of assignments that pack several into one, such as `a, b = x, y`;
- conditional expressions (`x if y else z`) per 1,000 lines that are neither blank nor a comment;
- the share of lines with more than 100 characters;
- the share of lines that are a comment.
"""

import ast
import sys
from pathlib import Path

LONG_FUNCTION = 12
LONG_LINE = 100


def files_of(folder: Path) -> list[Path]:
    """Finds the Python files of a folder, without its tests."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).parts
        is_test = any(part in ("test", "tests", "testing") for part in parts)
        if not is_test and not file.name.startswith("test_"):
            found.append(file)
    return found


def body_lines(function: ast.AST, lines: list[str]) -> list[str]:
    """Returns the lines of a function after its signature and docstring."""
    body = function.body  # type: ignore[attr-defined]
    if ast.get_docstring(function) is not None:  # type: ignore[arg-type]
        body = body[1:]
    if not body:
        return []
    return lines[body[0].lineno - 1 : body[-1].end_lineno]


def measure(folder: Path) -> dict[str, float]:
    """Returns the number of lines of a folder, and the five numbers."""
    long_functions = 0
    with_blank_line = 0
    assignments = 0
    packed = 0
    conditional = 0
    code_lines = 0
    all_lines = 0
    long_lines = 0
    comments = 0

    for file in files_of(folder):
        text = file.read_text(encoding="utf8")
        lines = text.splitlines()
        all_lines += len(lines)
        long_lines += sum(len(line) > LONG_LINE for line in lines)
        comments += sum(line.lstrip().startswith("#") for line in lines)
        code_lines += sum(
            bool(line.strip()) and not line.lstrip().startswith("#") for line in lines
        )

        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = body_lines(node, lines)
                if len(body) >= LONG_FUNCTION:
                    long_functions += 1
                    with_blank_line += any(not line.strip() for line in body)
            elif isinstance(node, ast.Assign):
                assignments += 1
                sides = (node.targets[0], node.value)
                packed += all(isinstance(side, ast.Tuple) for side in sides)
            elif isinstance(node, ast.IfExp):
                conditional += 1

    return {
        "lines": all_lines,
        "functions of 12+ lines with a blank line, %": 100
        * with_blank_line
        / max(long_functions, 1),
        "packed assignments, %": 100 * packed / max(assignments, 1),
        "conditional expressions per 1,000 lines": 1000 * conditional / max(code_lines, 1),
        "lines over 100 characters, %": 100 * long_lines / max(all_lines, 1),
        "comment lines, %": 100 * comments / max(all_lines, 1),
    }


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        numbers = measure(folder)
        print(folder, *(f"  {name}: {value:,.1f}" for name, value in numbers.items()), sep="\n")


if __name__ == "__main__":
    main()
