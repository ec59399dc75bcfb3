"""`lcg-cpp chat`: turns, commands, and Ctrl-C; in a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lcg_cpp import GatedLlama, GateOptions
from lcg_cpp.commands.progress import stop_at_ctrl_c
from lcg_cpp.demo import GATES, MODEL
from lcg_cpp.errors import GateError
from lcg_cpp.gate.families import family_set, text_families
from lcg_cpp.run.conversation import Conversation
from lcg_cpp.run.reply import Reply
from lcg_cpp.run.thinking import Thought

FIRST = "India, alemán, Panamá, Libia, Irán, Guam\nRussian:"
SECOND = "\nSerbia, Morocco, Urdu, Libya\nKorean:"
TYPED = FIRST.replace("\n", "\\\n") + "\n"
SETTINGS = ("-c", "256", "-t", "1", "--temp", "1.2", "--seed", "5")
# becomes the program of its arguments, which the terminal at its input controls
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
CHAT = (sys.executable, "-m", "lcg_cpp", "chat")


def talk(typed: str, *arguments: object, gate: tuple[object, ...] = ("--lcg", GATES["default"])) -> tuple[str, str]:
    """What a chat prints where its input is a pipe, on standard output and on standard error."""
    command = [*CHAT, "-m", MODEL, *gate, *SETTINGS, *arguments]
    done = subprocess.run([str(part) for part in command], input=typed.encode(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def llm() -> Iterator[GatedLlama]:
    arguments: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1}
    with contextlib.closing(GatedLlama(str(MODEL), gate=GATES["default"], verbose=False, **arguments)) as model:
        yield model


def replies(llm: GatedLlama, *turns: str, options: GateOptions | None = None, seed: int = 5) -> list[str]:
    """What GatedLlama answers to the turns of a chat."""
    llm.gate_options = options or GateOptions()
    llm.reset()
    llm.reset_gate_stats()
    messages: list[Any] = []
    for i, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        answer = llm.create_chat_completion(messages, temperature=1.2, seed=seed + i)["choices"][0]["message"]
        messages.append(answer)
    return [message["content"] for message in messages[1::2]]


# ---- turns ----


def test_replies_are_those_of_the_model_to_the_whole_conversation(llm: GatedLlama) -> None:
    expected = replies(llm, FIRST, SECOND)
    block = f'"""{FIRST}\n"""\n"""\n{SECOND}\n"""\n'
    out, _ = talk(TYPED + "\\\n" + SECOND[1:].replace("\n", "\\\n") + "\n", "--no-highlight")
    assert out == "".join(f"{reply}\n" for reply in expected)
    assert talk(block, "--no-highlight")[0].startswith(f"{expected[0]}\n")


def test_interventions_are_marked_in_the_text(llm: GatedLlama) -> None:
    (expected,) = replies(llm, FIRST)
    out, err = talk(TYPED)
    marks = re.findall(r"\[-.*?-\]", out)
    assert re.sub(r"\[-.*?-\]", "", out) == expected + "\n"
    assert len(marks) == len(llm.gate_events) > 1
    assert err == f"({len(marks)} interventions, see /why)\n"


def test_why_names_what_was_removed_what_was_sampled_and_the_families(llm: GatedLlama) -> None:
    replies(llm, FIRST)
    events = llm.gate_events
    assert llm.gate is not None
    out, err = talk(f"/why\n{TYPED}/why\n")
    assert err.startswith("there is no reply yet\n")
    summary, *lines = out.splitlines()[1:]
    assert summary.startswith(f"{llm.gate_stats.steps - 1} tokens, {len(events)} interventions; another script was in")
    assert f"at {llm.gate_stats.gate_runs} tokens" in summary
    assert len(lines) == 2 * len(events)
    for event, did, reason in zip(events, lines[::2], lines[1::2]):
        removed, p = event.removed[0]
        text = llm.vocab.text(removed).strip()
        assert did.startswith(f"token {event.position + 1}, ")
        assert f": removed {text} {100 * p:.1f}%" in did
        assert did.endswith(f", sampled {llm.vocab.text(event.chosen).strip()}")
        assert f"expected: {event.predicted[0]} " in reason
        assert f"not: {llm.gate.families.names[llm.gate.token_families[removed]]} " in reason
        assert reason.endswith(f"the text before is {event.last}" if event.last else "no text before")


def test_the_conversation_begins_anew_after_a_reset(llm: GatedLlama) -> None:
    expected = [*replies(llm, FIRST), *replies(llm, FIRST, seed=6)]
    out, err = talk(f"{TYPED}/reset\n{TYPED}", "--no-highlight")
    assert out == "".join(f"{reply}\n" for reply in expected)
    assert "the conversation begins anew\n" in err


def test_what_the_system_says_comes_first(llm: GatedLlama) -> None:
    out, _ = talk(TYPED, "--no-highlight", "--system", SECOND)
    assert out == replies(llm, SECOND + FIRST)[0] + "\n"  # the demo's template joins the messages


# ---- commands ----


def test_options_of_the_gate_change_between_replies(llm: GatedLlama) -> None:
    changes: list[tuple[str, GateOptions]] = [
        ("/lcg mode off", GateOptions(mode="off")),
        ("/lcg mode mask", GateOptions()),
        ("/lcg deny cyrillic,latin", GateOptions(deny=("cyrillic", "latin"))),
        ("/lcg deny none", GateOptions()),
        ("/lcg strength 0.5", GateOptions(strength=0.5)),
    ]
    typed = "".join(f"{change}\n/reset\n{TYPED}" for change, _ in changes)
    out, _ = talk(typed, "--no-highlight")
    found = [line for line in out.splitlines() if not re.match(r"  (gate|mode|allow|deny|strength) ", line)]
    assert found == [replies(llm, FIRST, options=options, seed=5 + i)[0] for i, (_, options) in enumerate(changes)]
    assert text_families(found[2], family_set("scripts")).isdisjoint({"cyrillic", "latin"})


def test_the_options_are_shown() -> None:
    out, _ = talk("/lcg\n/lcg first_token off\n", "--deny-scripts", "thai,greek")
    path = GATES["default"]
    first = f"  gate      {path}\n  mode      mask\n  allow     all scripts\n  deny      thai, greek\n  strength  inf\n"
    assert out.startswith(first)
    assert out.endswith("  first_token  off\n")
    assert "none: only pins" in talk("/lcg\n/why\n", gate=("--no-lcg",))[0]


def test_what_cannot_be_done_is_told_and_the_chat_goes_on(llm: GatedLlama) -> None:
    wrong = ["/lcg mode loud", "/lcg mood off", "/lcg allow", "/lcg strength x", "/lcg deny tai", "/lgc", "x " * 300]
    out, err = talk("".join(f"{line}\n" for line in wrong) + "\n" + TYPED, "--no-highlight")
    assert out == replies(llm, FIRST)[0] + "\n"
    said = err.splitlines()
    begun = ["`mode` is 'loud', expected", "`mood` is unknown, expected `mode`", "/lcg allow: the value is missing"]
    begun += ["`strength` is 'x', expected a number", "`deny` names 'tai', expected thai", "/lgc is unknown, expected"]
    begun += ["the prompt has"]
    assert [line[: len(start)] for line, start in zip(said, begun)] == begun
    assert "Traceback" not in err


def test_paths_are_no_commands_and_help_lists_all_commands(llm: GatedLlama) -> None:
    out, err = talk("/help\n/quit\nnever read\n")
    assert re.findall(r"^/\w+", out, re.MULTILINE) == ["/lcg", "/lcg", "/why", "/reset", "/help", "/quit"]
    assert err == ""
    assert talk("/etc/passwd\n", "--no-highlight")[0] == replies(llm, "/etc/passwd")[0] + "\n"


# ---- the conversation itself ----


def test_the_oldest_turns_are_forgotten_where_there_is_no_room(llm: GatedLlama) -> None:
    talk = Conversation(llm, "S")
    forgotten = 0
    for i in range(12):
        list(talk.ask(f"{i} Spain, Georgia, German, Thailand\nArabic:", max_tokens=20, seed=1))
        forgotten += talk.n_forgotten
        assert talk.reply is not None
        assert len(talk.reply.prompt.tokens) <= 192  # of 256, a quarter is for the reply
    assert forgotten > 0
    assert talk.messages[0] == {"role": "system", "content": "S"}
    assert [message["role"] for message in talk.messages[1:]] == ["user", "assistant"] * ((len(talk.messages) - 1) // 2)
    assert len(talk.messages) == 1 + 2 * 12 - forgotten
    assert talk.messages[-2]["content"].startswith("11 ")


def test_what_does_not_fit_counts_as_not_said(llm: GatedLlama) -> None:
    talk = Conversation(llm)
    list(talk.ask(FIRST, seed=1))
    before = list(talk.messages)
    with pytest.raises(GateError, match=r"the prompt has \d+ tokens and the context 256"):
        list(talk.ask("x " * 300))
    assert talk.messages == before


def test_an_interrupted_reply_stays_as_far_as_it_came(llm: GatedLlama) -> None:
    talk = Conversation(llm)
    steps = iter(talk.ask(FIRST, seed=1, temp=1.0))
    text = b"".join(next(steps).data for _ in range(4)).decode("utf-8", "ignore")
    steps.close()
    assert talk.messages[-1] == {"role": "assistant", "content": text}
    assert talk.reply is not None
    assert talk.reply.finish == "interrupted"


def test_thoughts_are_left_out_of_later_prompts(llm: GatedLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reply, "thinking", [Thought(0, 0, 3, 5)])
    talk = Conversation(llm)
    list(talk.ask(FIRST, max_tokens=20, seed=1))
    assert talk.reply is not None
    assert talk.messages[-1]["content"] == talk.reply.text[5:].lstrip() != ""


# ---- a terminal ----


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_the_second_ctrl_c_within_a_reply_leaves() -> None:
    with stop_at_ctrl_c() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Terminal:
    """A chat on a terminal."""

    def __init__(self, *arguments: object) -> None:
        self.master, terminal = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, *CHAT, *map(str, arguments)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "INPUTRC": os.devnull},
        )
        os.close(terminal)

    def read_until(self, wanted: str) -> str:
        """Everything up to some text."""
        data = b""
        while wanted.encode() not in data:
            assert select.select([self.master], [], [], 300)[0], data
            data += os.read(self.master, 1)
        return data.decode("utf-8", "replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def leave(self, key: str) -> int:
        """Press a key until the chat ends: readline misses one that comes just when it begins to wait."""
        for _ in range(300):
            with contextlib.suppress(OSError):  # it has just ended
                self.type(key)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=1)
        raise TimeoutError(key)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_on_a_terminal_ctrl_c_ends_the_reply_and_at_the_prompt_the_chat(tiny_model_path: Path, gate16: Path) -> None:
    with contextlib.closing(Terminal("-m", tiny_model_path, "--lcg", gate16, "-c", "60000", "-t", "1")) as terminal:
        said = terminal.read_until("> ")
        assert f"{tiny_model_path.name}, gate {gate16.name}, mode mask. /help lists commands" in said
        terminal.type("the name\n")
        terminal.read_until("the name\r\n")
        terminal.read_until(" ")
        terminal.type("\x03")
        assert "(interrupted" in terminal.read_until("> ")
        terminal.type("/lcg mode off\n")
        assert "off" in terminal.read_until("> ")
        terminal.type("\x1b[A\n")  # the line before comes again
        assert "/lcg mode off" in terminal.read_until("> ")
        assert terminal.leave("\x03") == 0


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
def test_on_a_terminal_interventions_are_coloured_and_ctrl_d_leaves() -> None:
    with contextlib.closing(Terminal("-m", MODEL, "--lcg", GATES["default"], *SETTINGS)) as terminal:
        terminal.read_until("> ")
        terminal.type(TYPED)
        text = terminal.read_until("see /why)")
        assert "\x1b[1;32m" in text  # what was sampled instead
        terminal.read_until("> ")
        assert terminal.leave("\x04") == 0
