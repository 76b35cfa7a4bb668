import pytest
from app.service import trend


def test_trend(sales):
    assert trend(sales) == pytest.approx(2.0)
