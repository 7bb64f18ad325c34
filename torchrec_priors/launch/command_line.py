"""An app's options as arguments of its command line."""

from collections.abc import Mapping


def arguments(options: Mapping[str, object]) -> list[str]:
    """Flags and values in the options' order: None and False leave one out, True is a flag, a list repeats it.

    >>> arguments({"fit_all": True, "data": None, "only": ["a", "b"], "k": 3})
    ['--fit-all', '--only', 'a', '--only', 'b', '--k', '3']
    """
    found: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, list) else [value]:
                found += [flag, str(one)]
    return found
