"""The values: events, errors, statistics, and what the package shows of itself."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_events
from trio_events import (
    BusClosedError,
    DeadlockError,
    ErrorKind,
    Event,
    EventBatches,
    EventBus,
    EventBusError,
    EventBusStatistics,
    EventChannel,
    EventChannelStatistics,
    EventIterator,
    InvalidEventError,
    InvalidPatternError,
    NoBusError,
    NoSubscribersError,
    Overflow,
    Pattern,
    PolicyDeniedError,
    Reject,
    RequestFailedError,
    Subscription,
    SubscriptionLimitError,
    SubscriptionOverflowError,
    SubscriptionStatistics,
    open_event_bus,
)

# ---------------------------------------------------------------------------------------------
# Event
# ---------------------------------------------------------------------------------------------


def test_an_event_has_four_fields_in_this_order_and_its_source() -> None:
    assert [field.name for field in attrs.fields(Event)] == [
        *("system", "kind", "path", "data"),
        "source",
    ]
    event = Event("orders", "order.created", "/orders/1", 17)
    assert (event.system, event.kind, event.path, event.data) == (
        "orders",
        "order.created",
        "/orders/1",
        17,
    )


def test_the_data_of_an_event_is_none_unless_given() -> None:
    assert Event("orders", "order.created", "/orders/1").data is None


@pytest.mark.parametrize("field", ["system", "kind", "path", "data"])
def test_an_event_is_frozen(field: str) -> None:
    event = Event("orders", "order.created", "/orders/1", "old")
    before = getattr(event, field)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(event, field, "new")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        delattr(event, field)
    assert getattr(event, field) is before


def test_an_event_takes_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        Event("orders", "order.created", "/orders/1").sender = "me"  # type: ignore[attr-defined]  # the point


def test_events_are_equal_if_all_fields_are() -> None:
    event = Event("orders", "order.created", "/orders/1", [1])
    assert event == Event("orders", "order.created", "/orders/1", [1])
    assert event != Event("users", "order.created", "/orders/1", [1])
    assert event != Event("orders", "order.closed", "/orders/1", [1])
    assert event != Event("orders", "order.created", "/orders/2", [1])
    assert event != Event("orders", "order.created", "/orders/1", [2])


def test_the_repr_of_an_event_shows_all_fields() -> None:
    assert (
        repr(Event("orders", "order.created", "/orders/1", {"id": 1}))
        == "Event(system='orders', kind='order.created', path='/orders/1', data={'id': 1})"
    )


async def test_every_subscriber_gets_the_very_same_data(autojump_clock: MockClock) -> None:
    data = ["changeable"]
    async with open_event_bus() as bus:
        one, two = await bus.subscribe("a"), await bus.subscribe("**")
        await bus.send("a", "k", "/x", data)
        first, second = await one.channel().receive(), await two.channel().receive()
        assert first == second
        assert first.data is data
        assert second.data is data
    assert data == ["changeable"]


# ---------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------

ERRORS: list[tuple[type[EventBusError], type[Exception], ErrorKind, bool]] = [
    (InvalidEventError, ValueError, ErrorKind.INVALID, False),
    (InvalidPatternError, ValueError, ErrorKind.INVALID, False),
    (PolicyDeniedError, PermissionError, ErrorKind.INVALID, False),
    (BusClosedError, trio.ClosedResourceError, ErrorKind.UNAVAILABLE, False),
    (SubscriptionLimitError, Exception, ErrorKind.UNAVAILABLE, True),
    (SubscriptionOverflowError, trio.BrokenResourceError, ErrorKind.UNAVAILABLE, True),
    (DeadlockError, Exception, ErrorKind.CONFLICT, False),
    (NoBusError, RuntimeError, ErrorKind.UNAVAILABLE, False),
    (NoSubscribersError, Exception, ErrorKind.UNAVAILABLE, True),
    (RequestFailedError, Exception, ErrorKind.UNAVAILABLE, True),
]


def test_the_table_of_errors_is_complete() -> None:
    exported = {getattr(trio_events, name) for name in trio_events.__all__}
    # `Reject` is what responders raise, and no error of the bus.
    assert {error for error, *_ in ERRORS} | {EventBusError, Reject} == {
        thing for thing in exported if isinstance(thing, type) and issubclass(thing, BaseException)
    }


@pytest.mark.parametrize(("error", "base", "kind", "retryable"), ERRORS)
def test_an_error_has_its_bases_its_kind_and_says_whether_to_try_again(
    error: type[EventBusError], base: type[Exception], kind: ErrorKind, retryable: bool
) -> None:
    assert issubclass(error, EventBusError)
    assert issubclass(error, base)
    made = error("what happened", one=1, two="2")
    assert made.kind is kind
    assert made.retryable is retryable
    assert str(made) == "what happened"
    assert isinstance(made.details, Mapping)
    assert dict(made.details) == {"one": 1, "two": "2"}


@pytest.mark.parametrize("error", [error for error, *_ in ERRORS])
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy]
    + [
        lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
    ids=["copy", "deepcopy"] + [f"pickle{n}" for n in range(pickle.HIGHEST_PROTOCOL + 1)],
)
def test_an_error_can_be_copied_and_pickled(
    error: type[EventBusError], duplicate: Callable[[EventBusError], EventBusError]
) -> None:
    original = error("what happened", position=3, value="a..b")
    twin = duplicate(original)
    assert twin is not original
    assert type(twin) is error
    assert str(twin) == "what happened"
    assert dict(twin.details) == {"position": 3, "value": "a..b"}
    assert (twin.kind, twin.retryable) == (original.kind, original.retryable)


def test_the_position_of_a_pattern_error_survives_pickling() -> None:
    with pytest.raises(InvalidPatternError) as caught:
        Pattern.parse("orders.a*")
    twin = pickle.loads(pickle.dumps(caught.value))
    assert twin.position == caught.value.position == 8
    assert str(twin) == str(caught.value)


async def test_an_invalid_event_error_names_the_field_the_value_and_the_rule(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(InvalidEventError) as caught:
            await bus.send("orders.*", "order.created", "/orders/1")
    message = str(caught.value)
    assert "system" in message
    assert "'orders.*'" in message
    assert caught.value.details == {"field": "system", "value": "orders.*"}


async def test_an_invalid_pattern_error_names_the_pattern_the_rule_and_the_position(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        with pytest.raises(InvalidPatternError) as caught:
            await bus.subscribe("orders..new")
    message = str(caught.value)
    assert "'orders..new'" in message
    assert "empty" in message
    assert "7" in message
    assert caught.value.position == 7
    assert caught.value.details == {"pattern": "orders..new", "position": 7}


async def test_a_subscription_limit_error_names_the_limit(autojump_clock: MockClock) -> None:
    async with open_event_bus(max_subscriptions=3) as bus:
        for _ in range(3):
            await bus.subscribe("a")
        with pytest.raises(SubscriptionLimitError) as caught:
            await bus.subscribe("b")
    assert "3" in str(caught.value)
    assert caught.value.details["max_subscriptions"] == 3


async def test_a_subscription_overflow_error_names_the_size_and_knows_the_patterns(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe(
            "a.**", "(x|y)", max_buffer_size=7, overflow=Overflow.CLOSE
        )
        for number in range(8):
            bus.send_nowait("a.b", "x", f"/{number}")
        await wait_all_tasks_blocked()
        channel = subscription.channel()
        for _ in range(7):
            await channel.receive()
        with pytest.raises(SubscriptionOverflowError) as caught:
            await channel.receive()
    assert "7" in str(caught.value)
    assert "full" in str(caught.value)
    assert caught.value.details == {"system": "a.**", "kind": "(x|y)", "max_buffer_size": 7}


async def test_a_bus_closed_error_says_so(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        bus.close()
        with pytest.raises(BusClosedError, match="closed"):
            await bus.send("a", "k", "/x")


# ---------------------------------------------------------------------------------------------
# Statistics
# ---------------------------------------------------------------------------------------------

STATISTICS = {
    EventBusStatistics: {
        "accepted",
        "unmatched",
        "current_inbox_used",
        "inbox_size",
        "open_subscriptions",
        "routes_remembered",
        "tasks_waiting_send",
    },
    SubscriptionStatistics: {
        "matched",
        "delivered",
        "queued",
        "held",
        "dropped",
        "discarded",
        "tasks_waiting_send",
    },
    EventChannelStatistics: {
        "current_buffer_used",
        "max_buffer_size",
        "peak_buffer_used",
        "tasks_waiting_receive",
    },
}


def documented_fields(class_: type) -> Iterator[tuple[str, str]]:
    """Each annotated name in the body of a class, with the text literal that follows it."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(class_))).body
    assert isinstance(definition, ast.ClassDef)
    for field, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(field.target, ast.Name)
            match following:
                case ast.Expr(ast.Constant(str(text))):
                    yield field.target.id, text
                case _:
                    yield field.target.id, ""


