"""Draws docs/pictures/*.svg: five small pictures of how a gate decides and how it compares.

Two of them (what evidence does, when it is looked at) are simulated here, the others are read from the tables. Same data, same bytes.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("svg")
mpl.rcParams |= {
    "svg.hashsalt": "crossfade",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.figsize": (7.2, 3.2),
    "figure.constrained_layout.use": True,
    "path.simplify_threshold": 0.3,
}

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

from bench.gate_race import any_worse, ours, shipped, traffic  # noqa: E402 - matplotlib is told its backend first
from bench.peers.sequential import NaiveZ  # noqa: E402 - matplotlib is told its backend first
from policies.statistics import ErrorGate  # noqa: E402 - matplotlib is told its backend first
from policies.statistics.mixture import EARLY, FIRST_STAKE, LATE, purse  # noqa: E402 - matplotlib is told its backend first

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
BLUE, RED, GREEN, GREY, ORANGE = "#2b6cb0", "#c53030", "#2f855a", "#a0aec0", "#dd6b20"


def draw(figures):
    FOLDER.mkdir(parents=True, exist_ok=True)
    evidence()
    peeking()
    stakes()
    if "T1" in figures:
        detection(figures["T1"])
    if "T2" in figures:
        false_reverts(figures["T2"])


def _save(figure, name):
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": "python -m bench gates --pictures"})
    plt.close(figure)


def evidence():
    """Odds over time of twelve good and twelve bad candidates; the bad ones go bad after two minutes."""
    figure, axes = plt.subplots(1, 2, sharey=True)
    for axis, p_c, title, colour in zip(
        axes, (0.01, 0.05), ("as good as stable (1 %)", "goes bad after 2 min (1 % → 5 %)"), (BLUE, RED), strict=True
    ):
        gate, seen = ErrorGate.start(shipped(7200.0)), []
        stream = traffic(
            np.random.default_rng(3),
            runs=12,
            rps=100,
            horizon_s=300.0,
            rates=lambda now: (0.01, p_c if now >= 120 else 0.01),  # noqa: B023 - used within the turn
            tick_s=1.0,
            twin=False,
        )
        for block in stream:
            gate = gate.update((block.n_b, block.k_b), (block.n_c, block.k_c), elapsed_s=1.0)
            seen.append(gate.log_fail / np.log(10))
        axis.plot(np.arange(1, 301)[::2], np.array(seen)[::2], color=colour, linewidth=0.7, alpha=0.7)
        axis.axhline(2, color="black", linewidth=1, linestyle="--")
        axis.text(2, 2.1, "100 : 1 → revert", va="bottom")
        axis.set(title=title, xlabel="seconds at 10 % of 100 requests/s", ylim=(-6, 6))
    axes[0].set_yticks(range(-6, 7, 2), ["1 : 1 000 000", "1 : 10 000", "1 : 100", "1 : 1", "100 : 1", "10 000 : 1", "1 000 000 : 1"])
    axes[0].set_ylabel("odds that it is worse by the margin")
    _save(figure, "evidence")


def peeking():
    """Share of good candidates taken out by a test that is looked at every ten seconds."""
    runs, horizon_s = 1000, 4 * 3600.0
    rules = {
        "z-test at 5 %, looked at every 10 s": (NaiveZ(), RED),
        "crossfade at 5 %, looked at every 10 s": (ours(any_worse(horizon_s)), BLUE),
    }
    out = {name: np.zeros(runs, dtype=bool) for name in rules}
    shares = {name: [] for name in rules}
    for block in traffic(np.random.default_rng(5), runs=runs, rps=10, horizon_s=horizon_s, rates=(0.01, 0.01), twin=False):
        for name, (rule, _) in rules.items():
            out[name] |= rule.see(block)
            shares[name].append(out[name].mean())
    figure, axis = plt.subplots()
    hours = np.arange(1, len(next(iter(shares.values()))) + 1) / 360
    for name, (_, colour) in rules.items():
        axis.plot(hours, 100 * np.array(shares[name]), color=colour, label=name)
    axis.axhline(5, color="black", linewidth=1, linestyle="--")
    axis.text(4, 5.6, "5 %", ha="right", va="bottom")
    axis.set(xlabel="hours of looking", ylabel="good candidates taken out so far [%]", ylim=(0, None))
    axis.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.4))
    _save(figure, "peeking")


def stakes():
    """How the purse of 1 is spent over a rollout of two hours."""
    age = np.concatenate([np.linspace(0, 300, 60), np.linspace(330, 7200, 60)])
    left = purse(age, 7200.0)
    figure, axis = plt.subplots(figsize=(7.2, 2.4))
    axis.fill_between(age / 60, 0, left, color=BLUE, alpha=0.25, linewidth=0)
    axis.plot(age / 60, left, color=BLUE)
    axis.annotate(f"{FIRST_STAKE:.0%} on the first block", (0, 1), (6, 0.92), arrowprops={"arrowstyle": "->"}, va="center")
    axis.plot([0, 0], [1, left[0]], color=BLUE)
    axis.annotate(f"{EARLY:.0%} soon after", (1, 0.3), (10, 0.55), arrowprops={"arrowstyle": "->"}, va="center")
    axis.annotate(
        f"{LATE:.0%} evenly until the deadline",
        (60, float(purse(np.array([3600.0]), 7200.0)[0])),
        (60, 0.4),
        arrowprops={"arrowstyle": "->"},
    )
    axis.set(xlabel="minutes since the start", ylabel="left to stake", ylim=(0, 1.02), xlim=(-1, 120))
    _save(figure, "stakes")


RULES = {
    "argo": ("Argo template", GREY),
    "flagger": ("Flagger default", ORANGE),
    "kayenta": ("Kayenta judge", GREEN),
    "growthbook": ("GrowthBook sequential", "#805ad5"),
    "ours": ("crossfade, 10 s blocks", "#63b3ed"),
    "ours_1s": ("crossfade, 1 s blocks", BLUE),
}


def detection(rows):
    """Bad answers until the candidate is out, 1 % -> 5 %, by load."""
    rows = [row for row in rows if row["key"]["p_c"] == 0.05]
    figure, axis = plt.subplots()
    width = 0.8 / len(RULES)
    for place, (rule, (name, colour)) in enumerate(RULES.items()):
        values = [row["rules"][rule]["excess"] for row in rows]
        axis.bar(np.arange(len(rows)) + (place - (len(RULES) - 1) / 2) * width, values, width, label=name, color=colour)
    axis.set_yscale("log")
    axis.set_xticks(range(len(rows)), [f"{row['key']['rps']}/s" for row in rows])
    axis.set(xlabel="requests a second, a tenth of them to the candidate", ylabel="bad answers too many")
    axis.legend(frameon=False, ncols=2, loc="upper left")
    _save(figure, "detection")


def false_reverts(rows):
    """Good candidates taken out in a day, one dot per cell."""
    names = {
        "flagger": "Flagger default",
        "argo": "Argo template",
        "naive_z": "z-test, each block",
        "kayenta": "Kayenta judge",
        "ours": "crossfade at 5 %",
        "shipped": "crossfade as shipped",
    }
    figure, axis = plt.subplots(figsize=(7.2, 2.8))
    random = np.random.default_rng(1)
    for place, rule in enumerate(names):
        shares = np.array([100 * row["rules"][rule]["share"] for row in rows])
        axis.scatter(
            shares,
            len(names) - 1 - place + random.uniform(-0.22, 0.22, len(shares)),
            s=14,
            color=BLUE if rule in {"ours", "shipped"} else RED,
            alpha=0.7,
            linewidths=0,
        )
    axis.axvline(5, color="black", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(names)), list(names.values())[::-1])
    axis.set(xlabel="good candidates taken out within 24 h [%], one dot per load, share and error rate", xlim=(-2, 102))
    _save(figure, "false-reverts")
