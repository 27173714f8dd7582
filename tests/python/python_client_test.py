#!/usr/bin/python3
"""Runs the Python client against real servers: every call, streams over kills and cut connections, TLS, tokens, errors.

usage: python_client_test.py MNEMOSYNED MNEMOSYNE_ADMIN SOURCE_DIR TEXT_MODEL TOKEN_MODEL
"""
import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from datetime import timedelta

from certificates import make_certificates
from cutting_proxy import CuttingProxy
from exported_log import log_records
from running_server import PATIENCE, RunningServer, wait_until

SERVER, ADMIN, SOURCE, TEXT_MODEL, TOKEN_MODEL = sys.argv[1:6]
MODELS = {"text": TEXT_MODEL, "ids": TOKEN_MODEL}
CLIENT = os.path.join(SOURCE, "client", "python")

PACKAGE = tempfile.TemporaryDirectory()
subprocess.run([sys.executable, os.path.join(CLIENT, "make_package.py"), PACKAGE.name], check=True)
sys.path.insert(0, PACKAGE.name)

import grpc  # noqa: E402
import mnemosyne  # noqa: E402
from mnemosyne import (AsyncClient, Client, Level, QueryOptions, Retention, SessionSettings, StopReason,  # noqa: E402
                       StreamOptions, Tls, TokenizerKind, errors)
from mnemosyne.stream_state import StreamState  # noqa: E402
from mnemosyne.v1 import memory_service_pb2 as memory  # noqa: E402

FACT = "The special magic number for lively-panda is 1234567. "
QUESTION = "What is the special magic number for lively-panda?"
QUICK = {"initial_backoff": 0.02, "max_backoff": 0.2}


class ServerCase(unittest.TestCase):
    """Has a server that the class's tests share."""
    FLAGS = ()

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.server = RunningServer(SERVER, folder.name, MODELS, f"--backup_path={folder.name}/backups", *cls.FLAGS)
        cls.addClassCleanup(lambda: cls.server.kill())

    def connect(self, **options):
        client = Client(self.server.address, **options)
        self.addCleanup(client.close)
        return client