@pytest.mark.parametrize("class_", [*STATISTICS, Event])
def test_every_field_of_a_value_has_a_docstring(class_: type) -> None:
    documented = dict(documented_fields(class_))
    assert set(documented) == {field.name for field in attrs.fields(class_)}
    assert [name for name, text in documented.items() if not text.strip()] == []


@pytest.mark.parametrize("class_", STATISTICS)
def test_statistics_have_the_promised_fields_and_are_frozen(class_: type) -> None:
    names = [field.name for field in attrs.fields(class_)]
    assert set(names) >= STATISTICS[class_]
    made = class_(*range(len(names)))
    assert made == class_(*range(len(names)))
    for name in names:
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(made, name, 0)
        assert f"{name}={getattr(made, name)}" in repr(made)


async def test_statistics_are_a_snapshot(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a")
        before = (bus.statistics(), subscription.statistics(), subscription.channel().statistics())
        await bus.send("a", "k", "/x")
        await wait_all_tasks_blocked()
        assert before[0].accepted == before[1].matched == before[2].current_buffer_used == 0
        assert bus.statistics().accepted == 1
        assert subscription.statistics().matched == 1
        assert subscription.channel().statistics().current_buffer_used == 1


async def test_the_statistics_of_a_bus_follow_what_it_does(autojump_clock: MockClock) -> None:
    async with open_event_bus(inbox_size=8) as bus:
        statistics = bus.statistics()
        assert statistics.inbox_size == 8
        assert statistics.accepted == statistics.unmatched == statistics.current_inbox_used == 0
        assert statistics.open_subscriptions == statistics.tasks_waiting_send == 0
        subscription = await bus.subscribe("a", max_buffer_size=1)
        await wait_all_tasks_blocked()
        assert bus.statistics().open_subscriptions == 1
        bus.send_nowait("a", "k", "/1")
        bus.send_nowait("b", "k", "/2")
        statistics = bus.statistics()
        assert (statistics.accepted, statistics.current_inbox_used) == (2, 2)
        await wait_all_tasks_blocked()
        statistics = bus.statistics()
        assert (statistics.accepted, statistics.current_inbox_used) == (2, 0)
        assert statistics.unmatched == 1
        assert statistics.routes_remembered >= 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bus.send, "a", "k", "/3")
            await wait_all_tasks_blocked()
            statistics = bus.statistics()
            assert (statistics.accepted, statistics.tasks_waiting_send) == (2, 1)
            assert (await subscription.channel().receive()).path == "/1"
        statistics = bus.statistics()
        assert (statistics.accepted, statistics.tasks_waiting_send) == (3, 0)
        subscription.close()
        assert bus.statistics().open_subscriptions == 0
        assert bus.for_actor("billing").statistics() == bus.statistics()


