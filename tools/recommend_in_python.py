"""An example that makes recommendations inside a Python program, without a launcher.

python tools/recommend_in_python.py RUN ITEM_ID [ITEM_ID ...]
"""

import sys

from torchrec_priors import load_run


def main() -> None:
    path, *history = sys.argv[1:]
    # A run is loaded once and can then answer any number of calls.
    with load_run(path) as run:
        best = run.recommend(history=history, k=5)
        for rank, item in enumerate(best, 1):
            print(f"{rank}. {item.title} ({item.item_id}), {item.reason} ({item.head})")

        without = run.recommend(history=history, k=5, deny=[best[0].item_id])
        print(f"without {best[0].title}, first comes {without[0].title}")

        shorter, whole = run.recommend_many([history[:1], history], k=1)
        print(f"after only the first item: {shorter[0].title}; after all: {whole[0].title}")


if __name__ == "__main__":
    main()
