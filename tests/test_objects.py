"""Objects and the lease, against a real S3 server of this machine that fails on command."""

import os
import subprocess
import threading
import time
from pathlib import Path

import orjson
import pytest
from s3_server import BUCKET, S3Server, answer, go_on, hang_up, hang_up_after, like_ceph

from selfstudy_engine.data.errors import (
    ConflictError,
    InUseError,
    RunFolderError,
    StoreError,
    UsageError,
)
from selfstudy_engine.data.lease import Lease
from selfstudy_engine.data.objects import Objects
from selfstudy_engine.data.remote_address import RemoteAddress

ADDRESS = RemoteAddress.parse(f"s3://{BUCKET}/runs/test")


@pytest.fixture
def objects(s3: S3Server) -> Objects:
    objects = Objects(ADDRESS, retry_seconds=2)
    objects.settle_conditions()
    return objects


changes_headers = pytest.mark.skipif(
    "SELFSTUDY_TEST_S3" in os.environ, reason="a server that isn't moto looks at their signature"
)


def test_an_object_is_made_once_and_replaced_on_purpose_only(objects: Objects) -> None:
    objects.create("a/b", b"one")
    objects.create("a/b", b"one")
    with pytest.raises(ConflictError, match="s3://bucket/runs/test/a/b was written by somebody"):
        objects.create("a/b", b"two")
    assert objects.read("a/b") == b"one"
    objects.replace("a/b", b"three")
    objects.move("a/b", "c")
    assert [meta["path"] for meta in objects.list()] == ["c"]
    assert (objects.find("a/b"), objects.read("c")) == (None, b"three")
    with pytest.raises(StoreError, match="s3://bucket/runs/test/a/b was listed, and is gone"):
        objects.read("a/b")


def test_files_go_and_come_in_pieces(objects: Objects, tmp_path: Path) -> None:
    content = bytes(range(256)) * 50_000  # more than one piece either way
    (tmp_path / "from").write_bytes(content)
    objects.replace("big", tmp_path / "from")
    objects.download("big", tmp_path / "to")
    assert (tmp_path / "to").read_bytes() == content


@pytest.mark.parametrize(
    "fault", [answer("500 Internal Server Error"), answer("503 Slow Down"), hang_up, hang_up_after]
)
def test_a_server_that_fails_is_asked_again(s3: S3Server, objects: Objects, fault: object) -> None:
    """Also where it had done what was asked, and the answer was lost."""
    etag = None
    for content in (b"content", b"more content"):
        s3.fail(fault, times=2)  # type: ignore[arg-type]
        etag = objects.create("new", content, etag)
        assert not s3.faults
        assert objects.read("new") == content


def test_an_object_that_is_being_written_still_is_no_other_loops(
    s3: S3Server, objects: Objects
) -> None:
    """AWS answers so while an earlier try, whose connection broke, isn't over."""
    busy = b"<Error><Code>ConditionalRequestConflict</Code><Message>Again</Message></Error>"
    etag = None
    for content in (b"content", b"more content"):
        s3.fail(answer("409 Conflict", busy), times=2)
        etag = objects.create("new", content, etag)
        assert objects.read("new") == content


def test_what_stands_in_the_way_is_named_with_its_remedy(
    s3: S3Server, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = b"<Error><Code>AccessDenied</Code><Message>Not you</Message></Error>"
    s3.fail(answer("403 Forbidden", denied))
    with pytest.raises(
        StoreError, match="can't write s3://bucket/runs/test/a: AccessDenied: Not you; set AWS_ACC"
    ):
        objects.create("a", b"")
    expired = b"<Error><Code>ExpiredToken</Code><Message>It has expired</Message></Error>"
    s3.fail(answer("400 Bad Request", expired))
    with pytest.raises(StoreError, match="ExpiredToken: It has expired; set AWS_ACCESS_KEY_ID"):
        objects.replace("a", b"")
    nowhere = Objects(RemoteAddress.parse("s3://nowhere/runs"), retry_seconds=1)
    with pytest.raises(StoreError, match=r"s3://nowhere/runs/a: NoSuchBucket.*make the bucket"):
        nowhere.create("a", b"")
    s3.fail(answer("500 Internal Server Error"), "GET", times=1000)
    with pytest.raises(StoreError, match=r"can't read s3://.*see that the server answers"):
        Objects(ADDRESS, retry_seconds=0.5).find("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    refused = r"can't write s3://.*: no connection to http://127.0.0.1:1: Connection refused; "
    with pytest.raises(StoreError, match=rf"{refused}see .*AWS_ENDPOINT_URL"):
        Objects(ADDRESS, retry_seconds=0.5).replace("a", b"")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://bucket/runs", "'gs://bucket/runs' isn't an S3 address"),
        ("/tmp/runs", "isn't an S3 address such as s3://bucket/runs"),
        ("s3://", "isn't an S3 address"),
        ("s3://bucket/runs?endpoint=x", "unknown option 'endpoint'; known are endpoint_override"),
        ("s3://key:secret@bucket/runs", "leave the key out of its address"),
    ],
)
def test_an_address_is_read_or_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        RemoteAddress.parse(text)
    assert "secret@" not in str(caught.value)


