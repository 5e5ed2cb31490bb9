"""The verbs that ask records, through the real command line: check, power, attribute, watch, report --serve and --compare."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


from tests.helpers.study_files import make_record, make_trial, write_runs

from analysis.report.serve import HOST, server
from roadmap.config.errors import RoadmapError
from roadmap.config.trial import Trial
from roadmap.runs.folder import RunFolder
from roadmap.study.designs import Comparison
from roadmap.study.expand import expand
from roadmap.study.file import Plan

ROOT = Path(__file__).parents[2]
SCATTER = (0.1, -0.1, 0.0)
STEPS = ("move-up-depthwise", "kernel-7", "gelu")
Command = Callable[..., Any]
Values = dict[str, Any]


def top1(trial: Trial) -> float:
    return 80.0 + 2.0 * STEPS.index(trial.step) + SCATTER[(trial.seed + STEPS.index(trial.step)) % 3]


def small_study(
    root: Path, name: str = "small", values: Callable[[Trial], Values | None] = lambda t: {"top1": top1(t)}
) -> Path:
    """Three steps, three seeds below root/runs, each step compared with the one before."""
    planned = [
        Comparison(child=(child, ""), parent=(parent, ""), declared=(f"model.{toggle}",), kind="step").to_json()
        for parent, child, toggle in zip(STEPS, STEPS[1:], ("kernel_size", "activation"), strict=False)
    ]
    return write_runs(
        root / "runs",
        [make_trial(step, seed) for step in STEPS for seed in range(3)],
        values,
        name=name,
        header={"comparisons": planned},
    )


# check -------------------------------------------------------------------------------------------------------------------


def test_check_is_content_with_a_controlled_study(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    answer = command("check", "small")
    assert answer.status == 0, answer.err
    assert "2 comparisons: 2 controlled, 0 not, 0 without finished runs on both sides" in answer.out
    assert "model.kernel_size 3 -> 7" in answer.out and "model.activation relu -> gelu" in answer.out
    found = command("check", "small", "--json").json()
    assert [
        (c["label"], c["parent"], c["proof"]["status"], len(c["ids"]), len(c["parent_ids"]))
        for c in found["comparisons"]
    ] == [("kernel-7", STEPS[0], "controlled", 3, 3), ("gelu", "kernel-7", "controlled", 3, 3)]


@pytest.mark.parametrize(("change", "says"), [
    ({"git_commit": "f" * 40}, "git_commit "),
    ({"git_dirty": True}, "git_dirty"),
    ({"world_size": 2}, "world_size 1 and 2"),
    ({"packages": {"torch": "2.14.0", "timm": "1.0.31"}}, "packages.torch 2.15.0 and 2.14.0"),
])  # fmt: skip
def test_check_fails_where_a_comparison_is_not_controlled(
    command: Command, tmp_path: Path, change: Values, says: str
) -> None:
    small_study(tmp_path, values=lambda t: {"top1": top1(t), **(change if t.step == "gelu" else {})})
    answer = command("check", "small")
    assert answer.status == 1
    assert "2 comparisons: 1 controlled, 1 not, 0 without finished runs" in answer.out
    assert f"gelu against kernel-7: confounded: {says}" in answer.out
    as_json = command("check", "small", "--json")
    assert as_json.status == 1 and json.loads(as_json.out)["comparisons"][1]["proof"]["status"] == "confounded"


def test_check_fails_where_records_do_not_say_all(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: {"top1": top1(t), "resolved": None})
    answer = command("check", "small")
    assert answer.status == 1
    assert "2 comparisons: 0 controlled, 2 not, 0 without finished runs" in answer.out
    assert "gelu against kernel-7: unproven: resolved not recorded" in answer.out


def test_check_says_what_has_not_run_and_does_not_call_it_proven(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: None if t.step == "gelu" else {"top1": top1(t)})
    answer = command("check", "small")
    assert answer.status == 0
    assert "2 comparisons: 1 controlled, 0 not, 1 without finished runs on both sides" in answer.out
    assert "no finished run to compare" in answer.out


@pytest.mark.parametrize("verb", ["check", "power", "attribute", "watch", "report"])
def test_a_study_that_is_not_there_is_refused_with_the_nearest_name(
    command: Command, tmp_path: Path, verb: str
) -> None:
    small_study(tmp_path)
    more = ("--resolve", "0.1") if verb == "power" else ()
    command(verb, "smal", *more).refused(
        "study 'smal' has no records in runs/smal or results/smal; legal: small; did you mean 'small'?"
    )
    command(verb, *more).refused(f"{verb} has no study; legal: a name", "known: small; run `roadmap run` first")


# power -------------------------------------------------------------------------------------------------------------------


def test_power_counts_seeds_for_a_stated_scatter(command: Command) -> None:
    answer = command("power", "--resolve", "0.1", "--std", "0.08")
    assert answer.status == 0, answer.err
    found = command("power", "--resolve", "0.1", "--std", "0.08", "--json").json()
    [asked] = [r for r in found["by_effect"] if r["asked"]]
    # Two-sided t test of two means: the normal approximation is a floor, 2 (1.96 + 0.8416)^2 (std / effect)^2 = 10.05.
    assert math.ceil(2 * (1.96 + 0.8416) ** 2 * 0.8**2) <= asked["seeds"] <= 13
    assert asked["power"] >= 0.8
    assert answer.out.startswith(f"{asked['seeds']} seeds per step resolve a change of 0.1 points with a chance of ")
    assert "standard deviation over seeds: 0.080 points (stated)" in answer.out
    assert (found["comparisons"], found["threshold"], found["source"]) == (1, 0.05, "stated")


def test_power_takes_scatter_and_comparisons_from_a_studys_own_runs(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    found = command("power", "small", "--resolve", "0.5", "--json").json()
    assert found["std"] == pytest.approx(0.1) and found["comparisons"] == 2 and found["threshold"] == 0.025
    assert found["source"].startswith("small: pooled, over 9 finished runs of 3 cells, 95 % interval 0.06")
    more = command("power", "small", "--resolve", "0.5", "--comparisons", "13", "--json").json()
    assert more["comparisons"] == 13
    assert (
        "/ 13 comparisons (the first threshold of Holm)"
        in command("power", "small", "--resolve", "0.5", "--comparisons", "13").out
    )


def test_power_after_a_pilot_counts_what_is_planned(command: Command, tmp_path: Path) -> None:
    study = expand(
        Plan(name="pilot", question="?", regime="micro", through="9", seeds=(0, 1, 2), controls=("a-a", "no-op"))
    )
    write_runs(
        tmp_path / "runs",
        list(study.trials),
        lambda t: {"top1": 80 + SCATTER[t.seed]} if t.step == "baseline" else None,
        name="pilot",
        header=study.header(),
    )
    answer = command("power", "pilot", "--resolve", "0.5")
    assert answer.status == 0, answer.err
    assert "two-sided at 0.05 / 13 planned comparisons of pilot (the first threshold of Holm)" in answer.out
    assert "pilot: pooled, over 3 finished runs of 1 cell, 95 % interval" in answer.out
    found = command("power", "pilot", "--resolve", "0.5", "--json").json()
    assert (found["comparisons"], found["planned_comparisons"]) == (13, 13) and found["std"] == pytest.approx(0.1)
    [asked] = [r for r in found["by_effect"] if r["asked"]]
    assert asked["df"] == 2 * (asked["seeds"] - 1), "two cells are compared"
    one = command("power", "pilot", "--resolve", "0.5", "--comparisons", "1", "--json").json()
    assert one["comparisons"] == 1 and asked["seeds"] > next(r["seeds"] for r in one["by_effect"] if r["asked"])


def test_power_of_a_pilot_without_any_comparison_says_that_it_counts_one(command: Command, tmp_path: Path) -> None:
    study = expand(Plan(name="base", question="?", regime="micro", steps=("baseline",), seeds=(0, 1, 2)))
    write_runs(
        tmp_path / "runs",
        list(study.trials),
        lambda t: {"top1": 80 + SCATTER[t.seed]},
        name="base",
        header=study.header(),
    )
    assert (
        "two-sided at 0.05, one comparison: base plans none; say --comparisons N for the study that it is the pilot of"
        in command("power", "base", "--resolve", "0.5").out
    )
    assert (
        "two-sided at 0.05 / 13 comparisons (the first"
        in command("power", "base", "--resolve", "0.5", "--comparisons", "13").out
    )


def test_a_stated_scatter_beside_a_study_takes_the_studys_comparisons(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    answer = command("power", "small", "--resolve", "0.1", "--std", "0.08")
    assert (
        "points (stated)" in answer.out
        and "two-sided at 0.05 / 2 planned comparisons of small (the first threshold of Holm)" in answer.out
    )
    command("power", "smal", "--resolve", "0.1", "--std", "0.08").refused(
        "study 'smal' has no records in runs/smal or results/smal; legal: small; did you mean 'small'?"
    )


def test_power_promises_no_certainty(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: {"top1": 80.0})
    out = command("power", "small", "--resolve", "5").out
    assert out.startswith("2 seeds per step resolve a change of 5 points with a chance of more than 99%.\n")
    assert "100%" not in out and "standard deviation over seeds: 0.016 points" in out, (
        "1,797 images: 100 / 1797 / sqrt(12)"
    )


@pytest.mark.parametrize(("words", "part"), [
    (["--resolve", "0", "--std", "0.1"], "power.resolve is 0.0; legal: a number of points above 0; ask for the smallest change that matters"),
    (["--resolve", "nan", "--std", "0.1"], "power.resolve is nan; legal: "),
    (["--resolve", "0.1", "--std", "-1"], "power.std is -1.0; legal: a standard deviation in points, 0 or more"),
    (["--resolve", "0.1", "--std", "0.1", "--power", "1"], "power.power is 1.0; legal: above 0 and below 1"),
    (["--resolve", "0.1", "--std", "0.1", "--comparisons", "0"], "power.comparisons is 0; legal: 1 or more"),
    (["--resolve", "1e-9", "--std", "0.1"], "needs more than 1,000,000 seeds a step; legal: "),
    (["lonely", "--resolve", "0.1"], "power.study lonely has no step with two finished runs (1 in 1 steps); legal: two seeds or more; run more seeds or state --std"),
])  # fmt: skip
def test_power_refuses_in_words(command: Command, tmp_path: Path, words: list[str], part: str) -> None:
    write_runs(tmp_path / "runs", [make_trial("gelu", 0)], lambda t: {"top1": 80.0}, name="lonely")
    command("power", *words).refused(part)


# attribute ---------------------------------------------------------------------------------------------------------------


def factorial(root: Path, name: str = "factorial", *, skip: str = "none") -> Path:
    """Two changes on kernel-7 that add up, 1 and 2 points, with runs of all cells but `skip`."""
    study = expand(
        Plan(
            name=name,
            question="?",
            regime="micro",
            design="factorial",
            base="6",
            seeds=(0, 1),
            changes=({"activation": "gelu"}, {"activations": "one"}),
        )
    )
    worth = {"activation=gelu": 1.0, "activations=one": 2.0}

    def values(t: Trial) -> Values | None:
        top = 80.0 + sum(worth[word] for word in t.change.split()) + 0.1 * t.seed
        return (
            None
            if t.change == skip
            else {"top1": top, "data": t.data.title, "data_name": t.data.name, "global_batch": t.recipe.batch_size}
        )

    return write_runs(root / "runs", list(study.trials), values, name=name, header=study.header())


def test_attribute_gives_each_change_its_share(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path)
    found = command("attribute", "factorial", "--json").json()
    assert {v["player"]: round(v["value"], 6) for v in found["values"]} == {"activation": 1.0, "activations": 2.0}
    assert found["gain"]["value"] == pytest.approx(3.0)
    assert (
        found["cells_trained"],
        found["cells_total"],
        found["missing_total"],
        found["orders_used"],
        found["orders_legal"],
    ) == (4, 4, 0, 2, 2)
    assert len(found["ids"]) == 8
    out = command("attribute", "factorial").out
    assert "Shapley value" in out and "+1.00" in out and "+2.00" in out


def test_attribute_names_the_cell_that_lacks(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path, skip="activations=one")
    found = command("attribute", "factorial", "--json").json()
    assert (found["cells_trained"], found["missing_total"], found["orders_used"]) == (3, 1, 1)
    assert "Missing cells: 1" in command("attribute", "factorial").out


def test_attribute_takes_runs_of_other_studies_only_where_asked_or_known(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path, "whole")
    factorial(tmp_path, "part", skip="activations=one")
    small_study(tmp_path)
    assert command("attribute", "part", "--json").json()["missing_total"] == 0
    assert command("attribute", "part", "--with", "small", "--json").json()["missing_total"] == 1
    command("attribute", "part", "--with", "smaal").refused("study 'smaal' has no records")


def test_attribute_refuses_a_study_without_a_lattice(command: Command, tmp_path: Path) -> None:
    study = expand(
        Plan(
            name="models",
            question="?",
            regime="micro",
            design="models",
            model=("timm/test_vit", "timm/test_resnet"),
            recipe="digits-adamw",
            image_size=32,
        )
    )
    write_runs(tmp_path / "runs", list(study.trials), lambda t: {"top1": 80.0}, name="models", header=study.header())
    command("attribute", "models").refused(
        "attribute.study models trains networks of timm, which have no toggles; legal: ladders and changes of our own networks; `roadmap report models` compares them as wholes"
    )


# watch -------------------------------------------------------------------------------------------------------------------


def test_watch_fills_while_runs_end_and_stops_when_nothing_runs(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    command("watch", "small")  # what it imports is imported before the first run ends
    trials = [make_trial(step, seed) for step in STEPS for seed in range(2)]
    folder = write_runs(tmp_path / "runs", trials, lambda t: None, name="filling")
    runs = [RunFolder(folder / t.id) for t in trials]
    for run, trial in zip(runs, trials, strict=True):
        run.prepare(trial)
        run.beat({"state": "running", "epoch": 1})

    def finish() -> None:
        for run, trial in zip(runs, trials, strict=True):
            time.sleep(0.5)
            run.write_record(make_record(trial, top1=top1(trial)))
            run.beat({"state": "finished"})

    worker = threading.Thread(target=finish)
    worker.start()
    answer = command("watch", "filling", "--every", "0.3")
    worker.join()
    assert answer.status == 0, answer.err
    looks = answer.out.count("filling: Which steps help?")
    assert looks >= 3
    counts = [tuple(map(int, found)) for found in re.findall(r"\b([012]) of (2)\b", answer.out)]
    by_look = [sum(n for n, _ in counts[i * 3 : i * 3 + 3]) for i in range(looks)]
    assert len(counts) == 3 * looks and by_look == sorted(by_look) and by_look[0] < 6 and by_look[-1] == 6
    assert "running" not in answer.out.rsplit("filling:", 1)[1] and "6 runs: 6 done" in answer.out
    assert re.findall(r"(\d\d\.\d\d) ± 0\.\d\d", answer.out.rsplit("filling:", 1)[1]) == ["80.00", "81.95", "84.05"]


def test_watch_of_a_study_in_which_nothing_runs_ends_and_says_so(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    started = time.monotonic()
    answer = command("watch", "small")
    assert answer.status == 0 and time.monotonic() - started < 15
    assert answer.out.count("small: Which steps help?") == 1 and "9 runs: 9 done" in answer.out
    assert answer.out.count("3 of 3") == 3 and "gain" in answer.out


def test_watch_waits_a_few_looks_for_the_next_run_of_a_queue(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: None if t.step == "gelu" else {"top1": top1(t)})
    answer = command("watch", "small", "--every", "0.1")
    assert answer.status == 0 and answer.out.count("small: Which steps help?") == 3
    assert "seed 0: new" in answer.out


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(command: Command, tmp_path: Path, every: str) -> None:
    small_study(tmp_path)
    for words in (("watch", "small"), ("report", "small", "--serve")):
        command(*words, f"--every={every}").refused(f"--every is {float(every):g}; legal: seconds from ")


def test_watch_of_committed_results_is_refused(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    assert command("report", "small").status == 0
    command("watch", "small", "--runs", "elsewhere").refused(
        "has no run folders; legal: a study below elsewhere; it has ended, see `roadmap report small`"
    )


# report --serve, --compare -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path, refresh: int = 1) -> Iterator[int]:
    """A server in this process; gives its port."""
    with server(folder, port=0, refresh=refresh) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            yield pages.server_address[1]
        finally:
            pages.shutdown()
            thread.join()


def fetch(port: int, path: str = "/", host: str | None = None) -> tuple[int, str, str]:
    """(status, body, headers) of one request over loopback."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": host if host is not None else f"{HOST}:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, str(answer.headers)


