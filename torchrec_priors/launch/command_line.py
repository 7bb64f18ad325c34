"""Converts the options of an app to arguments of a command line."""

from collections.abc import Mapping


def arguments(options: Mapping[str, object]) -> list[str]:
    """Returns the command-line arguments for some options, in the same order.

    An option with the value None or False is left out. True becomes a flag without a value, and for
    a list the option is repeated.

    >>> arguments({"fit_all": True, "data": None, "only": ["a", "b"], "k": 3})
    ['--fit-all', '--only', 'a', '--only', 'b', '--k', '3']
    """
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            values = value if isinstance(value, list) else [value]
            for item in values:
                words += [flag, str(item)]
    return words
