"""Wrong descriptions: JSON tricks, labels, clocks, names that would be paths."""

import json
from collections.abc import Iterator

import pyarrow as pa

from lwd.data.episode_file import write_episode
from lwd.types import Outcome, Source

from .case import Case, arrow_file, base, case, description, good, table_of, with_info, with_text

FIELDS = tuple(description("fields"))
PATHS = {
    "parent": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "slash": "a/b",
    "backslash": "a\\b",
    "hidden": ".bashrc",
    "dots": "..",
    "empty": "",
    "zero-byte": "a\0b",
    "newline": "a\n",
    "space": "a b",
    "percent": "%2e%2e%2f",
    "unicode": "ünï",
    "full-width": "\uff0e\uff0e\uff0f",
    "too-long": "a" * 129,
    "shell": "$(reboot)",
    "option": "--help",
}
TEXTS = {
    "escape": "go\x1b[2Jthere",
    "newline": "go\nthere",
    "zero-byte": "go\0there",
    "right-to-left": "go \u202ereht",
    "line-separator": "go\u2028there",
    "blank": "   ",
    "empty": "",
}


def fields() -> Iterator[Case]:
    for field in FIELDS:
        name = f"without-{field}"
        rest = {key: value for key, value in description(name).items() if key != field}
        yield case(name, f"{field} is", with_text(name, json.dumps(rest).encode()))
        for label, value in {"null": None, "object": {"a": 1}, "list": [[1]]}.items():
            name = f"{field}-is-{label}"
            yield case(name, field, with_info(name, **{field: value}))
    for field in ("policy_version", "seed"):
        for label, value in {"text": "3", "fraction": 1.5, "true": True, "huge": 2**63, "minus-huge": -(2**64)}.items():
            name = f"{field}-is-{label}"
            yield case(name, f"{field} is", with_info(name, **{field: value}))
    for value in (-2, 2**53):
        name = f"policy_version-{value}"
        yield case(name, "policy_version is", with_info(name, policy_version=value))
    for label, value in {
        "zero": 0,
        "negative": -10,
        "absurd": 1e6,
        "text": "10",
        "other": 11.0,
        "tiny": 1e-300,
    }.items():
        name = f"control_hz-{label}"
        yield case(name, "control_hz is", with_info(name, control_hz=value))
    for label, value in {"negative": -1.0, "year-2200": 7.3e9, "absurd": 1e300, "text": "now", "true": True}.items():
        name = f"started_at_s-{label}"
        yield case(name, "started_at_s is", with_info(name, started_at_s=value))
    for label, value in {
        "above": [1.0, 1.01],
        "below": [-0.01],
        "too-many": [0.0] * 1025,
        "null": [None],
        "text": ["1"],
        "nested": [[1.0]],
        "true": [True],
    }.items():
        name = f"scores-{label}"
        yield case(name, "sub_step_scores", with_info(name, sub_step_scores=value))
    for field in ("embodiment", "task", "instruction", "world", "software_version"):
        for label, text in TEXTS.items():
            name = f"{field}-{label}"
            yield case(name, f"{field} is", with_info(name, **{field: text}))
        name = f"{field}-too-long"
        yield case(name, f"{field} is", with_info(name, **{field: "x" * 4097}))
    name = "surprising-field"
    yield case(name, "surprise is", with_info(name, surprise=1))
    name = "ten-thousand-fields"
    many = {f"f{number}": 0 for number in range(10_000)}
    yield case(name, "f0 is", with_info(name, **many))


def labels() -> Iterator[Case]:
    for source, outcome in (
        (Source.DEMONSTRATION, Outcome.FAILURE),
        (Source.DEMONSTRATION, Outcome.TIME_LIMIT),
        (Source.DEMONSTRATION, Outcome.TRUNCATED),
        (Source.PLAY, Outcome.SUCCESS),
    ):
        name = f"{source.value}-with-{outcome.value}"
        yield case(name, f"{source.value} is {outcome.value}", with_info(name, source=source, outcome=outcome))
    name = "fleet-without-policy"
    yield case(name, "policy_version is -1", write_episode(base(name, policy_version=-1)))
    for field, values in {
        "source": ("Fleet", "robot", "", 3),
        "outcome": ("SUCCESS", "won", "", 1, True),
    }.items():
        for value in values:
            name = f"{field}-named-{value or 'nothing'}"
            yield case(name, f"{field} is", with_info(name, **{field: value}))


