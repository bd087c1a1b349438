"""The race is fair: both sides do the same work, and what cannot run is said and left out."""

import json

import numpy as np
import pytest
from commands import PNG, assert_one_line_error, command
from processors import made_up

from benchmarks import inputs, profiling, report
from benchmarks.contestants import EAGER, FLOOR, OURS, decoders, leaner, trainers
from benchmarks.race import ROOT, Contestant, Result, race, race_in_turn
from benchmarks.worker import parts_of_epoch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny random model without dropout."""
    folder = tmp_path_factory.mktemp("race") / "model"
    return inputs.random_model("tiny", folder, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


@pytest.mark.long
def test_without_dropout_both_sides_arrive_at_the_same_loss(model, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.contestants.LORA_DROPOUT", 0.0)
    data = inputs.random_batches(tmp_path / "batches.npz", 8192, batch=3, time=17)
    contestants = [c for c in trainers("train", model, data) if c.name in ("this project", EAGER)]
    results = race(contestants, rounds=2, say=lambda _: None)
    assert [result.failure for result in results.values()] == ["", ""]
    ours, theirs = (result.outcome for result in results.values())
    # four updates of 1e-4 from B = 0: what the two draws of A make of them is far smaller than this
    assert ours == pytest.approx(theirs, abs=2e-3) and ours == pytest.approx(np.log(8192), abs=1)
    for result in results.values():
        assert len(result.seconds) == 2 and result.median > 0 and result.peak_mb > 50 and result.ready > 0


def test_a_contestant_that_fails_is_left_out_with_its_reason(tmp_path):
    broken = Contestant("broken", "torch_side.py", {"task": "decode", "model": str(tmp_path / "none"), "repeat": 1})
    said = []
    (result,) = race([broken], rounds=1, say=said.append).values()
    assert result.failure and any("left out" in line for line in said)
    (row,) = report.rows({"broken": result}, 1, EAGER, "floor")
    assert "not run" in report.show("race", [row])


def work_on_a_device(folder, name: str) -> Contestant:
    """A contestant that notes when it begins and ends, and takes 30, 50, 40, 40, … MB of a device after each unit."""
    script = folder / "worker_on_a_device.py"
    script.write_text(
        f"""
import itertools, sys
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
from worker import serve
def note(what):
    with open({str(folder / "notes")!r}, "a") as notes:
        notes.write(what)
def prepare(settings):
    taken = itertools.chain([30.0, 50.0], itertools.repeat(40.0))
    work = lambda: 1.0
    work.memory_mb = lambda: next(taken)
    note(settings["name"])
    return work
