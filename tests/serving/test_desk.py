"""The desk by itself: places are never lost, whoever hangs up when."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hetsched.serving.api_error import ApiError
from hetsched.serving.desk import Desk

PLACES, CHAIRS = 2, 3


def test_places_are_given_in_turn_and_come_back_whoever_hangs_up() -> None:
    async def asks() -> None:
        desk, chance, most = Desk(Any, PLACES, CHAIRS), random.Random(3), 0  # type: ignore[arg-type]
        answered = refused = cancelled = 0

        async def one() -> None:
            nonlocal most
            async with desk.place():
                most = max(most, desk.running)
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        for _ in range(400):
            tasks.append(asyncio.create_task(one()))
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            assert desk.running <= PLACES
            assert desk.waiting <= CHAIRS
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            answered += result is None
            refused += isinstance(result, ApiError) and result.status == 429
            cancelled += isinstance(result, asyncio.CancelledError)
        assert (desk.running, desk.waiting, most) == (0, 0, PLACES)
        assert min(answered, refused, cancelled) > 0
        assert answered + refused + cancelled == 400

    asyncio.run(asks())


def test_who_waits_is_answered_in_the_order_of_coming() -> None:
    async def asks() -> list[int]:
        desk, order = Desk(Any, 1, 9), list[int]()  # type: ignore[arg-type]

        async def one(i: int) -> None:
            async with desk.place():
                order.append(i)
                await asyncio.sleep(0)

        await asyncio.gather(*(one(i) for i in range(9)))
        return order

    assert asyncio.run(asks()) == list(range(9))