def test_a_served_page_shows_a_record_that_has_changed(tmp_path: Path) -> None:
    """Through the real command: started on a free port, read, changed, read again, ended by Ctrl-C."""
    folder = small_study(tmp_path, values=lambda t: {"top1": top1(t)})
    process = subprocess.Popen(
        [sys.executable, "-m", "roadmap", "report", "small", "--serve", "--port", "0", "--every", "1"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite started in the background ignores Ctrl-C, and its children would too
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/ shows small, 1 s old at most; Ctrl-C ends it", line)
        assert found, (line, process.stderr.read() if process.stderr and process.poll() is not None else "")
        port = int(found[1])
        status, before, headers = fetch(port)
        assert status == 200 and "84.00" in before and "63.21" not in before
        assert 'data-refresh="1"' in before and "no-store" in headers and "text/html; charset=utf-8" in headers
        for seed in range(3):
            trial = make_trial("gelu", seed)
            RunFolder(folder / trial.id).write_record(make_record(trial, top1=63.21))
        time.sleep(1.2)
        assert "63.21" in fetch(port, "/report.html?x=1")[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    assert not (tmp_path / "results").exists(), "serving writes nothing"


def test_the_page_is_made_once_within_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(source: Path, refresh: int) -> str:
        made.append(1)
        return f"page {len(made)}"

    monkeypatch.setattr("analysis.report.serve.live_page", make)
    with serving(tmp_path, refresh=600) as port:
        assert [fetch(port)[1] for _ in range(3)] == ["page 1"] * 3


@pytest.mark.parametrize(("path", "host", "status"), [
    ("/", "localhost:80", 200), ("/report.html", "127.0.0.1", 200), ("/?a=b", "localhost", 200), ("/favicon.ico", "localhost", 204),
    ("/", "evil.example", 403), ("/", "127.0.0.1.evil.example", 403), ("/", "evil.example:8765", 403), ("/", "", 403), ("/favicon.ico", "evil.example", 403),
    ("/records.jsonl", "localhost", 404), ("/../../etc/passwd", "localhost", 404),
])  # fmt: skip
def test_only_the_page_is_served_and_only_under_loopbacks_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, host: str, status: int
) -> None:
    monkeypatch.setattr("analysis.report.serve.live_page", lambda source, refresh: "the page")
    with serving(tmp_path) as port:
        found, body, _ = fetch(port, path, host)
    assert found == status
    assert (body == "the page") == (status == 200)


def test_a_study_that_cannot_be_read_now_is_an_answer_and_the_server_goes_on(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    content = (folder / "study.json").read_bytes()
    (folder / "study.json").write_bytes(b"{")
    with serving(folder) as port:
        status, body, _ = fetch(port)
        assert status == 503 and "study.json is damaged" in body
        (folder / "study.json").write_bytes(content)
        assert fetch(port)[0] == 200


def test_nobody_else_on_the_network_is_answered(tmp_path: Path) -> None:
    with server(tmp_path, port=0, refresh=1) as pages:
        assert pages.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_or_none_is_refused(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        command("report", "small", "--serve", "--port", port).refused(
            f"report.port {port} cannot be used: Address already in use; legal: a free port from 1024, or 0 for any; choose another --port"
        )
    command("report", "small", "--serve", "--port", "99999").refused(
        "report.port 99999 cannot be used: ", "; legal: a free port from 1024"
    )
    with pytest.raises(RoadmapError, match=r"report\.port -1 cannot be used"):
        server(tmp_path, port=-1, refresh=1)


def test_report_compare_writes_a_page_of_both_studies(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, "first")
    small_study(tmp_path, "second", values=lambda t: {"top1": top1(t) + 5.0})
    answer = command("report", "--compare", "first", "second")
    assert answer.status == 0, answer.err
    path = Path(answer.out.strip())
    assert path == Path("results/first-and-second.html")
    text = (tmp_path / path).read_text()
    assert "first" in text and "second" in text and "84.00" in text and "89.00" in text
    assert (
        command("report", "--compare", "first", "second", "--out", "x/y").out.strip() == "x/y/first-and-second.html"
        and (tmp_path / "x" / "y" / "first-and-second.html").exists()
    )
    command("report", "--compare", "first", "secnd").refused("study 'secnd' has no records", "did you mean 'second'?")


def test_report_writes_what_it_lists(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    found = command("report", "small", "--json").json()
    assert {Path(p).name for p in found["files"]} >= {
        "records.jsonl",
        "table.md",
        "table.csv",
        "table.tex",
        "ladder.svg",
        "ladder.png",
        "report.html",
    }
    assert all((tmp_path / p).stat().st_size for p in found["files"])
    assert [r["verdict"] for r in found["rows"] if r["step"] in STEPS] == [None, "gain", "gain"]
