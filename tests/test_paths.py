"""Files that commands are given and cannot use: one line that says what they are and what to do."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from command_line import refusal
from lcg_cpp import Gate, GatedLlama
from lcg_cpp.engine.model import read_base_model
from lcg_cpp.files import write_whole

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="pipes with names and devices are of POSIX")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe that nobody writes to."""
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("https://x.org/m.gguf", "is an address of the web, expected a file: download it first, with `curl -LO {}`"),
        ("~/m.gguf", "{missing}; the shell expands `~` only at the beginning of a word: write $HOME"),
        ("Qwen/Qwen3-4B-GGUF", "{missing}; a model of Hugging Face's hub has to be downloaded first: `hf download {} "
                               "--include '*.gguf' --local-dir .`"),
        ("folder/missing.gguf", "{missing}"),
        ("missing.gguf", "{missing}"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_here(model: str, reason: str, capsys: Capture) -> None:
    missing = "no such file or directory, expected a file that can be read"
    wanted = reason.replace("{missing}", missing).replace("{}", model)
    assert refusal(capsys, "families", "-m", model) == f"-m/--model: {model}: {wanted}"


def test_a_folder_says_which_file_was_meant(tmp_path: Path, capsys: Capture) -> None:
    def reason() -> str:
        message = refusal(capsys, "families", "-m", str(tmp_path))
        assert message.startswith(f"-m/--model: {tmp_path}: is a folder, expected a file")
        return message.partition("expected a file")[2]

    assert reason() == ""
    (tmp_path / "config.json").write_text("{}")
    assert reason() == (
        " in GGUF: a Hugging Face checkpoint becomes one with llama.cpp's `convert_hf_to_gguf.py " + f"{tmp_path}`"
    )
    for number in (2, 1):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"")
    assert reason() == f", such as {tmp_path}/m-00001-of-00002.gguf"


def test_weights_for_pytorch_say_how_to_make_a_gguf_file(tmp_path: Path, capsys: Capture) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\2\0\0\0\0\0\0\0{}")
    wanted = (
        f"-m/--model: {weights}: holds weights for PyTorch, expected a GGUF file:"
        f" make one with llama.cpp's `convert_hf_to_gguf.py {tmp_path}`"
    )
    assert refusal(capsys, "families", "-m", str(weights)) == wanted
    assert refusal(capsys, "run", "-m", str(weights), "--no-lcg", "-p", "x") == wanted


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (("-hf", "Qwen/Qwen3-GGUF:Q4_K_M"), "hf download Qwen/Qwen3-GGUF --include '*Q4_K_M*.gguf' --local-dir ."),
        (("--hf-repo", "Qwen/Qwen3-GGUF"), "hf download Qwen/Qwen3-GGUF --include '*.gguf' --local-dir ."),
        (("--model-url", "https://x.org/m.gguf"), "curl -LO https://x.org/m.gguf"),
    ],
)
@pytest.mark.parametrize("name", ["run", "train", "families", "eval", "data synth"])
def test_what_would_download_a_model_says_how_to(
    name: str, given: tuple[str, str], command: str, capsys: Capture
) -> None:
    assert refusal(capsys, *name.split(), *given) == (
        f"{given[0]}: models are read from local files: download it with `{command}`, then give -m FILE"
        f" (see lcg-cpp {name} --help)"
    )


@POSIX_ONLY
def test_a_pipe_is_refused_and_does_not_wait(pipe: Path, tiny_model_path: Path, capsys: Capture) -> None:
    model, name = str(tiny_model_path), str(pipe)
    reason = f"{name}: is a pipe, expected a regular file"
    for command in (("families",), ("run", "--no-lcg", "-p", "x"), ("analyze",), ("train", "-d", "x")):
        assert refusal(capsys, *command, "-m", name) == f"-m/--model: {reason}"
    assert refusal(capsys, "run", "-m", model, "-p", "x", "--lcg", name) == f"--lcg: {reason}"
    assert refusal(capsys, "inspect", name) == f"{reason}"
    checkpoint = pipe.rename(pipe.with_suffix(".safetensors"))
    assert refusal(capsys, "convert", str(checkpoint), "--base", model) == (
        f"{checkpoint}: is a pipe, expected a regular file"
    )


