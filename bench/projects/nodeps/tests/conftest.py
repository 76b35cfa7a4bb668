import decimal

import pytest
from app.service import Line


@pytest.fixture
def order():
    return [Line("pen", decimal.Decimal("1.20"), 3), Line("ink", decimal.Decimal("4.50"))]
