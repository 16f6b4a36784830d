"""Replies that are kept by the digest of what was asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_llava.errors import DataError
from edge_llava.remote.chat_client import ChatClient, ChatOptions
from edge_llava.remote.kept_replies import KeptReplies, Question

QUESTION = Question(({"role": "user", "content": "What is it?"},), 0.2, 9)


@pytest.fixture
def client(server):
    with ChatClient(ChatOptions(server.url, "m", n_tries=1)) as client:
        yield client


def test_the_same_is_asked_once(server, client, tmp_path):
    with KeptReplies(tmp_path / "r.jsonl", client) as replies:
        assert not replies.is_kept(QUESTION)
        assert [replies.ask(QUESTION).text for _ in range(2)] == ["Good.", "Good."]
        replies.ask(Question(QUESTION.messages, 0.3, 9))
        replies.ask(Question(QUESTION.messages, 0.2, 9, "try 2"))
    assert len(server.requests) == 3
    with open(tmp_path / "r.jsonl", "a") as file:
        file.write('{"digest": "half')  # what a kill leaves
    with KeptReplies(tmp_path / "r.jsonl", client) as replies:
        assert replies.is_kept(QUESTION)
        assert replies.ask(QUESTION).text == "Good."
        assert (replies.prompt_tokens, replies.completion_tokens) == (300, 60)
    assert len(server.requests) == 3


def test_the_same_is_asked_once_by_several_threads(server, client, tmp_path):
    server.behave = lambda request, index: server.send(server.say("Good.").body, wait_s=0.2)
    with KeptReplies(tmp_path / "r.jsonl", client) as replies, ThreadPoolExecutor(4) as threads:
        assert {reply.text for reply in threads.map(replies.ask, [QUESTION] * 4)} == {"Good."}
    assert len(server.requests) == 1


def test_another_model_is_asked_anew(server, client, tmp_path):
    with KeptReplies(tmp_path / "r.jsonl", client) as replies:
        replies.ask(QUESTION)
    with ChatClient(ChatOptions(server.url, "other")) as other, KeptReplies(tmp_path / "r.jsonl", other) as replies:
        assert not replies.is_kept(QUESTION)


def test_what_was_cut_off_is_kept_and_junk_is_not(server, client, tmp_path):
    with KeptReplies(tmp_path / "r.jsonl", client) as replies:
        server.behave = lambda request, index: server.say("0.", "length")
        assert replies.ask(QUESTION).fault.kind == "cut off"
        assert replies.is_kept(QUESTION)
        server.behave = lambda request, index: server.send("junk")
        other = Question(QUESTION.messages, 1.0, 9)
        assert replies.ask(other).fault.kind == "junk"
        assert not replies.is_kept(other)


@pytest.mark.parametrize("line", ["[]", "{}", "x", '{"digest": "a", "text": "b", "prompt_tokens": "many"}'])
def test_damaged_files_are_named(client, tmp_path, line):
    (tmp_path / "r.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError, match="line 1 is no reply"):
        KeptReplies(tmp_path / "r.jsonl", client)


def test_one_writer_at_a_time(client, tmp_path):
    with KeptReplies(tmp_path / "r.jsonl", client), pytest.raises(DataError, match="in use by another process"):
        KeptReplies(tmp_path / "r.jsonl", client)