class CallsTest(ServerCase):
    def test_models(self):
        ids, text = self.connect().list_models()
        self.assertEqual((ids.name, ids.vocab_size, ids.tokenizer), ("ids", 40, TokenizerKind.NONE))
        self.assertEqual((text.name, text.tokenizer, len(text.fingerprint)), ("text", TokenizerKind.BYTES, 32))

    def test_a_session_from_beginning_to_end(self):
        client = self.connect()
        made = client.create_session("life", model="text", labels={"kind": "test"},
                                     settings=SessionSettings(Retention.KEEP, timedelta(hours=2), max_log_bytes=1 << 20))
        self.assertEqual((made.session_id, made.next_sequence, made.epoch, dict(made.labels)), ("life", 1, 1, {"kind": "test"}))
        self.assertEqual(made.settings.ttl, timedelta(hours=2))
        self.assertEqual(made.expire_time - made.create_time, timedelta(hours=2))
        self.assertEqual(client.get_session("life").model, "text")
        changed = client.update_session("life", labels={"kind": "other"},
                                        settings=SessionSettings(ttl=timedelta(0), idle_ttl=timedelta(days=1)))
        self.assertEqual((dict(changed.labels), changed.settings.ttl, changed.expire_time), ({"kind": "other"}, None, None))
        self.assertEqual((changed.settings.idle_ttl, changed.settings.max_log_bytes), (timedelta(days=1), 1 << 20))
        with client.open_stream("life", StreamOptions(create_if_missing=False)) as writer:
            for letter in "abc":
                writer.append(letter * 100)
                writer.flush()
        fork = client.fork_session("life", "life-2", offset=200, labels={"kind": "fork"})
        self.assertEqual((fork.watermarks.accepted, fork.next_sequence, dict(fork.labels)), (200, 4, {"kind": "fork"}))
        erased = client.erase_span("life", 100, 200)
        self.assertEqual((erased.session.watermarks.accepted, erased.session.epoch, erased.still_in), (200, 2, ("life-2",)))
        reset = client.reset_session("life", 150)
        self.assertEqual((reset.watermarks.accepted, reset.epoch, reset.next_sequence), (150, 3, 4))
        self.assertEqual(client.reset_session("life").watermarks.accepted_bytes, 0)
        client.delete_session("life")
        client.delete_session("life-2")
        with self.assertRaises(errors.NotFound):
            client.get_session("life")

    def test_lists_go_over_pages(self):
        client = self.connect()
        for number in range(5):
            client.create_session(f"page-{number}", model="ids", labels={"odd": str(number % 2), "page": ""})
        listed = client.list_sessions({"page": ""}, page_size=2)
        self.assertEqual([session.session_id for session in listed], [f"page-{number}" for number in range(5)])
        self.assertEqual(len(list(client.list_sessions({"page": "", "odd": "1"}))), 2)
        self.assertRegex(client.create_session(model="ids").session_id, r"^[A-Za-z0-9._-]{1,128}$")

    def test_tell_and_ask(self):
        client = self.connect()
        with client.open_stream("told", StreamOptions(model="text", labels={"a": "b"})) as writer:
            self.assertTrue(writer.opened.created)
            self.assertEqual(dict(writer.opened.session.labels), {"a": "b"})
            writer.append("")  # nothing
            writer.append(FACT)
            writer.append(FACT.encode()[:7])
            writer.append(memoryview(FACT.encode()[7:]))
            writer.append([32] * 100)
            writer.wait(Level.ACCEPTED)
            writer.wait(sequence=1)
            writer.wait(Level.MEMORIZED)
            with self.assertRaisesRegex(errors.OutOfRange, "append 5 was not made yet; the last is 4"):
                writer.wait(sequence=5)
            writer.flush()
            self.assertEqual((writer.appended_sequence, writer.unacknowledged_bytes), (4, 0))
            self.assertEqual(writer.appended_bytes, 2 * len(FACT) + 400)
            marks = writer.watermarks
            self.assertEqual((marks.accepted, marks.durable), (2 * len(FACT) + 100,) * 2)
            self.assertEqual(marks.accepted_bytes, writer.appended_bytes)
            self.assertGreater(marks.memorized, 0)
            self.assertGreater(writer.surprise, 0)
        writer.close()
        with self.assertRaisesRegex(errors.FailedPrecondition, "is closed"):
            writer.append("x")

        answer = client.query("told", QUESTION, QueryOptions(max_tokens=40))
        self.assertIsNone(answer.summary)
        deltas = list(answer)
        text = "".join(delta.text for delta in deltas)
        self.assertIn("1234567", text)
        summary = answer.summary
        self.assertEqual(summary.answer_tokens, sum(len(delta.token_ids) for delta in deltas))
        self.assertEqual(summary.stop_reason, StopReason.END_OF_ANSWER)
        self.assertEqual(summary.as_of_offset, 2 * len(FACT) + 100)
        self.assertGreaterEqual(summary.total_time, summary.time_to_first_token)
        self.assertTrue(all(probability <= 0 for delta in deltas for probability in delta.log_probabilities))
        self.assertEqual(client.ask("told", QUESTION), text)
        self.assertEqual(client.ask("told", QUESTION.encode()), text)
        stopped = client.query("told", QUESTION, QueryOptions(stop=["45"]))
        self.assertEqual("".join(delta.text for delta in stopped), text[:text.index("45")])
        self.assertEqual(stopped.summary.stop_reason, StopReason.STOP_STRING)
        empty = client.query("told", list(QUESTION.encode()), QueryOptions(as_of_offset=0, max_tokens=3, raw_prompt=True))
        self.assertNotIn("1234567", "".join(delta.text for delta in empty))
        self.assertEqual((empty.summary.as_of_offset, empty.summary.prompt_tokens), (0, len(QUESTION)))
        sampled = QueryOptions(max_tokens=20, temperature=2.0, top_k=50, top_p=0.95, seed=7)
        self.assertEqual(client.ask("told", QUESTION, sampled), client.ask("told", QUESTION, sampled))
        remembered = client.query("told", QUESTION, QueryOptions(remember=True))
        for _ in remembered:
            pass
        self.assertEqual(client.get_session("told").watermarks.durable, remembered.summary.remembered_offset)

    def test_an_export_is_a_session_again(self):
        client = self.connect()
        with client.open_stream("out", StreamOptions(model="text")) as writer:
            writer.append(FACT * 3)
        export = b"".join(client.export_session("out"))
        self.assertEqual(log_records(export), [(1, 1, (FACT * 3).encode())])
        made = client.import_session([export[:1], b"", export[1:]], "in")
        self.assertEqual((made.session_id, made.watermarks.accepted_bytes), ("in", 3 * len(FACT)))
        self.assertEqual(client.ask("in", QUESTION), client.ask("out", QUESTION))
        with self.assertRaises(errors.DataLoss):
            client.import_session([export[:-1]], "cut")
        with self.assertRaises(errors.AlreadyExists):
            client.import_session([export])

        def broken():
            yield export[:100]
            raise OSError("the disk is gone")
        with self.assertRaisesRegex(OSError, "the disk is gone"):
            client.import_session(broken(), "broken")
        for name in "cut", "broken":
            with self.assertRaises(errors.NotFound):
                client.get_session(name)

    def test_backup(self):
        client = self.connect()
        first, second = client.create_backup(), client.create_backup()
        self.assertEqual(second.backup_id, first.backup_id + 1)
        self.assertGreater(first.bytes, 0)
        self.assertGreaterEqual(second.create_time, first.create_time)

    def test_every_call_with_asyncio(self):
        asyncio.run(self.every_call())

    async def every_call(self):
        async with AsyncClient(self.server.address, call_timeout=PATIENCE) as client:
            self.assertEqual([model.name for model in await client.list_models()], ["ids", "text"])
            made = await client.create_session("async", model="text", labels={"async": "1"})
            self.assertEqual((await client.get_session("async")).create_time, made.create_time)
            await client.create_session("async-2", model="ids", labels={"async": "1"})
            listed = [session.session_id async for session in client.list_sessions({"async": "1"}, page_size=1)]
            self.assertEqual(listed, ["async", "async-2"])
            changed = await client.update_session("async", settings=SessionSettings(retention=Retention.KEEP))
            self.assertEqual((changed.settings.retention, dict(changed.labels)), (Retention.KEEP, {"async": "1"}))
            async with await client.open_stream("async") as writer:
                await writer.append(FACT)
                await writer.append(list(FACT.encode()))
                await writer.wait(Level.ACCEPTED)
                await writer.wait(sequence=1)
                await writer.wait(Level.MEMORIZED)
                await writer.flush()
                self.assertEqual(writer.watermarks.durable, 2 * len(FACT))
                self.assertEqual((writer.appended_bytes, writer.unacknowledged_bytes), (5 * len(FACT), 0))
                self.assertGreater(writer.surprise, 0)
                with self.assertRaises(errors.OutOfRange):
                    await writer.wait(sequence=3)
            await writer.close()
            with self.assertRaises(errors.FailedPrecondition):
                await writer.flush()
            answer = client.query("async", QUESTION, QueryOptions(max_tokens=40))
            text = "".join([delta.text async for delta in answer])
            self.assertIn("1234567", text)
            self.assertEqual(answer.summary.stop_reason, StopReason.END_OF_ANSWER)
            self.assertEqual(await asyncio.gather(*(client.ask("async", QUESTION) for _ in range(5))), [text] * 5)
            export = [part async for part in client.export_session("async")]
            self.assertEqual((await client.import_session(export, "async-3")).watermarks.accepted, 2 * len(FACT))
            copied = await client.import_session(client.export_session("async"), "async-4")
            self.assertEqual(copied.watermarks.accepted, 2 * len(FACT))
            with self.assertRaises(errors.DataLoss):
                await client.import_session([b"".join(export)[:-1]], "async-5")

            async def broken():
                yield export[0][:100]
                raise OSError("the disk is gone")
            with self.assertRaisesRegex(OSError, "the disk is gone"):
                await client.import_session(broken(), "async-5")
            fork = await client.fork_session("async", "async-6", offset=len(FACT))
            self.assertEqual(fork.watermarks.accepted, len(FACT))
            erased = await client.erase_span("async", 0, len(FACT))
            self.assertEqual((erased.session.watermarks.accepted, erased.still_in), (len(FACT), ("async-6",)))
            self.assertEqual((await client.reset_session("async")).watermarks.accepted, 0)
            self.assertGreater((await client.create_backup()).bytes, 0)
            for name in "", "-2", "-3", "-4", "-6":
                await client.delete_session("async" + name)
            with self.assertRaises(errors.NotFound):
                await client.ask("async", QUESTION)
            with self.assertRaises(errors.NotFound):
                await client.open_stream("async", StreamOptions(create_if_missing=False))


