"""An app's options as arguments of its command line."""

from collections.abc import Mapping


def arguments(options: Mapping[str, object]) -> list[str]:
    """Flags and values in the options' order. None and False leave an option out, True is a flag, a
    list repeats the option.

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