@POSIX_ONLY
def test_a_pipe_is_refused_by_the_library_too(pipe: Path) -> None:
    with pytest.raises(OSError, match="is a pipe, expected a regular file"):
        read_base_model(pipe)
    with pytest.raises(OSError, match="is a pipe, expected a regular file"):
        Gate.load(pipe)
    with pytest.raises(OSError, match="is a pipe, expected a regular file"):
        GatedLlama(str(pipe), verbose=False)


@POSIX_ONLY
def test_a_device_is_never_replaced(tmp_path: Path, capsys: Capture, pipe: Path) -> None:
    with pytest.raises(OSError, match="is a device, expected a regular file") as refused:
        write_whole("/dev/null", b"x")
    assert refused.value.filename == "/dev/null"
    assert Path("/dev/null").is_char_device()
    assert refusal(capsys, "data", "recipe", "paper", "-o", "/dev/null").startswith(
        "-o/--output: /dev/null: is a device, expected a file to write"
    )
    assert refusal(capsys, "data", "recipe", "paper", "-o", str(pipe)).startswith(f"-o/--output: {pipe}: is a pipe")


# ---- prompts ----


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfthe name\n", b"the name\r\n", b"the name"])
def test_a_prompt_is_the_text_of_its_file(data: bytes, tmp_path: Path) -> None:
    from lcg_cpp.commands.paths import read_prompt

    path = tmp_path / "prompt.txt"
    path.write_bytes(data)
    assert read_prompt(str(path), "-f/--file") == "the name"


@POSIX_ONLY
def test_a_prompt_may_come_through_a_pipe(tmp_path: Path) -> None:
    from lcg_cpp.commands.paths import read_prompt

    path = tmp_path / "prompt"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(b"the name\n"))
    writer.start()
    assert read_prompt(str(path), "-f/--file") == "the name"
    writer.join()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("the name".encode("utf-16"), "is not UTF-8 but UTF-16: save it as UTF-8"),
        (b"\xe9t\xe9", "is not UTF-8: 'utf-8' codec can't decode byte 0xe9 in position 0: invalid continuation byte"),
        (b"\xef\xbb\xbf\n", "the prompt is empty, expected some text"),
    ],
)
def test_what_is_no_prompt(data: bytes, reason: str, tmp_path: Path, tiny_model_path: Path, capsys: Capture) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(data)
    assert refusal(capsys, "run", "-m", str(tiny_model_path), "--no-lcg", "-f", str(path)) == f"-f/--file: {reason}"


@POSIX_ONLY
def test_a_prompt_from_a_device_is_refused(tiny_model_path: Path, capsys: Capture) -> None:
    message = refusal(capsys, "run", "-m", str(tiny_model_path), "--no-lcg", "-f", "/dev/zero")
    assert message == "-f/--file: /dev/zero: is a device, expected a regular file"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "-p", "a", "-m", ""),
        ("run", "-m", "m.gguf", "--lcg", ""),
        ("run", "-m", "m.gguf", "--no-lcg", "-f", ""),
        ("train", "-d", "t.jsonl", "--hf", ""),
        ("train", "-m", "m.gguf", "-d", ""),
        ("analyze", "-m", "m.gguf", "-d", "t.jsonl", "-o", ""),
        ("convert", "a.pt", "--base", ""),
        ("convert", "--base", "m.gguf", ""),
        ("inspect", ""),
        ("detect", "-m", "m.gguf", "--lcg", "g.gguf", "-d", ""),
        ("data", "recipe", "paper", "-o", "t.jsonl", "--aya", ""),
    ],
)
def test_an_empty_name_is_refused_and_not_taken_for_the_current_folder(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is empty, expected a name" in refusal(capsys, *arguments)
