import pytest


@pytest.fixture
def customer(faker):
    return {"name": faker.name(), "mail": faker.email()}