# ---------------------------------------------------------------------------------------------
# Constructors, names, documentation
# ---------------------------------------------------------------------------------------------

NOT_CONSTRUCTIBLE = [EventBus, Subscription, EventChannel, EventIterator, EventBatches]


@pytest.mark.parametrize("class_", NOT_CONSTRUCTIBLE)
def test_what_only_the_bus_makes_cannot_be_made_by_others(class_: type) -> None:
    for arguments in ((), (None,), (None, None)):
        with pytest.raises(TypeError, match=class_.__name__):
            class_(*arguments)


@pytest.mark.parametrize(
    "class_", [*NOT_CONSTRUCTIBLE, *STATISTICS, Event, Pattern], ids=lambda class_: class_.__name__
)
def test_a_class_is_marked_final(class_: type) -> None:
    assert getattr(class_, "__final__", False)


def test_the_public_names_exist_once_and_in_order() -> None:
    assert trio_events.__all__ == sorted(set(trio_events.__all__))
    for name in trio_events.__all__:
        assert getattr(trio_events, name) is not None


def test_no_other_name_is_public() -> None:
    visible = {
        name
        for name, value in vars(trio_events).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert visible == set(trio_events.__all__)


def test_the_names_of_the_contract_are_public() -> None:
    assert set(trio_events.__all__) >= {
        *("send", "subscribe", "open_event_bus", "EventBus", "Subscription", "EventChannel"),
        *("Event", "Overflow", "Pattern", "Policy", "Action", "ErrorKind", "EventBusError"),
        *(error.__name__ for error, *_ in ERRORS),
        *(class_.__name__ for class_ in STATISTICS),
    }


def test_every_public_name_is_documented() -> None:
    undocumented = [
        name
        for name in trio_events.__all__
        if not (inspect.getdoc(getattr(trio_events, name)) or "").strip()
    ]
    assert undocumented == []
    assert (trio_events.__doc__ or "").strip()


def test_every_public_method_and_property_is_documented() -> None:
    undocumented = [
        f"{class_name}.{name}"
        for class_name in trio_events.__all__
        for name, member in vars(getattr(trio_events, class_name)).items()
        if isinstance(getattr(trio_events, class_name), type)
        and not name.startswith("_")
        and isinstance(member, types.FunctionType | property | classmethod | staticmethod)
        and not (getattr(member, "__doc__", None) or "").strip()
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    "enumeration", [Overflow, ErrorKind, trio_events.Action], ids=lambda class_: class_.__name__
)
def test_every_member_of_an_enumeration_has_a_docstring(
    enumeration: type[Overflow | ErrorKind | trio_events.Action],
) -> None:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(enumeration))).body
    assert isinstance(definition, ast.ClassDef)
    documented = set()
    for member, following in zip(definition.body, definition.body[1:], strict=False):
        match member, following:
            case ast.Assign([ast.Name(name)]), ast.Expr(ast.Constant(str(text))) if text.strip():
                documented.add(name)
    assert documented == {member.name for member in enumeration}


