import decimal

from app.service import total


def test_total(order):
    assert total(order) == decimal.Decimal("8.10")
