"""What the result file of a benchmark has to tell, whoever writes it."""

ROUNDS_MIN = 5


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(value):
    return _number(value) and value > 0


def _text(value):
    return isinstance(value, str)


FIELDS = {
    "job": _text, "unit": _text, "commit": _text,
    "machine": lambda value: isinstance(value, dict) and {"cpu", "cores"} <= set(value),
    "peer": _text, "peer_version": _text, "peer_config": lambda value: isinstance(value, (str, dict)),
    "rounds": lambda value: isinstance(value, list) and len(value) >= ROUNDS_MIN and all({"ours", "peer"} <= set(entry) for entry in value),
    "ours_median": _number, "peer_median": _number, "ratio_median": _number, "ratio_min": _number, "ratio_max": _number, "target_ratio": _number,
    "met": lambda value: isinstance(value, bool),
    "equality": lambda value: isinstance(value, dict) and {"metric", "value", "limit"} <= set(value) and value.get("passed") is True,
    "cpu_seconds_per_item": _positive, "peak_rss_bytes": _positive,
}


def lacking(result):
    """Names of the fields that are not there or not what they should be."""
    return [name for name, right in FIELDS.items() if name not in result or not right(result[name])]
