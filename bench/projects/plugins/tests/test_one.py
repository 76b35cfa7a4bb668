from app.service import mode


def test_mode():
    assert mode() == "test"
