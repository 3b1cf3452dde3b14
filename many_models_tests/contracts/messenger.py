"""What every messenger does: names that show nothing secret, one that is away stops no other, nothing raises."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from many_models.ports import Message, Messenger
from many_models_tests.contracts import Contract

if TYPE_CHECKING:
    from collections.abc import Sequence

ODD = Message("<b>title</b> \u2014 100 %", "line one\n*line* two <script>alert(1)</script>\n" + "x" * 2000, urgent=True)


class MessengerContract(Contract):
    """The subclass makes a messenger of two addresses, takes one of them away, and reads what the other got."""

    @abstractmethod
    def messenger(self) -> Messenger: ...

    @abstractmethod
    def take_away(self, name: str) -> None: ...

    @abstractmethod
    def texts(self, name: str) -> Sequence[str]:
        """What that address got, each message's text."""

    def test_each_address_gets_its_own_messages(self):
        messenger = self.messenger()
        first, second = messenger.addresses()
        assert messenger.send({first: [Message("a", "to the first")], second: [Message("b", "to the second")]}) == {}
        assert ["to the first" in text for text in self.texts(first)] == [True]
        assert ["to the second" in text for text in self.texts(second)] == [True]

    def test_one_that_is_away_is_named_and_stops_no_other(self):
        messenger = self.messenger()
        first, second = messenger.addresses()
        self.take_away(first)
        refused = messenger.send({name: [Message("a", "hello")] for name in (first, second)})
        assert list(refused) == [first]
        assert refused[first]
        assert ["hello" in text for text in self.texts(second)] == [True]

    def test_text_arrives_as_it_is_written(self):
        messenger = self.messenger()
        assert messenger.send({name: [ODD] for name in messenger.addresses()}) == {}
        for name in messenger.addresses():
            (text,) = self.texts(name)
            assert "<script>alert(1)</script>" in text
            assert "*line* two" in text

    def test_the_same_addresses_have_the_same_names(self):
        assert list(self.messenger().addresses()) == list(self.messenger().addresses())

    def test_a_check_sends_nothing(self):
        messenger = self.messenger()
        assert isinstance(messenger, Messenger)
        assert "2" in messenger.check()
        assert [len(self.texts(name)) for name in messenger.addresses()] == [0, 0]
