"""A teacher's answers on the disk: whole lines, one holder, nothing lost."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.teacher_cache import AnswerCache, TeacherAnswer, answer_key

ANSWER = TeacherAnswer("k1", "https://a/v1", "m", "Why?", "A µ\nring.", "stop", 10, 5)


def keep(path: Path, *answers: TeacherAnswer) -> None:
    with AnswerCache(path) as cache:
        for answer in answers:
            cache.add(answer)


def test_answers_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    keep(path, ANSWER)
    keep(path, replace(ANSWER, key="k2", text=""))
    with AnswerCache(path) as cache:
        assert cache.get("k1") == ANSWER
        assert cache.get("k2") == replace(ANSWER, key="k2", text="")
        assert cache.get("k3") is None


@pytest.mark.parametrize(
    ("finish_reason", "is_whole"),
    [
        *((reason, True) for reason in ("stop", "STOP", "end_turn", "eos", "")),
        *((reason, False) for reason in ("length", "model_length", "content_filter", "abort")),
    ],
)
def test_an_answer_is_whole_if_the_model_ended_it(finish_reason: str, is_whole: bool) -> None:
    assert replace(ANSWER, finish_reason=finish_reason).is_whole is is_whole


def test_an_answer_is_on_the_disk_when_it_is_added(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path) as cache:
        cache.add(ANSWER)
        assert path.read_bytes().count(b"\n") == 1


def test_the_folders_of_paid_answers_are_on_the_disk_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushed = os.fsync, set[int]()

    def note(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    path = tmp_path / "run" / "teacher" / "answers.jsonl"
    with AnswerCache(path):
        folders = [tmp_path, path.parent.parent, path.parent]
        assert {folder.stat().st_ino for folder in folders} <= flushed


@pytest.mark.parametrize("left", [1, 5, -1])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, left: int) -> None:
    path = tmp_path / "answers.jsonl"
    keep(path, ANSWER, replace(ANSWER, key="k2"))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:left])
    keep(path, replace(ANSWER, key="k3"))
    with AnswerCache(path) as cache:
        assert [bool(cache.get(key)) for key in ("k1", "k2", "k3")] == [True, False, True]


def test_a_damaged_line_is_named_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "answers.jsonl"
    keep(path, ANSWER)
    path.write_bytes(b'{"key": 1}\n\xff\n' + path.read_bytes())
    with caplog.at_level(logging.WARNING), AnswerCache(path) as cache:
        assert cache.get("k1") == ANSWER
    assert "line 1 isn't a teacher's answer" in caplog.text
    assert "line 2 isn't a teacher's answer" in caplog.text


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path), pytest.raises(UsageError, match=r"answers\.jsonl is in use by another"):
        AnswerCache(path).__enter__()
    keep(path, ANSWER)


def test_lost_answers_count_as_paid_and_answer_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    keep(path, replace(ANSWER, lost=True), replace(ANSWER, model="other"))
    with AnswerCache(path) as cache:
        assert [answer.lost for answer in cache.paid("https://a/v1", "m")] == [True]
        assert list(cache.paid("https://b/v1", "m")) == []
        assert cache.get("k1") == replace(ANSWER, model="other")


def test_a_key_depends_on_all_that_an_answer_depends_on() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}], "temperature": 0.5}
    key = answer_key("a", body)
    assert key == answer_key("a", dict(reversed(body.items())))
    others = [
        answer_key("b", body),
        answer_key("a", body | {"model": "n"}),
        answer_key("a", body | {"messages": []}),
        answer_key("a", body | {"temperature": 0.6}),
    ]
    assert len({key, *others}) == 5
