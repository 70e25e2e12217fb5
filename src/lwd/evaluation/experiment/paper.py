"""What the paper reports (arXiv 2605.00416): the numbers that ours stand beside, and nothing computed."""

TASKS = ("Restock", "Correct", "Freezer", "Cooler", "Tea", "Juice", "Cocktail", "Shoebox")
"""The first four are short grocery tasks (success), the others long (mean sub-step score)."""

TABLE_1: dict[tuple[str, str], tuple[float, ...]] = {
    ("sft", "sft"): (0.70, 0.88, 0.83, 0.95, 0.64, 0.66, 0.70, 0.70, 0.76),
    ("recap", "online"): (0.95, 0.96, 0.94, 0.95, 0.84, 0.82, 0.71, 0.70, 0.85),
    ("hg_dagger", "online"): (1.00, 0.92, 0.92, 1.00, 0.60, 0.66, 0.76, 0.90, 0.85),
    ("lwd", "offline"): (1.00, 1.00, 0.92, 0.95, 0.72, 0.74, 0.83, 0.86, 0.88),
    ("lwd", "online"): (1.00, 1.00, 0.97, 0.98, 0.89, 0.90, 0.93, 0.92, 0.95),
}
"""(method, stage) -> one number per task, then their mean as printed."""

TABLE_2: dict[str, dict[tuple[str, str], float]] = {
    "expectile": {
        ("short", "offline"): 0.96,
        ("short", "online"): 0.97,
        ("long", "offline"): 0.72,
        ("long", "online"): 0.78,
    },
    "lwd": {
        ("short", "offline"): 0.97,
        ("short", "online"): 0.99,
        ("long", "offline"): 0.79,
        ("long", "online"): 0.91,
    },
}
"""Method -> (kind of tasks, stage) -> mean; `lwd` is DIVL."""

TABLE_3 = {"constant_level": 0.84, "lwd": 0.88}
"""Offline mean; the paper's constant level is 0.52."""

CYCLE_TIME_S = 23.75
"""How much shorter LWD online is than SFT on the long tasks."""

QUANTILE_LEVEL = {"offline": 0.52, "online": 0.78}
"""Where the adaptive level settled, about."""

ENTROPY = {"offline": (0.55, 0.20), "online": (0.48, 0.32)}
"""Normalised entropy at the beginning and at the end of a stage, about."""
