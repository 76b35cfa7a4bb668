"""A trend line over a table of sales."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split  # noqa: F401
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def trend(table: pd.DataFrame) -> float:
    model = make_pipeline(StandardScaler(), LinearRegression())
    model.fit(table[["day"]], table["sold"])
    first, second = model.predict(pd.DataFrame({"day": [0.0, 1.0]}))
    return float(second - first)


def answer(n):
    return int(np.int64(n) + 1)
