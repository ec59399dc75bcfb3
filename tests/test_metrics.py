"""Metrics of many replies: the demo's own counts, intervals against a resampler of whole texts, comparisons."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from lcg_cpp.errors import GateError
from lcg_cpp.measure.compare import compare, summarize
from lcg_cpp.measure.metrics import METRICS, values
from sample_replies import event, make_prompt, make_reply


def test_metrics_are_ratios_of_sums_over_the_replies_that_have_them():
    prompts = {
        "1": make_prompt(id="1", reference="برلين"),
        "2": make_prompt(id="2", switch="latin", items=(("Bonn",), ("Berlin",), ("Ulm",))),
        "3": make_prompt(id="3", language=""),
        "4": make_prompt(id="4", reference="بون", expect_scripts=("latin",)),
    }
    replies = [
        make_reply(["برلين"], id="1", seconds=1.0),
        make_reply(["بون", "波恩"], id="1", seed=1, events=[event(0.5), event(0.2)]),
        make_reply(["Bonn", " ", "Ulm"], id="2"),
        make_reply(["Berlin", "柏林", ".", "."], id="3", finish="length", seconds=2.0),
        make_reply([], id="4", events=[event(0.8)], seconds=0.0),
    ]
    values = {metric: estimate["value"] for metric, estimate in summarize(replies, prompts)["none"].items()}
    assert values.pop("bleu") > 0
    assert values.pop("chrf") > 0
    assert values == pytest.approx(
        {
            "unwanted_percent": 25.0,
            "unwanted_per_1000_tokens": 1000 / 6,
            "unwanted_han_percent": 25.0,
            "wrong_script_percent": 0.0,
            "slips_percent": 25.0,
            "cj_percent": 25.0,
            "latin_percent": 0.0,
            "cj_per_1000_tokens": 1000 / 6,
            "latin_per_1000_tokens": 0.0,
            "code_switch_percent": 50.0,
            "switches_kept_percent": 200 / 3,
            "exact_match_percent": 100 / 3,
            "intervention_percent": 30.0,
            "removed_mass_percent": 50.0,
            "tokens_per_second": 2.5,
            "length_tokens": 2.0,
            "empty_percent": 20.0,
            "truncated_percent": 20.0,
        }
    )


def test_scripts_are_told_of_all_methods_if_one_has_unwanted_letters_of_them():
    prompts = {"p": make_prompt(reference="نعم")}
    replies = [make_reply("да да", method="none"), make_reply("نعم", method="lcg"), make_reply("ja", method="ban")]
    summary = summarize(replies, prompts)
    for method, kinds in (("none", {"cyrillic": 100, "latin": 0}), ("lcg", {"cyrillic": 0, "latin": 0})):
        told = {kind: summary[method][f"unwanted_{kind}_percent"]["value"] for kind in kinds}
        assert told == kinds
        assert {m for m in summary[method] if m.startswith("unwanted_")} == {
            "unwanted_percent",
            "unwanted_per_1000_tokens",
            *(f"unwanted_{kind}_percent" for kind in kinds),
        }
    found = compare(replies, prompts)["lcg"]["unwanted_cyrillic_percent"]
    assert (found["difference"], found["ratio"]["value"]) == (-100, 0)
    assert set(values(replies, prompts)["lcg"]) == set(summary["lcg"])


def many_replies(methods=("none",), n_prompts=30, n_seeds=2):
    """Prompts with references and replies that are more often wrong with some prompts than with others."""
    draw = random.Random(1)
    prompts = {
        f"{i}": make_prompt(
            id=f"{i}", language="ru", reference=" ".join(draw.choices(["один", "два", "три", "дом"], k=8))
        )
        for i in range(n_prompts)
    }
    replies = []
    for name, prompt in prompts.items():
        hard = draw.random() ** 2
        for seed in range(n_seeds):
            for method in methods:
                words = prompt.reference.split()
                if draw.random() < hard:
                    words[draw.randrange(len(words))] = draw.choice(["house", "房子"])
                words = words[: draw.randint(4, 8)]
                replies.append(make_reply([f"{w} " for w in words], method=method, id=name, seed=seed))
    return replies, prompts


def slow_interval(replies, prompts, metric, n_resamples=300):
    """A percentile interval from resamples of whole replies, each scored as a corpus."""
    draw = random.Random(3)
    of_prompt = [[reply for reply in replies if reply["id"] == name] for name in prompts]
    values = []
    for _ in range(n_resamples):
        drawn = [draw.choice(group) for group in draw.choices(of_prompt, k=len(of_prompt)) for _ in group]
        values.append(metric(drawn))
    return np.quantile(values, [0.025, 0.975])


def test_intervals_agree_with_resampling_whole_texts():
    replies, prompts = many_replies(n_prompts=15)
    summary = summarize(replies, prompts, n_resamples=4000)["none"]

    def texts(drawn):
        return [reply["reply"].strip() for reply in drawn], [[prompts[reply["id"]].reference for reply in drawn]]

    slow = {
        "bleu": lambda drawn: BLEU(tokenize="intl").corpus_score(*texts(drawn)).score,
        "chrf": lambda drawn: CHRF(word_order=2).corpus_score(*texts(drawn)).score,
        "latin_percent": lambda drawn: 100 * np.mean(["house" in reply["reply"] for reply in drawn]),
        "cj_per_1000_tokens": lambda drawn: (
            1000 * sum("房" in r["reply"] for r in drawn) / sum(len(r["tokens"]) for r in drawn)
        ),
    }
    for metric, of_replies in slow.items():
        estimate = summary[metric]
        assert estimate["value"] == pytest.approx(of_replies(replies))
        low, high = slow_interval(replies, prompts, of_replies)
        width = high - low
        assert width > 0
        assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=0.15 * width)


def test_the_order_of_replies_does_not_matter_and_the_seed_does():
    replies, prompts = many_replies()
    first = summarize(replies, prompts)
    assert summarize(replies[::-1], prompts) == first
    assert summarize(replies, prompts, seed=1) != first


def test_a_share_that_no_prompt_or_every_prompt_has_is_not_certain():
    prompts = {str(i): make_prompt(id=str(i), reference="نعم") for i in range(50)}
    replies = [make_reply("نعم", id=name, seed=seed) for name in prompts for seed in range(3)]
    summary = summarize(replies, prompts)["none"]
    bound = 100 * (1 - 0.025 ** (1 / 50))  # prompts count, not replies
    assert summary["cj_percent"] == pytest.approx({"value": 0, "low": 0, "high": bound})
    assert summary["exact_match_percent"] == pytest.approx({"value": 100, "low": 100 - bound, "high": 100})
    assert summary["intervention_percent"] == {"value": 0, "low": 0, "high": 0}
    assert summary["tokens_per_second"] == {"value": 2, "low": 2, "high": 2}


def test_one_prompt_tells_nearly_nothing_of_a_share():
    summary = summarize([make_reply("نعم")], {"p": make_prompt()})["none"]
    assert summary["latin_percent"] == pytest.approx({"value": 0, "low": 0, "high": 97.5})
    assert summary["length_tokens"] == {"value": 1, "low": 1, "high": 1}
    assert "bleu" not in summary
    assert "switches_kept_percent" not in summary


def test_a_metric_that_few_prompts_have_keeps_its_interval():
    prompts = {str(i): make_prompt(id=str(i), reference="نعم" if i == 0 else "") for i in range(9)}
    summary = summarize([make_reply("نعم لا", id=name) for name in prompts], prompts)["none"]
    assert summary["chrf"]["low"] == pytest.approx(summary["chrf"]["value"]) == summary["chrf"]["high"]
    assert 0 < summary["chrf"]["value"] < 100


def test_every_metric_is_a_plain_number():
    replies, prompts = many_replies()
    summary = summarize(replies, prompts)["none"]
    assert set(summary) < set(METRICS)
    assert all(type(number) is float for estimate in summary.values() for number in estimate.values())


# ---- methods compared ----


def test_a_comparison_is_paired_so_that_hard_prompts_cancel_out():
    prompts = {str(i): make_prompt(id=str(i)) for i in range(40)}
    replies = []
    for i in range(40):
        n = 10 * (i + 1)  # lengths differ a lot between prompts, by one between methods
        replies.append(make_reply(["نعم"] * n, id=str(i)))
        replies.append(make_reply(["نعم"] * (n + 1 if i % 2 else n), id=str(i), method="lcg"))
    found = compare(replies, prompts)["lcg"]["length_tokens"]
    assert found["difference"] == pytest.approx(0.5)
    assert 0.3 < found["low"] < 0.5 < found["high"] < 0.7
    assert found["p"] == pytest.approx(2 / 1001)
    assert found["low"] > 0


def test_p_of_a_share_is_that_of_the_binomial_sign_of_the_changed_prompts():
    # 6 prompts are repaired, none broken: a resample without any of them has the chance (1 - 6/60)^60 = 0.0018
    prompts = {str(i): make_prompt(id=str(i)) for i in range(60)}
    replies = [make_reply("yes" if i < 6 else "نعم", id=str(i)) for i in range(60)]
    replies += [make_reply("نعم", id=str(i), method="lcg") for i in range(60)]
    found = compare(replies, prompts, n_resamples=20_000)["lcg"]["latin_percent"]
    assert found["difference"] == -10
    assert found["p"] == pytest.approx(2 * 0.9**60, abs=0.0015)
    assert found["high"] < 0


def test_equal_methods_do_not_differ():
    replies, prompts = many_replies()
    found = compare([*replies, *({**reply, "method": "lcg"} for reply in replies)], prompts)["lcg"]
    assert set(found) == set(summarize(replies, prompts)["none"]) - {"intervention_percent"}
    for metric, difference in found.items():
        if metric.endswith("_percent"):
            unanimous = summarize(replies, prompts)["none"][metric]["value"] in (0, 100)
            ratio = difference.pop("ratio", None)
            assert unanimous or ratio == {"value": 1, "low": 1, "high": 1}
        assert difference == {"difference": 0, "low": 0, "high": 0, "p": 1, "p_adjusted": 1}


def shares_of(n_prompts, of_none, of_lcg):
    """Replies of two methods to as many prompts; the first so many of each have a Latin word."""
    prompts = {str(i): make_prompt(id=str(i)) for i in range(n_prompts)}
    replies = [
        make_reply("yes" if i < n_wrong else "نعم", id=str(i), method=method)
        for method, n_wrong in (("none", of_none), ("lcg", of_lcg))
        for i in range(n_prompts)
    ]
    return replies, prompts


def test_a_ratio_of_shares_is_paired():
    # of 200 prompts 20 are wrong with both methods, 60 with one, 120 with none
    found = compare(*shares_of(200, 80, 20), n_resamples=20_000)["lcg"]["latin_percent"]["ratio"]
    both, one, _ = np.random.default_rng(5).multinomial(200, [0.1, 0.3, 0.6], size=100_000).T
    low, high = np.quantile(both / (both + one), [0.025, 0.975])
    assert found == pytest.approx({"value": 0.25, "low": low, "high": high}, abs=0.005)


def test_a_ratio_with_no_event_left_has_the_exact_bound():
    replies, prompts = shares_of(200, 40, 0)
    found = compare(replies, prompts)["lcg"]["latin_percent"]["ratio"]
    bound = 1 - 0.025 ** (1 / 200)
    low = summarize(replies, prompts)["none"]["latin_percent"]["low"] / 100
    assert 0.14 <= low <= 0.15  # of 20 %
    assert found == pytest.approx({"value": 0, "low": 0, "high": bound / np.sqrt(low * (0.4 - low))})
    assert 9 < 1 / found["high"] < 11  # "at least 9 times less"


def test_a_ratio_to_a_baseline_without_events_is_infinite():
    replies, prompts = shares_of(200, 0, 40)
    found = compare(replies, prompts)["lcg"]["latin_percent"]["ratio"]
    swapped = compare(replies, prompts, baseline="lcg")["none"]["latin_percent"]["ratio"]
    assert (found["value"], found["high"]) == (None, None)
    assert found["low"] == pytest.approx(1 / swapped["high"])


def test_shares_that_are_0_with_both_methods_have_no_ratio():
    found = compare(*shares_of(20, 0, 0))["lcg"]["latin_percent"]
    assert found == {"difference": 0, "low": 0, "high": 0, "p": 1, "p_adjusted": 1}


def test_a_ratio_may_be_infinite_where_the_baseline_has_few_events():
    found = compare(*shares_of(50, 1, 0))["lcg"]["latin_percent"]["ratio"]
    assert found == {"value": 0, "low": 0, "high": None}
    found = compare(*shares_of(50, 1, 5))["lcg"]["latin_percent"]["ratio"]
    assert (found["value"], found["high"]) == (5, None)
    assert 1 <= found["low"] < 5


def test_the_share_of_kept_switches_is_not_certain_where_all_are_kept():
    prompts = {str(i): make_prompt(id=str(i), switch="latin") for i in range(50)}
    replies = [make_reply("Bonn", id=name) for name in prompts]
    replies += [make_reply("Bonn" if i else "بون", id=str(i), method="a") for i in range(50)]
    replies += [make_reply("Bonn", id=name, method="b") for name in prompts]
    found = compare(replies, prompts)
    least = 0.025 ** (1 / 50)
    assert found["b"]["switches_kept_percent"]["ratio"] == pytest.approx({"value": 1, "low": least, "high": 1 / least})
    ratio = found["a"]["switches_kept_percent"]["ratio"]
    assert ratio["value"] == pytest.approx(0.98)
    assert 0.9 < ratio["low"] <= 0.94
    assert 1 < ratio["high"] < 1 / least


def test_what_only_a_gate_does_is_not_compared():
    replies = [make_reply("نعم", method=method, events=[event(0.5)]) for method in ("none", "lcg")]
    prompts = {"p": make_prompt()}
    assert {"intervention_percent", "removed_mass_percent"} <= set(summarize(replies, prompts)["lcg"])
    assert not {"intervention_percent", "removed_mass_percent"} & set(compare(replies, prompts)["lcg"])


def test_only_shares_have_ratios():
    found = compare(*many_replies(("none", "lcg")))["lcg"]
    assert found["latin_percent"]["ratio"]["value"] > 0
    for metric in ("bleu", "chrf", "length_tokens", "tokens_per_second", "cj_per_1000_tokens"):
        assert set(found[metric]) == {"difference", "low", "high", "p", "p_adjusted"}


def test_p_values_are_adjusted_over_the_methods_for_each_metric():
    replies, prompts = many_replies(("none", "a", "b", "c"))
    found = compare(replies, prompts, baseline="a")
    assert list(found) == ["none", "b", "c"]
    p = sorted((found[method]["latin_percent"]["p"], method) for method in found)
    expected, largest = {}, 0.0
    for factor, (value, method) in zip((3, 2, 1), p):
        largest = max(largest, min(1.0, factor * value))
        expected[method] = largest
    assert {method: found[method]["latin_percent"]["p_adjusted"] for method in found} == pytest.approx(expected)


def test_only_prompts_and_seeds_of_both_methods_are_compared():
    prompts = {str(i): make_prompt(id=str(i)) for i in range(4)}
    replies = [make_reply(["نعم"] * (seed + 1), id=str(i), seed=seed) for i in range(4) for seed in range(3)]
    replies += [make_reply(["نعم"] * 3, id=str(i), method="greedy") for i in range(3)]
    replies += [make_reply("نعم", id="3", seed=9, method="other")]
    found = compare(replies, prompts)
    assert found["greedy"]["length_tokens"]["difference"] == 2
    assert found["other"] == {}


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([make_reply("a", id="q")], "a reply is to prompt `q`, which the benchmark does not have"),
        ([make_reply("a"), make_reply("b")], "method `none` has two replies to prompt `p` with seed 0"),
        ([make_reply("a", method="lcg")], "`baseline` is `none`, expected one of 'lcg'"),
        ([], "`baseline` is `none`, expected one of no methods"),
    ],
)
def test_replies_that_do_not_fit_are_refused(replies, message):
    with pytest.raises(GateError, match=f"^{message}$"):
        compare(replies, {"p": make_prompt()})


def test_too_few_resamples_are_refused():
    with pytest.raises(GateError, match="`n_resamples` is 99, expected at least 100"):
        summarize([], {}, n_resamples=99)
    assert summarize([], {}) == {}
