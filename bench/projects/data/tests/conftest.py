import pandas as pd
import pytest


@pytest.fixture
def sales():
    return pd.DataFrame({"day": [0.0, 1.0, 2.0, 3.0], "sold": [1.0, 3.0, 5.0, 7.0]})