def json_tricks() -> Iterator[Case]:
    whole = json.dumps(description("json"))

    def put(name: str, text: str) -> str:
        return text.replace('"json"', json.dumps(name))

    tricks = {
        "nothing": (b"", "lwd.episode is"),
        "no-json": (b"episode", "lwd.episode is"),
        "null": (b"null", "lwd.episode is"),
        "list": (b"[]", "lwd.episode is"),
        "cut": (whole[:-20].encode(), "lwd.episode is"),
        "trailing": (whole.encode() + b"{}", "lwd.episode is"),
        "utf-16": (whole.encode("utf-16"), "lwd.episode is"),
        "byte-order-mark": (b"\xef\xbb\xbf" + whole.encode(), "lwd.episode is"),
        "no-utf-8": (whole.replace("go there", "go \udcff").encode(errors="surrogateescape"), "lwd.episode is"),
        "lone-surrogate": (whole.replace("go there", "\\ud800").encode(), "lwd.episode is"),
        "deep-lists": (b"[" * 100_000, "lwd.episode is"),
        "deep-objects": (b'{"task":' * 20_000, "lwd.episode is"),
        "deep-value": (whole.replace("1.0", "[" * 50_000 + "]" * 50_000).encode(), "lwd.episode is"),
        "overlong-integer": (whole.replace('"seed": 0', '"seed": ' + "9" * 10_000).encode(), "is"),
        "infinite-number": (whole.replace("1500000000.0", "1e999").encode(), "started_at_s is"),
        "nan": (whole.replace("1500000000.0", "NaN").encode(), "is"),
        "infinity": (whole.replace("1500000000.0", "Infinity").encode(), "is"),
        "comment": (b"/* */" + whole.encode(), "lwd.episode is"),
        "single-quotes": (whole.replace('"', "'").encode(), "lwd.episode is"),
    }
    for label, (text, reason) in tricks.items():
        name = f"json-{label}"
        yield case(name, reason, with_text(name, text))
    for field, value in {"outcome": "failure", "robot_id": "robot-2", "task": "other"}.items():
        name = f"{field}-given-twice"
        text = put(name, whole)
        doubled = f'{{"{field}": "{value}", {text[1:]}'
        yield case(name, f"{field} is given twice", with_text(name, doubled.encode()))
    for label, form in {"future": b"lwd-episode-2", "empty": b"", "none": None, "binary": b"\xff\0"}.items():
        name = f"format-{label}"
        yield case(name, "lwd.format is", with_text(name, b"{}", form=form))
    name = "metadata-of-1-mb"
    table = table_of(good(name))
    big = table.replace_schema_metadata(table.schema.metadata | {b"x": b"y" * 2**20})
    yield case(name, "message header of", arrow_file(big))
    name = "metadata-of-20-entries"
    many = table.replace_schema_metadata(table.schema.metadata | {b"%d" % number: b"" for number in range(20)})
    yield case(name, "metadata entries", arrow_file(many))
    name = "metadata-on-the-batch"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.to_batches()[0], custom_metadata={b"x": b"y"})
    yield case(name, "custom metadata on a message", bytes(sink.getvalue()))


def paths() -> Iterator[Case]:
    for field in ("episode_id", "robot_id"):
        for label, value in PATHS.items():
            name = f"{field}-path-{label}"
            yield case(name, f"{field} is", with_info(name, **{field: value}))
    name = "another-robots-key"
    yield case(name, "its key is", good(name), key=f"episodes/robot-2/{name}.arrow")
    name = "another-episodes-key"
    yield case(name, "its key is", good(name), key="episodes/robot-1/not-mine.arrow")
    for label, key in {
        "deep": "episodes/robot-1/deep/er.arrow",
        "shallow": "episodes/shallow.arrow",
        "no-suffix": "episodes/robot-1/no-suffix",
        "parquet": "episodes/robot-1/table.parquet",
        "upper-case": "episodes/robot-1/upper.ARROW",
        "hidden-robot": "episodes/.hidden/x.arrow",
        "hidden-episode": "episodes/robot-1/.hidden.arrow",
        "space": "episodes/robot-1/a b.arrow",
        "unicode": "episodes/robot-1/ünï.arrow",
        "newline": "episodes/robot-1/a\nb.arrow",
        "escape": "episodes/robot-1/\x1b[2J.arrow",
        "percent": "episodes/%2e%2e/x.arrow",
        "backslash": "episodes/..\\x/y.arrow",
        "too-long": f"episodes/robot-1/{'a' * 150}.arrow",
        "no-text": "episodes/robot-1/\udcff\udcfe.arrow",
    }.items():
        name = f"key-{label}"
        yield case(name, "is not episodes/<robot id>/<episode id>.arrow", good(name), key=key)
