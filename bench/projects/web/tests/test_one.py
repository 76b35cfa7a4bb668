def test_check(api):
    reply = api.post("/check/", {"name": "pen", "price": "1.20"}, format="json")
    assert (reply.status_code, reply.json()) == (200, {"name": "pen", "price": "1.20"})
