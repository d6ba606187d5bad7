"""
What comes out: the client's log among the program's output, its log in Python, and payloads in texts of errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.hazards.trial import told

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hazards.trial import Trial

_CANARY: Final = "CANARY"


def test_control_the_log_is_among_the_output(trial: Trial) -> None:
    """
    The official client, opened as its documentation shows, writes its log to standard output.
    """
    output = trial.plain(
        """
        import pulsar
        client = pulsar.Client(url)
        client.create_producer(topic)
        client.close()
        """
    ).check()
    assert " INFO " in output


def test_control_a_second_client_has_no_log(trial: Trial, tmp_path: Path) -> None:
    """
    The official client writes the log of the first one's choice for all of them; what later ones are given stays empty.
    """
    facts = told(
        trial.plain(
            """
            import pulsar
            paths = [sys.argv[5] + name for name in ("/first", "/second")]
            for path in paths:
                client = pulsar.Client(url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Info, path))
                client.create_producer(topic)
                client.close()
            tell(written=[os.path.getsize(path) > 0 for path in paths])
            """,
            tmp_path,
        )
    )
    assert facts == {"written": [True, False]}


def test_the_log_is_on_standard_error(trial: Trial) -> None:
    """
    Standard output is the program's; what the client library has to say stands on standard error.
    """
    result = trial.safe(
        """
        from safepulsar import ClientSettings, LogLevel
        with RetryingSender(ClientSettings(url=url, log_level=LogLevel.INFO), failed_messages=store) as sender:
            sender.send(topic, b"x")
        print("the program's own")
        """
    )
    assert result.check() == "the program's own\n"
    assert " INFO " in result.stderr


def test_no_logger_of_python_is_given(own_trial: Trial) -> None:
    """
    Not one line of the client library's log goes through Python's logging, at any level and in any trouble.
    """
    result = own_trial.safe(
        """
        import logging
        records = []
        class Keep(logging.Handler):
            def emit(self, record):
                records.append(record)
        logging.getLogger().addHandler(Keep())
        logging.getLogger().setLevel(logging.DEBUG)
        from safepulsar import ClientSettings, LogLevel
        sender = RetryingSender(ClientSettings(url=url, log_level=LogLevel.INFO), failed_messages=store)
        sender.send(topic, b"x")
        os.kill(int(broker_pid), signal.SIGKILL)
        assert sender.submit(topic, b"y", deadline_seconds=1).exception() is not None
        sender.close()
        tell(names=sorted({record.name for record in records} - {"safepulsar"}), threads=logging.logThreads)
        """
    )
    assert told(result) == {"names": [], "threads": True}
    assert "Connection" in result.stderr, "the client library had nothing to say, and this test no worth"


def test_a_logger_of_python_is_refused(trial: Trial) -> None:
    """
    There is no setting that a logger could be given by.
    """
    facts = told(
        trial.safe(
            """
            import logging
            try:
                safepulsar.ClientSettings(url=url, logger=logging.getLogger())
            except safepulsar.InvalidSettings as error:
                tell(text=str(error))
            """
        )
    )
    assert facts["text"].startswith("ClientSettings.logger: is not a setting")


@pytest.mark.parametrize("given", ["partition_key='CANARY\\ud800'", "properties={'CANARY': 'CANARY\\ud800'}"])
def test_control_errors_quote_what_is_private(trial: Trial, given: str) -> None:
    """
    The official client's error about a key or property has its text in it, and so has every log of that error.
    """
    facts = told(
        trial.raw(
            f"""
            producer = client.create_producer(topic)
            try:
                producer.send(b"x", {given})
            except Exception as error:
                tell(text=str(error))
            client.close()
            """
        )
    )
    assert _CANARY in facts["text"]


def test_no_text_quotes_what_is_private(own_trial: Trial) -> None:
    """
    Refused, failed or delivered: nothing of payload, keys or properties stands in an error, a repr, a log or a trace.
    """
    result = own_trial.safe(
        """
        import logging, pickle, traceback
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        from safepulsar import ClientSettings, LogLevel

        class Private:
            def __repr__(self):
                return word
            __str__ = __repr__

        texts = []
        def note(thing):
            texts.extend([str(thing), repr(thing)])
            if isinstance(thing, BaseException):
                texts.extend(traceback.format_exception(thing))
                texts.append(repr(pickle.loads(pickle.dumps(thing))))

        word = "CAN" + "ARY"  # in two, or tracebacks would show it as a line of this script
        surrogate, control, private = word + "\\ud800", word + "\\x00", Private()
        settings = ClientSettings(url=url, log_level=LogLevel.DEBUG)
        sender = RetryingSender(settings, failed_messages=store, settings=SenderSettings(max_message_bytes=1000))
        refusals = [
            dict(value=surrogate), dict(value=private), dict(value={"field": private}), dict(value={private: 1}),
            dict(value={"field": float("nan")}), dict(value=[word, {word}]), dict(value=word.encode() * 1000),
            *(dict(value=b"x", **{field: each})
              for field in ("partition_key", "ordering_key", "sequence_id", "event_timestamp_ms", "deadline_seconds")
              for each in (surrogate, control, private, word.encode(), word * 10_000)),
            *(dict(value=b"x", properties=each)
              for each in ({"x": surrogate}, {"x": control}, {"x": private}, {"x": word.encode()}, {private: "x"}, private,
                           word, [word])),
        ]
        for each in refusals:
            try:
                sender.submit(topic, **each)
            except safepulsar.InvalidInput as error:
                note(error)
            else:
                raise AssertionError(f"not refused: {list(each)}")

        message = dict(value=word.encode(), partition_key=word, ordering_key=word, properties={word: word})
        note(sender.send(topic, **message))
        handle = sender.submit(topic, **message)
        note(handle)
        note(handle.result())
        freeze()
        late = sender.submit(topic, **message, deadline_seconds=0.5)
        def callback(handle):
            raise ValueError("the application's own words")
        late.add_done_callback(callback)
        note(late)
        error = late.exception()
        note(error)
        note(error.message)
        note(error.attempts)
        thaw()
        note(sender.stats())
        note(sender)
        for row in sender.failed_messages.find():
            note(row)
        note(sender.close())
        tell(quoting=[text for text in texts if word in text], texts=len(texts))
        """
    )
    facts = told(result)
    assert facts["quoting"] == []
    assert facts["texts"] > 100
    assert _CANARY not in result.stderr
    assert "safepulsar.callback_failed" in result.stderr