class ErrorsTest(ServerCase):
    FLAGS = ("--max_sessions=2", "--max_append_bytes=1000")

    def test_every_code_has_its_class(self):
        for code in grpc.StatusCode:
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN):
                self.assertEqual(errors._CLASSES[code.name].code, code.name)

    def test_what_the_server_says_is_raised(self):
        client = self.connect()
        for name in "a", "b":
            client.create_session(name, model="ids")
        for kind, pattern, call in (
                (errors.AlreadyExists, "'a'", lambda: client.create_session("a", model="ids")),
                (errors.NotFound, "'none'", lambda: client.get_session("none")),
                (errors.NotFound, "'none'", lambda: client.ask("none", [1])),
                (errors.InvalidArgument, "tokenizer", lambda: client.ask("a", "text")),
                (errors.InvalidArgument, "", lambda: client.update_session("a")),
                (errors.OutOfRange, "", lambda: client.reset_session("a", 7)),
                (errors.FailedPrecondition, "", lambda: client.open_stream("a", StreamOptions(model="text"))),
                (errors.ResourceExhausted, "2", lambda: client.create_session("c", model="ids"))):
            with self.subTest(kind=kind.__name__), self.assertRaisesRegex(kind, pattern) as raised:
                call()
            self.assertTrue(str(raised.exception).startswith(kind.code + ": "))
            self.assertEqual(raised.exception.retry_after is not None, kind is errors.ResourceExhausted)

        with client.open_stream("a", StreamOptions()) as writer:
            writer.append(range(20))  # any sequence will do
            writer.append([1] * 1000)
            self.assertEqual(writer.opened.max_append_bytes, 1000)
        self.assertEqual(client.get_session("a").watermarks.accepted, 1020)
        for bad in ["x"], [2**40], 7:
            with self.assertRaises((TypeError, ValueError)), client.open_stream("a", StreamOptions(take_over=True)) as writer:
                writer.append(bad)
        for content in [40], "text":
            writer = client.open_stream("a", StreamOptions(take_over=True))
            writer.append(content)
            with self.assertRaises(errors.InvalidArgument):
                writer.close()
            with self.assertRaises(errors.InvalidArgument):
                writer.append([1])

    def test_who_cannot_be_reached_is_unavailable(self):
        with Client("127.0.0.1:1") as client:
            with self.assertRaises(errors.Unavailable) as raised:
                client.list_models()
            self.assertIsNone(raised.exception.retry_after)
            with self.assertRaises(errors.Unavailable):
                client.open_stream("a")
            with self.assertRaises(errors.Unavailable):
                list(client.export_session("a"))
            with self.assertRaises(errors.Unavailable):
                client.import_session([b"x"])

        async def asynchronously():
            async with AsyncClient("127.0.0.1:1") as client:
                for call in client.list_models(), client.open_stream("a"), client.import_session([b"x"]):
                    with self.assertRaises(errors.Unavailable):
                        await call
        asyncio.run(asynchronously())

    def test_deadlines_and_cancellations(self):
        client = self.connect(call_timeout=0.2)
        session = self.connect().create_session("patient", model="ids")
        self.addCleanup(self.connect().delete_session, "patient")
        writer = client.open_stream("patient")
        self.server.pause()
        self.addCleanup(self.server.resume)
        with self.assertRaises(errors.DeadlineExceeded):
            client.get_session("patient")
        with self.assertRaises(errors.DeadlineExceeded):
            client.ask("patient", [1], timeout=0.2)
        with self.assertRaisesRegex(errors.DeadlineExceeded, "flush took too long"):
            writer.flush(timeout=0.2)
        writer.append([1])
        with self.assertRaisesRegex(errors.DeadlineExceeded, "append 1 took too long"):
            writer.wait(timeout=0.2)
        with self.assertRaisesRegex(errors.Unavailable, "did not open session 'other' within 0.2 s"):
            client.open_stream("other", StreamOptions(open_timeout=0.2))
        answer = client.query("patient", [1])
        answer.cancel()
        with self.assertRaises(errors.Cancelled):
            next(answer)
        with self.assertRaisesRegex(errors.DeadlineExceeded, "4 bytes are not known to be durable"):
            writer.close(timeout=0.2)
        with self.assertRaises(errors.Cancelled):
            writer.close()
        self.assertEqual(session.next_sequence, 1)

        async def asynchronously():
            async with AsyncClient(self.server.address) as client:
                with self.assertRaises(errors.DeadlineExceeded):
                    await client.ask("patient", [1], timeout=0.2)
                answer = client.query("patient", [1])
                answer.cancel()
                with self.assertRaises(errors.Cancelled):
                    await answer.__anext__()
                with self.assertRaisesRegex(errors.Unavailable, "did not open"):
                    await client.open_stream("other", StreamOptions(open_timeout=0.2))
                self.server.resume()
                writer = await client.open_stream("patient", StreamOptions(take_over=True))
                self.server.pause()
                await writer.append([1])
                for call in writer.flush(timeout=0.2), writer.wait(timeout=0.2), writer.close(timeout=0.2):
                    with self.assertRaises(errors.DeadlineExceeded):
                        await call
                with self.assertRaises(errors.Cancelled):
                    await writer.close()
        asyncio.run(asynchronously())

    def test_a_client_that_closes_ends_its_streams(self):
        self.connect().create_session("open", model="ids")
        self.addCleanup(self.connect().delete_session, "open")
        client = Client(self.server.address)
        writer = client.open_stream("open")
        client.close()
        with self.assertRaises(errors.Cancelled):
            writer.close()

        async def asynchronously():
            client = AsyncClient(self.server.address)
            writer = await client.open_stream("open", StreamOptions(take_over=True))
            await client.close()
            with self.assertRaises(errors.Cancelled):
                await writer.close()
        asyncio.run(asynchronously())


