"""Messages through Apprise to a mail server and a webhook of this machine, and in memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from many_models.adapters.messenger.apprise import AppriseMessenger, without_secrets
from many_models.adapters.messenger.memory import MemoryMessenger
from many_models.errors import SettingsError
from many_models.ports import Message
from many_models_tests.contracts.messenger import MessengerContract
from many_models_tests.stand_ins.smtp_server import MailServer, mail_server
from many_models_tests.stand_ins.webhook import TOKEN, Webhook, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PASSWORD = "pa55word-of-mail"


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


def mail_address(server: MailServer, to: str = "buyers@example.com") -> str:
    return f"mailto://127.0.0.1:{server.port}?from=models@example.com&to={to}&mode=insecure"


@pytest.mark.slow
class TestAppriseMessenger(MessengerContract):
    @pytest.fixture(autouse=True)
    def _servers(self, mail: MailServer, hook: Webhook) -> None:
        self.mail, self.hook = mail, hook

    def messenger(self) -> AppriseMessenger:
        return AppriseMessenger(f"{mail_address(self.mail)}\n{self.hook.address}\n")

    def take_away(self, name: str) -> None:
        if name.startswith("mailto"):
            self.mail.busy = True
        else:
            self.hook.status = 500

    def texts(self, name: str) -> Sequence[str]:
        if name.startswith("mailto"):
            return [mail.get_content() for mail in self.mail.mails]
        return [body["message"] for body in self.hook.taken]


class TestMemoryMessenger(MessengerContract):
    @pytest.fixture(autouse=True)
    def _made(self) -> None:
        self.made = MemoryMessenger(("one", "two"))

    def messenger(self) -> MemoryMessenger:
        return self.made

    def take_away(self, name: str) -> None:
        self.made.away.add(name)

    def texts(self, name: str) -> Sequence[str]:
        return [message.text for message in self.made.sent.get(name, ())]


def test_a_mail_has_the_title_as_its_subject_and_plain_text(mail):
    messenger = AppriseMessenger(mail_address(mail))
    assert messenger.send({key: [Message("many_models: a stage failed", "why")] for key in messenger.addresses()}) == {}
    (got,) = mail.mails
    assert got["Subject"] == "many_models: a stage failed"
    assert got["To"] == "buyers@example.com"
    assert got.get_content_type() == "text/plain"


def test_a_title_with_a_line_break_adds_no_header(mail):
    messenger = AppriseMessenger(mail_address(mail))
    messenger.send({key: [Message("a\r\nBcc: thief@example.com", "text")] for key in messenger.addresses()})
    assert all(got["Bcc"] is None for got in mail.mails)


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_receiver_that_refuses_stops_neither_the_others_nor_the_sender(mail, hook, status):
    hook.status = status
    mail.unknown.add("gone@example.com")
    nobody = "json://127.0.0.1:9/nobody-listens-here"
    texts = [mail_address(mail, "gone@example.com"), nobody, hook.address, mail_address(mail)]
    messenger = AppriseMessenger(" ".join(texts))
    names = messenger.addresses()
    refused = messenger.send({name: [Message("t", "x")] for name in names})
    assert sorted(refused) == sorted(names[:3])
    assert len(mail.mails) == 1


def test_nothing_secret_is_named_logged_or_told(hook, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        secret = f"json://user:{PASSWORD}@127.0.0.1:9/path-that-is-secret"
        messenger = AppriseMessenger(f"{secret} {hook.address}")
        hook.status = 403
        refused = messenger.send({name: [Message("t", "x")] for name in messenger.addresses()})
    said = " ".join([*refused, *refused.values(), messenger.check(), caplog.text, *capfd.readouterr()])
    assert len(refused) == 2
    assert all(part not in said for part in (PASSWORD, "path-that-is-secret", TOKEN))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no address"),
        ("   \n ", "holds no address"),
        (f"nothing-known://{PASSWORD}@host", "address 1 of 1"),
        (f"json://127.0.0.1/a {PASSWORD}", "address 2 of 2"),
    ],
)
def test_a_wrong_address_is_named_by_its_number_and_not_shown(text, said):
    with pytest.raises(SettingsError, match=said) as told:
        AppriseMessenger(text)
    assert PASSWORD not in str(told.value)


def test_what_a_library_says_loses_every_part_of_the_address():
    address = "slack://hooks/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?to=%23general"
    said = without_secrets("refused by T1JJ3T3L2/A1BRTD4JD with TIiajkdnlazkcOXrIdevi7FQ in #general", address)
    assert all(part not in said for part in ("T1JJ3T3L2", "A1BRTD4JD", "TIiajkdnlazkcOXrIdevi7FQ"))
    assert said.startswith("refused by")