def test_an_address_may_name_its_server(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    host = s3.url.removeprefix("http://")
    address = f"s3://{BUCKET}?endpoint_override={host}&scheme=http&region=eu-west-1"
    objects = Objects(RemoteAddress.parse(address) / "mine")
    objects.create("a", b"here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert Objects(RemoteAddress.parse(f"s3://{BUCKET}/mine")).read("a") == b"here"


def certify(folder: Path) -> tuple[Path, tuple[str, str]]:
    """Make an authority of our own; return its certificate, and one for 127.0.0.1 and its key."""
    commands = """\
        req -x509 -newkey rsa:2048 -nodes -subj /CN=ours -keyout ca.key -out ca.pem
        req -newkey rsa:2048 -nodes -subj /CN=s3 -keyout s3.key -out s3.csr
        x509 -req -in s3.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext -out s3.pem"""
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in commands.splitlines():
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem", (str(folder / "s3.pem"), str(folder / "s3.key"))


def test_an_institutes_own_authority_is_trusted_if_it_is_named(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a word of certificates it said: HTTP error: error sending request."""
    authority, certificate = certify(tmp_path)
    with S3Server(certificate) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", secure.url)
        with pytest.raises(
            StoreError, match=rf"who issued the certificate of {secure.url}; set AWS_CA_BUNDLE to"
        ):
            Objects(ADDRESS, retry_seconds=0.5).replace("a", b"")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        Objects(ADDRESS).replace("a", b"here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert Objects(ADDRESS).read("a") == b"here"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "AWS_CA_BUNDLE: .*ca.pem: No such file or directory"),
        ("none", "s3://bucket/runs/test can't be used with what AWS_CA_BUNDLE .*No certificates"),
    ],
)
def test_a_file_of_authorities_that_is_none_is_named(
    content: str | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match=message):
        Objects(ADDRESS)


def is_released(objects: Objects) -> bool:
    return bool(orjson.loads(objects.read("lease.json"))["released"])


def held_by_another(objects: Objects, **values: object) -> None:
    owner = {"host": "elsewhere", "process": 7, "machine": "another", "token": "t", "seconds": 60.0}
    objects.replace("lease.json", orjson.dumps(owner | values))


def test_the_second_process_is_refused_and_told_who_the_first_is(objects: Objects) -> None:
    held_by_another(objects)
    with (
        pytest.raises(InUseError, match=r"in use by process 7 on elsewhere, .* again in \d+ s"),
        Lease(objects),
    ):
        pytest.fail("two at once")


def test_a_hold_ends_with_its_owner_or_its_time(objects: Objects) -> None:
    with Lease(objects):
        assert not is_released(objects)
    assert is_released(objects)
    with Lease(objects) as mine:
        mine.check()
    held_by_another(objects, seconds=0.5)
    time.sleep(2)  # the server's clock shows whole seconds
    with Lease(objects) as mine:
        mine.check()


def test_a_process_of_this_machine_that_was_killed_holds_nothing(objects: Objects) -> None:
    import subprocess

    from selfstudy_engine.data.lease import Owner

    child = subprocess.Popen(["true"])
    child.wait()
    held_by_another(objects, machine=Owner.this_process(1).machine, process=child.pid)
    with Lease(objects) as mine:
        mine.check()


def test_of_many_at_once_one_gets_it(objects: Objects) -> None:
    held_by_another(objects, seconds=0.0)
    time.sleep(1.1)
    start = threading.Barrier(4)
    won: list[int] = []
    refused: list[str] = []

    def compete() -> None:
        start.wait()
        try:
            with Lease(objects):
                won.append(1)
                over.wait(20)
        except RunFolderError as error:
            refused.append(str(error))
            if len(refused) == 3:
                over.set()

    over = threading.Event()
    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 3)


def test_a_hold_is_renewed_and_who_lost_it_writes_no_more(objects: Objects) -> None:
    with Lease(objects, seconds=0.3) as mine:
        first = objects.find("lease.json")
        time.sleep(1.2)
        mine.check()
        second = objects.find("lease.json")
        assert first
        assert second
        assert second.modified > first.modified
        held_by_another(objects)
        time.sleep(0.5)
        with pytest.raises(ConflictError, match="another loop works on this run"):
            mine.check()
    assert objects.find("lease.json")  # the other's


def test_a_hold_that_is_renewed_at_the_last_moment_is_not_taken_over(
    s3: S3Server, objects: Objects
) -> None:
    """Though it was seen to have expired: its ETag, here the content's MD5, is another then."""
    arrived, over, renewed = (threading.Event() for _ in range(3))

    def late(app, environ, start):  # type: ignore[no-untyped-def]
        arrived.set()
        over.wait(20)
        result = app(environ, start)
        renewed.set()
        return result

    def too_late(app, environ, start):  # type: ignore[no-untyped-def]
        over.set()
        renewed.wait(20)
        return app(environ, start)

    with Lease(objects, seconds=1.5) as mine:
        s3.fail(late, path="lease.json")
        assert arrived.wait(20)
        time.sleep(3)  # the server's clock shows whole seconds
        s3.fail(go_on, path="lease.json")  # its If-None-Match
        s3.fail(too_late, path="lease.json")
        with pytest.raises(InUseError), Lease(objects):
            pytest.fail("two at once")
        assert renewed.is_set()
        mine.check()


def test_a_run_that_is_always_being_taken_and_never_had_is_refused(
    s3: S3Server, objects: Objects
) -> None:
    """A server that keeps saying so was asked without a pause, for ever."""
    s3.fail(answer("409 Conflict"), path="lease.json", times=1)
    with Lease(objects):
        pass
    objects.delete("lease.json")
    s3.fail(answer("409 Conflict"), path="lease.json", times=100)
    with pytest.raises(ConflictError, match="another loop works on this run"), Lease(objects):
        pytest.fail("nobody has it")


def test_who_leaves_gives_back_no_hold_but_its_own(objects: Objects) -> None:
    with Lease(objects):
        held_by_another(objects)
    assert orjson.loads(objects.read("lease.json"))["token"] == "t"


def test_a_renewal_whose_answer_was_lost_is_our_own(s3: S3Server, objects: Objects) -> None:
    def encrypted(app, environ, start):  # type: ignore[no-untyped-def]
        """Do it, and don't say so; its ETag is no MD5."""
        list(app(environ, lambda *args: None))
        objects.replace("lease.json", objects.read("lease.json") + b" ")
        return hang_up(app, environ, start)

    with Lease(objects, seconds=0.6) as mine:
        s3.fail(encrypted, path="lease.json")
        time.sleep(1.2)
        assert not s3.faults
        mine.check()
    assert is_released(objects)


@changes_headers
def test_a_server_may_want_etags_without_their_quotes(s3: S3Server, objects: Objects) -> None:
    """Every hold on Ceph was lost at its first renewal, to "another loop" that there wasn't."""
    s3.fail(like_ceph, times=1000)
    with Lease(objects, seconds=0.6) as mine:
        time.sleep(1)
        mine.check()
        etag = objects.create("samples", b"one")
        objects.create("samples", b"two", etag)
        with pytest.raises(ConflictError):
            objects.create("samples", b"three", etag)
        with pytest.raises(InUseError), Lease(Objects(ADDRESS, retry_seconds=2)):
            pytest.fail("two at once")
    with Lease(Objects(ADDRESS, retry_seconds=2)):  # takes over what was given back
        pass
    assert sorted(meta["path"] for meta in objects.list()) == ["lease.json", "samples"]


def test_a_server_that_refuses_its_own_etags_is_named(s3: S3Server, objects: Objects) -> None:
    def refuse(app, environ, start):  # type: ignore[no-untyped-def]
        return (answer("412 Precondition Failed") if "HTTP_IF_MATCH" in environ else go_on)(
            app, environ, start
        )

    s3.fail(refuse, times=1000)
    with pytest.raises(RunFolderError, match="refuses If-Match with the ETag that it gave"):
        Lease(objects).__enter__()
    assert objects.list() == []


@changes_headers
@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_that_ignores_conditions_is_refused(
    s3: S3Server, objects: Objects, header: str
) -> None:
    def unconditional(app, environ, start):  # type: ignore[no-untyped-def]
        environ.pop(f"HTTP_{header.upper().replace('-', '_')}", None)
        return app(environ, start)

    s3.fail(unconditional, times=1000)
    with pytest.raises(RunFolderError, match=f"ignores {header}"), Lease(objects):
        pytest.fail("two loops could write")
