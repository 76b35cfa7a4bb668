"""A small asynchronous client, of the kind that the installed plugins are made for."""

import os

import httpx


async def fetch_price(article):
    async with httpx.AsyncClient() as client:
        reply = await client.get(f"https://prices.invalid/{article}")
    return reply.json()["price"]


def mode():
    return os.environ["APP_MODE"]


def answer(n):
    return n + 1