serve(prepare)
note(".")
"""
    )
    return Contestant(name, str(script), {"name": name, "repeat": 2})


@pytest.mark.parametrize(("together", "notes"), [(True, "ab.."), (False, "a.b.")])
def test_on_a_device_each_has_its_rounds_alone_and_tells_the_most_it_took(tmp_path, together, notes):
    contestants = [work_on_a_device(tmp_path, name) for name in "ab"]
    if together:
        results = race(contestants, rounds=2, say=lambda _: None)
    else:
        kept = []
        results = race_in_turn(contestants, 2, lambda _: None, lambda some: kept.append("".join(some)))
        assert kept == ["a", "ab"]  # what is cut off later has left what was done
    assert (tmp_path / "notes").read_text() == notes
    assert [(result.peak_mb, len(result.seconds)) for result in results.values()] == [(50.0, 2), (50.0, 2)]


def test_what_the_race_itself_has_held_is_no_contestants(tmp_path):
    script = tmp_path / "small.py"
    script.write_text(
        f"import sys\nsys.path.append({str(ROOT / 'benchmarks')!r})\nfrom worker import serve\nserve(lambda _: float)\n"
    )
    held = np.ones(100_000_000)
    del held
    (result,) = race([Contestant("small", str(script), {"repeat": 1})], rounds=1, say=lambda _: None).values()
    assert 1 < result.peak_mb < 200


def test_ratios_are_of_medians_over_rounds():
    results = {
        "mine": Result([[1.0, 9.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]),
        EAGER: Result([[4.0], [8.0], [4.0]]),
    }
    mine, eager = report.rows(results, tokens=10, eager=EAGER, floor="floor")
    assert (mine["seconds"], eager["seconds"]) == (2.0, 4.0)
    assert (mine["of_eager"], mine["tokens_per_second"], mine["min"], mine["max"]) == (0.5, 5.0, 1.0, 9.0)
    assert np.isnan(mine["of_floor"])


def test_fewer_bits_are_compared_with_a_floor_of_their_own():
    results = {
        "mine": Result([[3.0]], peak_mb=500.0),
        "mine, bf16": Result([[2.0]], peak_mb=250.0, floor="floor, bf16"),
        EAGER: Result([[6.0]], peak_mb=1000.0),
        "floor": Result([[2.0]], more={"bytes_read": 40 * 10**9}),
        "floor, bf16": Result([[1.0]], more={"bytes_read": 20 * 10**9}),
    }
    table = report.rows(results, tokens=10, eager=EAGER, floor="floor")
    assert [row["of_floor"] for row in table] == [1.5, 2.0, 3.0, 1.0, 0.5]
    assert [row.get("gb_per_second") for row in table] == [None, None, None, 20.0, 20.0]
    assert "20.0 GB/s (floor, bf16)" in report.show("race", table)
    shown = report.show("memory", table, report.MEMORY).splitlines()
    assert shown[3] == "| mine, bf16 | 250 | 0.25 | 2.000 | 0.33 |"


def test_everybody_decodes_with_a_floor_that_is_in_the_race(tmp_path):
    contestants = {c.name: c for c in decoders(tmp_path, tmp_path, 1, 8, 1)}
    assert all(c.floor in contestants or not c.floor for c in contestants.values())
    of_weights = {c.settings.get("weights", "fp32"): c for name, c in contestants.items() if name.startswith(OURS)}
    assert [*of_weights] == ["fp32", "bf16", "int8"]
    floors = [contestants[c.floor or FLOOR].settings.get("bytes", 4) for c in of_weights.values()]
    assert floors == [4, 2, 1]


def test_peers_decode_in_bfloat16_where_the_processor_multiplies_it(tmp_path, monkeypatch):
    for flags, expected in (("sse2 avx2 avx512f", 0), ("avx512f avx512_bf16", 2), ("amx_bf16 avx2", 2)):
        made_up(monkeypatch, tmp_path, flags)
        names = [c.name for c in decoders(tmp_path, tmp_path, 1, 8, 1) if not c.name.startswith((OURS, FLOOR))]
        assert sum("bf16" in name or "bfloat16" in name for name in names) == expected


def test_peers_train_in_bfloat16_with_weights_of_either_kind(tmp_path):
    peers = [c for c in trainers("train", tmp_path, tmp_path, precision="bf16") if c.name.startswith(EAGER)]
    assert [c.settings.get("weights") for c in peers] == [None, "fp32"]


def test_an_epoch_in_parts_takes_every_batch_once_and_counts_as_a_whole():
    taken = []
    part = parts_of_epoch(lambda: taken.append(len(taken)) or 1.0, batches=11, parts=4)
    assert [(part(), len(taken))[1] for _ in range(4)] == [2, 5, 8, 11]
    results = {"mine": Result([[1.0], [3.0]]), EAGER: Result([[6.0], [10.0]])}
    mine, _ = report.rows(results, tokens=20, eager=EAGER, floor="floor", whole=True)
    assert (mine["seconds"], mine["tokens_per_second"], mine["of_eager"]) == (4.0, 5.0, 0.25)


def test_both_orders_of_an_epoch_hold_the_same_dialogues(tmp_path):
    from gpt2_jittor.checkpoint.locate import NANO

    data = inputs.dialogues(tmp_path, "sample", NANO, count=30, batch=4)
    kept = []
    for name in ("grouped", "shuffled"):
        arrays = np.load(data[name])
        parts = [
            tuple(row[mask == 1])
            for index in range(int(arrays["count"]))
            for row, mask in zip(arrays[f"ids{index}"], arrays[f"mask{index}"], strict=True)
        ]
        kept.append(sorted(parts))
        assert sum(map(len, parts)) == data["tokens"]
    assert kept[0] == kept[1] and len(kept[0]) == 30


def test_every_size_of_model_can_be_chosen():
    assert "{" + ",".join(inputs.SIZES) + "}" in command("benchmark.py", "--help").stdout


@pytest.mark.parametrize(("drawn", "titled"), [((), "greedy decoding, "), (("--top-p", 0.9), "drawing by top-p 0.9, ")])
def test_a_race_prints_a_table_and_writes_figures_and_bars(tmp_path, drawn, titled):
    figures, picture = tmp_path / "race.json", tmp_path / "race.png"
    sizes = ("--size", "tiny", "--new", 4, "--rounds", 1, "--only", "this project", "floor", "--without", "int8")
    result = command("benchmark.py", "decode", *sizes, *drawn, "--json", figures, "--plot", picture)
    assert result.returncode == 0, result.stderr
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert len(told["races"]) == 2 and "cores" in told["machine"] and "benchmark.py" in told["command"]
    names = [name + more for name in ("this project", FLOOR) for more in ("", ", bf16")]
    for title, table in told["races"].items():
        assert title.startswith(titled) and title in result.stdout and [row["name"] for row in table] == names
        assert all(row["outcome"] in (4.0, 32.0) for row in table)
    assert picture.read_bytes().startswith(PNG)
    assert_one_line_error(command("benchmark.py", "decode", "--rounds", 0), "--rounds", "at least 1")
    assert_one_line_error(command("benchmark.py", "decode", "--top-p", 1.5), "--top-p", "up to 1")


@pytest.mark.long
def test_a_chats_next_turn_begins_alike_with_what_was_kept_and_without(tmp_path):
    result = command("benchmark.py", "chat", "--size", "tiny", "--rounds", 1, "--json", tmp_path / "race.json")
    assert result.returncode == 0, result.stderr
    (table,) = json.loads((tmp_path / "race.json").read_text(encoding="utf-8"))["races"].values()
    sides = ("this project", "transformers + PEFT")
    assert [row["name"] for row in table] == [*(f"{side}, history kept" for side in sides), *sides]
    assert len({row["outcome"] for row in table}) == 1  # the same token


def test_an_updates_memory_is_compared_with_and_without_what_makes_it_less(tmp_path):
    figures = tmp_path / "race.json"
    sizes = ("--size", "tiny", "--rounds", 1, "--batch-size", 2, "--time", 16)
    chosen = ("--only", "this project", "--without", "project, --gradient", "bf16")
    result = command("benchmark.py", "memory", *sizes, *chosen, "--json", figures)
    assert result.returncode == 0, result.stderr
    (table,) = json.loads(figures.read_text(encoding="utf-8"))["races"].values()
    leaner_ones = ["--base int8", "--base int8 --gradient-checkpointing"]
    assert [row["name"] for row in table] == [OURS, *(f"{OURS}, {options}" for options in leaner_ones)]
    assert all(row["peak_mb"] > 50 for row in table)
    assert "| peak MB | ÷ eager | seconds | seconds ÷ eager |" in result.stdout


def test_what_makes_it_less_is_asked_of_both_sides_by_name(tmp_path):
    said = {c.name: c.settings for c in leaner(trainers("train", tmp_path, tmp_path))}
    assert said[f"{OURS}, --gradient-checkpointing"]["gradient_checkpointing"]
    assert said[f"{OURS}, --base bf16"]["base"] == "bf16"
    assert said[f"{EAGER}, gradient checkpointing"]["gradient_checkpointing"]
    assert said[f"{EAGER}, bf16 autocast"]["precision"] == "bf16"
    assert said[f"{EAGER}, bitsandbytes int8"]["base"] == "int8"


def test_a_profile_tells_where_an_update_and_a_token_spend_their_time(tmp_path):
    figures = tmp_path / "profile.json"
    sizes = ("--size", "tiny", "--rounds", 1, "--batch-size", 2, "--time", 16, "--new", 5)
    result = command("benchmark.py", "profile", *sizes, "--weights", "bf16", "--base", "int8", "--json", figures)
    assert result.returncode == 0, result.stderr
    update, *tokens = json.loads(figures.read_text(encoding="utf-8"))["races"].values()
    by_name = {row["name"]: row for row in update}
    # 4 projections in each of 2 layers, with LoRA
    assert by_name["lora_forward"]["count"] == 8 and by_name["attention_forward"]["count"] == 2
    assert all(by_name[name]["gflops"] > 0 for name in ("lora_forward", "lora_by_input", "head_loss_forward"))
    assert by_name["layer_norm_forward"]["gb_per_second"] > 0 and update[-1]["name"] == profiling.REST
    assert len(tokens) == 2
    for table in tokens:
        parts = {row["name"]: row for row in table}
        assert {"attn.c_attn", "attention", "mlp.c_proj", "head", profiling.REST} <= parts.keys()
        assert all(row["ms"] > 0 for row in table[:-1]) and parts["head"]["gb_per_second"] > 0
        assert parts["attention"]["gb_per_second"] is None


def test_operations_are_counted_by_hand():
    # x [7, 5] by weight [5, 3], rank 2: 2 * 7 * (15 + 2 * 5 + 3 * 2)
    assert profiling.OPERATIONS["lora_low"]([[7, 5], [2, 5]], [[7, 2]]) == 2 * 7 * 10
    assert profiling.OPERATIONS["lora_forward"]([[7, 5], [5, 3], [3], [3, 2], [7, 2]], [[7, 3]]) == 2 * 7 * (15 + 6)
    # dlow = dy B, dB = dyT low, dA = dlowT x
    shapes = [[7, 5], [7, 3], [7, 2], [2, 5], [3, 2], [5, 3]]
    assert profiling.OPERATIONS["lora_backward"](shapes, []) == 2 * 7 * (6 + 6 + 10)
    # q and k, then the scores and v: each 2 * 4 * 4 * 6 of a batch of 2, half of them below the diagonal
    assert profiling.OPERATIONS["attention_forward"]([[2, 4, 18], [2, 4]], []) == 2 * 2 * (2 * 4 * 4 * 6) / 2


def test_what_a_benchmark_has_not_is_refused():
    assert_one_line_error(command("benchmark.py", "decode", "--weights", "int8"), "--weights", "profile")
    assert_one_line_error(command("benchmark.py", "profile", "--plot", "a.png"), "--plot", "profile")
    assert_one_line_error(command("benchmark.py", "train", "--base", "int8"), "--base", "profile")
    assert_one_line_error(command("benchmark.py", "memory", "--device", "cuda"), "memory", "CPU")
