"""A result in words: its names, counts, numbers with their n and their error."""

from __future__ import annotations

from analysis.results.results import Effect, Result, Role
from analysis.stats.comparisons import GAIN, LOSS, UNRESOLVED
from analysis.stats.error_term import NONE as NO_ERROR
from analysis.stats.error_term import PAIRED, POOLED, WELCH
from analysis.wording import NONE, minus, number, one_line, signed, signed_interval, spread
from roadmap.runs.metric import Metric

VERDICTS = {GAIN: "▲ gain", LOSS: "▼ loss", UNRESOLVED: "○ unresolved"}
METHODS = {
    PAIRED: "paired by seed",
    WELCH: "Welch's interval",
    POOLED: "with the pooled error",
    NO_ERROR: "no error known from a single run",
}


def name_of(result: Result) -> str:
    """A step's id and name, else its cell in words; one trained otherwise also says how."""
    if result.is_step:
        return " ".join(word for word in (result.id, result.step) if word)
    bare = result.cell is not None and result.cell.whole
    other = f", {result.what}" if result.role is Role.VARIANT and bare else ""
    return one_line(result.label + other)


def title_of(result: Result) -> str:
    """What changed, and as what it counts."""
    what = one_line(result.what)
    averaged = f" ({result.metric.title} of the averaged weights)" if result.score.averaged else ""
    named = {
        Role.SIDE: f"{what} (side step)",
        Role.VARIANT: one_line(result.as_change),
        Role.CONTROL: f"{what} (control)",
        Role.UNDEFINED: f"{what} (not defined)",
    }
    return named.get(result.role, what) + averaged


def with_unit(text: str, metric: Metric) -> str:
    """'97.80 ± 0.20 %', '0.1234 nats'."""
    return f"{text} {metric.unit}" if metric.unit else text


def score_text(result: Result) -> str:
    """'97.80 ± 0.20'."""
    return spread(result.score.mean, result.score.std, result.metric.decimals)


def paper_text(result: Result) -> str:
    """'81.97 ± 0.06', as printed."""
    return spread(result.paper.score, result.paper.std, result.metric.decimals)


def change_text(result: Result) -> str:
    """'+0.27 [−0.77, +1.30]'; the change alone where it has no interval."""
    effect = result.effect
    return signed_interval(effect.value, effect.low, effect.high, result.metric.decimals)


def p_text(p: float | None) -> str:
    """'0.031', '< 0.001'."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_phrase(p: float) -> str:
    """'p = 0.031' or 'p < 0.001'."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"


def n_text(result: Result) -> str:
    """The runs on both sides of a change: 'n = 3 and 2'."""
    return f"n = {result.n} and {len(result.effect.parent_ids)}"


def count_text(result: Result) -> str:
    """'2 of 3, 1 failed'; 'not run' where nothing was planned, 'not defined' where nothing can be."""
    runs = result.runs
    if not runs.planned:
        return "not defined" if result.role is Role.UNDEFINED else "not run"
    failed = [f"{runs.failed} failed"] if runs.failed else []
    missing = [f"{runs.missing} missing"] if runs.missing else []
    hopeless = [f"{len(runs.hopeless)} hopeless"] if runs.hopeless else []
    return ", ".join([f"{runs.n} of {runs.planned}", *failed, *missing, *hopeless])


def verdict_text(result: Result) -> str:
    """A change in a list of its own verdict: with its interval, adjusted p, and both sides' n."""
    effect = result.effect
    chance = f", {p_phrase(effect.p_holm)} after Holm" if effect.p_holm is not None else ""
    against = f"{result.metric.difference_unit} against {effect.parent}"
    return f"{change_text(result)} {against}{chance}, {n_text(result)}"


# Facts of a row ---------------------------------------------------------------------------------


def facts_of(result: Result) -> list[tuple[str, str]]:
    """(label, text) of a row's numbers, each with its n and its error."""
    facts = [(result.metric.capital, _mean(result)), ("Change", _change(result))]
    if result.score.sampling_se is not None:
        facts.append(("Test set", _test_set(result, result.score.sampling_se)))
    if result.paper.score is not None:
        facts.append(("Paper", _paper(result)))
    if result.beside.protocol:
        differences = [one_line(difference.text) for difference in result.beside.protocol]
        facts.append(("Protocol", "differs from the paper's: " + "; ".join(differences)))
    return facts


def _mean(result: Result) -> str:
    score, runs, metric = result.score, result.runs, result.metric
    if score.mean is None:
        if runs.planned:
            return f"no finished run of {runs.planned} planned"
        return "not defined" if result.role is Role.UNDEFINED else "not planned in this study"
    between = ""
    if score.low is not None and score.high is not None:
        ends = f"{number(score.low, metric.decimals)} to {number(score.high, metric.decimals)}"
        between = f", 95 % interval of the mean {ends}"
    of_runs = f"mean of n = {runs.n} finished of {runs.planned} planned runs"
    return f"{with_unit(score_text(result), metric)}{between}; {of_runs}"


def _change(result: Result) -> str:
    effect = result.effect
    if effect.value is None:
        return one_line(effect.note or "none: the row has nothing to be compared with")
    method = METHODS.get(effect.method or "", str(effect.method))
    against = f"{result.metric.difference_unit} against {effect.parent}"
    parts = [f"{change_text(result)} {against}, {n_text(result)}", method, *_chances(effect)]
    return ", ".join(parts) + (f": {effect.verdict}" if effect.verdict else "")


def _chances(effect: Effect) -> list[str]:
    alone = [p_phrase(effect.p)] if effect.p is not None else []
    adjusted = [f"{p_phrase(effect.p_holm)} after Holm"] if effect.p_holm is not None else []
    return [*alone, *adjusted]


def _test_set(result: Result, error: float) -> str:
    metric = result.metric
    of_change = result.effect.sampling_se
    most = f", of the change at most {number(of_change, metric.decimals)}" if of_change is not None else ""
    own = f"its own sampling error of this mean is {number(error, metric.decimals)} {metric.difference_unit}"
    return f"{own}{most}; not part of the seeds' intervals"


def _paper(result: Result) -> str:
    paper, beside, metric = result.paper, result.beside, result.metric
    change = signed(paper.effect, metric.decimals)
    text = f"{with_unit(paper_text(result), metric)} in regime {paper.regime}, change {change}"
    if beside.difference is None:
        return text
    z = f", z = {minus(format(beside.z, '.2f'))}" if beside.z is not None else ""
    difference = f"{signed(beside.difference, metric.decimals)} {metric.difference_unit}"
    return f"{text}; measured − paper = {difference}{z}"
