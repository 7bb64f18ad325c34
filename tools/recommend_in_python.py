"""Recommendations inside a Python program, without a launcher: an example to start from.

python tools/recommend_in_python.py RUN ITEM_ID [ITEM_ID ...]
"""

import sys

from torchrec_priors import load_run


def main() -> None:
    path, *history = sys.argv[1:]
    with load_run(path) as run:  # once; then any number of calls
        best = run.recommend(history=history, k=5)
        for place, found in enumerate(best, 1):
            print(
                f"{place}. {found.title} ({found.item_id}), {found.score:.3f}, because of {found.head}"
            )

        without = run.recommend(history=history, k=5, deny=[best[0].item_id])
        print(f"without {best[0].title}, first comes {without[0].title}")

        shorter, whole = run.recommend_many([history[:1], history], k=1)
        print(f"after the first item alone: {shorter[0].title}; after all: {whole[0].title}")


if __name__ == "__main__":
    main()