class StreamStateTest(unittest.TestCase):
    """What no server can be made to do at will."""

    def opened(self, **options):
        state = StreamState("a", StreamOptions(**options))
        state.begin_connection(100)
        state.on_response(self.opening())
        return state

    def opening(self, next_sequence=1, epoch=1):
        session = memory.Session(session_id="a", next_sequence=next_sequence, epoch=epoch)
        return memory.StreamResponse(opened=memory.Opened(session=session, max_append_bytes=10))

    def hold(self, state, *contents):
        for content in contents:
            for append, size in state.pieces(content):
                state.hold(append, size)

    def sent(self, state):
        requests = []
        while state.has_request():
            request = state.next_request()
            requests.append(request.append.sequence if request.HasField("append") else "flush")
        return requests

    def test_it_waits_as_long_as_the_server_asks(self):
        state = self.opened(initial_backoff=0.1, max_backoff=0.4, reconnect_timeout=60)
        self.assertEqual(state.end_connection(errors.Unavailable("busy", retry_after=3.5), 100), 3.5)
        longest = 0.2
        for _ in range(5):
            state.begin_connection(100)
            delay = state.end_connection(errors.Unavailable("gone"), 100)
            self.assertTrue(longest / 2 <= delay <= longest, delay)
            longest = min(0.4, 2 * longest)
        state.begin_connection(100)
        self.assertIsNone(state.end_connection(errors.Unavailable("busy", retry_after=61), 100))
        self.assertEqual(state.error.retry_after, 61)

    def test_it_sends_what_the_server_does_not_have(self):
        state = self.opened()
        self.hold(state, "x" * 25, [1, 2, 3])
        self.assertEqual(self.sent(state), [1, 2, 3, 4, 5])
        state.on_response(memory.StreamResponse(ack=memory.Ack(sequence=4, durable_sequence=2)))
        self.assertEqual(state.unacknowledged_bytes, 5 + 12)
        state.end_connection(errors.Unavailable("gone"), 100)
        state.begin_connection(100)
        state.on_response(self.opening(next_sequence=4))  # append 4 was accepted, and lost in a crash
        self.assertEqual(state.progress.sequence, 3)
        self.assertEqual(self.sent(state), ["flush", 4, 5])  # whether 3 is durable has to be asked
        state.on_response(memory.StreamResponse(ack=memory.Ack(sequence=5, durable_sequence=2, flushed=True)))
        self.assertEqual(state.unacknowledged_bytes, 12)

    def test_it_does_not_guess(self):
        for response, kind in ((self.opening(next_sequence=1), errors.DataLoss), (self.opening(3, epoch=2), errors.Aborted),
                               (self.opening(next_sequence=4), errors.Aborted)):
            state = self.opened()
            self.hold(state, "x", "y")
            self.sent(state)
            state.on_response(memory.StreamResponse(ack=memory.Ack(sequence=1, durable_sequence=1)))
            state.end_connection(None, 100)
            state.begin_connection(100)
            with self.assertRaises(kind):
                state.on_response(response)


