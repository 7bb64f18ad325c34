"""Values that people, scripts and shells put where others belong."""

import datetime
import random

NUMBERS = (
    "0", "-0", "-1", "1", "2", "3", "7", "1000", "65537", "1e3", "1.5", "0.5", "1e9", "999999999", "2147483648",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 30, "9" * 5000, "nan", "inf", "-inf",
    "1e400", "-1e400", "1e-400", "0x10", "1_000", "١٢", "１２", "½",
    "", " ", " 3 ", "ten", "None", "true", "1,2", "3;4",
)  # fmt: skip

INTEGERS = (
    "0", "1", "2", "3", "4", "5", "8", "12", "64", "100", "1000", "4096", "65536", "1000000", "2147483647",
    "1000000000000", "9223372036854775807", "-1", "-2147483648",
)  # fmt: skip

FLOATS = (
    "0.0",
    "1e-9",
    "0.1",
    "0.5",
    "0.999",
    "1.0",
    "1.5",
    "2.0",
    "16.0",
    "1e3",
    "1e9",
    "1e30",
    "-0.0",
    "-1.0",
    "1",
)

WORDS = (
    "hstu", "sasrec", "shallow", "comirec", "mind", "remi", "dualvae", "dot", "cosine", "paper-1", "fp32", "bf16",
    "fp16", "max", "mean", "hierarchical", "inverse_variance", "additive", "multiplicative", "vector", "int8", "none",
    "length", "own", "dropped", "shared", "hashed", "managed", "lru", "row_wise", "table_wise", "column_wise", "auto",
    "plain", "fused", "cpu", "h200", "cuda", "sgd", "adam", "movielens", "marketplace", "merrec", "user", "item",
    "graph", "time", "test", "validation", "age", "gender", "genre", "rating", "spark", "duckdb", "local_cwd", "slurm",
    "1x1", "2x9", "10",
)  # fmt: skip

TEXTS = (
    "", " ", "x", "ä", "😀", "a b", "a\nb", "a\tb", "a/b", "../x", ".", "..", "-", "--", "-x", "=", "a=b", "=1", "a=",
    "\x1b[31mred", "\x01", "$HOME", "%s%n", "{x}", "{0}", "'", '"', "\\", "a,b", ",", ":", "a:b:c", "\udcff", "\u202e",
    "x" * 300, "x" * 5000, "ab" * 40_000, "null", "[]", "[[[", "<b>", "é" * 200, "🎬" * 80,
)  # fmt: skip

AMOUNTS = (
    "2GB", "1GB", "0GB", "-1GB", "1kb", "0.0001KB", "9" * 30 + "GB", "9" * 400 + "GB", "1e9GB", "GB", "2", "2 G",
    "２GB", "1.5.5GB", "2GBB", "99999999TiB", "1000MB", "0.000GB",
)  # fmt: skip

URIS = (
    "s3://", "s3://bucket", "s3://bucket/a/../b", "gs://bucket/x", "http://localhost:1/x", "https://", "hf://a/b",
    "file:///nowhere", "://", "x://y", "memory://x", "s3://user:secret@bucket/x", "http://[::1", "file://",
)  # fmt: skip

TIMES = (
    "2020-01-01", "2020-13-01", "0000-00-00", "now", "1e18", "-1", "2020-01-01T00:00:00Z", "9999-12-31", "20200101",
)  # fmt: skip

PRIORS = (
    "genre", "rating", "gender", "temporal:2", "temporal:0", "temporal:-1", "temporal:999999999", "temporal:8",
    "random:4", "random:0", "random:999999999", "random:genre", "random:genre:7", "random:genre:" + "9" * 30,
    "random:" + "9" * 5000, "random:4:18446744073709551616", "all:999999999", "all:4", "all:genre", "all:rating",
    "random:²", "temporal:٣", "temporal:", ":", "interests:4", "interests:99999999", "none.py", "none.py:x", "",
)  # fmt: skip


def toml_value(draw: random.Random) -> str:
    """A value as it is written in TOML, or nearly."""
    number = draw.choice(NUMBERS)
    text = draw.choice(TEXTS)
    levels = ", ".join(f'"{draw.choice(PRIORS)}"' for _ in range(draw.choice((0, 1, 1, 2, 3, 12))))
    return draw.choice(
        (
            number,
            number,
            number,
            text,
            f'"{text}"',
            f'"{number}"',
            f"[{levels}]",
            f"[{levels}]",
            f"[{number}]",
            "true",
            "false",
            "[]",
            "{}",
            "{a = 1}",
            "[" * 5000 + "]" * 5000,
            "[" * 400 + "]" * 400,
            "{a=" * 3000 + "1" + "}" * 3000,
            "a." * 20 + "a = 1",
            datetime.date(2020, 1, 1).isoformat(),
            "12:00:00",
            "1\nvalue2 = 2",
            "'''",
            "[1, 'a', [2]]",
            '["\\u0000"]',
            '"\\u0000"',
        )
    )
