"""Times attention, forward and backward: our kernel, and plain attention on one padded batch.

As in a model, queries, keys and values are parts of the same rows, and freed memory is kept.
Sequences have 64 to 1,024 positions, with lengths that follow Zipf's law.
"""

import argparse
from collections.abc import Callable

import torch

from torchrec_priors.bench.ablations import padded_attention
from torchrec_priors.bench.limits import Products
from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.timed import Timed, in_a_process, peak_bytes, print_result, repeat_beside
from torchrec_priors.common.memory import keep_freed_memory
from torchrec_priors.ops.hstu_attention import hstu_attention

Report = Callable[[str], None]

HEADS = 4
WIDTH = 32
SHORTEST = 64
LONGEST = 1_024
SEQUENCES = 16
# Name -> implementation, number of sequences, environment variables.
_VARIANTS: dict[str, tuple[str, int, dict[str, str]]] = {
    "ours": ("ours", SEQUENCES, {}),
    "reference": ("reference", SEQUENCES, {}),
    "without the C++ kernel": ("ours", SEQUENCES, {"TORCHREC_PRIORS_NATIVE": "0"}),
    "4 times the sequences": ("ours", 4 * SEQUENCES, {}),
}


def attention_rows(repeats: int, threads: int, report: Report) -> list[Row]:
    """Measures each variant in a separate process; `extra_bytes` does not include the inputs."""
    rows = []
    for name, (how, sequences, environment) in _VARIANTS.items():
        report(f"attention: {name}")
        timed = in_a_process(
            f"attention, {name}",
            __name__,
            [how, str(sequences), str(repeats)],
            threads,
            environment,
        )
        rows.append(Row.of("attention", name, timed))

    # The last variant has more sequences, so it cannot be compared with the reference.
    ours, reference, plain, more = rows
    return [ours.beside(reference), reference, plain.beside(reference), more]


def lengths(sequences: int) -> list[int]:
    """Returns lengths of sequences; the number of sequences of length x is proportional to 1 / x.

    >>> lengths(4)
    [90, 181, 362, 724]
    """
    return [
        int(SHORTEST * (LONGEST / SHORTEST) ** ((i + 0.5) / sequences)) for i in range(sequences)
    ]


def time_attention(how: str, sequences: int, repeats: int) -> Timed:
    """Times forward and backward, `repeats` times after a warm-up."""
    attention = hstu_attention if how == "ours" else padded_attention
    length_B = torch.tensor(lengths(sequences))
    offsets_B1 = torch.cumsum(torch.cat([torch.zeros(1, dtype=torch.int64), length_B]), 0)
    torch.manual_seed(0)
    keep_freed_memory()
    packed = torch.randn(int(offsets_B1[-1]), 3 * HEADS, WIDTH)
    q, k, v = (part.requires_grad_() for part in packed.chunk(3, 1))
    bias = torch.randn(HEADS, LONGEST, requires_grad=True)
    weight = torch.randn(len(packed), HEADS, WIDTH)

    products = Products()
    before = peak_bytes()

    def run(number: int) -> float:
        q.grad = k.grad = v.grad = bias.grad = None  # otherwise gradients would be added up
        attention(q, k, v, offsets_B1, bias, float(LONGEST), WIDTH**-0.5).backward(weight)
        # A checksum of every repeat would take time that is not attention's.
        return 0.0 if number else sum(map(_checksum, (q, k, v)))

    seconds, results, rates = repeat_beside(run, repeats, products.rate)
    # Each position attends to itself and to all earlier positions.
    pairs = float((length_B.double() * (length_B + 1) / 2).sum())
    peak = peak_bytes()
    flops = 12.0 * HEADS * WIDTH * pairs
    return Timed(seconds, results, peak, len(packed), flops, rates, peak - before)


def _checksum(x: torch.Tensor) -> float:
    """Returns the sum of squares of the gradient of x."""
    assert x.grad is not None
    return float(x.grad.square().sum())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=["ours", "reference"])
    parser.add_argument("sequences", type=int)
    parser.add_argument("repeats", type=int)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    print_result(time_attention(given.how, given.sequences, given.repeats))


if __name__ == "__main__":
    main()