class StreamTest(ServerCase):
    FLAGS = ("--max_backlog_tokens=4096",)

    def proxy(self, *arguments, **options):
        proxy = CuttingProxy(self.server.address, *arguments, **options)
        self.addCleanup(proxy.close)
        return proxy

    def assert_same(self, client, session, undisturbed, question=None):
        """Nothing lost and nothing twice: the log, and what was learned of it, are the undisturbed session's."""
        one, other = client.get_session(session), client.get_session(undisturbed)
        for name in "accepted", "durable", "accepted_bytes":
            self.assertEqual(getattr(one.watermarks, name), getattr(other.watermarks, name), name)
        self.assertEqual(one.next_sequence, other.next_sequence)
        logs = [log_records(b"".join(client.export_session(name))) for name in (session, undisturbed)]
        self.assertGreater(len(logs[0]), 0)
        self.assertTrue(logs[0] == logs[1])
        prompt = question or [1, 2, 3]
        answers = [list(client.query(name, prompt, QueryOptions(max_tokens=20))) for name in (session, undisturbed)]
        for field in "token_ids", "log_probabilities":  # bit for bit
            self.assertEqual(*([value for delta in answer for value in getattr(delta, field)] for answer in answers))

    def stream_undisturbed(self, client, session, model, pieces):
        with client.open_stream(session, StreamOptions(model=model)) as writer:
            for piece in pieces:
                writer.append(piece)

    def kill_at(self, writer, sequence):
        wait_until(lambda: writer.progress.durable_sequence >= sequence, f"durable_sequence {sequence}")
        self.server.kill()
        self.server.start()

    def test_a_stream_survives_kills_of_the_server(self):
        client = self.connect()
        for model, pieces, question in (
                ("ids", [[(i * j) % 40 for j in range(100)] for i in range(300)], None),
                ("text", [FACT] + [f"verse {i}: there was evening and there was morning. " for i in range(150)], QUESTION)):
            with self.subTest(model=model):
                name, reconnects = f"killed-{model}", []
                writer = client.open_stream(name, StreamOptions(
                    model=model, max_unacknowledged_bytes=2048, on_reconnect=lambda why, _: reconnects.append(why), **QUICK))

                def stream():
                    for piece in pieces:
                        writer.append(piece)
                    writer.close()
                thread = threading.Thread(target=stream)
                thread.start()
                for percent in 10, 40, 70:
                    self.kill_at(writer, len(pieces) * percent // 100)
                thread.join(PATIENCE)
                self.assertFalse(thread.is_alive())
                writer.close()  # raises what it ended with
                self.assertGreaterEqual(len(reconnects), 1)
                self.assertEqual(writer.unacknowledged_bytes, 0)
                self.stream_undisturbed(client, f"calm-{model}", model, pieces)
                self.assert_same(client, name, f"calm-{model}", question)

    def test_an_async_stream_survives_kills_of_the_server(self):
        pieces = [[(i + j) % 40 for j in range(100)] for i in range(300)]

        async def asynchronously():
            reconnects = []
            async with AsyncClient(self.server.address) as client:
                async with await client.open_stream("killed-async", StreamOptions(
                        model="ids", max_unacknowledged_bytes=2048, on_reconnect=lambda *why: reconnects.append(why),
                        **QUICK)) as writer:
                    async def kill():
                        for percent in 10, 40, 70:
                            await asyncio.to_thread(self.kill_at, writer, len(pieces) * percent // 100)
                    killing = asyncio.create_task(kill())
                    for piece in pieces:
                        await writer.append(piece)
                    await killing
            self.assertGreaterEqual(len(reconnects), 1)
        asyncio.run(asynchronously())
        client = self.connect()
        self.stream_undisturbed(client, "calm-async", "ids", pieces)
        self.assert_same(client, "killed-async", "calm-async")

    def test_a_stream_survives_cuts_anywhere(self):
        seed = random.randrange(1 << 32)
        print("seed", seed)
        chance = random.Random(seed)
        client = self.connect()
        pieces = [[chance.randrange(40) for _ in range(1 + chance.randrange(200))] for _ in range(300)]
        self.stream_undisturbed(client, "calm-cut", "ids", pieces)
        # Together less than what goes through, so that every cut happens.
        cuts = [chance.randrange(1, 4000) for _ in range(20)]
        options = StreamOptions(model="ids", max_unacknowledged_bytes=4000, **QUICK)
        client.create_session("cut", model="ids")
        proxy = self.proxy(cuts)
        with Client(proxy.address) as through:
            writer = self.open_in_the_end(lambda: through.open_stream("cut", options))
            for piece in pieces:
                writer.append(piece)
            writer.close()
        self.assertLess(proxy.cuts_left(), 20, f"seed {seed}")
        self.assert_same(client, "cut", "calm-cut")

        async def asynchronously():
            proxy = self.proxy(cuts)
            async with AsyncClient(proxy.address) as through:
                while True:
                    try:
                        writer = await through.open_stream("cut-async", options)
                        break
                    except (errors.Unavailable, errors.FailedPrecondition):
                        continue
                for piece in pieces:
                    await writer.append(piece)
                await writer.close()
            self.assertLess(proxy.cuts_left(), 20, f"seed {seed}")
        asyncio.run(asynchronously())
        self.assert_same(client, "cut-async", "calm-cut")

    def open_in_the_end(self, open_stream):
        """The first opening is not tried twice: a cut may fall on it, and its seat be taken for a moment."""
        while True:
            try:
                return open_stream()
            except (errors.Unavailable, errors.FailedPrecondition):
                continue

    def test_its_own_former_seat_is_waited_for(self):
        proxy, refusals = self.proxy(hold_server_side=True), []

        def on_reconnect(why, delay):
            if "seat" in why.message:
                refusals.append(why)
                proxy.release()  # the server hears of the former connection's end
        with Client(proxy.address) as through:
            with through.open_stream("seat", StreamOptions(model="ids", on_reconnect=on_reconnect, **QUICK)) as writer:
                writer.append([1, 2, 3])
                writer.wait()
                proxy.cut()
                proxy.accept()
                writer.append([4])
                writer.wait()
                self.assertEqual(writer.watermarks.accepted, 4)
        self.assertGreaterEqual(len(refusals), 1)

    def test_who_wrote_meanwhile_has_the_seat(self):
        # By the numbers of the appends, when there are more than the first holds; else by what is in the last.
        for taken, appends in (True, 3), (False, 3), (True, 1), (False, 1):  # taken: and is writing still
            name = f"taken-{taken}-{appends}"
            proxy = self.proxy()
            with Client(proxy.address) as through:
                writer = through.open_stream(name, StreamOptions(model="ids", **QUICK))
                writer.append([1])
                writer.wait()
                proxy.cut()
                other = self.connect().open_stream(name, StreamOptions(take_over=True))
                for _ in range(appends):
                    other.append([2])
                other.wait()
                if not taken:
                    other.close()
                writer.append([3])
                proxy.accept()
                with self.assertRaisesRegex(errors.Aborted, "another writer"):
                    writer.close()
                other.close()
            self.assertEqual(self.connect().get_session(name).watermarks.accepted, 1 + appends)

    def test_take_over(self):
        client = self.connect()
        first = client.open_stream("seats", StreamOptions(model="ids"))
        first.append([1])
        first.flush()
        with self.assertRaisesRegex(errors.FailedPrecondition, "seat"):
            client.open_stream("seats")
        with client.open_stream("seats", StreamOptions(take_over=True)) as second:
            self.assertEqual(second.opened.session.next_sequence, 2)
            second.append([2])
            with self.assertRaises(errors.Aborted):
                first.flush()
            with self.assertRaises(errors.Aborted):
                first.close()
        third = client.open_stream("seats")
        client.reset_session("seats")
        with self.assertRaises(errors.Aborted):
            third.close()
        self.assertEqual(client.get_session("seats").watermarks.accepted, 0)

    def test_a_callback_that_raises_ends_the_stream(self):
        def on_progress(_):
            raise KeyError("mine")
        shown = []
        self.addCleanup(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = shown.append
        writer = self.connect().open_stream("callback", StreamOptions(model="ids", on_progress=on_progress))
        writer.append([1])
        with self.assertRaisesRegex(errors.Unknown, "mine"):
            writer.close()
        writer._thread.join()
        self.assertEqual(len(shown), 1)

    def test_a_block_that_raises_cancels(self):
        client = self.connect()
        with self.assertRaisesRegex(KeyError, "mine"), client.open_stream("raised", StreamOptions(model="ids")) as writer:
            raise KeyError("mine")
        with self.assertRaises(errors.Cancelled):
            writer.close()

    def test_append_blocks_until_there_is_room(self):
        client = self.connect()
        options = StreamOptions(model="ids", max_unacknowledged_bytes=10000, max_message_bytes=1000)
        ids = [i % 40 for i in range(20000)]
        writer = client.open_stream("room", options)
        self.server.pause()  # no ack comes, however long it takes
        try:
            with self.assertRaisesRegex(errors.DeadlineExceeded, "wait to be durable; at most 10000 may"):
                writer.append(ids, timeout=0.5)
            taken = writer.appended_bytes
            self.assertEqual(writer.unacknowledged_bytes, taken)
            self.assertLessEqual(taken, 10000)
            self.assertGreaterEqual(taken, 8000)
        finally:
            self.server.resume()
        most = 0

        def on_progress(progress):
            nonlocal most
            most = max(most, writer.unacknowledged_bytes)
        writer.append(ids[taken // 4:])
        writer.close()
        self.assertEqual(client.get_session("room").watermarks.accepted, len(ids))
        writer = client.open_stream("room", StreamOptions(max_unacknowledged_bytes=1, on_progress=on_progress))
        writer.append([1, 2, 3])  # one message at a time
        writer.close()
        self.assertLessEqual(most, 4)

        async def asynchronously():
            async with AsyncClient(self.server.address) as client:
                writer = await client.open_stream("room-async", options)
                self.server.pause()
                try:
                    with self.assertRaisesRegex(errors.DeadlineExceeded, "at most 10000 may"):
                        await writer.append(ids, timeout=0.5)
                    taken = writer.appended_bytes
                    self.assertEqual(writer.unacknowledged_bytes, taken)
                    self.assertLessEqual(taken, 10000)
                finally:
                    self.server.resume()
                await writer.append(ids[taken // 4:])
                await writer.close()
                self.assertEqual((await client.get_session("room-async")).watermarks.accepted, len(ids))
        asyncio.run(asynchronously())

    def test_appends_of_many_threads_stay_whole(self):
        client = self.connect()
        with client.open_stream("threads", StreamOptions(model="ids", max_message_bytes=12)) as writer:
            def stream(token):
                for _ in range(20):
                    writer.append(range(10 * token, 10 * token + 10))
                    writer.wait()
            threads = [threading.Thread(target=stream, args=(token,)) for token in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        content = b"".join(payload for _, _, payload in log_records(b"".join(client.export_session("threads"))))
        ids = list(memoryview(content).cast("i"))
        self.assertEqual(len(ids), 800)
        for begin in range(0, 800, 10):
            self.assertEqual(ids[begin:begin + 10], list(range(ids[begin], ids[begin] + 10)))


class SecurityTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, *flags):
        server = RunningServer(SERVER, self.folder, {"ids": TOKEN_MODEL}, *flags)
        self.addCleanup(server.kill)
        return server.address

    def path(self, name):
        return os.path.join(self.folder, name)

    def test_tls_both_ways(self):
        make_certificates(self.folder, "server", "client")
        address = self.start("--tls_certificate=server.crt", "--tls_key=server.key", "--tls_client_ca=ca.crt")
        good = Tls.from_files(self.path("ca.crt"), self.path("client.crt"), self.path("client.key"))
        with Client(address, tls=good) as client:
            with client.open_stream("book") as writer:
                writer.append([1, 2, 3])
            self.assertEqual(client.get_session("book").watermarks.accepted, 3)
        for tls in None, Tls(), Tls.from_files(self.path("ca.crt")):
            with self.assertRaises(errors.Unavailable), Client(address, tls=tls) as client:
                client.list_models()

        async def asynchronously():
            async with AsyncClient(address, tls=good) as client:
                self.assertEqual((await client.get_session("book")).watermarks.accepted, 3)
            async with AsyncClient(address) as client:
                with self.assertRaises(errors.Unavailable):
                    await client.list_models()
        asyncio.run(asynchronously())

    def test_tokens(self):
        tokens, entries = {}, []
        for role in "read", "write", "admin":
            out = subprocess.run([ADMIN, "token", role, "acme", role], capture_output=True, text=True, check=True).stdout
            tokens[role] = re.search(r"nowhere else\): (\S+)", out).group(1)
            entries.append(json.loads(re.search(r"tokens: (\{.*\})", out).group(1)))
        with open(self.path("access.json"), "w") as access:
            json.dump({"format": "mnemosyne-access-1", "tenants": {"acme": {}}, "tokens": entries}, access)
        address = self.start("--access_file=access.json", f"--backup_path={self.path('backups')}")
        with Client(address) as client, self.assertRaisesRegex(errors.Unauthenticated, "authorization"):
            client.list_models()
        with Client(address, token=tokens["write"]) as client:
            with client.open_stream("book") as writer:
                writer.append([1, 2, 3])
            with self.assertRaises(errors.PermissionDenied):
                client.create_backup()
            copy = client.import_session(client.export_session("book"), "copy")
            self.assertEqual(copy.watermarks.accepted, 3)
        with Client(address, token=tokens["read"]) as client:
            self.assertEqual([session.session_id for session in client.list_sessions()], ["book", "copy"])
            client.ask("book", [1])
            with self.assertRaises(errors.PermissionDenied):
                client.open_stream("book")
            with self.assertRaises(errors.PermissionDenied):
                client.import_session([b"x"])
        with Client(address, token=tokens["admin"]) as client:
            self.assertEqual(client.create_backup().backup_id, 1)

        async def asynchronously():
            async with AsyncClient(address, token=tokens["read"]) as client:
                self.assertEqual((await client.get_session("book")).watermarks.accepted, 3)
                with self.assertRaises(errors.PermissionDenied):
                    await client.open_stream("book")
        asyncio.run(asynchronously())


class TypesTest(unittest.TestCase):
    @unittest.skipUnless(shutil.which("mypy"), "mypy is not installed: the types were not checked")
    def test_mypy_has_nothing_to_say(self):
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run(["mypy", "--config-file", os.path.join(CLIENT, "pyproject.toml"), "--cache-dir", cache,
                                   "-p", "mnemosyne"], cwd=PACKAGE.name, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_everything_promised_is_there(self):
        for name in mnemosyne.__all__:
            self.assertTrue(hasattr(mnemosyne, name), name)
        self.assertTrue(os.path.exists(os.path.join(PACKAGE.name, "mnemosyne", "py.typed")))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