def test_the_five_overflow_policies_are_there() -> None:
    assert [policy.name for policy in Overflow] == [
        "BLOCK",
        "DROP_OLDEST",
        "DROP_INCOMING",
        "CLOSE",
        "LATEST",
    ]


# ---------------------------------------------------------------------------------------------
# repr: state, in every state
# ---------------------------------------------------------------------------------------------


async def test_the_repr_of_a_bus_shows_its_state(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        seen = [repr(bus)]
        subscription = await bus.subscribe("a")
        seen.append(repr(bus))
        await bus.send("a", "k", "/x")
        seen.append(repr(bus))
        subscription.close()
        seen.append(repr(bus))
        bus.close()
        seen.append(repr(bus))
    assert all(text.startswith("<EventBus ") and text.endswith(">") for text in seen)
    assert len(set(seen)) == len(seen)
    assert [("closed" in text) for text in seen] == [False, False, False, False, True]
    assert "closed" in repr(bus)


async def test_the_repr_of_a_bus_names_its_actor(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        assert "'billing'" in repr(bus.for_actor("billing"))
        assert "'billing'" not in repr(bus)


async def test_the_repr_of_a_subscription_and_its_channel_show_their_state(
    autojump_clock: MockClock,
) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a.**", "k", max_buffer_size=3)
        channel = subscription.channel()

        def shown() -> tuple[str, str]:
            return repr(subscription), repr(channel)

        seen = [shown()]
        await bus.send("a.b", "k", "/1")
        await bus.send("a.b", "k", "/2")
        await wait_all_tasks_blocked()
        seen.append(shown())
        channel.receive_nowait()
        seen.append(shown())
        subscription.close()
        seen.append(shown())
        channel.close()
        seen.append(shown())
    for of_subscription, of_channel in seen:
        assert of_subscription.startswith("<Subscription ")
        assert of_channel.startswith("<EventChannel ")
        for text in (of_subscription, of_channel):
            assert "'a.**'" in text
            assert "'k'" in text
    buffered = [text.split(" buffered")[0].split()[-1] for text, _ in seen]
    assert buffered == ["0/3", "2/3", "1/3", "1/3", "0/3"]
    assert buffered == [text.split(" buffered")[0].split()[-1] for _, text in seen]
    assert [("closed" in text) for text, _ in seen] == [False, False, False, True, True]
    assert [("closed" in text) for _, text in seen] == [False, False, False, True, True]


async def test_the_repr_of_a_subscription_shows_what_was_lost(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1, overflow=Overflow.DROP_OLDEST)
        for number in range(4):
            await bus.send("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert "3 dropped" in repr(subscription)
        assert "3 dropped" in repr(subscription.channel())


async def test_the_repr_of_a_subscription_shows_what_is_held(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        subscription = await bus.subscribe("a", max_buffer_size=1)
        for number in range(4):
            bus.send_nowait("a", "k", f"/{number}")
        await wait_all_tasks_blocked()
        assert "3 held" in repr(subscription)
        assert "1/1" in repr(subscription)


async def test_the_repr_of_a_subscription_reads_like_this(autojump_clock: MockClock) -> None:
    async with open_event_bus() as bus:
        plain = await bus.subscribe("orders.**")
        lossy = await bus.subscribe(
            "orders.**", "order.*", max_buffer_size=2, overflow=Overflow.DROP_OLDEST
        )
        blocking = await bus.subscribe("orders.eu", max_buffer_size=2)
        assert repr(plain) == "<Subscription 'orders.**' 0/256 buffered>"
        for _ in range(3):
            bus.send_nowait("orders.eu", "order.created", "/x")
        await wait_all_tasks_blocked()
        assert repr(lossy) == "<Subscription 'orders.**' kind='order.*' 2/2 buffered, 1 dropped>"
        assert repr(blocking) == "<Subscription 'orders.eu' 2/2 buffered, 1 held>"
        lossy.close()
        assert repr(lossy.channel()) == (
            "<EventChannel of 'orders.**' kind='order.*' 2/2 buffered, 1 dropped, closed>"
        )
